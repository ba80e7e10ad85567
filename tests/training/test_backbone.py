from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from model.errors import DataError
from model.preprocess import PreprocessSpec
from tests.training.photos import save_random_resnet101, write_backbone
from training.features import backbone_export
from training.features.backbone import Backbone, load_backbone
from training.features.backbone_export import export_backbone

SPEC = PreprocessSpec(size=8, resize=10, interpolation="bicubic")


class Tiny(torch.nn.Module):
    """Convolution, BatchNorm and pooling: 3 x 8 x 8 to 6 features."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body(images).flatten(1)
        return features


def export(module: torch.nn.Module, out: Path, **changes: Any) -> Backbone:
    return export_backbone(
        module, SPEC, out, **{"feature_dim": 6, "trained_on": "nothing", "licence": "CC0", **changes}
    )


def edit(path: Path, change: Any) -> None:
    model = onnx.load_model(path)
    change(model)
    onnx.save_model(model, path)


def test_loads_and_runs(tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "b.onnx", card={"licence": "MIT"})
    backbone = load_backbone(path)
    assert (backbone.feature_dim, backbone.input, backbone.output) == (5, "image", "features")
    assert backbone.spec == PreprocessSpec(size=8, resize=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert backbone.card["licence"] == "MIT"
    images = np.random.default_rng(0).standard_normal((4, 3, 8, 8), dtype=np.float32)
    weights = onnx.numpy_helper.to_array(onnx.load_model(path).graph.initializer[0])
    features = backbone.run(backbone.session(threads=1), images)
    np.testing.assert_allclose(features, np.tanh(images.reshape(4, -1) @ weights), atol=1e-6)


def test_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    prints = [
        load_backbone(write_backbone(tmp_path / f"{i}.onnx", seed=seed)).fingerprint for i, seed in enumerate((0, 0, 1))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_ends_need_no_name_where_there_is_one_each(tmp_path: Path) -> None:
    backbone = load_backbone(write_backbone(tmp_path / "b.onnx", card={"input": None, "output": None, "layout": None}))
    assert (backbone.input, backbone.output) == ("image", "features")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"layout": "NHWC"}, "layout must be NCHW, got 'NHWC'"),
        ({"input": "pixels"}, r"input must be one of \['image'\], got 'pixels'"),
        ({"output": "logits"}, r"output must be one of \['features'\], got 'logits'"),
        ({"feature_dim": 7}, "output 'features' must be N x 7 with N of any length, got batch x 5"),
        ({"feature_dim": None}, "feature_dim must be a whole number above 0, got None"),
        ({"feature_dim": True}, "feature_dim must be a whole number above 0, got True"),
        (
            {"size": 16, "resize": 16},
            "input 'image' must be N x 3 x 16 x 16 with N of any length, got batch x 3 x 8 x 8",
        ),
        ({"mean": None}, "preprocessing lacks the field 'mean'"),
        ({"std": [1, 1, 0]}, "std above 0"),
        ({"resize": "squeeze"}, "resize must be a number or"),
    ],
)
def test_json_that_does_not_fit(tmp_path: Path, card: dict[str, Any], message: str) -> None:
    path = write_backbone(tmp_path / "b.onnx", card=card)
    with pytest.raises(DataError, match=message) as caught:
        load_backbone(path)
    assert "b." in str(caught.value)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "b.onnx"
    with pytest.raises(DataError, match=r"b\.onnx: expected a backbone in ONNX format, found no such file"):
        load_backbone(path)
    write_backbone(path)
    card = path.with_suffix(".json").read_text()
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"b\.json: expected the backbone's JSON"):
        load_backbone(path)
    path.with_suffix(".json").write_text(card)
    with pytest.raises(DataError, match=r"got the ending \.json"):
        load_backbone(path.with_suffix(".json"))
    path.with_suffix(".json").write_text(card[:20])
    with pytest.raises(DataError, match=r"b\.json: not readable as JSON"):
        load_backbone(path)
    path.with_suffix(".json").write_text("[1]")
    with pytest.raises(DataError, match=r"b\.json: expected a JSON object, got list"):
        load_backbone(path)
    path.with_suffix(".json").write_text(card)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"b\.onnx: (not readable as ONNX|ONNX Runtime cannot open it)"):
        load_backbone(path)


def test_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be N x 3 x 8 x 8 with N of any length, got 1 x 3 x 8 x 8"):
        load_backbone(write_backbone(tmp_path / "b.onnx", batch=1))


def test_double_precision_is_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        node = helper.make_node("Cast", ["features"], ["wide"], to=TensorProto.DOUBLE)
        model.graph.node.append(node)
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["batch", 5]))

    path = write_backbone(tmp_path / "b.onnx", card={"output": "wide"})
    edit(path, change)
    with pytest.raises(DataError, match=r"output 'wide' must be float32, got tensor\(double\)"):
        load_backbone(path)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = write_backbone(tmp_path / "b.onnx")
    model = onnx.load_model(path)
    onnx.save_model(model, path, save_as_external_data=True, location="b.data", size_threshold=0)
    with pytest.raises(DataError, match="save the network as one ONNX file"):
        load_backbone(path)


def test_graph_whose_result_has_another_shape_is_refused(tmp_path: Path) -> None:
    """The declared shape is symbolic and fits; only running the graph tells."""

    def change(model: Any) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([True] * 4 + [False]), "keep"))
        model.graph.node.append(helper.make_node("Compress", ["features", "keep"], ["some"], axis=1))
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("some", TensorProto.FLOAT, ["batch", "dim"]))

    path = write_backbone(tmp_path / "b.onnx", card={"output": "some"})
    edit(path, change)
    with pytest.raises(DataError, match="expected 2 x 5 features of 2 images, got 2 x 4"):
        load_backbone(path)


def test_graph_that_gives_no_finite_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not finite"):  # log 0
        load_backbone(write_backbone(tmp_path / "b.onnx", function="Log"))


def test_file_that_changes_after_loading_is_noticed(tmp_path: Path) -> None:
    backbone = load_backbone(write_backbone(tmp_path / "b.onnx"))
    write_backbone(tmp_path / "b.onnx", seed=1)
    with pytest.raises(DataError, match="the file has changed"):
        backbone.session()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Backbone]:
    """A network in training mode, and the backbone it was exported to, alone in a new folder."""
    module, path = Tiny(), tmp_path_factory.mktemp("tiny") / "new" / "tiny.onnx"
    module.train()
    module(torch.randn(4, 3, 8, 8) * 3 + 1)  # statistics that differ between training and evaluation mode
    return module, export(module, path)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_export_equals_torch_at_any_batch_size(tiny: tuple[Tiny, Backbone], batch: int) -> None:
    module, exported = tiny
    assert module.training
    backbone = load_backbone(exported.path)
    assert backbone.fingerprint == exported.fingerprint
    images = np.random.default_rng(1).standard_normal((batch, 3, 8, 8), dtype=np.float32)
    with torch.inference_mode():
        expected = copy.deepcopy(module).eval()(torch.from_numpy(images)).numpy()
    actual = backbone.run(backbone.session(), images)
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_export_writes_one_file_and_its_json(tiny: tuple[Tiny, Backbone]) -> None:
    path = tiny[1].path
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.json", "tiny.onnx"]
    card = json.loads(path.with_suffix(".json").read_text())
    assert PreprocessSpec.from_json(card) == SPEC
    assert (card["feature_dim"], card["trained_on"], card["licence"]) == (6, "nothing", "CC0")


def test_exported_file_tells_nothing_of_the_machine(tiny: tuple[Tiny, Backbone]) -> None:
    """Its hash keys the features; it must not depend on where the program lies."""
    data = tiny[1].path.read_bytes()
    assert str(Path(backbone_export.__file__).parents[1]).encode() not in data
    assert b".py" not in data


def test_export_that_differs_from_torch_is_refused(
    tiny: tuple[Tiny, Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny[1].path.parent, tmp_path, dirs_exist_ok=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    to_onnx = backbone_export.to_onnx

    def slightly_other(network: torch.nn.Module, *arguments: Any) -> onnx.ModelProto:
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1.001)
        model = to_onnx(network, *arguments)
        with torch.no_grad():
            for weight in network.parameters():
                weight.div_(1.001)
        return model

    monkeypatch.setattr(backbone_export, "to_onnx", slightly_other)
    with pytest.raises(DataError, match=r"differ by .* of the largest feature, at most 1e-04 is allowed"):
        export(Tiny(), tmp_path / "tiny.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tiny.onnx", {"feature_dim": 7}, "output 'features' must be N x 7"),
        ("tiny.pb", {}, "expected a file name that ends in .onnx"),
    ],
)
def test_export_with_wrong_arguments(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        export(Tiny(), tmp_path / name, **changes)
    assert not list(tmp_path.iterdir())


def test_export_of_weights_that_overflow_is_refused(tmp_path: Path) -> None:
    module = Tiny()
    with torch.no_grad():
        module.body[0].weight.mul_(1.5e19).mul_(1e20)  # just finite, and so are the features of a grey image
    with pytest.raises(DataError, match="not finite numbers on a random batch"):
        export(module, tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())


# --- ResNet-101 -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "resnet101.pth"
    save_random_resnet101(path)
    return path


def test_preprocessing_is_that_of_the_weights() -> None:
    transforms = backbone_export.IMAGENET.transforms()
    assert ([backbone_export.SPEC.resize], [backbone_export.SPEC.size]) == (
        transforms.resize_size,
        transforms.crop_size,
    )
    assert (list(backbone_export.SPEC.mean), list(backbone_export.SPEC.std)) == (transforms.mean, transforms.std)
    assert backbone_export.SPEC.interpolation == transforms.interpolation.value


def test_state_dict_of_a_checkpoint_and_of_parallel_training(state_file: Path, tmp_path: Path) -> None:
    state = backbone_export.read_state_dict(state_file)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "c.pth")
    read = backbone_export.read_state_dict(tmp_path / "c.pth")
    assert read.keys() == state.keys()
    without_head = {k: v for k, v in read.items() if not k.startswith("fc.") and "num_batches" not in k}
    module = backbone_export.resnet101_features(without_head, "c.pth")
    assert torch.equal(module.state_dict()["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])
    assert not module.training


def test_state_dict_that_does_not_fit(state_file: Path) -> None:
    state = backbone_export.read_state_dict(state_file)
    state["head.weight"] = state.pop("conv1.weight")
    state["bn1.bias"] = torch.zeros(3)
    with pytest.raises(DataError) as caught:
        backbone_export.resnet101_features(state, "w.pth")
    assert str(caught.value) == (
        "w.pth is no state dict of torchvision's resnet101: missing: conv1.weight; unexpected: head.weight; "
        "other shapes: bn1.bias (expected 64, found 3)"
    )


def test_state_dict_of_another_network_names_few_keys() -> None:
    with pytest.raises(DataError, match=r"missing: conv1\.weight.* and [0-9]+ more; unexpected: a$"):
        backbone_export.resnet101_features({"a": torch.zeros(1)}, "w.pth")


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Evil(), "not readable as a state dict of plain tensors"),
        ([1, 2], "expected a state dict, names to tensors, found list"),
        ({"epoch": 3}, "expected a state dict, names to tensors, found dict"),
        ({}, "expected a state dict, names to tensors, found dict"),
    ],
)
def test_files_that_are_no_state_dict(
    tmp_path: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match=message):
        backbone_export.read_state_dict(tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_files_that_torch_cannot_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"w\.pth: not readable as a state dict of plain tensors"):
        backbone_export.read_state_dict(tmp_path / "w.pth")


def test_missing_weights_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no such file"):
        backbone_export.read_state_dict(tmp_path / "w.pth")
