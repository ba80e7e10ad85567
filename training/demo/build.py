"""The embedded demo bundle, from nothing but the repository: draw, pre-train, extract, fit, export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.bundle import check_writable
from model.manifest import Example
from model.outside.threads import available_cpus
from training.config import D3Config, GeneratorConfig, SelectionConfig, TrainConfig
from training.console import OnStage
from training.datasets.dataset import from_store
from training.demo.dataset import draw_jpeg, render_dataset
from training.demo.pretrain import SPEC, PretrainConfig, pretrain
from training.demo.world import EXTRA, SEEN, UNSEEN, VisualClass
from training.exporting.export import export
from training.features.backbone_export import export_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.runs.fit import fit

_IMAGES_SEED = 500_009  # of the drawings that the classifier is trained and tested on; pre-training has others
_EXAMPLES_SEED = 900_007
_LICENCE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How the demo bundle is built.

    Attributes:
        pretrain: of the slim ResNet-101.
        per_class: drawings per class to fit the classifier on (70 %) and to test it with (30 %; unseen classes: all).
        train: of D3GZSL.
        examples_per_kind: classes of each kind (seen, unseen, not in the bundle) with an example image.
    """

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    per_class: int = 60
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=8,
            batch_size=128,
            learning_rate=1e-4,
            generator=GeneratorConfig(hidden=512),
            d3=D3Config(embedding_lr_factor=0.01),
            selection=SelectionConfig(folds=4, evaluations=4, shrinkage=(0.1, 0.3, 0.5, 0.7, 0.9)),
        )
    )
    examples_per_kind: int = 6


def build_demo(
    out: Path, config: DemoConfig, *, overwrite: bool = False, progress: OnStage = lambda *_: None
) -> dict[str, Any]:
    """Build the demo bundle; nothing is read but the code, and nothing is left but the bundle.

    Args:
        out: bundle directory.
        config: sizes and seeds.
        overwrite: replace an existing bundle.
        progress: called with a description, steps done and all steps.

    Returns:
        Bundle id and results, as JSON values.
    """
    check_writable(out, overwrite=overwrite)
    torch.set_num_threads(available_cpus())
    with tempfile.TemporaryDirectory(prefix="d3gzsl-demo-") as name:
        work = Path(name)
        network = pretrain(config.pretrain, progress=progress).network
        backbone = export_backbone(
            network.trunk,
            SPEC,
            work / "slim-resnet101.onnx",
            feature_dim=network.trunk.feature_dim,
            trained_on=f"drawings of {len(SEEN)} seen classes, made by this project's renderer",
            licence=_LICENCE,
        )
        render_dataset(
            work / "data",
            per_class=config.per_class,
            seed=_IMAGES_SEED,
            progress=lambda done, total: progress("drawing", done, total),
        )
        done = extract(
            read_own_photos(work / "data"),
            backbone,
            work / "features",
            progress=lambda done, total: progress("features", done, total),
        )
        dataset = from_store(done.store, test_fraction=0.3, split_seed=0)
        (work / "run").mkdir()
        trained = fit(
            dataset,
            config.train,
            work / "run",
            data={"kind": "demo", "images_seed": _IMAGES_SEED, "per_class": config.per_class},
            device=torch.device("cpu"),
            progress=lambda step: progress(step.stage, step.done, step.total),
        )
        return export(dataset, trained, out, examples=example_images(config), overwrite=overwrite)


def example_images(config: DemoConfig) -> dict[Example, bytes]:
    """One drawing each of some seen and unseen classes, and of classes that the bundle does not know."""
    count = config.examples_per_kind
    known = (*_spread(SEEN, count), *_spread(UNSEEN, count))
    examples = {_example(kind, attributes=None): draw_jpeg(kind, seed=_EXAMPLES_SEED) for kind in known}
    for kind in EXTRA[:count]:
        attributes = tuple(round(value, 6) for value in kind.attributes().tolist())
        examples[_example(kind, attributes=attributes)] = draw_jpeg(kind, seed=_EXAMPLES_SEED)
    return examples


def _spread(classes: Sequence[VisualClass], count: int) -> list[VisualClass]:
    return [classes[i * len(classes) // count] for i in range(min(count, len(classes)))]


def _example(kind: VisualClass, *, attributes: tuple[float, ...] | None) -> Example:
    return Example(file=f"examples/{kind.id}.jpg", class_id=kind.id, name=kind.name, attributes=attributes)
