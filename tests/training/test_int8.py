"""The trunk in int8: how it is made, what is measured, and when it is refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.bundle import Bundle
from model.calibration import Calibration
from model.errors import DataError
from model.head import logits
from model.outside import threads
from service.inference.engine import OnnxEngine
from tests.training.photos import write_backbone
from tests.training.tiny import write_run
from training import cli
from training.datasets.dataset import Dataset
from training.datasets.opening import reopen
from training.exporting.export import export
from training.exporting.int8 import Extremes, Quantiser, quantise
from training.exporting.precision import Int8Export, _validation
from training.exporting.run_images import RunImages, even_rows
from training.exporting.weights8 import bounded_weights, channel_ranges
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.metrics import gzsl_scores
from training.runs.contents import Trained
from training.selection.folds import folds

SHARED = Path(__file__).parents[3] / "shared" / "data"
ANY_LOSS = 100.0


@pytest.fixture(scope="module")
def bundle(trained: Trained, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    export(data, trained, out, int8=Int8Export(images=lambda: RunImages.of(trained), limit=ANY_LOSS))
    return Bundle.load(out)


def batches(*shape: int, seed: int = 0) -> list[NDArray[np.float32]]:
    return [np.random.default_rng(seed + i).standard_normal(shape).astype(np.float32) for i in range(3)]


def convolutions(path: Path) -> Path:
    """Convolution, batch norm, ReLU, depthwise convolution, residual sum, pooling, Flatten, with its JSON."""
    write_backbone(path, size=12, dim=6)
    random = np.random.default_rng(3)

    def weights(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape).astype(np.float32) / 3

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], pads=[1, 1, 1, 1], group=6),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["features"]),
    ]
    tensors = {
        "w1": weights(6, 3, 3, 3),
        "w2": weights(6, 1, 3, 3) * (10.0 ** np.arange(-3, 3))[:, None, None, None].astype(np.float32),
        "scale": weights(6) + 1,
        "shift": weights(6),
        "mean": weights(6),
        "variance": np.abs(weights(6)) + 1,
    }
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in tensors.items()],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


# --- quantising -----------------------------------------------------------------------------------


def test_a_convolutional_backbone_keeps_its_features(tmp_path: Path) -> None:
    """Weights whose channels differ by a factor of 100,000 are the reason for a scale per channel."""
    source = load_backbone(convolutions(tmp_path / "fp32.onnx"))
    images = batches(8, 3, 12, 12)
    made = load_backbone(quantise(source.path, lambda: images, tmp_path / "int8.onnx"))
    exact = source.run(source.session(), np.concatenate(images))
    rounded = made.run(made.session(), np.concatenate(images))
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())
    np.testing.assert_allclose(rounded.mean(axis=0), exact.mean(axis=0), rtol=1e-3, atol=1e-4)  # the correction
    assert np.abs(rounded - exact).max() > 0
    graph = onnx.load(made.path).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["BatchNormalization"] == 0
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == 2
    for value in weights:
        assert (np.abs(value.reshape(len(value), -1).astype(int)).max(axis=1) >= 63).all()  # each channel's own scale


def test_extremes_are_those_of_each_image(tmp_path: Path) -> None:
    source, images = load_backbone(convolutions(tmp_path / "fp32.onnx")), batches(4, 3, 12, 12)
    found = Quantiser(source).watch(images)
    pixels = np.concatenate(images)
    np.testing.assert_array_equal(found.least["image"], pixels.min(axis=(1, 2, 3)))
    np.testing.assert_array_equal(found.largest["image"], pixels.max(axis=(1, 2, 3)))
    assert found.widest["image"] == (pixels.min(), pixels.max())
    assert found.mean["image"] == pytest.approx((found.least["image"].mean(), found.largest["image"].mean()))
    assert all(len(values) == 12 for values in found.largest.values())
    assert len(found.largest) >= 5  # between image and pooling


def test_sensitive_layers_stay_in_float32_with_what_bounds_them(tmp_path: Path) -> None:
    """Here the convolution of the image, its ReLU, and the depthwise one."""
    quantiser = Quantiser(load_backbone(convolutions(tmp_path / "fp32.onnx")))
    assert sorted(name.split("_")[0] for name in quantiser.sensitive) == ["Conv", "Conv", "Relu"]
    ranges = quantiser.watch(batches(4, 3, 12, 12)).widest

    def int8_weights(**options: tuple[str, ...]) -> int:
        stored = quantiser.quantised(ranges, **options).graph.initializer
        return sum(tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4 for tensor in stored)

    assert (int8_weights(), int8_weights(kept=quantiser.sensitive)) == (2, 0)


def neighbours(weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Largest sum of two neighbours in the orders by channel and by pixel, each with its sign."""
    rows = (weights.reshape(len(weights), -1), np.moveaxis(weights, 1, -1).reshape(len(weights), -1))
    sums = [row[:, 0 : row.shape[1] // 2 * 2].astype(int).reshape(len(row), -1, 2).sum(axis=-1) for row in rows]
    return np.abs(np.concatenate([s.ravel() for s in sums]))


@pytest.mark.parametrize("shape", [(5, 7, 3, 3), (4, 8, 1, 1), (3, 3, 7, 7), (2, 2, 1, 1)])
def test_no_neighbours_overflow_16_bits(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, shape).astype(np.int8)
    bounded = bounded_weights(weights)
    assert 255 * neighbours(bounded).max() < 2**15
    assert ((np.sign(bounded) == np.sign(weights)) | (bounded == 0)).all()
    assert (np.abs(bounded.astype(int)) <= np.abs(weights.astype(int))).all()
    small = (weights // 2).astype(np.int8)
    np.testing.assert_array_equal(bounded_weights(small), small)  # nothing to do within 7 bits


def test_ranges_of_weights_lose_less_than_7_bits() -> None:
    weights = np.random.default_rng(1).standard_normal((16, 64, 1, 1)).astype(np.float32)
    largest = np.abs(weights).reshape(16, -1).max(axis=1)

    def error(ranges: NDArray[np.float32]) -> float:
        scale = (ranges / 127).reshape(-1, 1, 1, 1)
        return float(((bounded_weights(np.rint(weights / scale).astype(np.int8)) * scale - weights) ** 2).mean())

    ranges = channel_ranges(weights)
    assert ((largest <= ranges) & (ranges <= 2 * largest)).all()
    assert error(ranges) < 0.6 * error(2 * largest)
    assert error(ranges) < 0.6 * error(largest)
    np.testing.assert_array_equal(channel_ranges(weights, bounded=False), largest)


def test_the_bound_holds_in_the_graph_but_for_depthwise_kernels(tmp_path: Path) -> None:
    quantiser = Quantiser(load_backbone(convolutions(tmp_path / "fp32.onnx")))
    model = quantiser.quantised(quantiser.watch(batches(4, 3, 12, 12)).widest)
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.INT8]
    plain, depthwise = sorted((w for w in stored if w.ndim == 4), key=lambda w: -w.shape[1])
    assert 255 * neighbours(plain).max() < 2**15
    assert (np.abs(depthwise.reshape(6, -1).astype(int)).max(axis=1) == 127).all()


def test_mean_ranges_clip_what_is_rare() -> None:
    found = Extremes(
        least={"x": np.array([0.0, -1.0], dtype=np.float32)}, largest={"x": np.array([1.0, 9.0], dtype=np.float32)}
    )
    assert (found.widest, found.mean) == ({"x": (-1.0, 9.0)}, {"x": (-0.5, 5.0)})


def test_the_same_images_give_the_same_file(tmp_path: Path) -> None:
    source, images = convolutions(tmp_path / "fp32.onnx"), batches(4, 3, 12, 12)
    first, second = (quantise(source, lambda: images, tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second
    other = quantise(source, lambda: batches(4, 3, 12, 12, seed=9), tmp_path / "c.onnx").read_bytes()
    assert first != other


def test_a_backbone_without_weights_is_refused(tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "b.onnx", size=2, dim=12)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["features"])],
        "backbone",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 2, 2])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 12])],
    )
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(DataError, match=r"b\.onnx: expected Conv, Gemm, MatMul to quantise, found Flatten"):
        quantise(path, lambda: batches(2, 3, 2, 2), tmp_path / "out.onnx")


def test_rows_for_calibration_take_turns() -> None:
    labels = [5, 5, 5, 5, 2, 2, 7]
    assert list(even_rows(labels, 5)) == [0, 4, 6, 1, 5]
    assert sorted(even_rows(labels, 100)) == list(range(7))


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
LOSES = (
    rf"int8 loses {NUMBER} points of H, more than the 0\.3 allowed: H {NUMBER} \(U {NUMBER}, S {NUMBER}\) against "
    rf"H {NUMBER} \(U {NUMBER}, S {NUMBER}\) in float32, on \d+ images of the folds of validation"
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(threads, "available_cpus", lambda: 1)

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["d3gzsl-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return command


def test_the_command(run, run_dir: Path, trained: Trained, tmp_path: Path) -> None:
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


def test_the_command_says_why_there_is_no_second_trunk(run, run_dir: Path, tmp_path: Path) -> None:
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
