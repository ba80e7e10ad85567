"""Features of a data folder: decode its images ahead, run the backbone in batches, keep every batch, write a store.

N: images, n: images of a batch that could be read, D: features.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError, Problem
from model.outside.threads import available_cpus
from training.console import OnProgress
from training.features.backbone import Backbone, card_path
from training.features.decoding import decoded_batches, image_file
from training.features.journal import FeatureJournal, KnownRows
from training.features.own_photos import OwnPhotos, shown
from training.features.store import (
    BACKBONE,
    BACKBONE_CARD,
    FEATURES,
    META,
    TEXT_ENCODER,
    FeatureStore,
    ImageFile,
    ImageRecord,
    is_store,
)
from training.features.text_encoder import write_text_encoder
from training.files import move_into_place, undo_half_move

DEFAULT_BATCH_SIZE = 32
_STORE, _JOURNAL = 0, 1  # the two sources of known rows


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What an extraction did.

    Attributes:
        store: the finished store.
        extracted: images computed in this run.
        reused: images whose features were there already.
        changed: whether the store was written; False where it was complete before.
    """

    store: FeatureStore
    extracted: int
    reused: int
    changed: bool


def partial_folder(out: Path) -> Path:
    """Where the unfinished work of a store lies."""
    return out.with_name(f"{out.name}.partial")


def extract(
    data: OwnPhotos,
    backbone: Backbone,
    out: Path,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> Extraction:
    """Compute the features of all images and write them as a store.

    Every batch is kept in `<out>.partial` as soon as it is computed, so that a killed extraction goes on where it was.
    With the same batch size the result has the same bytes as an uninterrupted run. A store that is there already
    gives the rows of images that have not changed.

    Args:
        data: the images and classes.
        backbone: the network.
        out: the store's folder.
        batch_size: images per run of the network.
        workers: threads that decode images; by default one per available CPU.
        skip_bad: leave out unreadable images, listing them in the store, instead of failing.
        overwrite: replace a store of another backbone, and compute everything anew.
        progress: called with images done and images in all.

    Raises:
        DataError: unreadable images (all of them are named), no image at all, a store or unfinished work of another
            backbone, or a folder at `out` that is no store.

    Example:
        >>> from training import extract, load_backbone, read_own_photos
        >>> done = extract(read_own_photos(PHOTOS), load_backbone(BACKBONE), OUT / "features")
        >>> done.store.features.shape
        (64, 8)
    """
    workers = available_cpus() if workers is None else workers
    if batch_size < 1 or workers < 1:
        raise DataError(f"batch size and workers must be at least 1, got {batch_size} and {workers}")
    out = out.resolve()
    undo_half_move(out)
    before = _existing(out, backbone, overwrite=overwrite)
    known = _stored(data, before)
    with FeatureJournal(partial_folder(out), backbone, discard_other=overwrite) as journal:
        resumed = len(journal.images)
        known.add(_JOURNAL, journal.images, journal.skipped)
        _compute(data, backbone, journal, known, batch_size, workers, skip_bad=skip_bad, progress=progress)
        known.add(_JOURNAL, journal.images, journal.skipped, start=resumed)
        extracted = len(journal.images) - resumed
        store = _describe(data, backbone, known, out)
        changed = before is None or extracted > 0 or before.meta() != store.meta()
        if changed:
            _write(store, data, backbone, known, before, journal)
        journal.finished = True
    final = FeatureStore.load(out) if before is None or changed else before
    return Extraction(store=final, extracted=extracted, reused=len(store.images) - extracted, changed=changed)


def remaining(data: OwnPhotos, backbone: Backbone, out: Path) -> tuple[list[ImageFile], str | None]:
    """The images that :func:`extract` would still compute into `out`, where nothing is changed yet.

    Returns:
        The images; where there are none, also the hash of the data as the store will have it.

    Raises:
        DataError: the store or the unfinished work there is of another backbone, `out` is no store, or another process
            extracts into it.
    """
    out = out.resolve()
    undo_half_move(out)
    known = _stored(data, _existing(out, backbone, overwrite=False))
    if partial_folder(out).is_dir():
        with FeatureJournal(partial_folder(out), backbone) as journal:
            known.add(_JOURNAL, journal.images, journal.skipped)
    todo = _missing(data, known)
    return todo, None if todo else _describe(data, backbone, known, out).data_hash


def _stored(data: OwnPhotos, before: FeatureStore | None) -> KnownRows:
    """What is known of the images from the store that is there."""
    known = KnownRows(data.root, {path: image_file(data.root, path) for path, _ in data.images})
    if before is not None:
        known.add(_STORE, before.images, before.skipped)
    return known


def _missing(data: OwnPhotos, known: KnownRows) -> list[ImageFile]:
    """The images that have no features and are not known to be unreadable."""
    return [image_file(data.root, path) for path, _ in data.images if path not in known and path not in known.skipped]


def _existing(out: Path, backbone: Backbone, *, overwrite: bool) -> FeatureStore | None:
    """The store at `out`, if there is one whose rows may be used."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not is_store(out):
        raise DataError(f"{shown(out)} exists and is no feature store; give another --out")
    if overwrite:
        return None
    try:
        return FeatureStore.load(out, expect_backbone=backbone)
    except DataError as error:
        raise DataError(f"{error}; give another --out, or --overwrite to replace the store") from None


def _compute(
    data: OwnPhotos,
    backbone: Backbone,
    journal: FeatureJournal,
    known: KnownRows,
    batch_size: int,
    workers: int,
    *,
    skip_bad: bool,
    progress: OnProgress | None,
) -> None:
    """Add what is missing to the journal, batch by batch.

    Once an image turns out to be unreadable and may not be skipped, the network rests and only decoding goes on, so
    that all unreadable images are named soon.
    """
    total = len(data.images)
    bad = dict(known.skipped)
    todo = _missing(data, known)
    done = total - len(todo)
    report = progress or (lambda _done, _total: None)
    report(done, total)
    session = backbone.session() if todo else None
    for batch in decoded_batches(data.root, todo, backbone.spec, batch_size=batch_size, workers=workers):
        bad |= {image.path: image for image in batch.skipped}
        if session is not None and (skip_bad or not bad):
            rows = np.empty((0, backbone.feature_dim), dtype=np.float32)
            if batch.images:
                rows = backbone.run(session, batch.pixels)
            _refuse_infinite(batch.images, rows)
            journal.append(batch.images, rows, batch.skipped)
        done += len(batch)
        report(done, total)
    if bad and not skip_bad:
        problems = [Problem(pointer=shown(path), detail=bad[path].reason) for path in sorted(bad)]
        count = "one image" if len(bad) == 1 else f"{len(bad)} images"
        raise DataError(f"{count} cannot be read; mend or remove them, or leave them out with --skip-bad", problems)


def _refuse_infinite(images: Sequence[ImageRecord], rows: NDArray[np.float32]) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        path = images[int(np.argmin(finite))].path
        raise DataError(f"the backbone gives features of {shown(path)} that are not finite numbers")


def _describe(data: OwnPhotos, backbone: Backbone, known: KnownRows, out: Path) -> FeatureStore:
    """The store as it will be, still without its rows."""
    rows = [(known.image(path), label) for path, label in data.images if path in known]
    if not rows:
        raise DataError(f"{shown(data.root)}: no image can be read, so there are no features")
    listed = {path for path, _ in data.images}
    return FeatureStore(
        path=out,
        features=np.empty((0, backbone.feature_dim), dtype=np.float32),
        labels=np.array([label for _, label in rows], dtype=np.int64),
        classes=data.classes,
        attribute_names=data.attribute_names,
        attribute_words=data.attribute_words,
        images=tuple(image for image, _ in rows),
        skipped=tuple(known.skipped[path] for path in sorted(known.skipped) if path in listed and path not in known),
        data_root=str(data.root.resolve()),
        backbone_source=str(backbone.path.resolve()),
        fingerprint=backbone.fingerprint,
        spec=backbone.spec,
        backbone_card=backbone.card,
        encoder_identity=data.text_encoder.files.identity if data.text_encoder else None,
    )


def _write(
    store: FeatureStore,
    data: OwnPhotos,
    backbone: Backbone,
    known: KnownRows,
    before: FeatureStore | None,
    journal: FeatureJournal,
) -> None:
    """Write the store beside its place, rows in the order of the images, and move it there when it is whole."""
    folder = journal.folder / "store"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    shape = (len(store.images), backbone.feature_dim)
    features = np.lib.format.open_memmap(folder / FEATURES, mode="w+", dtype=np.float32, shape=shape)
    old = before.features if before is not None else np.empty((0, backbone.feature_dim), dtype=np.float32)
    known.gather([image.path for image in store.images], (old, journal.rows()), features)
    features.flush()
    (folder / META).write_text(json.dumps(store.meta()), encoding="utf-8")
    shutil.copyfile(backbone.path, folder / BACKBONE)
    shutil.copyfile(card_path(backbone.path), folder / BACKBONE_CARD)
    if data.text_encoder is not None:
        write_text_encoder(data.text_encoder.files, folder / TEXT_ENCODER)
    move_into_place(folder, store.path)
