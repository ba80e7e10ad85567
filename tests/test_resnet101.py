"""The whole way with a ResNet-101: weights, backbone, features, training, bundle, service, new class.

All but one test are slow: the graph alone takes half a minute to make. By default a network is compared that has one
block in each stage; images and features keep their sizes.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.models.resnet import Bottleneck, ResNet

from model.bundle import Bundle
from model.outside.threads import available_cpus
from model.preprocess import preprocess
from service.settings import Settings
from tests.service.conftest import Client, running_app
from tests.training.photos import save_random_resnet101, write_table
from training import cli
from training.features import backbone_export
from training.features.backbone import load_backbone
from training.features.store import FeatureStore

pytestmark = pytest.mark.timeout(1200)

CLASSES = {
    "rust": ("seen", (80, 30, 10)),
    "fern": ("seen", (10, 70, 20)),
    "deep": ("seen", (5, 20, 90)),
    "snow": ("seen", (95, 95, 95)),
    "plum": ("unseen", (60, 10, 60)),
    "corn": ("unseen", (90, 80, 10)),
}
PER_CLASS = 6
TINY = ["epochs=1", "batch_size=8", "teacher.epochs=1", "generator.hidden=8", "generator.critic_steps=1"]
TINY += ["selection.folds=2", "selection.evaluations=1", "selection.shrinkage=[0.5]", "selection.samples=5"]
LEMON = {"id": "lemon", "name": "Lemon", "attributes": {"red": 95, "green": 90, "blue": 20}}


def photo(name: str, number: int) -> bytes:
    """A JPEG of coarse noise around the colour of a class."""
    random = np.random.default_rng([number, *name.encode()])
    pixels = 2.55 * np.array(CLASSES[name][1]) + random.normal(0, 40, (6, 8, 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((320, 240)).save(stream, "JPEG")
    return stream.getvalue()


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["d3gzsl-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code in (0, None)


SHORT, FULL = (1, 1, 1, 1), (3, 4, 23, 3)


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Weights of a network with so many blocks in its stages, and the backbone that the command made of them."""
    folder = tmp_path_factory.mktemp("resnet101")
    weights, backbone = folder / "weights.pth", folder / "resnet101.onnx"
    with pytest.MonkeyPatch.context() as patched:
        for module in (models, backbone_export):
            patched.setattr(module, "resnet101", lambda weights: ResNet(Bottleneck, list(request.param)))
        save_random_resnet101(weights)
        command(patched, "backbone", "--arch", "resnet101", "--weights", weights, "--out", backbone)
        yield weights, backbone


def torchvisions(weights: Path) -> torch.nn.Module:
    """torchvision's own network without its last layer."""
    network = models.resnet101(weights=None)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.fc = torch.nn.Identity()
    return network.eval()


@pytest.mark.parametrize("exported", [SHORT, pytest.param(FULL, marks=pytest.mark.slow)], indirect=True)
def test_backbone_equals_torchvision(exported: tuple[Path, Path]) -> None:
    weights, file = exported
    backbone = load_backbone(file)
    images = np.random.default_rng(3).standard_normal((2, 3, 224, 224), dtype=np.float32)
    with torch.inference_mode():
        expected = torchvisions(weights)(torch.from_numpy(images)).numpy()
    actual = backbone.run(backbone.session(), images)
    assert actual.shape == (2, 2048)
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()  # they tell images apart


@pytest.mark.slow
@pytest.mark.parametrize("exported", [FULL], indirect=True)
def test_resnet101_from_weights_to_a_new_class(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights, backbone), bundle = exported, tmp_path / "bundle"
    data = tmp_path / "data"
    for name in CLASSES:
        (data / "images" / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            (data / "images" / name / f"{number}.jpg").write_bytes(photo(name, number))
    write_table(data, CLASSES, ("red", "green", "blue"))

    command(monkeypatch, "extract", data, "--backbone", backbone, "--out", tmp_path / "features", "--batch-size", 8)
    features_are_torchvisions(FeatureStore.load(tmp_path / "features"), weights)
    settings = [word for setting in TINY for word in ("--set", setting)]
    command(monkeypatch, "fit", tmp_path / "features", "--out", tmp_path / "run", *settings)
    command(monkeypatch, "export", tmp_path / "run", "--out", bundle)

    loaded = Bundle.load(bundle)
    assert (loaded.manifest.backbone.feature_dim, loaded.manifest.head.dimension) == (2048, 2048)
    asyncio.run(serve_and_register(loaded, tmp_path))


@torch.inference_mode()
def features_are_torchvisions(store: FeatureStore, weights: Path) -> None:
    assert store.features.shape == (PER_CLASS * len(CLASSES), 2048)
    rows = [0, 17, 35]
    pixels = [preprocess((Path(store.data_root) / store.images[row].path).read_bytes(), store.spec) for row in rows]
    expected = torchvisions(weights)(torch.from_numpy(np.stack(pixels))).numpy()
    np.testing.assert_allclose(store.features[rows], expected, rtol=0, atol=1e-4 * np.abs(expected).max())


async def serve_and_register(bundle: Bundle, folder: Path) -> None:
    settings = Settings(bundle=bundle.path, data_dir=folder / "registry", threads=available_cpus())
    async with running_app(settings) as client:
        before = await classify(client, photo("plum", 99))
        assert before["registry_version"] == 0
        assert set(probabilities(before)) == set(CLASSES)
        registered = await client.post("/classes", json=LEMON)
        assert registered.status_code == 201, registered.text
        after = await classify(client, photo("plum", 99))
        assert after["registry_version"] == registered.json()["registry_version"] == 1
        assert set(probabilities(after)) == {*CLASSES, "lemon"}
        alone = await classify(client, photo("plum", 99), classes="lemon")
        assert probabilities(alone) == {"lemon": 1.0}
    # A class more only takes its share: among the others the ratios stay.
    share = 1 - probabilities(after)["lemon"]
    for name, probability in probabilities(before).items():
        assert probabilities(after)[name] == pytest.approx(share * probability, abs=1e-4)


async def classify(client: Client, image: bytes, **query: Any) -> dict[str, Any]:
    query = {"top_k": 10, **query}
    answer = await client.post("/classify", content=image, headers={"content-type": "image/jpeg"}, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    (result,) = answer["results"]
    found = {prediction["class_id"]: prediction["probability"] for prediction in result["predictions"]}
    assert sum(found.values()) == pytest.approx(1)
    return found
