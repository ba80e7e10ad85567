"""`d3gzsl-train make`: every step once, again where it stopped, and nothing that does not fit."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.bundle import Bundle
from model.errors import BundleError, DataError
from tests.training import tiny
from tests.training.conftest import Command
from tests.training.photos import write_backbone, write_photo
from tests.training.tiny import TINY, names, write_images
from training.features import backbone_export
from training.features.backbone import load_backbone
from training.features.own_photos import read_own_photos
from training.features.store import FeatureStore, ImageFile
from training.making import estimate, verification
from training.making.backbones import named_backbone
from training.making.estimate import Estimate, feature_seconds, training_seconds
from training.making.steps import Made, MakeOptions, Told, make
from training.runs.checkpoints import Interrupted, Interruption
from training.runs.contents import Trained
from training.runs.fit import FitOptions


def options_in(folder: Path) -> MakeOptions:
    return MakeOptions(
        data=folder / "photos",
        backbone=str(folder / "backbone.onnx"),
        out=folder / "bundle",
        work=folder / "bundle-training",
        config=tiny.config(),
        device=torch.device("cpu"),
        fit=FitOptions(checkpoint_seconds=0),
    )


@pytest.fixture
def options(tmp_path: Path) -> MakeOptions:
    """64 photos of eight classes, two of them unseen, and a backbone; nothing is made yet."""
    write_images(tmp_path / "photos")
    write_backbone(tmp_path / "backbone.onnx", dim=8)
    return options_in(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Made]:
    """A folder in which everything is made; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    write_images(folder / "photos")
    write_backbone(folder / "backbone.onnx", dim=8)
    return folder, make(options_in(folder))


@pytest.fixture
def finished(made: tuple[Path, Made], tmp_path: Path) -> MakeOptions:
    """A copy of it."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return options_in(tmp_path)


@pytest.fixture
def photos(options: MakeOptions) -> Path:
    return options.data


@pytest.fixture
def backbone(options: MakeOptions) -> Path:
    return Path(options.backbone)


def stamps(folder: Path) -> dict[str, int]:
    """When each file was written last."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def made_again(options: MakeOptions) -> tuple[Made, list[str]]:
    """What `make` gives, and what it says."""
    said: list[str] = []
    return make(options, Told(say=said.append)), said


# --- the command ------------------------------------------------------------------------------------------------------


def test_one_command_makes_a_bundle_and_the_next_one_does_nothing(
    run: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "animals"
    line = ("make", photos, "--backbone", backbone, "--out", out, *TINY)
    status, printed, errors = run(*line)
    assert status == 0, errors
    bundle = Bundle.load(out)
    assert printed.splitlines()[-1] == f"{out}: bundle {bundle.manifest.bundle_id}; next: d3gzsl serve --bundle {out}"
    assert printed.startswith("Of 100 photos of classes it never saw, ")
    assert names(tmp_path) == ["animals", "animals-training", "backbone.json", "backbone.onnx", "photos"]
    assert names(tmp_path / "animals-training") == ["features", "run"]
    assert "report.html" in names(tmp_path / "animals-training" / "run")
    said = errors.splitlines()
    first = next(place for place, words in enumerate(said) if words.startswith("this will take about "))
    assert first < next(place for place, words in enumerate(said) if words.startswith("photos "))
    assert [words[0] for words in said if " of 5, " in words] == ["1", "2", "3", "4", "5"]
    epochs = [words.split("  ")[0] for words in said if "epoch" in words and not words.startswith("3 of 5")]
    assert epochs == [
        *(f"selection epoch {epoch} of 4" for epoch in (1, 2, 3, 4)),
        *(f"training epoch {e + 1} of {len(bundle_epochs(out))}" for e in bundle_epochs(out)),
    ]

    before = stamps(tmp_path)
    status, printed, errors = run(*line, "--json")
    assert (status, errors) == (0, "")
    fields = json.loads(printed)
    assert fields["done"] == {"features": False, "training": False, "bundle": False}
    assert (fields["bundle_id"], fields["verified"]) == (bundle.manifest.bundle_id, 16)
    assert fields["metrics"]["lda"]["H"] == pytest.approx(fields["metrics"]["lda"]["H"])
    assert {k: v for k, v in stamps(tmp_path).items() if "lock" not in k} == before


def bundle_epochs(out: Path) -> range:
    return range(Bundle.load(out).manifest.training["selected"]["epochs"])


def test_the_recipe_suits_the_device(run: Command, photos: Path, backbone: Path, tmp_path: Path) -> None:
    small = ["--set", "epochs=1", "--set", "steps=1", "--set", "generator.hidden=8", "--set", "selection.folds=2"]
    line = ["make", photos, "--backbone", backbone, "--out", tmp_path / "b", "--device", "cpu", *small]
    status, _, errors = run(*line)
    assert status == 0, errors
    assert Bundle.load(tmp_path / "b").manifest.training["recipe"]["name"] == "cpu-wgan"


def test_classes_without_test_photos_still_give_a_bundle(options: MakeOptions, photos: Path) -> None:
    for name in ("Violet", "Lime"):
        for file in (photos / "images" / name).iterdir():
            file.unlink()
    made, said = made_again(options)
    assert made.metrics is None
    assert "nothing to test on, as unseen classes have no photos" in "\n".join(said)
    assert "Nothing was tested" in made.report.read_text()
    assert len(Bundle.load(options.out).manifest.classes) == 8


# --- stopped, and given again -----------------------------------------------------------------------------------------


def test_stopped_while_features_are_computed(options: MakeOptions) -> None:
    interruption = Interruption()

    def stop(_name: str, done: int, _total: int | None) -> None:
        if done:
            interruption.signal = signal.SIGINT

    with pytest.raises(Interrupted, match="32 photos are kept"):
        make(replace(options, fit=FitOptions(interruption=interruption)), Told(counted=stop))
    assert not options.out.exists()
    said, enough = list[str](), Interruption()

    def begun(_step: Any) -> None:
        enough.signal = signal.SIGINT

    with pytest.raises(Interrupted, match="fold 1 of 2"):
        make(replace(options, fit=FitOptions(interruption=enough)), Told(say=said.append, step=begun))
    assert "2 of 5, features: 64 photos, 32 computed now, 32 there already" in said


def test_stopped_while_it_trains(options: MakeOptions) -> None:
    interruption = Interruption()

    def stop(step: Any) -> None:
        if step.done == 3:
            interruption.signal = signal.SIGTERM

    with pytest.raises(Interrupted, match="after epoch 1 of fold 2 of 2"):
        make(replace(options, fit=FitOptions(checkpoint_seconds=0, interruption=interruption)), Told(step=stop))
    made, said = made_again(options)
    assert "2 of 5, features: 64 photos, 0 computed now, 64 there already" in said
    lines = [json.loads(line) for line in (options.work / "run" / "log.jsonl").read_text().splitlines()]
    of_folds = [(line["fold"], line["epoch"]) for line in lines if line["stage"] == "selection"]
    assert of_folds == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert made.done == {"features": False, "training": True, "bundle": True}


def test_stopped_before_the_bundle(finished: MakeOptions) -> None:
    for file in sorted(finished.out.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    again, _ = made_again(finished)
    assert again.done == {"features": False, "training": False, "bundle": True}


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_an_added_photo_needs_a_word_and_costs_one_photo(made: tuple[Path, Made], finished: MakeOptions) -> None:
    first = made[1]
    write_photo(finished.data / "images" / "moss" / "99.png", seed=5)
    before = {**stamps(finished.out), **stamps(finished.work)}
    with pytest.raises(
        DataError, match=r"than are there now: images/moss/99\.png added or changed; --overwrite replaces"
    ):
        make(finished)
    assert {**stamps(finished.out), **stamps(finished.work)} == before
    second, said = made_again(replace(finished, overwrite=True))
    assert "2 of 5, features: 65 photos, 1 computed now, 64 there already" in said
    assert second.done == {"features": True, "training": True, "bundle": True}
    assert second.bundle_id != first.bundle_id
    third, _ = made_again(finished)
    assert (third.bundle_id, set(third.done.values())) == (second.bundle_id, {False})
    (finished.data / "images" / "moss" / "99.png").unlink()
    before = stamps(finished.work)
    with pytest.raises(DataError, match="photos are gone or have moved, or the table of classes says something else"):
        make(finished)
    assert stamps(finished.work) == before


def test_other_settings_are_named_before_anything_is_computed(finished: MakeOptions) -> None:
    other = replace(finished, config=tiny.config("generator.hidden=9"))
    with pytest.raises(DataError, match="was trained with other settings") as refused:
        make(other)
    assert [p.pointer for p in refused.value.problems] == ["generator.hidden"]
    again, _ = made_again(replace(other, overwrite=True))
    assert again.done == {"features": False, "training": True, "bundle": True}


def test_an_overwriting_that_was_stopped_goes_on(made: tuple[Path, Made], finished: MakeOptions) -> None:
    first = made[1]
    interruption = Interruption()

    def stop(step: Any) -> None:
        if step.done == 2:
            interruption.signal = signal.SIGINT

    other = replace(finished, config=tiny.config("generator.hidden=9"), overwrite=True)
    stopped = replace(other, fit=FitOptions(checkpoint_seconds=0, interruption=interruption))
    with pytest.raises(Interrupted):
        make(stopped, Told(step=stop))
    assert Bundle.load(finished.out).manifest.bundle_id == first.bundle_id
    with pytest.raises(DataError, match="holds a bundle of another training"):
        make(replace(other, overwrite=False))
    steps: list[int] = []
    make(other, Told(step=lambda step: steps.append(step.done) if step.stage == "selection" else None))
    assert steps[0] == 2
    assert Bundle.load(finished.out).manifest.bundle_id != first.bundle_id


def test_another_backbone(finished: MakeOptions, tmp_path: Path) -> None:
    other = replace(finished, backbone=str(write_backbone(tmp_path / "other.onnx", dim=8, seed=7)))
    with pytest.raises(DataError, match=r"stale features: they are of the backbone with sha256 .*; --overwrite"):
        make(other)
    again, said = made_again(replace(other, overwrite=True))
    assert "2 of 5, features: 64 photos, 64 computed now, 0 there already" in said
    assert again.done == {"features": True, "training": True, "bundle": True}


def test_a_damaged_bundle(made: tuple[Path, Made], finished: MakeOptions) -> None:
    first = made[1]
    (finished.out / "head.npz").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"head\.npz is damaged or changed"):
        make(finished)
    mended, _ = made_again(replace(finished, overwrite=True))
    assert mended.done == {"features": False, "training": False, "bundle": True}
    assert mended.bundle_id == first.bundle_id


def test_other_words_of_attributes_are_another_bundle(finished: MakeOptions) -> None:
    (finished.data / "attributes.csv").write_text("name,description,unit\nred,how red it is,0 to 100 %\n")
    with pytest.raises(BundleError, match="with other descriptions of attributes"):
        make(finished)
    again, _ = made_again(replace(finished, overwrite=True))
    assert again.done == {"features": False, "training": False, "bundle": True}
    assert Bundle.load(finished.out).manifest.vocabulary.attributes[0].words.unit == "0 to 100 %"


def test_places_that_hold_something_else(options: MakeOptions, store_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this holds features, which `d3gzsl-train fit` takes"):
        make(replace(options, data=store_dir))
    (tmp_path / "b").mkdir()
    for name in ("res101.mat", "att_splits.mat"):
        (tmp_path / "b" / name).write_bytes(b"")
    with pytest.raises(DataError, match="this holds a benchmark"):
        make(replace(options, data=tmp_path / "b"))
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        make(replace(options, out=options.data))
    with pytest.raises(DataError, match=r"expected a new folder or one that `make` has written, found classes.csv, im"):
        make(replace(options, work=options.data))
    with pytest.raises(DataError, match="expected imagenet, an ONNX file or a bundle, found another folder"):
        make(replace(options, backbone=str(options.data)))
    assert not options.out.exists()


def test_classes_with_too_few_photos_are_named_first(options: MakeOptions) -> None:
    for name in ("moss", "sea"):
        for number in range(5):
            (options.data / "images" / name / f"{number:02d}.png").unlink()
    with pytest.raises(DataError, match="too few photos of seen classes") as refused:
        make(options)
    assert [problem.pointer for problem in refused.value.problems] == ["class moss", "class sea"]
    assert refused.value.problems[0].detail.endswith("besides those for testing, got 2")
    assert not options.work.exists()


def test_a_bundle_of_another_place_is_not_replaced(options: MakeOptions, exported: Path) -> None:
    with pytest.raises(DataError, match="holds a bundle of another training"):
        make(replace(options, out=exported))
    assert not options.work.exists()


# --- backbones --------------------------------------------------------------------------------------------------------


def test_the_backbone_of_a_bundle(options: MakeOptions, exported: Path, data: Any, tmp_path: Path) -> None:
    taken = named_backbone(str(exported), tmp_path)
    original = load_backbone(data.backbone.path)
    pixels = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(
        taken.run(taken.session(), pixels), original.run(original.session(), pixels), rtol=1e-5, atol=1e-5
    )
    assert (taken.spec, taken.feature_dim) == (original.spec, 8)
    before = stamps(tmp_path)
    assert named_backbone(str(exported), tmp_path).fingerprint == taken.fingerprint
    assert stamps(tmp_path) == before
    made, _ = made_again(replace(options, backbone=str(exported)))
    assert made.done["bundle"]


class Slim(torch.nn.Module):
    """Stands for ResNet-101."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2048)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.head(images.mean((2, 3)))
        return features


def test_the_weights_of_imagenet_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []

    def fetch(*, progress: Callable[[int, int | None], None]) -> Path:
        progress(50, 100)
        torch.save({"w": torch.zeros(1)}, tmp_path / "weights.pth")
        fetched.append(tmp_path / "weights.pth")
        return fetched[-1]

    monkeypatch.setattr(backbone_export, "fetch_imagenet_weights", fetch)
    monkeypatch.setattr(backbone_export, "resnet101_features", lambda _state, source: Slim())
    told: list[tuple[str, int, int | None]] = []
    work = tmp_path / "work"
    work.mkdir()
    made = named_backbone("imagenet", work, progress=lambda *step: told.append(step))
    assert told == [("bytes of the weights", 50, 100)]
    assert made.card["trained_on"] == "ImageNet-1k (torchvision IMAGENET1K_V1)"
    assert named_backbone("imagenet", work).fingerprint == made.fingerprint
    assert len(fetched) == 1
    assert names(work) == ["resnet101-imagenet.json", "resnet101-imagenet.onnx"]


# --- verification -----------------------------------------------------------------------------------------------------


def test_a_bundle_that_sees_photos_otherwise(exported: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.load(exported)
    assert verification.verify(bundle, trained) == 16
    load = FeatureStore.load

    def moved(path: Path) -> FeatureStore:
        store = load(path)
        features = store.features.copy()
        features[-1, 0] += 0.01 * np.abs(features).max()
        return replace(store, features=features)

    monkeypatch.setattr(FeatureStore, "load", moved)
    with pytest.raises(BundleError, match=r"gives other features of images/.* than the training had: they differ by 1"):
        verification.verify(bundle, trained)


# --- the time it will take --------------------------------------------------------------------------------------------


def test_the_time_of_a_training_is_that_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(work: Callable[[], Any], _device: torch.device, *, times: int = 1) -> tuple[Any, float]:
        return work(), 1.0

    monkeypatch.setattr(estimate, "_timed", timed)
    sizes = {"rows": 64, "seen": 6, "unseen": 2, "feature_dim": 8, "described_dim": 3, "device": torch.device("cpu")}
    short, long = (
        training_seconds(config=tiny.config(f"epochs={epochs}", "selection.evaluations=1"), **sizes)  # type: ignore[arg-type]
        for epochs in (2, 6)
    )
    # Two folds and the final training, four epochs more of four outer steps each.
    assert long - short == pytest.approx(3 * 4 * 4)
    few, many = (
        training_seconds(config=tiny.config(f"selection.shrinkage={values}", "selection.evaluations=1"), **sizes)  # type: ignore[arg-type]
        for values in ("[0.5]", "[0.3, 0.5, 0.7]")
    )
    assert many - few == pytest.approx(2 * 2)  # two folds, two heads more


def test_the_time_of_features_grows_with_the_photos(
    photos: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("training.making.estimate.monotonic", lambda: float(next(clock)))
    data, network = read_own_photos(photos), load_backbone(backbone)
    files = [ImageFile(path=path, size=1, mtime_ns=1) for path, _ in data.images]
    assert feature_seconds(data.root, [], network) == 0
    assert feature_seconds(data.root, files, network, workers=1) == pytest.approx(64 / 8)
    assert feature_seconds(data.root, files[:4], network, workers=1) == pytest.approx(1)


def test_what_is_said_of_the_time() -> None:
    whole = Estimate(photos=1200, features=100.0, training=200.0, export=15.0)
    assert whole.sentence("cpu") == (
        "this will take about 5 minutes: 2 minutes for the features of 1200 photos, 3 minutes to train on cpu, "
        "15 seconds for the bundle"
    )
    assert Estimate(training=7205.0).sentence("cuda") == "this will take about 2 hours: 2 hours to train on cuda"
    assert Estimate().sentence("cpu") == "everything is there already"


# --- photos to try it on ----------------------------------------------------------------------------------------------


def test_sample_photos(run: Command, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    status, printed, errors = run("sample-photos", "--out", out, "--per-class", 2)
    assert status == 0, errors
    assert printed.startswith(f"{out}: 82 drawings of 34 seen and 7 unseen classes; next: d3gzsl-train make {out} ")
    data = read_own_photos(out)
    assert (len(data.images), sum(entry.kind == "unseen" for entry in data.classes)) == (82, 7)
    assert data.warnings == ()
    status, _, errors = run("sample-photos", "--out", out)
    assert status == 2
    assert "expected a new folder" in errors
