"""The service as one object: bundle, engine, registry and queue, opened in order and closed in reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sqlalchemy.engine import URL

from model.bundle import Bundle, Precision
from model.classes import ClassEntry
from model.errors import D3GZSLError
from model.outside.scales import TrainingScale
from model.outside.threads import available_cpus
from model.text.encoder import TextEncoder
from service.classes.follower import Follower
from service.classes.leave_one_out import NO_SQUARES, LeftOutPhoto, PhotographedClass, Squares, leave_one_out
from service.classes.neighbours import Neighbour, Neighbours
from service.classes.preview import Previewer
from service.classes.ranking import SharedLogits
from service.classes.registrar import Registrar
from service.classes.replay import Replay
from service.classes.snapshot import Snapshot
from service.errors import NotReadyError, RegistryError, SettingsError
from service.inference.batcher import Batcher
from service.inference.decode_process import DecodeLimits
from service.inference.decoder import Decoder
from service.inference.engine import Engine, ExactTrunk, OnnxEngine, number_of_parts, release_freed_memory
from service.inference.explanation import Explainer
from service.inference.text_encoder import open_text_encoder
from service.keys import Keys
from service.registry.backup import Backups
from service.registry.database import Database, database_url, registry_dir
from service.registry.log import ChangeLog, existing_database
from service.registry.watch import watch
from service.serial import SerialExecutor
from service.settings import Settings, bundle_path
from service.signatures import check as check_signature

log = logging.getLogger(__name__)


def load_bundle(path: Path | None) -> Bundle:
    """The bundle at a path, or the embedded demo bundle.

    Raises:
        BundleError: it is missing or does not fit.
    """
    return Bundle.load(bundle_path(path))


def _open_log(database: Database, bundle: Bundle) -> ChangeLog:
    """The log of a bundle's registry in a database, which is closed where that fails."""
    try:
        return ChangeLog(
            database,
            bundle_id=bundle.manifest.bundle_id,
            dimension=bundle.manifest.head.dimension,
            vocabulary=bundle.manifest.vocabulary.names,
        )
    except BaseException:
        database.close()
        raise


def _read_ahead(url: URL, bundle: Bundle) -> tuple[ChangeLog, Snapshot] | None:
    """The log of a registry that is there, with its classes; None where it has to be made first.

    It is made only for a bundle whose networks have been found to work.
    """
    if (database := existing_database(url)) is None:
        return None
    log = _open_log(database, bundle)
    try:
        return log, Replay(bundle).load(log)
    except BaseException:
        log.close()
        raise


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything the HTTP routes need.

    Attributes:
        settings: what the operator chose.
        keys: who may do what.
        backups: the registry's, where they make themselves.
        bundle: the trained artefact.
        precision: the arithmetic of its trunk that embeds images.
        exact: the trunk in float32, for example photos; None where it embeds all images.
        scale: where the attributes of its seen classes lie.
        registrar: the class table; everything that changes it runs in `changes`.
        changes: the thread for that.
        follower: keeps the class table in step with other processes.
        neighbours: finds the classes nearest to one.
        previewer: tries classes out.
        explainer: says which attributes and photos speak for a class.
        text_encoder: describes classes by text; None where the bundle has none.
        analyses: the thread in which classes are tried out and scores explained.
        decoder: image files to inputs.
        batcher: inputs to embeddings.
        logits: embeddings to scores of many classes.
        log: the registry on disk.
    """

    settings: Settings
    keys: Keys
    backups: Backups | None
    bundle: Bundle
    precision: Precision
    exact: ExactTrunk | None
    scale: TrainingScale
    registrar: Registrar
    changes: SerialExecutor
    follower: Follower
    neighbours: Neighbours
    previewer: Previewer
    explainer: Explainer
    text_encoder: TextEncoder | None
    analyses: SerialExecutor
    decoder: Decoder
    batcher: Batcher
    logits: SharedLogits
    log: ChangeLog

    @classmethod
    def open(cls, settings: Settings, *, engine: Engine | None = None) -> Service:
        """Load and check everything, so that what cannot work fails before a port is opened.

        Args:
            settings: what the operator chose.
            engine: stands in for ONNX Runtime in tests.

        Raises:
            SettingsError: the keys are not valid, or missing where they are needed, or the provider is not there, or
                the bundle has no trunk in the precision.
            BundleError: the bundle does not fit, or is not signed by whom it must be.
            DataError: a key that bundles are signed with cannot be read.
            MissingDependencyError: ONNX Runtime, or what texts need, is not installed.
            RegistryError: the registry cannot be used, or belongs to another bundle.
        """
        keys = Keys.from_settings(settings)
        if settings.bundle_keys:
            check_signature(bundle_path(settings.bundle), [Path(file) for file in settings.bundle_keys])
        bundle = load_bundle(settings.bundle)
        data_dir = registry_dir(settings, bundle.manifest.bundle_id)
        threads = settings.threads or available_cpus()
        # The networks are tried in a process of their own, so that this one has time to read the registry meanwhile.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry") as beside:
            url = database_url(data_dir, settings.database_url, settings.database_password_file)
            reading = beside.submit(_read_ahead, url, bundle)
            try:
                if engine is None:
                    engine = OnnxEngine(
                        bundle,
                        threads=threads,
                        provider=settings.provider,
                        batch_size=settings.batch_size,
                        cache_dir=data_dir / "tensorrt",
                        precision=settings.precision,
                        parts=number_of_parts(
                            settings.parallel_batches,
                            threads=threads,
                            batch_size=settings.batch_size,
                            provider=settings.provider,
                        ),
                    )
                    engine.warm_up()
                text_encoder = open_text_encoder(bundle, threads=threads)
            except BaseException:
                if reading.exception() is None and (read := reading.result()) is not None:
                    read[0].close()
                raise
        release_freed_memory()
        log, snapshot = reading.result() or (_open_log(Database(url), bundle), None)
        try:
            registrar = Registrar(bundle, engine, log, snapshot=snapshot)
            follower = Follower(
                registrar, watch(log.database), poll_interval=settings.poll_interval, max_lag=settings.max_lag
            )
        except BaseException:
            log.close()
            raise
        backups = None
        if settings.backup_dir is not None:
            backups = Backups(
                log.database,
                settings.backup_dir,
                changes=settings.backup_changes,
                seconds=3600 * settings.backup_hours,
                keep=settings.backup_keep,
            )
        neighbours, size = Neighbours(bundle.manifest.vocabulary), bundle.manifest.preprocess.size
        return cls(
            settings=settings,
            keys=keys,
            backups=backups,
            bundle=bundle,
            precision=engine.precision,
            exact=None if engine.precision == bundle.precisions[0] else ExactTrunk(bundle, threads=threads),
            scale=TrainingScale(
                [e.attributes for e in bundle.manifest.classes if e.kind == "seen" and e.attributes is not None]
            ),
            registrar=registrar,
            follower=follower,
            changes=SerialExecutor(),
            neighbours=neighbours,
            previewer=Previewer(bundle, engine, neighbours),
            explainer=Explainer(bundle, engine, lambda entry: log.embeddings(entry.examples)),
            text_encoder=text_encoder,
            analyses=SerialExecutor(name="analyses"),
            decoder=Decoder(
                bundle.manifest.preprocess,
                limits=DecodeLimits(
                    max_bytes=settings.max_image_bytes,
                    max_pixels=settings.max_image_pixels,
                    memory=settings.decode_memory,
                    seconds=settings.decode_seconds,
                ),
                threads=threads,
            ),
            batcher=Batcher(
                engine.embed,
                batch_size=settings.batch_size,
                capacity=settings.queue_size,
                probe=partial(engine.embed, np.zeros((1, 3, size, size), dtype=np.float32)),
                parts=engine.parts if isinstance(engine, OnnxEngine) else None,
            ),
            logits=SharedLogits(settings.batch_size),
            log=log,
        )

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot; keep it for as long as one request lasts."""
        return self.registrar.snapshot

    def near_duplicates(self, entry: ClassEntry) -> list[Neighbour]:
        """The classes that can hardly be told from one; none where another process has removed it meanwhile."""
        snapshot = self.snapshot
        if snapshot.get(entry.id) is None:
            return []
        return self.neighbours.near_duplicates(snapshot, [(entry, snapshot.row(entry.id))])[0]

    def judge_photos(
        self,
        snapshot: Snapshot,
        class_ids: Sequence[str],
        *,
        squares: Squares = NO_SQUARES,
    ) -> list[tuple[LeftOutPhoto, ...]]:
        """For each class its example photos, each as if the class did not have it; none of a class that is not there.

        There are none either, and a line in the log, where the database refuses to read photos: a change that is stored
        is not answered as one that failed.

        Args:
            snapshot: the classes.
            class_ids: those in question.
            squares: of photos, where they are computed already.
        """
        found = [(class_id, known) for class_id in class_ids if (known := snapshot.get(class_id)) is not None]
        try:
            classes = {
                class_id: PhotographedClass(
                    entry=known.entry,
                    row=snapshot.row(class_id),
                    photos=self.log.embeddings(known.entry.examples),
                    squares=squares,
                )
                for class_id, known in found
                if known.entry.examples
            }
        except RegistryError as error:
            log.error("the photos of a change that is stored could not be compared with other classes: %s", error)
            return [() for _ in class_ids]
        judged = dict(zip(classes, leave_one_out(self.bundle, snapshot, [*classes.values()]), strict=True))
        return [judged.get(class_id, ()) for class_id in class_ids]

    async def wait_for_version(self, version: int, *, deadline: float) -> Snapshot:
        """The newest snapshot, once it has reached a version that another process may have made.

        Args:
            version: of the registry.
            deadline: seconds to wait at most.

        Raises:
            VersionNotReachedError: it did not come in time.
        """
        await self.follower.wait_for(version, deadline)
        return self.snapshot

    async def start(self) -> None:
        """Start answering, in the running event loop."""
        self.changes.prepare(self.bundle.head.rows, np.zeros((1, self.bundle.manifest.head.dimension)))
        self.analyses.prepare(self._prepare_neighbours)
        await self.batcher.start()
        self.follower.start()

    def _prepare_neighbours(self) -> None:
        try:
            self.neighbours.prepare(self.snapshot)
        except RegistryError as error:
            log.error("a class of the registry cannot be read, which no start does: %s", error)

    async def stop(self) -> None:
        """Finish changes that have begun and let everything go."""
        await self.batcher.stop()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Let everything go; for a service that was never started."""
        self.changes.close()
        self.follower.close()
        self.analyses.close()
        self.decoder.close()
        self.log.close()

    def reload_keys(self) -> None:
        """Read the file of keys again; what cannot be read leaves the keys as they are, and a line in the log."""
        try:
            self.keys.reload(self.settings)
        except SettingsError as error:
            log.error("the keys are not read again and stay as they were: %s", error)
        else:
            log.info("the keys have been read again: %d are accepted", len(self.keys))

    def follow_keys(self) -> None:
        """Read the file of keys again where it is another than before."""
        if self.keys.changed(self.settings):
            self.reload_keys()

    def back_up(self) -> None:
        """Make a back-up where one is due; what keeps it from being made is a line in the log, and tried again."""
        if self.backups is None or not self.backups.due(self.registrar.snapshot.registry_version):
            return
        try:
            file = self.backups.make()
        except D3GZSLError as error:
            log.error("no back-up of the registry could be made: %s", error)
        else:
            if file is not None:
                log.info("a back-up of the registry has been made: %s", file)

    def check_ready(self) -> None:
        """Raise NotReadyError where images would not be answered."""
        if not self.batcher.alive:
            raise NotReadyError("the model's worker is not running")
        if self.batcher.at_work_for > self.settings.deadline:
            raise NotReadyError(f"the model has not finished a batch for {self.batcher.at_work_for:.0f} seconds")
        try:
            self.log.database.check_place()
        except RegistryError:
            raise NotReadyError(
                "the registry was deleted, replaced or damaged while the service used it; changes are refused, and the "
                "log says what to do"
            ) from None
        self.follower.check()
