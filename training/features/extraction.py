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
import onnxruntime as ort
from numpy.typing import NDArray

from model.errors import DataError, Problem
from model.outside.threads import available_cpus
from training.console import OnProgress
from training.features.backbone import Backbone, card_path
from training.features.decoding import DecodedBatch, decoded_batches, image_file
from training.features.journal import FeatureJournal, KnownRows
from training.features.own_photos import OwnPhotos, shown
from training.features.store import (
    BACKBONE,
    BACKBONE_CARD,
    FEATURES,
    META,
    MIRRORED,
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
    mirrored: bool | None = None,
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
        mirrored: whether images of seen classes get a second vector with left and right exchanged, to train on; by
            default as in the store that is there, and yes where none is.
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
    twice = _seen_paths(data) if _mirrors(mirrored, before) else None
    known = _stored(data, before, twice)
    with FeatureJournal(partial_folder(out), backbone, views=_views(twice), discard_other=overwrite) as journal:
        resumed = len(journal.images)
        known.add(_JOURNAL, journal.images, journal.skipped, lacking=_lacking(journal, twice))
        _compute(data, backbone, journal, known, batch_size, workers, twice, skip_bad=skip_bad, progress=progress)
        known.add(_JOURNAL, journal.images, journal.skipped, start=resumed)
        extracted = len(journal.images) - resumed
        store = _describe(data, backbone, known, out, mirrored=twice is not None)
        changed = before is None or extracted > 0 or before.meta() != store.meta()
        if changed:
            _write(store, data, backbone, known, before, journal)
        journal.finished = True
    final = FeatureStore.load(out) if before is None or changed else before
    return Extraction(store=final, extracted=extracted, reused=len(store.images) - extracted, changed=changed)


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """What an extraction would still compute.

    Attributes:
        images: they have no features yet.
        twice: paths of the images that are mirrored, too.
        data_hash: of the data as the store will have it; None where images remain.
    """

    images: Sequence[ImageFile]
    twice: frozenset[str] = frozenset()
    data_hash: str | None = None


def remaining(data: OwnPhotos, backbone: Backbone, out: Path, *, mirrored: bool | None = None) -> Remaining:
    """What :func:`extract` would still compute into `out`, where nothing is changed yet.

    Raises:
        DataError: the store or the unfinished work there is of another backbone, `out` is no store, or another process
            extracts into it.
    """
    out = out.resolve()
    undo_half_move(out)
    before = _existing(out, backbone, overwrite=False)
    twice = _seen_paths(data) if _mirrors(mirrored, before) else None
    known = _stored(data, before, twice)
    if partial_folder(out).is_dir():
        with FeatureJournal(partial_folder(out), backbone, views=_views(twice)) as journal:
            known.add(_JOURNAL, journal.images, journal.skipped, lacking=_lacking(journal, twice))
    todo = _missing(data, known)
    is_mirrored = twice is not None
    data_hash = None if todo else _describe(data, backbone, known, out, mirrored=is_mirrored).data_hash
    return Remaining(images=todo, twice=twice or frozenset(), data_hash=data_hash)


def all_remaining(data: OwnPhotos, *, mirrored: bool | None = None) -> Remaining:
    """What an extraction would compute where nothing is there."""
    twice = _seen_paths(data) if _mirrors(mirrored, None) else frozenset()
    return Remaining(images=[image_file(data.root, path) for path, _ in data.images], twice=twice)


def _mirrors(asked: bool | None, before: FeatureStore | None) -> bool:
    return (before is None or before.mirrored is not None) if asked is None else asked


def _views(twice: frozenset[str] | None) -> int:
    return 1 if twice is None else 2


def _seen_paths(data: OwnPhotos) -> frozenset[str]:
    """The images that may be trained on."""
    return frozenset(path for path, label in data.images if data.classes[label].kind == "seen")


def _stored(data: OwnPhotos, before: FeatureStore | None, twice: frozenset[str] | None) -> KnownRows:
    """What is known of the images from the store that is there."""
    known = KnownRows(data.root, {path: image_file(data.root, path) for path, _ in data.images})
    if before is not None:
        lacking = twice or frozenset()
        if before.mirrored is not None:
            lacking = _not_finite(before.images, before.mirrored) & lacking
        known.add(_STORE, before.images, before.skipped, lacking=lacking)
    return known


def _lacking(journal: FeatureJournal, twice: frozenset[str] | None) -> frozenset[str]:
    """Images of an unfinished extraction that were not mirrored and have to be: their class is a seen one now."""
    if twice is None:
        return frozenset()
    rows = journal.rows()
    return _not_finite(journal.images, rows[:, rows.shape[1] // 2 :]) & twice


def _not_finite(images: Sequence[ImageRecord], rows_ND: NDArray[np.float32]) -> frozenset[str]:
    finite = np.isfinite(rows_ND[:, 0])  # a row is whole or has none
    return frozenset(image.path for image, whole in zip(images, finite.tolist(), strict=True) if not whole)


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
    twice: frozenset[str] | None,
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
            rows = _rows_of(batch, backbone, session)
            if twice is not None:
                rows = np.concatenate([rows, _mirrored_rows(batch, backbone, session, twice)], axis=1)
            journal.append(batch.images, rows, batch.skipped)
        done += len(batch)
        report(done, total)
    if bad and not skip_bad:
        problems = [Problem(pointer=shown(path), detail=bad[path].reason) for path in sorted(bad)]
        count = "one image" if len(bad) == 1 else f"{len(bad)} images"
        raise DataError(f"{count} cannot be read; mend or remove them, or leave them out with --skip-bad", problems)


def _rows_of(batch: DecodedBatch, backbone: Backbone, session: ort.InferenceSession) -> NDArray[np.float32]:
    """Features of the images that could be read, float32 [n, D]."""
    if not batch.images:
        return np.empty((0, backbone.feature_dim), dtype=np.float32)
    rows = backbone.run(session, batch.pixels)
    _refuse_infinite(batch.images, rows)
    return rows


def _mirrored_rows(
    batch: DecodedBatch, backbone: Backbone, session: ort.InferenceSession, twice: frozenset[str]
) -> NDArray[np.float32]:
    """Features with left and right exchanged, float32 [n, D]; NaN for images that are not in `twice`."""
    rows = np.full((len(batch.images), backbone.feature_dim), np.nan, dtype=np.float32)
    places = [place for place, image in enumerate(batch.images) if image.path in twice]
    if places:
        rows[places] = backbone.run(session, np.ascontiguousarray(batch.pixels[places, :, :, ::-1]))
        _refuse_infinite([batch.images[place] for place in places], rows[places])
    return rows


def _refuse_infinite(images: Sequence[ImageRecord], rows: NDArray[np.float32]) -> None:
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        path = images[int(np.argmin(finite))].path
        raise DataError(f"the backbone gives features of {shown(path)} that are not finite numbers")


def _mirrored_before(before: FeatureStore | None, backbone: Backbone) -> NDArray[np.float32]:
    """Mirrored features of the store that was there, NaN where it has none; its rows of seen classes are not used."""
    if before is None:
        return _none(backbone)
    if before.mirrored is None:
        return np.broadcast_to(np.float32(np.nan), before.features.shape)
    return before.mirrored


def _none(backbone: Backbone) -> NDArray[np.float32]:
    return np.empty((0, backbone.feature_dim), dtype=np.float32)


def _describe(data: OwnPhotos, backbone: Backbone, known: KnownRows, out: Path, *, mirrored: bool) -> FeatureStore:
    """The store as it will be, still without its rows."""
    rows = [(known.image(path), label) for path, label in data.images if path in known]
    if not rows:
        raise DataError(f"{shown(data.root)}: no image can be read, so there are no features")
    listed = {path for path, _ in data.images}
    return FeatureStore(
        path=out,
        features=_none(backbone),
        mirrored=_none(backbone) if mirrored else None,
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
    new, dim = journal.rows(), backbone.feature_dim
    parts = [(FEATURES, _none(backbone) if before is None else before.features, new[:, :dim])]
    if store.mirrored is not None:
        parts.append((MIRRORED, _mirrored_before(before, backbone), new[:, dim:]))
    for name, *sources in parts:
        rows = np.lib.format.open_memmap(
            folder / name, mode="w+", dtype=np.float32, shape=(len(store.images), backbone.feature_dim)
        )
        known.gather([image.path for image in store.images], sources, rows)
        rows.flush()
    (folder / META).write_text(json.dumps(store.meta()), encoding="utf-8")
    shutil.copyfile(backbone.path, folder / BACKBONE)
    shutil.copyfile(card_path(backbone.path), folder / BACKBONE_CARD)
    if data.text_encoder is not None:
        write_text_encoder(data.text_encoder.files, folder / TEXT_ENCODER)
    move_into_place(folder, store.path)
