"""The embedded demo bundle, from nothing but the repository: draw, pre-train, extract, fit, export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import check_writable
from model.lda import LdaHead, class_means
from model.manifest import Example
from model.threads import available_cpus
from training.config import D3Config, GeneratorConfig, SelectionConfig, TrainConfig
from training.console import OnStage
from training.datasets.dataset import from_store
from training.demo.dataset import Drawings, draw_jpeg, render_dataset, render_inputs
from training.demo.pretrain import SPEC, PretrainConfig, SlimResNet, TwoHeadNet, pretrain, to_batch
from training.demo.world import EXTRA, SEEN, UNSEEN, VisualClass, attribute_matrix
from training.exporting.export import export
from training.features.backbone_export import export_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.runs.fit import fit

Matrix = NDArray[np.float64]

_SHRINKAGES = (0.1, 0.5, 0.9)
_RIDGE = 1.0
_FOLDS = 4
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class TrunkCheck:
    """Accuracies on fresh drawings, all means over classes, in 0..1.

    Attributes:
        head_accuracy: the training head on the seen classes.
        seen: S, over seen and unseen classes.
        unseen: U, over seen and unseen classes.
        harmonic: H of the two.
        registered: the extra classes, with all others as competitors.
        shrinkage: of the covariance, chosen on seen classes that play unseen.
        seen_penalty: what is taken from seen scores, chosen likewise.
    """

    head_accuracy: float
    seen: float
    unseen: float
    harmonic: float
    registered: float
    shrinkage: float
    seen_penalty: float


def check_trunk(
    network: TwoHeadNet, *, per_class: int = 60, seed: int = 77, progress: OnStage | None = None
) -> TrunkCheck:
    """Describe unseen classes by a ridge from attributes to class means, classify with a shared covariance.

    Args:
        network: a trained trunk with its heads.
        per_class: fresh drawings of each class, of seen classes twice as many: one half fits, the other tests.
        seed: of the drawings; use one that training did not.
        progress: called with a description, steps done and all steps.
    """
    report = None if progress is None else lambda done, total: progress("drawing fresh images", done, total)
    everything = (*SEEN, *UNSEEN, *EXTRA)
    fit = render_inputs(SEEN, SPEC, per_class=per_class, seed=seed)
    test = render_inputs(everything, SPEC, per_class=per_class, seed=seed + 1, progress=report)
    network = network.eval()
    fit_ND, test_ND = (trunk_features(network.trunk, drawings) for drawings in (fit, test))
    with torch.no_grad():
        logits = network.class_head(torch.from_numpy(test_ND[test.labels < len(SEEN)]).float()).numpy()
    shrinkage, penalty = _select(fit_ND, fit.labels)
    head, means = LdaHead.fit(fit_ND, fit.labels, shrinkage=shrinkage), class_means(fit_ND, fit.labels)[0]
    known = len(SEEN) + len(UNSEEN)
    scores = _scores(test_ND, head, np.concatenate([means, _describe(means, SEEN, everything[len(SEEN) :])]))
    scores[:, : len(SEEN)] -= penalty
    hit_C = _hits(scores[:, :known], test.labels)
    all_C = _hits(scores, test.labels)
    seen, unseen = float(hit_C[: len(SEEN)].mean()), float(hit_C[len(SEEN) : known].mean())
    return TrunkCheck(
        head_accuracy=float(_hits(logits, test.labels[test.labels < len(SEEN)]).mean()),
        seen=seen,
        unseen=unseen,
        harmonic=2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0,
        registered=float(all_C[known:].mean()),
        shrinkage=shrinkage,
        seen_penalty=penalty,
    )


@torch.no_grad()
def trunk_features(trunk: SlimResNet, drawings: Drawings) -> Matrix:
    """Features of drawings, float64 [N, D]."""
    batches = [
        trunk(to_batch(drawings.pixels[start : start + _BATCH])).numpy()
        for start in range(0, len(drawings.labels), _BATCH)
    ]
    return np.concatenate(batches).astype(np.float64)


def _describe(means_CD: Matrix, known: tuple[VisualClass, ...], new: tuple[VisualClass, ...]) -> Matrix:
    """Means of classes predicted from their attributes by ridge regression over known classes."""
    a_CA, new_CA = attribute_matrix(known), attribute_matrix(new)
    centre_A, centre_D = a_CA.mean(axis=0), means_CD.mean(axis=0)
    a_CA = a_CA - centre_A
    weights_AD = np.linalg.solve(a_CA.T @ a_CA + _RIDGE * np.eye(a_CA.shape[1]), a_CA.T @ (means_CD - centre_D))
    described: Matrix = centre_D + (new_CA - centre_A) @ weights_AD
    return described


def _scores(rows_ND: Matrix, head: LdaHead, means_CD: Matrix) -> Matrix:
    weights, biases = head.rows(means_CD)
    return rows_ND @ weights.T.astype(np.float64) + biases


def _hits(scores_NC: Matrix, labels_N: NDArray[np.int64]) -> Matrix:
    """Accuracy within each class, [classes that occur]."""
    right = scores_NC.argmax(axis=1) == labels_N
    return np.array([right[labels_N == label].mean() for label in np.unique(labels_N)])


def _select(rows_ND: Matrix, labels_N: NDArray[np.int64]) -> tuple[float, float]:
    """The shrinkage and the penalty with the best H where every fourth seen class in turn is described, not seen."""
    grid = np.concatenate([-np.geomspace(1e4, 1, 60), np.geomspace(1, 1e4, 60)])
    best = (-1.0, 0.0, 0.0)
    for shrinkage in _SHRINKAGES:
        harmonic = np.zeros(len(grid))
        for fold in range(_FOLDS):
            hidden = np.arange(len(SEEN)) % _FOLDS == fold
            harmonic += _fold(rows_ND, labels_N, hidden, shrinkage, grid) / _FOLDS
        if harmonic.max() > best[0]:
            best = (float(harmonic.max()), shrinkage, float(grid[harmonic.argmax()]))
    return best[1:]


def _fold(
    rows_ND: Matrix, labels_N: NDArray[np.int64], hidden_C: NDArray[np.bool_], shrinkage: float, grid: Matrix
) -> Matrix:
    """H at each penalty of the grid, with some seen classes hidden."""
    odd = np.arange(len(rows_ND)) % 2 == 1  # one half of the rows fits, the other is scored
    order = np.concatenate([np.flatnonzero(~hidden_C), np.flatnonzero(hidden_C)])
    labels = np.argsort(order)[labels_N]
    kinds = tuple(SEEN[i] for i in order)
    known = int((~hidden_C).sum())
    fit = (labels < known) & ~odd
    head, means = LdaHead.fit(rows_ND[fit], labels[fit], shrinkage=shrinkage), class_means(rows_ND[fit], labels[fit])[0]
    all_means = np.concatenate([means, _describe(means, kinds[:known], kinds[known:])])
    scores = _scores(rows_ND[odd], head, all_means)
    harmonic = []
    for penalty in grid:
        hit = _hits(scores - penalty * (np.arange(len(SEEN)) < known), labels[odd])
        s, u = hit[:known].mean(), hit[known:].mean()
        harmonic.append(2 * s * u / max(s + u, 1e-9))
    return np.array(harmonic)


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
