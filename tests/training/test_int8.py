"""The second trunk in int8: what is measured, and when it is shipped."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from model.bundle import Bundle
from model.calibration import Calibration
from model.errors import DataError
from model.head import logits
from model.photos import PhotoPrior
from service.inference.engine import OnnxEngine
from tests.training.conftest import Command
from tests.training.tiny import write_run
from training.datasets.dataset import Dataset
from training.datasets.opening import reopen
from training.exporting.export import export
from training.exporting.precision import Int8Export, _FoldJudge, _validation
from training.exporting.run_images import RunImages
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.method.heads import embed
from training.metrics import gzsl_scores
from training.runs.contents import Trained
from training.selection.folds import folds
from training.selection.photos import draw_photos, subsets

SHARED = Path(__file__).parents[3] / "shared" / "data"
ANY_LOSS = 100.0


@pytest.fixture(scope="module")
def bundle(trained: Trained, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    export(data, trained, out, int8=Int8Export(images=lambda: RunImages.of(trained), limit=ANY_LOSS))
    return Bundle.load(out)


# --- the bundle -----------------------------------------------------------------------------------


def test_the_manifest_has_both_results_as_measured_with_the_bundles_rows(
    bundle: Bundle, trained: Trained, data: Dataset
) -> None:
    """Measured again through the service's engine, on the test images with each of the bundle's trunks."""
    noted = bundle.manifest.metrics["precision"]
    assert (noted["measured_on"], noted["limit"], noted["shipped"]) == (
        "folds of validation",
        ANY_LOSS,
        ["fp32", "int8"],
    )
    assert noted["calibration_images"] == min(128, len(data.trainval))
    assert noted["lost_points_of_H"] == pytest.approx(100 * (noted["fp32"]["H"] - noted["int8"]["H"]))
    test = noted["test"]
    assert test["images"] == len(data.test)
    pixels = np.concatenate(list(RunImages.of(trained).pixels(data.test.tolist())))
    place = {entry.id: i for i, entry in enumerate(bundle.manifest.classes)}
    labels = np.array([place[data.classes[label].id] for label in data.labels[data.test].tolist()])
    seen = np.array([entry.kind == "seen" for entry in bundle.manifest.classes])
    for precision in bundle.precisions:
        z = OnnxEngine(bundle, threads=1, precision=precision).embed(pixels).embedding
        scores = bundle.manifest.calibration.scores(logits(z, bundle.weight, bundle.bias), seen)
        measured = gzsl_scores(scores, labels, seen)
        assert test[precision] == pytest.approx({key: getattr(measured, key) for key in test[precision]}, abs=1e-9)
    assert test["lost_points_of_H"] == pytest.approx(100 * (test["fp32"]["H"] - test["int8"]["H"]))


def test_only_the_backbone_of_the_second_trunk_is_in_int8(bundle: Bundle, exported: Path) -> None:
    def of_type(path: Path, kind: int) -> set[str]:
        return {t.name for t in onnx.load(path).graph.initializer if t.data_type == kind}

    assert bundle.precisions == ("fp32", "int8")
    second = bundle.trunk_of("int8")
    assert of_type(second, TensorProto.INT8)
    assert all(name.startswith("backbone/") for name in of_type(second, TensorProto.INT8))
    for name in ("trunk.onnx", "synthesizer.onnx"):
        assert (bundle.path / name).read_bytes() == (exported / name).read_bytes()


@pytest.mark.usefixtures("exported_anew")
def test_exporting_again_gives_the_same_bundle(bundle: Bundle, trained: Trained, data: Dataset, tmp_path: Path) -> None:
    plan = Int8Export(images=lambda: RunImages.of(trained), limit=ANY_LOSS)
    again = export(data, trained, tmp_path / "again", int8=plan)
    assert again["bundle_id"] == bundle.manifest.bundle_id
    assert (tmp_path / "again" / "trunk_int8.onnx").read_bytes() == bundle.trunk_of("int8").read_bytes()
    here = str(Path(trained.data["path"]).parent).encode()
    assert not any(here in path.read_bytes() for path in bundle.path.iterdir() if path.is_file())


def test_without_test_images_only_validation_is_noted(trained_on_all: Trained, tmp_path: Path) -> None:
    plan = Int8Export(images=lambda: RunImages.of(trained_on_all), limit=ANY_LOSS, calibration_images=20)
    noted = export(reopen(trained_on_all.data), trained_on_all, tmp_path / "bundle", int8=plan)["metrics"]["precision"]
    assert "test" not in noted
    assert 0 < noted["images"] <= 48
    assert noted["calibration_images"] == 20
    assert noted["fp32"]["H"] > 0.3  # six colours, three of them described only


def test_validation_takes_every_fold_with_its_hidden_classes(trained_on_all: Trained) -> None:
    data = reopen(trained_on_all.data)
    judges = _validation(data, trained_on_all)
    splits = list(folds(data, trained_on_all.config.selection, trained_on_all.config.seed))
    assert len(judges) == len(splits)
    for judge, fold in zip(judges, splits, strict=True):
        assert sorted(judge.index.tolist()) == sorted(fold.held.tolist())
        assert fold.classes[~judge.seen].tolist() == fold.pseudo_unseen.tolist()
        assert (fold.classes[judge.labels] == data.labels[judge.index]).all()


def test_with_photos_h_is_that_of_rows_made_of_descriptions_and_photos_in_float32(trained_on_all: Trained) -> None:
    """Against rows solved one by one; the photos stay exact where all that is classified is not."""
    data, prior = reopen(trained_on_all.data), PhotoPrior(described=2.0, undescribed=1.0, fade=4.0)
    selected = dataclasses.replace(
        trained_on_all.selected,
        photos=prior,
        head=dataclasses.replace(trained_on_all.selected.head, unseen_scale=1.25),
        calibration=Calibration(seen_penalty=0.5, temperature=3.0),
    )
    trained = dataclasses.replace(trained_on_all, selected=selected)
    judge = _validation(data, trained)[0]
    exact = {row: data.features[row] for row in judge.index.tolist()}
    noise = np.random.default_rng(0)
    moved = {row: features * noise.uniform(0.7, 1.3, features.shape) for row, features in exact.items()}
    drawn = draw_photos(judge.labels, judge.seen, trained.config.seed)
    device = next(trained.networks.student.parameters()).device

    def embedded(features: dict[int, NDArray[np.float32]]) -> NDArray[np.float32]:
        some = np.stack([features[row] for row in judge.index.tolist()]).astype(np.float32)
        return embed(trained.networks, torch.from_numpy(trained.scaler.apply(some)).to(device)) - judge.unscaled.centre

    z, photos = embedded(moved), embedded(exact)[drawn]
    kept = np.setdiff1d(np.arange(len(z)), drawn)
    means: dict[int, list[float]] = {}
    for chosen in subsets(drawn.shape[1]):
        n = len(chosen)
        scores = np.empty((len(z), len(judge.seen)))
        for index, seen in enumerate(judge.seen.tolist()):
            mean = judge.unscaled.means[index]
            if not seen:
                place = int(np.flatnonzero(~judge.seen).searchsorted(index))
                mean = prior.mean(mean, photos[place, list(chosen)])
            weight, bias = judge.unscaled.head.rows(mean[None])
            scale, share = (1.0, 1.0) if seen else (prior.scale(1.25, n), prior.seen_share(n))
            scores[:, index] = scale * (z @ weight[0] + bias[0]) - share * 0.5 * 3.0
        means.setdefault(n, []).append(gzsl_scores(scores[kept], judge.labels[kept], judge.seen).H)
    expected = np.mean([np.mean(values) for values in means.values()])
    assert judge.h_with_photos(trained, moved, exact) == pytest.approx(expected, abs=1e-6)
    without = dataclasses.replace(trained, selected=dataclasses.replace(selected, photos=None))
    assert judge.h_with_photos(without, moved, exact) is None


# --- refused --------------------------------------------------------------------------------------


class Grey(RunImages):
    """Shows nothing of the range at first: a trunk that is calibrated on it clips all that matters."""

    calls = 0

    def pixels(self, rows: object, **options: object) -> Iterator[NDArray[np.float32]]:
        type(self).calls += 1
        if type(self).calls > 1:
            yield from super().pixels(rows, **options)  # type: ignore[arg-type]
        else:
            yield np.full((len(rows), 3, 8, 8), 0.01, dtype=np.float32)  # type: ignore[arg-type]


@pytest.fixture
def grey(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> RunImages:
    monkeypatch.setattr(Grey, "calls", 0)
    images = RunImages.of(trained)
    return Grey(root=images.root, images=images.images, spec=images.spec)


@pytest.fixture
def plain(trained: Trained) -> Trained:
    """Three known classes a fold predict nothing, and the penalty chosen on them leaves no H to lose."""
    selected = dataclasses.replace(trained.selected, calibration=Calibration(seen_penalty=0, temperature=1))
    return dataclasses.replace(trained, selected=selected)


NUMBER = r"\d+\.\d\d"
RESULT = rf"H {NUMBER}(, {NUMBER} with photos)? \(U {NUMBER}, S {NUMBER}\)"
LOSES = (
    rf"int8 loses {NUMBER} points of H, more than the 0\.3 allowed: {RESULT} against {RESULT} in float32, "
    r"on \d+ images of the folds of validation"
)


def test_too_large_a_loss_is_refused_with_the_numbers(
    plain: Trained, grey: RunImages, data: Dataset, tmp_path: Path
) -> None:
    plan = Int8Export(images=lambda: grey, calibration_images=10, required=True)
    with pytest.raises(DataError) as refused:
        export(data, plain, tmp_path / "bundle", int8=plan)
    assert re.match(LOSES + "; more --calibration-images", str(refused.value))
    assert list(tmp_path.iterdir()) == []


def test_where_int8_is_not_required_the_bundle_has_float32_alone_and_says_why(
    plain: Trained, grey: RunImages, data: Dataset, tmp_path: Path
) -> None:
    plan = Int8Export(images=lambda: grey, calibration_images=10)
    written = export(data, plain, tmp_path / "bundle", int8=plan)
    made = Bundle.load(tmp_path / "bundle")
    assert made.precisions == ("fp32",)
    noted = made.manifest.metrics["precision"]
    assert noted["shipped"] == ["fp32"]
    assert noted["lost_points_of_H"] > 0.3
    assert re.fullmatch(LOSES, written["why_no_int8"])
    assert noted["reason"] == written["why_no_int8"]


def test_what_int8_loses_for_classes_with_photos_decides_too(
    trained: Trained, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def h(_judge: object, _trained: Trained, features: object, exact: object) -> float:
        return 0.9 if features is exact else 0.85

    monkeypatch.setattr(_FoldJudge, "h_with_photos", h)
    plan = Int8Export(images=lambda: RunImages.of(trained), limit=4.9)
    written = export(data, trained, tmp_path / "bundle", int8=plan)
    noted = written["metrics"]["precision"]
    assert (noted["fp32"]["H_with_photos"], noted["int8"]["H_with_photos"]) == pytest.approx((0.9, 0.85))
    assert noted["lost_points_of_H"] < 4.9
    assert noted["lost_points_of_H_with_photos"] == pytest.approx(5)
    assert noted["shipped"] == ["fp32"]
    assert "int8 loses 5.00 points of H, more than the 4.9 allowed" in noted["reason"]
    assert "85.00 with photos" in noted["reason"]


def test_without_photos_the_bundle_has_float32_alone(
    trained: Trained, data: Dataset, exported: Path, tmp_path: Path
) -> None:
    """What the machine's folders are called does not get into the bundle."""
    nowhere = tmp_path / "nowhere"
    plan = Int8Export(images=lambda: RunImages.of(trained, root=nowhere))
    written = export(data, trained, tmp_path / "bundle", int8=plan)
    assert written["bundle_id"] == Bundle.load(exported).manifest.bundle_id
    assert str(nowhere) in written["why_no_int8"]
    assert str(nowhere) not in (tmp_path / "bundle" / "manifest.json").read_text()
    with pytest.raises(DataError, match="say where it is now with --images"):
        export(data, trained, tmp_path / "other", int8=dataclasses.replace(plan, required=True))


def test_images_that_have_changed_are_named(store_dir: Path, trained: Trained, data: Dataset, tmp_path: Path) -> None:
    images = RunImages.of(trained)
    shutil.copytree(images.root, tmp_path / "data")
    victim, gone = (images.images[row].path for row in data.trainval[:2])
    shutil.copyfile(images.root / images.images[int(data.test[0])].path, tmp_path / "data" / victim)
    (tmp_path / "data" / gone).unlink()
    moved = RunImages.of(trained, root=tmp_path / "data")
    with pytest.raises(DataError, match="images of the training are not what they were") as refused:
        list(moved.pixels(data.trainval.tolist()))
    details = {problem.pointer: problem.detail for problem in refused.value.problems}
    assert details[victim].startswith("changed: expected sha256 ")
    assert details[gone] == "No such file or directory"
    assert len(details) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": -1.0}, "--int8-limit: expected 0 to 100 points of H, got -1"),
        ({"calibration_images": 0}, "--calibration-images: expected at least 1, got 0"),
    ],
)
def test_bad_options(trained: Trained, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Int8Export(images=lambda: RunImages.of(trained), **arguments)  # type: ignore[arg-type]


def test_a_run_without_images(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="this run was trained on features without images"):
        RunImages.of(dataclasses.replace(trained, data={"kind": "benchmark", "path": "x"}))
    with pytest.raises(DataError, match="say where it is now with --images"):
        RunImages.of(trained, root=tmp_path / "nowhere")


# --- the command ----------------------------------------------------------------------------------


def test_the_command(run: Command, run_dir: Path, trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(RunImages.of(trained).root, tmp_path / "moved")
    options = ["--int8-limit", 100, "--calibration-images", 12, "--images", tmp_path / "moved"]
    status, printed, errors = run("export", run_dir, "--out", tmp_path / "bundle", *options)
    assert status == 0, errors
    assert {"ranges", "int8", "test"} <= set(errors.split())  # the bars
    made = Bundle.load(tmp_path / "bundle")
    noted = made.manifest.metrics["precision"]
    assert made.precisions == ("fp32", "int8")
    assert "the bundle has its trunk in float32 and in int8" in printed
    assert f"{100 * noted['int8']['H']:.2f} in int8, {100 * noted['fp32']['H']:.2f} in float32" in printed
    assert noted["calibration_images"] == 12
    status, printed, errors = run(
        "export", run_dir, "--out", tmp_path / "again", "--precision", "int8", "--json", *options
    )
    assert (status, errors) == (0, "")
    assert json.loads(printed)["metrics"]["precision"] == noted


def test_the_command_says_why_there_is_no_second_trunk(run: Command, run_dir: Path, tmp_path: Path) -> None:
    moved = ["--images", tmp_path / "nowhere"]
    status, printed, _ = run("export", run_dir, "--out", tmp_path / "bundle", *moved)
    assert status == 0
    assert "the bundle has the trunk in float32 alone: " in printed
    assert "nowhere: expected the data folder" in printed
    status, _, errors = run("export", run_dir, "--out", tmp_path / "other", "--precision", "int8", *moved)
    assert status != 0
    assert "nowhere: expected the data folder" in errors
    status, printed, _ = run("export", run_dir, "--out", tmp_path / "plain", "--precision", "fp32")
    assert (status, "int8" in printed) == (0, False)
    assert "precision" not in Bundle.load(tmp_path / "plain").manifest.metrics


# --- real photos ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "animals").is_dir(), reason="the photos and the backbone are not there")
def test_mobilenet_on_photos_of_animals(tmp_path: Path) -> None:
    """Few photos, so that it stays within a minute; whole runs are measured in docs/training.md."""
    root = tmp_path / "data"
    shutil.copytree(
        SHARED / "animals", root, ignore=lambda folder, names: sorted(names)[14:] if len(names) > 30 else []
    )
    store = extract(
        read_own_photos(root), load_backbone(SHARED / "backbones" / "mobilenet_v1_224.onnx"), tmp_path / "f"
    )
    run = write_run(store.store.path, tmp_path / "run", "selection.folds=4", test_fraction=0.3)
    trained = Trained.load(run)
    plan = Int8Export(images=lambda: RunImages.of(trained), limit=5, calibration_images=64)
    noted = export(reopen(trained.data), trained, tmp_path / "bundle", int8=plan)["metrics"]["precision"]
    assert noted["test"]["fp32"]["H"] > 0.3
    assert noted["lost_points_of_H"] <= 5
    made = Bundle.load(tmp_path / "bundle")
    sizes = [made.trunk_of(which).stat().st_size for which in ("int8", "fp32")]
    assert sizes[0] < 0.75 * sizes[1]  # the tail stays in float32
