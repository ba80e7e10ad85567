"""Data sets, settings, a feature store and a run that are small enough for every test.

N: rows, D: features, A: attributes, C: classes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.classes import ClassEntry
from model.vocabulary import Vocabulary
from tests.training.photos import write_backbone, write_table
from training.config import TrainConfig
from training.datasets.dataset import Dataset, Task, make_task
from training.datasets.opening import open_data
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.features.scaler import Scaler
from training.method.trainer import Measuring, Networks
from training.recipes import configured
from training.runs.fit import fit

SETTINGS = (
    'scaling="range"',
    "epochs=2",
    "batch_size=16",
    "learning_rate=0.001",
    "teacher.epochs=2",
    "teacher.batch_size=16",
    "generator.hidden=8",
    "generator.noise_dim=3",
    "generator.warm_up=0",
    "generator.critic_steps=2",
    "contrastive.projection=4",
    "contrastive.comparator_hidden=6",
    "selection.folds=2",
    "selection.evaluations=2",
    "selection.shrinkage=[0.3, 0.7]",
    "selection.samples=10",
)
METHODS = ("wgan", "cegzsl", "tfvaegan", "diffusion")
COLOURS = {  # split, and the attributes of a class: its colour in percent; ids are the names in lower case
    "brick": ("seen", (80, 20, 10)),
    "moss": ("seen", (20, 70, 15)),
    "Violet": ("unseen", (60, 20, 80)),
    "sea": ("seen", (10, 30, 85)),
    "chalk": ("seen", (90, 90, 85)),
    "coal": ("seen", (8, 8, 10)),
    "Lime": ("unseen", (60, 90, 10)),
    "sand": ("seen", (85, 70, 40)),
}


def as_options(*settings: str) -> list[str]:
    """Settings as words of a command."""
    return [word for setting in settings for word in ("--set", setting)]


TINY = as_options(*SETTINGS)


def config(*settings: str, **fields: Any) -> TrainConfig:
    """Settings for a training of well under a second, with some more `section.name=value` or top-level fields."""
    return configured([*SETTINGS, *settings, *(f"{name}={value}" for name, value in fields.items())])


def dataset(
    *,
    seen: int = 6,
    unseen: int = 3,
    rows: int = 12,
    test_rows: int = 4,
    dim: int = 12,
    attributes: int = 5,
    seed: int = 0,
) -> Dataset:
    """Features around a rectified linear map of the attributes, the seen classes first.

    Seen classes have `rows` rows to train on and `test_rows` to test on; unseen classes have `test_rows`.
    """
    random = np.random.default_rng(seed)
    described = random.uniform(0, 10, (seen + unseen, attributes)).round(2)
    means = described @ random.standard_normal((attributes, dim)) / 5
    labels = np.concatenate([np.repeat(np.arange(seen), rows), np.repeat(np.arange(seen + unseen), test_rows)])
    features = np.maximum(means[labels] + random.standard_normal((len(labels), dim)), 0).astype(np.float32)
    classes = tuple(
        ClassEntry(
            id=f"class-{index}",
            name=f"Class {index}",
            kind="seen" if index < seen else "unseen",
            attributes=tuple(values.tolist()),
        )
        for index, values in enumerate(described)
    )
    train = seen * rows
    return Dataset(
        features=features,
        labels=labels.astype(np.int64),
        classes=classes,
        vocabulary=Vocabulary.from_classes(
            [f"a{i}" for i in range(attributes)],
            described,
            offset=described[:seen].mean(axis=0),
            scale=1.0,
            unit_length=True,
        ),
        trainval=np.arange(train),
        test=np.arange(train, len(labels)),
        split={"rule": "made up"},
        data_hash="0" * 64,
        backbone=None,
    )


def task(**sizes: Any) -> Task:
    """The training task of :func:`dataset`."""
    data = dataset(**sizes)
    scaler = Scaler.fit(data.features[data.trainval])
    return make_task(data, data.trainval, np.arange(len(data.classes)), scaler, torch.device("cpu"))


def state(module: torch.nn.Module | Networks) -> dict[str, torch.Tensor]:
    """Weights by name, as a copy."""
    if isinstance(module, Networks):
        return {f"{name}.{key}": value for name, part in module.modules() for key, value in state(part).items()}
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def same(a: torch.nn.Module | Networks, b: torch.nn.Module | Networks) -> bool:
    """Whether two modules have the very same weights."""
    left, right = state(a), state(b)
    assert left.keys() == right.keys()
    return all(torch.equal(left[key], right[key]) for key in left)


def write_images(root: Path, *, per_class: int = 8, side: int = 12) -> Path:
    """A data folder of noisy photos in the colours of their classes."""
    random = np.random.default_rng(1)
    root.mkdir(parents=True, exist_ok=True)
    write_table(root, COLOURS, ("red", "green", "blue"))
    for name, (_, colour) in COLOURS.items():
        folder = root / "images" / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = np.array(colour) * 2.55 + random.normal(0, 12, (side, side, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


def write_store(root: Path, **backbone: Any) -> Path:
    """A feature store of :func:`write_images`, with all that it was made from in the folder `root`."""
    network = load_backbone(write_backbone(root / "backbone.onnx", **{"dim": 8, **backbone}))
    return extract(read_own_photos(write_images(root / "data")), network, root / "features", workers=1).store.path


def write_run(store: Path, out: Path, *settings: str, test_fraction: float = 0.25) -> Path:
    """A finished run, as `d3gzsl-train fit` leaves it but for its metrics."""
    data, described = open_data(store, test_fraction=test_fraction, split_seed=0)
    out.mkdir()
    fit(data, config(*settings), out, data=described, device=torch.device("cpu"))
    return out


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


class Noting(Measuring):
    """Calls a function after every epoch, with its number from 1, the networks and mean losses."""

    def __init__(self, note: Callable[[int, Networks, dict[str, float]], object]) -> None:
        self.measure = note  # type: ignore[method-assign, assignment]
