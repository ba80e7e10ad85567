"""`d3gzsl classify DIR --out FILE.parquet`: every file of a folder, in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import DataError, MissingDependencyError
from service.commands.output import print_json, print_line

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from model.bundle import Bundle
    from service.classes.ranking import Scope
    from service.classes.snapshot import Snapshot
    from service.inference.sessions import PrecisionChoice

Registry = tuple[Path | None, str | None]
"""Data directory and database URL; both None where only the bundle's own classes take part."""


def folder_to_file(
    images: Sequence[Path],
    out: Path,
    bundle: Path | None,
    registry: Registry,
    *,
    top_k: int,
    scope: Scope,
    precision: PrecisionChoice | None,
    as_json: bool,
    **how: Any,
) -> None:
    """Classify all files of a folder; `how` is passed on to :func:`service.bulk.run.run_job`."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingDependencyError("--out needs pyarrow", "bulk") from None
    from service.bulk.job import BulkRequest
    from service.bulk.run import partial_folder, run_job
    from service.service import load_bundle
    from service.settings import load_settings

    if len(images) != 1 or not images[0].is_dir():
        given = ", ".join(map(str, images))
        raise DataError(f"--out takes the results of one folder: expected an existing folder, got {given}")
    loaded, settings = load_bundle(bundle), load_settings(precision=precision)
    asked = BulkRequest(
        root=str(images[0].resolve()),
        bundle_id=loaded.manifest.bundle_id,
        registry=registry_name(registry),
        top_k=top_k,
        scope=scope,
        precision=settings.precision,
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
    )
    out = out.resolve()
    with _bar(quiet=as_json) as bar:
        task = bar.add_task("images", total=None)
        try:
            finished = run_job(
                asked,
                loaded,
                lambda: classes_of(loaded, registry),
                out,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                **how,
            )
        except KeyboardInterrupt:
            raise DataError(f"stopped; what is done lies in {partial_folder(out)}: go on with --resume") from None
        except OSError as error:  # no permission, no space: the file and the reason say all
            raise DataError(f"{error.filename or out}: {error.strerror or error}") from None
    if as_json:
        print_json({"out": str(out), "bundle": loaded.manifest.bundle_id, **asdict(finished)})
        return
    before = f", {finished.already} of them before" if finished.already else ""
    print_line(
        f"{out}: {finished.files} files{before}: {finished.ok} classified, {finished.errors} could not be; "
        f"classes of registry version {finished.registry_version}"
    )


def registry_name(registry: Registry) -> str:
    """Which classes take part, in words that are the same for the same registry."""
    return "bundle" if registry == (None, None) else _url(registry).render_as_string(hide_password=True)


def classes_of(bundle: Bundle, registry: Registry) -> Snapshot:
    """The bundle's own classes, or those of a registry.

    Raises:
        DataError: a directory and a database are given.
        RegistryError: there is no registry, it belongs to another bundle, or it is damaged.
    """
    from service.classes.replay import Replay
    from service.classes.snapshot import Snapshot
    from service.errors import RegistryError
    from service.registry.database import Database
    from service.registry.log import ChangeLog

    if registry == (None, None):
        return Snapshot.of_bundle(bundle)
    url = _url(registry)
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise RegistryError(f"there is no registry at {url.database}")
    database = Database(url)
    try:
        manifest = bundle.manifest
        log = ChangeLog(
            database,
            bundle_id=manifest.bundle_id,
            dimension=manifest.head.dimension,
            vocabulary=manifest.vocabulary.names,
        )
        return Replay(bundle).load(log)
    finally:
        database.close()


def _url(registry: Registry) -> URL:
    from service.registry.database import database_url

    data_dir, given = registry
    if data_dir is not None and given is not None:
        raise DataError("--data-dir and --database-url both name a registry: give one of them")
    return database_url(data_dir or Path(), given)


def _bar(*, quiet: bool) -> Any:
    """A bar on standard error with amount, elapsed and remaining time."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
