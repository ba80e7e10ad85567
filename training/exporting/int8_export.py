"""Exporting with a trunk in int8: calibrated on training images, and held against the trunk in float32.

N: images, C: classes, Z: embedding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import DataError
from model.head import Float32, logits
from training.datasets.dataset import BackboneSource, Dataset, make_task
from training.exporting.graphs import TrunkTail, trunk_graph
from training.exporting.int8 import RunImages, even_rows, quantise
from training.method.heads import fit_head
from training.metrics import GzslScores, gzsl_scores
from training.onnx_files import open_session
from training.runs.contents import Trained
from training.selection.folds import folds

LIMIT = 0.5
CALIBRATION_IMAGES = 128

OnImages = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class ComparedRows:
    """A head to measure trunks with, and the rows of the data set to measure them on.

    Attributes:
        what: the rows, in words.
        index: rows of the data set, [N].
        labels: position of each row's class in the head, [N].
        seen: which classes count as seen, bool [C].
        weight: float32 [C, Z].
        bias: float32 [C].
    """

    what: str
    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]
    weight: Float32
    bias: Float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Export:
    """How a trunk becomes int8.

    Attributes:
        images: of the run.
        limit: points of H that may be lost, on the scale 0..100.
        calibration_images: how many training images show the ranges of activations.
        on_images: called with a step's name, images done and images in all.
    """

    images: RunImages
    limit: float = LIMIT
    calibration_images: int = CALIBRATION_IMAGES
    on_images: OnImages = lambda _step, _done, _total: None

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 100:
            raise DataError(f"--int8-limit: expected 0 to 100 points of H, got {self.limit:g}")
        if self.calibration_images < 1:
            raise DataError(f"--calibration-images: expected at least 1, got {self.calibration_images}")

    def trunk(self, dataset: Dataset, source: BackboneSource, tail: TrunkTail) -> bytes:
        """The trunk with the backbone in int8; the tail behind it stays in float32.

        Raises:
            DataError: an image is not what it was, or the backbone cannot be quantised.
        """
        rows = dataset.trainval[self._calibration(dataset)]
        with tempfile.TemporaryDirectory() as folder:
            steps = iter(("ranges", "correction"))
            backbone = quantise(source.path, lambda: self._pixels(next(steps), rows), Path(folder) / "backbone.onnx")
            return trunk_graph(backbone, tail, feature_dim=source.description.feature_dim, side=source.spec.size)

    def compare(
        self,
        dataset: Dataset,
        trained: Trained,
        trunks: Mapping[str, bytes],
        *,
        centre: Float32,
        weight: Float32,
        bias: Float32,
    ) -> dict[str, Any]:
        """U, S, H and T1 of the trunks `fp32` and `int8` with the same head on the same images.

        Args:
            dataset: the data of the run.
            trained: the run.
            trunks: both graphs.
            centre: what the trunks subtract, float32 [Z].
            weight: rows of the bundle in the order of the data set's classes, float32 [C, Z].
            bias: likewise, float32 [C].

        Raises:
            DataError: more than `limit` points of H are lost; names both.
        """
        rows = _test_rows(dataset, weight, bias) if dataset.testable else _validation_rows(dataset, trained, centre)
        scores = self._measure(rows, trained, trunks)
        lost = 100 * (scores["fp32"].H - scores["int8"].H)
        if lost > self.limit:
            raise DataError(
                f"int8 loses {lost:.2f} points of H, more than the {self.limit:g} allowed: {_words(scores['int8'])} "
                f"against {_words(scores['fp32'])} in float32, on {len(rows.index)} {rows.what}; more "
                "--calibration-images may help, --int8-limit allows more"
            )
        return {
            "measured_on": rows.what,
            "images": len(rows.index),
            "calibration_images": len(self._calibration(dataset)),
            "fp32": _brief(scores["fp32"]),
            "int8": _brief(scores["int8"]),
            "lost_points_of_H": lost,
            "limit": self.limit,
        }

    def _calibration(self, dataset: Dataset) -> list[int]:
        return list(even_rows(dataset.labels[dataset.trainval].tolist(), self.calibration_images))

    def _measure(self, rows: ComparedRows, trained: Trained, trunks: Mapping[str, bytes]) -> dict[str, GzslScores]:
        sessions = {name: open_session(graph) for name, graph in trunks.items()}
        found: dict[str, list[Float32]] = {name: [] for name in sessions}
        for pixels in self._pixels("fp32 and int8", rows.index):
            for name, session in sessions.items():
                found[name].append(session.run(["embedding"], {"image": pixels})[0])
        calibration = trained.selected.calibration
        return {
            name: gzsl_scores(
                calibration.scores(logits(np.concatenate(z), rows.weight, rows.bias), rows.seen), rows.labels, rows.seen
            )
            for name, z in found.items()
        }

    def _pixels(self, step: str, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[Float32]:
        done = 0

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            self.on_images(step, done, len(rows))

        return self.images.pixels(list(rows), on_batch=on_batch)


def _test_rows(dataset: Dataset, weight: Float32, bias: Float32) -> ComparedRows:
    return ComparedRows(
        what="test images",
        index=dataset.test,
        labels=dataset.labels[dataset.test],
        seen=dataset.seen,
        weight=weight,
        bias=bias,
    )


def _validation_rows(dataset: Dataset, trained: Trained, centre: Float32) -> ComparedRows:
    """Held-out rows of the first fold, its hidden classes described only.

    The networks were trained on all of them, so that both results are too good; their difference counts.
    """
    fold = next(folds(dataset, trained.config.selection, trained.config.seed))
    device = next(trained.networks.student.parameters()).device
    task = make_task(dataset, fold.train, fold.classes, trained.scaler, device)
    fitted = fit_head(
        trained.networks,
        task,
        [dataset.classes[i].id for i in fold.classes.tolist()],
        trained.selected.head,
        samples=trained.config.selection.samples,
        key="",
    )
    return ComparedRows(
        what="training images of one validation fold, as no test images of seen and unseen classes are there",
        index=fold.held,
        labels=np.searchsorted(fold.classes, dataset.labels[fold.held]),
        seen=~np.isin(fold.classes, fold.pseudo_unseen),
        weight=fitted.weight,
        bias=fitted.bias + fitted.weight @ (centre - fitted.centre),  # the trunks subtract another centre
    )


def _brief(scores: GzslScores) -> dict[str, float]:
    return {"U": scores.U, "S": scores.S, "H": scores.H, "T1": scores.T1}


def _words(scores: GzslScores) -> str:
    return f"H {100 * scores.H:.2f} (U {100 * scores.U:.2f}, S {100 * scores.S:.2f})"
