"""From a folder of photos to a bundle: backbone, features, training with results, bundle, verification.

Every step is one of the other commands' own. What is finished and unchanged is kept, what was begun goes on, and what
does not fit is refused, or replaced where that is asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.bundle import Bundle, check_writable
from model.errors import BundleError, DataError, Problem
from model.manifest import MANIFEST
from training.config import TrainConfig
from training.console import OnStage, OnStep, plural
from training.datasets.benchmark import is_benchmark
from training.datasets.dataset import MIN_TRAINING_ROWS, Dataset
from training.datasets.opening import open_data
from training.experiment import Finished, Order, run
from training.exporting.export import export, is_bundle_of
from training.exporting.precision import Int8Export
from training.exporting.run_images import RunImages
from training.features.backbone import Backbone
from training.features.decoding import image_file
from training.features.extraction import extract, remaining
from training.features.own_photos import OwnPhotos, read_own_photos, shown
from training.features.store import ImageFile, is_store
from training.features.text_encoder import load_text_encoder
from training.making.backbones import named_backbone
from training.making.estimate import Estimate, export_seconds, feature_seconds, int8_seconds, training_seconds
from training.making.verification import verify
from training.runs.contents import CONFIG, LOG, REPORT, Trained, read_json
from training.runs.directory import begun_at, differences, is_finished, refuse_other
from training.runs.fit import FitOptions
from training.selection.folds import fold_count

FEATURES, RUN = "features", "run"
_NAMED = 5  # photos in a message
_OWN = (FEATURES, RUN, "resnet101-imagenet.", "backbone-of-")  # how names in the folder of the work begin
_OTHER = "--overwrite replaces what does not fit and keeps the rest; another --out begins beside it"


@dataclass(frozen=True, kw_only=True, eq=False)
class MakeOptions:
    """What is to be made.

    Attributes:
        data: folder with `images/<class>/*` and `classes.csv`.
        backbone: see :func:`training.making.backbones.named_backbone`.
        out: the bundle's folder.
        work: folder of what is made on the way: features, the run, and a backbone that had to be made.
        config: hyper-parameters.
        device: where to train.
        fit: how the training runs.
        test_fraction: share of each seen class kept for testing.
        split_seed: which split.
        text_encoder: what makes the column `description` part of what describes the classes.
        skip_bad: leave out unreadable photos.
        ignore_unlisted: leave out folders that the table does not name.
        overwrite: replace what is of other photos, settings or another backbone.
    """

    data: Path
    backbone: str
    out: Path
    work: Path
    config: TrainConfig
    device: torch.device
    fit: FitOptions
    test_fraction: float = 0.3
    split_seed: int = 0
    text_encoder: Path | None = None
    skip_bad: bool = False
    ignore_unlisted: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """Who is told what goes on.

    Attributes:
        say: a sentence.
        warn: a sentence about what is probably not meant so.
        counted: photos and bytes that are done.
        step: epochs that are done.
    """

    say: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    counted: OnStage = lambda *_: None
    step: OnStep = lambda _: None


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """What there is in the end.

    Attributes:
        bundle_id: of the bundle.
        trained: the run it was exported from.
        metrics: of the run's test photos; None where unseen classes have none.
        report: the run's page for people.
        done: of each step whether something was computed, or all was there already.
        verified: photos that the bundle saw as the training did.
    """

    bundle_id: str
    trained: Trained
    metrics: Mapping[str, Any] | None
    report: Path
    done: Mapping[str, bool]
    verified: int


def make(options: MakeOptions, told: Told | None = None) -> Made:
    """Make a bundle of a folder of photos, or finish one that was begun.

    Args:
        options: what is to be made.
        told: who is told what goes on.

    Raises:
        DataError: the data cannot be used, or what is there is of other data, settings or another backbone; says what.
        BundleError: `out` holds something else, or what was written is not sound.
        Interrupted: somebody asked the training to stop, and its state is saved.
    """
    told = told or Told()
    _refuse_misfits(options)
    encoder = None if options.text_encoder is None else load_text_encoder(options.text_encoder)
    photos = read_own_photos(options.data, ignore_unlisted=options.ignore_unlisted, text_encoder=encoder)
    for warning in photos.warnings:
        told.warn(warning)
    _refuse_too_few(options, photos)
    options.work.mkdir(parents=True, exist_ok=True)
    asked = options.fit.interruption.raise_if_asked

    def counted(name: str, done: int, total: int | None) -> None:
        told.counted(name, done, total)
        asked(f"{done} {name} are kept")

    backbone = named_backbone(options.backbone, options.work, progress=counted)
    told.say(f"1 of 5, backbone: {backbone.path.name}, {backbone.feature_dim} features of each photo")

    todo, data_hash, anew = _todo(options, photos, backbone)
    _refuse_other_photos(options, todo, data_hash)
    if todo:
        told.say(_estimate(options, photos, backbone, todo).sentence(options.device.type))
    store = extract(
        photos,
        backbone,
        options.work / FEATURES,
        skip_bad=options.skip_bad,
        overwrite=anew,
        progress=lambda count, total: counted("photos", count, total),
    )
    for image in store.store.skipped:
        told.warn(f"left out {shown(image.path)}: {image.reason}")
    rows = plural(len(store.store.images), "photo")
    told.say(f"2 of 5, features: {rows}, {store.extracted} computed now, {store.reused} there already")

    dataset, described = open_data(
        options.work / FEATURES, test_fraction=options.test_fraction, split_seed=options.split_seed
    )
    place, fits = _run_there(options, {**described, "data_hash": dataset.data_hash, "split": dataset.split})
    kept = fits and place is not None and is_finished(place)
    if not todo and not kept:
        told.say(_estimate(options, photos, backbone, []).sentence(options.device.type))
    finished = _fit(options, dataset, described, told, fits=fits)
    run_dir = options.work / RUN
    told.say(f"3 of 5, training: {_trained(finished, there=kept)}")

    trained = Trained.load(run_dir)
    exported = _export(options, dataset, trained, told)
    told.say(f"4 of 5, bundle: {shown(options.out)} {'written' if exported else 'is of this training already'}")
    bundle = Bundle.load(options.out)
    verified = verify(bundle, trained)
    told.say(f"5 of 5, verification: every file is whole, and {plural(verified, 'photo')} look the same to the bundle")
    return Made(
        bundle_id=bundle.manifest.bundle_id,
        trained=trained,
        metrics=finished.metrics,
        report=run_dir / REPORT,
        done={"features": store.extracted > 0, "training": not kept, "bundle": exported},
        verified=verified,
    )


def _refuse_misfits(options: MakeOptions) -> None:
    """What can be said before anything is computed."""
    data, out, work = options.data, options.out, options.work
    if is_benchmark(data) or is_store(data):
        what = "a benchmark" if is_benchmark(data) else "features"
        raise DataError(
            f"{shown(data)}: expected a folder with photos, images/<class>/* and classes.csv; this holds {what}, which "
            f"`d3gzsl-train fit` takes"
        )
    check_writable(out, overwrite=True)
    others = [child.name for child in sorted(work.iterdir()) if not _is_own(child)] if work.is_dir() else []
    if others or (work.exists() and not work.is_dir()):
        found = ", ".join(others) or "a file"
        raise DataError(f"--work {shown(work)}: expected a new folder or one that `make` has written, found {found}")
    place = begun_at(work / RUN)
    if options.overwrite:
        return
    if (out / MANIFEST).is_file() and (place is None or not is_finished(place)):
        raise DataError(f"--out {shown(out)}: holds a bundle of another training; {_OTHER}")
    if place is not None:
        found_config = read_json(place / CONFIG).get("config")
        wanted = json.loads(json.dumps(options.config.to_json()))
        problems = list(differences(found_config, wanted, "", holder="the run"))
        if problems:
            raise DataError(
                f"{shown(place)}: was trained with other settings than are asked for now; {_OTHER}", problems
            )


def _refuse_too_few(options: MakeOptions, photos: OwnPhotos) -> None:
    """Say before the features are computed which classes have too few photos to train on."""
    problems = [
        Problem(
            pointer=f"class {photos.classes[index].id}",
            detail=f"expected at least {MIN_TRAINING_ROWS} photos to train on, besides those for testing, got {count}",
        )
        for index, count in _training_rows(options, photos).items()
        if count < MIN_TRAINING_ROWS
    ]
    if problems:
        raise DataError("too few photos of seen classes", problems)


def _training_rows(options: MakeOptions, photos: OwnPhotos) -> dict[int, int]:
    """How many photos of each seen class are not kept for testing, by its index."""
    counts = Counter(index for _, index in photos.images)
    return {
        index: counts[index] - round(options.test_fraction * counts[index])
        for index, entry in enumerate(photos.classes)
        if entry.kind == "seen"
    }


def _is_own(child: Path) -> bool:
    return child.name.startswith(_OWN) or child.name.startswith(".")


def _todo(options: MakeOptions, photos: OwnPhotos, backbone: Backbone) -> tuple[list[ImageFile], str | None, bool]:
    """The photos whose features are missing; without any, the data's hash; whether what is there has to go for them."""
    try:
        return *remaining(photos, backbone, options.work / FEATURES), False
    except DataError as error:
        if not options.overwrite or not is_store(options.work / FEATURES):
            raise DataError(f"{error.message.partition('; give another')[0]}; {_OTHER}", error.problems) from None
        return [image_file(photos.root, path) for path, _ in photos.images], None, True


def _refuse_other_photos(options: MakeOptions, todo: list[ImageFile], data_hash: str | None) -> None:
    """Refuse data that are not those of the run before its features are changed, without which it cannot be used."""
    place = begun_at(options.work / RUN)
    if options.overwrite or place is None or not is_store(options.work / FEATURES):
        return
    if todo:
        files = ", ".join(shown(file.path) for file in todo[:_NAMED])
        more = f" and {len(todo) - _NAMED} more" if len(todo) > _NAMED else ""
        raise DataError(
            f"{shown(place)}: was trained on other photos than are there now: {files}{more} added or changed; {_OTHER}"
        )
    if data_hash != read_json(place / CONFIG)["data"]["data_hash"]:
        raise DataError(
            f"{shown(place)}: was trained on other data than are there now: photos are gone or have moved, or the "
            f"table of classes says something else; {_OTHER}"
        )


def _run_there(options: MakeOptions, data: Mapping[str, Any]) -> tuple[Path | None, bool]:
    """Where a run is, and whether it is the one that is asked for; True where there is none.

    Raises:
        DataError: it is another one, and may not be replaced.
    """
    place = begun_at(options.work / RUN)
    if place is None:
        return None, True
    try:
        refuse_other(place, options.config, data)
    except DataError as error:
        if not options.overwrite:
            raise DataError(
                f"{shown(place)}: was trained on other photos, classes or settings than are there now; {_OTHER}",
                error.problems,
            ) from None
        return place, False
    return place, True


def _fit(options: MakeOptions, dataset: Dataset, described: Mapping[str, Any], told: Told, *, fits: bool) -> Finished:
    order = Order(
        dataset=dataset,
        data=described,
        device=options.device,
        options=options.fit,
        resume=fits,
        overwrite=not fits,
    )
    return run(order, options.config, options.work / RUN, progress=told.step)


def _trained(finished: Finished, *, there: bool) -> str:
    selected = finished.trained.selected
    said = f"{plural(selected.epochs, 'epoch')}, H {selected.validation['H']:.3f} on validation"
    if finished.metrics is not None:
        said += ", on test photos " + ", ".join(f"{s} {finished.metrics['lda'][s]:.3f}" for s in ("U", "S", "H"))
    else:
        said += "; nothing to test on, as unseen classes have no photos"
    return said + (" (there already)" if there else "")


def _export(options: MakeOptions, dataset: Dataset, trained: Trained, told: Told) -> bool:
    """Write the bundle unless the one that is there is of this run; returns whether it was written.

    Raises:
        BundleError: there is another one, or a damaged one, and it may not be replaced.
    """
    out = options.out
    if (out / MANIFEST).is_file():
        try:
            if is_bundle_of(Bundle.load(out).manifest, dataset, trained):
                return False
            why = "holds a bundle of another training, or with other descriptions of attributes"
        except BundleError as error:
            why = str(error)
        if not options.overwrite:
            raise BundleError(f"--out {shown(out)}: {why}; {_OTHER}")

    def counted(step: str, done: int, total: int) -> None:
        told.counted(f"photos for {step}", done, total)
        options.fit.interruption.raise_if_asked("the training is kept")

    int8 = Int8Export(images=lambda: RunImages.of(trained), on_images=counted)
    written = export(dataset, trained, out, int8=int8, overwrite=options.overwrite)
    if "why_no_int8" in written:
        told.say(f"the bundle has the trunk in float32 alone: {written['why_no_int8']}")
    return True


def _estimate(options: MakeOptions, photos: OwnPhotos, backbone: Backbone, todo: list[ImageFile]) -> Estimate:
    """How long what is missing will take; a run that was begun counts as far as its log goes."""
    rows = _training_rows(options, photos)
    text = photos.classes[0].text_vector
    features = feature_seconds(photos.root, todo, backbone)
    training = training_seconds(
        rows=sum(rows.values()),
        seen=len(rows),
        unseen=len(photos.classes) - len(rows),
        feature_dim=backbone.feature_dim,
        described_dim=len(photos.attribute_names) + (0 if text is None else len(text)),
        config=options.config,
        device=options.device,
    )
    place = begun_at(options.work / RUN)
    if place is not None and not is_finished(place):
        training *= 1 - _share_done(place, options.config)
    every = [image_file(photos.root, path) for path, _ in photos.images]
    export = export_seconds(backbone.feature_dim) + int8_seconds(photos.root, every, backbone)
    return Estimate(photos=len(todo), features=features, training=training, export=export)


def _share_done(run_dir: Path, config: TrainConfig) -> float:
    """The share of its epochs that an unfinished run has logged."""
    try:
        lines = (run_dir / LOG).read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    done = sum('"epoch"' in line for line in lines)
    folds = 0 if config.selection.protocol == "test-best" else fold_count(config.selection)
    return min(1.0, done / ((folds + 1) * config.epochs))
