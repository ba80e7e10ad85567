"""The commands `d3gzsl-train extract` and `backbone` as a user meets them: messages, exit status, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.errors import DataError
from tests.training.photos import write_backbone, write_data
from training import cli
from training.features import backbone_export, own_photos
from training.features.backbone import Backbone, load_backbone
from training.features.store import FeatureStore

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "b.onnx")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["d3gzsl-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_extract(
    root: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["extract", root, "--backbone", backbone, "--out", tmp_path / "f", "--batch-size", 5, "--workers", 2]
    assert command(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'f'}: 12 images x 5 features of 3 classes (12 computed, 0 there already, 0 left out)\n"
    )
    assert FeatureStore.load(tmp_path / "f").features.shape == (12, 5)
    assert command(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'f'} is complete already: 12 images x 5 features; nothing to do\n"


def test_extract_prints_json_and_nothing_else(
    root: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "images" / "fox" / "[bold]bad.png").write_bytes(b"x")
    out = tmp_path / "f"
    assert command(monkeypatch, "extract", root, "--backbone", backbone, "--out", out, "--skip-bad", "--json") == 0
    printed = capsys.readouterr()
    fields = json.loads(printed.out)
    store = FeatureStore.load(out)
    assert fields["images"] == fields["extracted"] == 12
    assert (fields["feature_dim"], fields["classes"], fields["reused"], fields["changed"]) == (5, 3, 0, True)
    assert fields["backbone_sha256"] == load_backbone(backbone).fingerprint
    assert fields["data_hash"] == store.data_hash
    assert [image["path"] for image in fields["skipped"]] == ["images/fox/[bold]bad.png"]
    assert printed.err.startswith("warning: left out images/fox/[bold]bad.png: not an image")


def test_every_fault_is_printed_and_the_status_is_2(
    root: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "images" / "[red]cat").mkdir()
    (root / "classes.csv").write_text("class,split,furry\nape,seen,1\nBlue Whale,seen,\nfox,never,1\n")
    assert command(monkeypatch, "extract", root, "--backbone", backbone, "--out", tmp_path / "f") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"error: {root} cannot be used: 3 problems\n"
        "  classes.csv line 3, column 'furry': expected a finite number of class 'Blue Whale', found an empty cell\n"
        "  classes.csv line 4: expected split 'seen' or 'unseen', found 'never'\n"
        "  images/[red]cat: expected a row for this class in classes.csv, found none (0 images)\n"
    )
    assert not (tmp_path / "f").exists()


def test_folder_that_cannot_be_written(
    root: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "features"
    assert command(monkeypatch, "extract", root, "--backbone", backbone, "--out", out) == 2
    assert capsys.readouterr().err.endswith(f"error: {out}.partial: Not a directory\n")


def test_wrong_option_and_interrupt(
    root: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["extract", root, "--backbone", backbone, "--out", tmp_path / "f"]
    assert command(monkeypatch, *arguments, "--batch-size", 0) == 2
    assert "batch-size" in capsys.readouterr().err

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(own_photos, "read_own_photos", interrupted)
    assert command(monkeypatch, *arguments) == 130


def test_ignore_unlisted(
    root: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "images" / "cat").mkdir()
    arguments = ["extract", root, "--backbone", backbone, "--out", tmp_path / "f", "--ignore-unlisted"]
    assert command(monkeypatch, *arguments) == 0
    assert "warning: images/cat is left out: classes.csv has no such class (0 images)\n" in capsys.readouterr().err


class Slim(torch.nn.Module):
    """Stands for ResNet-101, which test_backbone.py exports in full size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2048)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.head(images.mean((2, 3)))
        return features


@pytest.fixture
def slim(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Exports a small network instead; returns the names of the files whose weights were asked for."""
    sources: list[str] = []

    def features(_state: object, source: str) -> torch.nn.Module:
        sources.append(source)
        return Slim()

    monkeypatch.setattr(backbone_export, "resnet101_features", features)
    return sources


def loaded(path: Path) -> Backbone:
    backbone = load_backbone(path)
    assert (backbone.feature_dim, backbone.spec) == (2048, backbone_export.SPEC)
    return backbone


def test_backbone_from_a_file(
    slim: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    out = tmp_path / "b.onnx"
    arguments = ["backbone", "--arch", "resnet101", "--weights", tmp_path / "w.pth", "--out", out]
    assert command(monkeypatch, *arguments, "--json") == 0
    backbone = loaded(out)
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "arch": "resnet101",
        "feature_dim": 2048,
        "sha256": backbone.fingerprint,
    }
    assert backbone.card["trained_on"].startswith("state dict w.pth, sha256 ")
    assert slim == [str(tmp_path / "w.pth")]


def test_backbone_from_imagenet_weights(
    slim: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(*, progress: object) -> Path:
        assert callable(progress)
        progress(50, 100)
        torch.save({"w": torch.zeros(1)}, tmp_path / "fetched.pth")
        return tmp_path / "fetched.pth"

    monkeypatch.setattr(backbone_export, "fetch_imagenet_weights", fetch)
    assert command(monkeypatch, "backbone", "--weights", "imagenet", "--out", tmp_path / "b.onnx") == 0
    backbone = loaded(tmp_path / "b.onnx")
    assert backbone.card["trained_on"] == "ImageNet-1k (torchvision IMAGENET1K_V1)"
    assert f"{tmp_path / 'b.onnx'}: resnet101, 2048 features" in capsys.readouterr().out


def test_backbone_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(*, progress: object) -> Path:
        raise DataError("cannot download it")

    monkeypatch.setattr(backbone_export, "fetch_imagenet_weights", fetch)
    assert command(monkeypatch, "backbone", "--weights", "imagenet", "--out", tmp_path / "b.onnx") == 2
    assert capsys.readouterr().err.endswith("error: cannot download it\n")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    assert command(monkeypatch, "backbone", "--weights", tmp_path / "w.pth", "--out", tmp_path / "b.onnx") == 2
    assert f"error: {tmp_path / 'w.pth'} is no state dict of torchvision's resnet101" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)


def test_help_needs_no_heavy_imports() -> None:
    code = "import sys, training.cli; print([m for m in ('torch', 'onnxruntime', 'scipy') if m in sys.modules])"
    assert python(code).stdout == "[]\n"


def test_without_the_training_extra() -> None:
    done = python(
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv = ['d3gzsl-train', 'backbone', '--weights', 'x', '--out', 'y']\n"
        "from training.cli import main; main()"
    )
    assert done.returncode == 2
    assert "install d3gzsl with the extra `training`: pip install 'd3gzsl[training]'" in done.stderr
    assert done.stderr.count("\n") == 1
