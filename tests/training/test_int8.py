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
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from training.exporting.int8_export import Int8Export, _validation_rows

from model.bundle import Bundle
from model.calibration import Calibration
from model.errors import DataError
from model.head import logits
from model.outside import threads
from service.inference.engine import OnnxEngine
from tests.training.photos import write_backbone
from tests.training.tiny import write_run
from training import cli
from training.datasets.dataset import Dataset, make_task
from training.datasets.opening import reopen
from training.evaluation import fit_chosen_head
from training.exporting.export import export
from training.exporting.int8 import RunImages, even_rows, quantise
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.method.heads import embed, fit_head
from training.metrics import gzsl_scores
from training.runs.contents import Trained
from training.selection.folds import folds

SHARED = Path(__file__).parents[3] / "shared" / "data"
ANY_LOSS = 100.0


@pytest.fixture(scope="module")
def bundle(trained: Trained, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    export(data, trained, out, int8=Int8Export(images=RunImages.of(trained), limit=ANY_LOSS))
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
        assert np.abs(value.astype(int)).max() <= 64  # 7 bits


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
    bundle: Bundle, exported: Path, trained: Trained, data: Dataset
) -> None:
    """Measured again through the service's engine: the bundle's own graph, and that of the float32 bundle."""
    plain = Bundle.load(exported)
    assert bundle.manifest.bundle_id != plain.manifest.bundle_id
    assert bundle.manifest.backbone == plain.manifest.backbone
    noted = bundle.manifest.metrics["int8"]
    assert (noted["measured_on"], noted["images"], noted["limit"]) == ("test images", len(data.test), ANY_LOSS)
    assert noted["calibration_images"] == min(128, len(data.trainval))
    pixels = np.concatenate(list(RunImages.of(trained).pixels(data.test.tolist())))
    place = {entry.id: i for i, entry in enumerate(bundle.manifest.classes)}
    labels = np.array([place[data.classes[label].id] for label in data.labels[data.test].tolist()])
    seen = np.array([entry.kind == "seen" for entry in bundle.manifest.classes])
    for name, of in (("int8", bundle), ("fp32", plain)):
        z = OnnxEngine(of, threads=1).embed(pixels).embedding
        scores = bundle.manifest.calibration.scores(logits(z, bundle.weight, bundle.bias), seen)
        measured = gzsl_scores(scores, labels, seen)
        assert noted[name] == pytest.approx({key: getattr(measured, key) for key in noted[name]}, abs=1e-9)
    assert noted["lost_points_of_H"] == pytest.approx(100 * (noted["fp32"]["H"] - noted["int8"]["H"]))


def test_only_the_backbone_is_in_int8(bundle: Bundle, exported: Path) -> None:
    def of_type(path: Path, kind: int) -> set[str]:
        return {t.name for t in onnx.load(path / "trunk.onnx").graph.initializer if t.data_type == kind}

    assert of_type(exported, TensorProto.INT8) == set()
    assert of_type(bundle.path, TensorProto.INT8)
    assert all(name.startswith("backbone/") for name in of_type(bundle.path, TensorProto.INT8))
    assert (bundle.path / "synthesizer.onnx").read_bytes() == (exported / "synthesizer.onnx").read_bytes()


@pytest.mark.usefixtures("exported_anew")
def test_exporting_again_gives_the_same_bundle(bundle: Bundle, trained: Trained, data: Dataset, tmp_path: Path) -> None:
    export(data, trained, tmp_path / "again", int8=Int8Export(images=RunImages.of(trained), limit=ANY_LOSS))
    assert (tmp_path / "again" / "trunk.onnx").read_bytes() == bundle.trunk.read_bytes()
    here = str(Path(trained.data["path"]).parent).encode()
    assert not any(here in path.read_bytes() for path in bundle.path.iterdir())


def test_without_test_images_it_is_measured_on_a_validation_fold(trained_on_all: Trained, tmp_path: Path) -> None:
    plan = Int8Export(images=RunImages.of(trained_on_all), limit=ANY_LOSS, calibration_images=20)
    noted = export(reopen(trained_on_all.data), trained_on_all, tmp_path / "bundle", int8=plan)["metrics"]["int8"]
    assert noted["measured_on"].startswith("training images of one validation fold")
    assert 0 < noted["images"] < 48
    assert noted["calibration_images"] == 20
    assert noted["fp32"]["H"] > 0.3  # six colours, three of them described only


def test_the_validation_head_gives_the_trunk_the_scores_it_gives_torch(trained_on_all: Trained) -> None:
    """The trunk subtracts the served centre and the head of the fold another one."""
    trained, data = trained_on_all, reopen(trained_on_all.data)
    centre = fit_chosen_head(data, trained, key="").centre
    rows = _validation_rows(data, trained, centre)
    fold = next(folds(data, trained.config.selection, trained.config.seed))
    task = make_task(data, fold.train, fold.classes, trained.scaler, torch.device("cpu"))
    fitted = fit_head(
        trained.networks,
        task,
        [data.classes[i].id for i in fold.classes.tolist()],
        trained.selected.head,
        samples=trained.config.selection.samples,
        key="",
    )
    z = embed(trained.networks, torch.from_numpy(trained.scaler.apply(data.features[rows.index])))
    np.testing.assert_allclose(
        logits(z - centre, rows.weight, rows.bias),
        fitted.logits(z),
        rtol=1e-3,
        atol=1e-3 * np.abs(fitted.logits(z)).max(),
    )


# --- refused --------------------------------------------------------------------------------------


def test_too_large_a_loss_is_refused_with_the_numbers(trained: Trained, data: Dataset, tmp_path: Path) -> None:
    """A trunk calibrated on images that show nothing of the range clips all that matters."""

    class Grey(RunImages):
        def pixels(self, rows: object, **_: object) -> Iterator[NDArray[np.float32]]:
            length = len(rows)  # type: ignore[arg-type]
            if length == len(data.test):
                yield from super().pixels(rows)  # type: ignore[arg-type]
            else:
                yield np.full((length, 3, 8, 8), 0.01, dtype=np.float32)

    images = RunImages.of(trained)
    grey = Grey(root=images.root, images=images.images, spec=images.spec)
    # Three known classes a fold predict nothing, and the penalty chosen on them leaves no H to lose.
    selected = dataclasses.replace(trained.selected, calibration=Calibration(seen_penalty=0, temperature=1))
    plain = dataclasses.replace(trained, selected=selected)
    with pytest.raises(DataError) as refused:
        export(data, plain, tmp_path / "bundle", int8=Int8Export(images=grey, calibration_images=10))
    number = r"\d+\.\d\d"
    assert re.match(
        rf"int8 loses {number} points of H, more than the 0\.5 allowed: H {number} \(U {number}, S {number}\) against "
        rf"H {number} \(U {number}, S {number}\) in float32, on {len(data.test)} test images; ",
        str(refused.value),
    )
    assert list(tmp_path.iterdir()) == []


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
        Int8Export(images=RunImages.of(trained), **arguments)  # type: ignore[arg-type]


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
    options = ["--int8", "--int8-limit", 100, "--calibration-images", 12, "--images", tmp_path / "moved"]
    status, printed, errors = run("export", run_dir, "--out", tmp_path / "bundle", *options)
    assert status == 0, errors
    assert {"ranges", "correction"} <= set(errors.split())  # the bars
    noted = Bundle.load(tmp_path / "bundle").manifest.metrics["int8"]
    assert f"in int8, {100 * noted['fp32']['H']:.2f} in float32" in printed
    assert noted["calibration_images"] == 12
    status, printed, errors = run("export", run_dir, "--out", tmp_path / "again", "--json", *options)
    assert (status, errors) == (0, "")
    assert json.loads(printed)["metrics"]["int8"] == noted


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
    plan = Int8Export(images=RunImages.of(trained), limit=5, calibration_images=64)
    noted = export(reopen(trained.data), trained, tmp_path / "bundle", int8=plan)["metrics"]["int8"]
    assert noted["fp32"]["H"] > 0.3
    assert noted["lost_points_of_H"] <= 5
    exact = export(reopen(trained.data), trained, tmp_path / "fp32")
    assert exact["bundle_id"] != Bundle.load(tmp_path / "bundle").manifest.bundle_id
    sizes = [(tmp_path / name / "trunk.onnx").stat().st_size for name in ("bundle", "fp32")]
    assert sizes[0] < 0.75 * sizes[1]  # the tail stays in float32
