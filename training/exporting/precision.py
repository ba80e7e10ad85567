"""In which precision a bundle's backbone computes: float32, and int8 where that costs too little to be seen.

N: images, D: features, C: classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from model.errors import DataError
from model.head import Float32
from training.datasets.dataset import BackboneSource, Dataset, make_task
from training.exporting.graphs import TrunkTail, trunk_graph
from training.exporting.int8 import FIRST, Activations, Correction, Quantiser, save_corrected
from training.exporting.run_images import RunImages, even_rows
from training.features.backbone import load_backbone
from training.method.heads import LDA, HeadFit, embed, fit_heads
from training.metrics import GzslScores, gzsl_scores
from training.onnx_files import open_session
from training.runs.contents import Trained
from training.selection.folds import used_folds
from training.selection.photos import PhotoFold, Photos, PhotoScores, draw_photos, mean_h

LIMIT = 0.3
CALIBRATION_IMAGES = 128
MEASURED_IMAGES = 2000
"""Most images of validation, and of the test, on which int8 is measured: enough for tenths of a point of H."""

WITH_PHOTOS = "H_with_photos"

OnImages = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to quantise.

    Attributes:
        ranges: from which values activations are rounded, see :class:`training.exporting.int8.Activations`.
        first: how many convolutions at the beginning stay in float32.
    """

    ranges: Literal["widest", "mean"]
    first: int = FIRST

    def model(self, quantiser: Quantiser, found: Activations) -> ModelProto:
        """The backbone quantised so."""
        ranges = found.widest if self.ranges == "widest" else found.mean
        return quantiser.quantised(ranges, averages=found.averages, kept=quantiser.first(self.first))


_GOOD_ENOUGH = 1 / 3
"""Share of the limit; where no more is lost, no other way to quantise is tried."""
CANDIDATES = (Candidate(ranges="mean"), Candidate(ranges="widest"), Candidate(ranges="mean", first=8))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judge:
    """A head and the rows of the data set on which it is measured.

    Attributes:
        index: rows of the data set, [N].
        labels: position of each row's class in the head, [N].
        seen: which of the head's classes count as seen, bool [C].
        fitted: the head.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.int64]
    seen: NDArray[np.bool_]
    fitted: HeadFit

    def scores(self, trained: Trained, features: Mapping[int, Float32]) -> GzslScores:
        """U, S and H with the features of each row, [D]; scaling and embedding stay in float32."""
        logits = self.fitted.logits(self._embedded(trained, self.index, features))
        return gzsl_scores(trained.selected.calibration.scores(logits, self.seen), self.labels, self.seen)

    def _embedded(self, trained: Trained, index: NDArray[np.int64], features: Mapping[int, Float32]) -> Float32:
        some = np.stack([features[row] for row in index.tolist()])
        device = next(trained.networks.student.parameters()).device
        return embed(trained.networks, torch.from_numpy(trained.scaler.apply(some)).to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class _FoldJudge(_Judge):
    """A fold of validation, whose hidden classes are described, and may have photos.

    Attributes:
        unscaled: the head before the scores of described classes are scaled.
    """

    unscaled: HeadFit

    def h_with_photos(
        self, trained: Trained, features: Mapping[int, Float32], exact: Mapping[int, Float32]
    ) -> float | None:
        """Mean H with 1, 2 and 5 photos of each described class, which the service embeds in float32.

        Args:
            trained: the run.
            features: of each row that is classified, [D].
            exact: of each row, in float32.

        Returns:
            The mean over which photos a class has, as the selection measures it; None where the run does not say how
            photos count, or a class has fewer than two.
        """
        prior, calibration = trained.selected.photos, trained.selected.calibration
        drawn = draw_photos(self.labels, self.seen, trained.config.seed)
        if prior is None or drawn.size == 0:
            return None
        z = self._embedded(trained, self.index, features)
        z[drawn.ravel()] = self._embedded(trained, self.index[drawn.ravel()], exact)
        scores = PhotoScores(products=self.unscaled.products(z, z[drawn]), bias=self.unscaled.bias)
        fold = PhotoFold.of(
            self.unscaled.logits(z),
            self.labels,
            self.seen,
            Photos(rows=drawn, scores={LDA: scores}),
            LDA,
            penalty=calibration.seen_penalty * calibration.temperature,
            unseen_scale=trained.selected.head.unseen_scale,
        )
        return mean_h([fold], prior)


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """The trunk in int8, where it may be shipped, and what was measured.

    Attributes:
        trunk: the graph; None where more than the limit was lost.
        metrics: for the manifest, as JSON values.
        reason: why there is no trunk in int8.
    """

    trunk: bytes | None
    metrics: dict[str, Any]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Export:
    """How a second trunk in int8 is made and judged.

    Attributes:
        images: finds the images of the run.
        limit: points of H that may be lost, on the scale 0..100.
        calibration_images: how many training images show the ranges of activations.
        required: whether it is an error where int8 loses more, or cannot be measured; else the bundle then has the
            trunk in float32 alone.
        on_images: called with a step's name, images done and images in all.
    """

    images: Callable[[], RunImages]
    limit: float = LIMIT
    calibration_images: int = CALIBRATION_IMAGES
    required: bool = False
    on_images: OnImages = lambda _step, _done, _total: None

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= 100:
            raise DataError(f"--int8-limit: expected 0 to 100 points of H, got {self.limit:g}")
        if self.calibration_images < 1:
            raise DataError(f"--calibration-images: expected at least 1, got {self.calibration_images}")

    def measure(self, dataset: Dataset, trained: Trained, source: BackboneSource, tail: TrunkTail) -> Measured:
        """Quantise, and measure the mean H over the folds of validation against that of float32.

        It is measured with described classes, and with photos of them where the run says how these count; the greater
        loss decides. Where more than a third of the limit is lost, other ways are tried too, and the best is taken.

        Results in float32 are those of the stored features. The networks were trained on all rows, so that both results
        are too good; their difference counts.

        Args:
            dataset: the data of the run.
            trained: the run.
            source: the backbone.
            tail: what stands behind it, in float32.

        Raises:
            DataError: the trunk is required, and an image is not what it was, the backbone cannot be quantised, or more
                than `limit` points of H are lost.
        """
        try:
            return self._measured(dataset, trained, source, tail)
        except DataError as error:
            if self.required:
                raise
            metrics = {"shipped": ["fp32"], "reason": "int8 could not be measured"}
            return Measured(trunk=None, metrics=metrics, reason=str(error))

    def _measured(self, dataset: Dataset, trained: Trained, source: BackboneSource, tail: TrunkTail) -> Measured:
        images = self.images()
        backbone = load_backbone(source.path)
        quantiser = Quantiser(backbone)
        calibration = dataset.trainval[
            list(even_rows(dataset.labels[dataset.trainval].tolist(), self.calibration_images))
        ]
        activations = quantiser.watch(self._pixels(images, "ranges", calibration))
        judges = _validation(dataset, trained)
        rows = np.unique(np.concatenate([calibration, *(judge.index for judge in judges)]))
        exact = {row: dataset.features[row] for row in rows.tolist()}
        fp32 = _on_folds(judges, trained, exact, exact)
        best: tuple[dict[str, float], Candidate, ModelProto, Correction] | None = None
        for candidate in CANDIDATES:
            model = candidate.model(quantiser, activations)
            found = self._features(images, quantiser, model, rows)
            correction = Correction.of(
                *(np.stack([known[row] for row in calibration.tolist()]) for known in (found, exact))
            )
            corrected = {row: correction.apply(features) for row, features in found.items()}
            scores = _on_folds(judges, trained, corrected, exact)
            if best is None or _lost(fp32, scores) < _lost(fp32, best[0]):
                best = (scores, candidate, model, correction)
            if _lost(fp32, best[0]) <= _GOOD_ENOUGH * self.limit:
                break
        assert best is not None, "there are candidates"
        int8, chosen, model, correction = best
        lost = _lost(fp32, int8)
        metrics = {
            "measured_on": "folds of validation",
            "images": len({row for judge in judges for row in judge.index.tolist()}),
            "calibration_images": len(calibration),
            "ranges": chosen.ranges,
            "convolutions_in_float32": quantiser.at_most(chosen.first),
            "fp32": fp32,
            "int8": int8,
            "lost_points_of_H": 100 * (fp32["H"] - int8["H"]),
            **(
                {"lost_points_of_H_with_photos": 100 * (fp32[WITH_PHOTOS] - int8[WITH_PHOTOS])}
                if WITH_PHOTOS in fp32
                else {}
            ),
            "limit": self.limit,
        }
        if lost > self.limit:
            reason = (
                f"int8 loses {lost:.2f} points of H, more than the {self.limit:g} allowed: {_words(int8)} against "
                f"{_words(fp32)} in float32, on {metrics['images']} images of the folds of validation"
            )
            if self.required:
                raise DataError(f"{reason}; more --calibration-images may help, --int8-limit allows more")
            return Measured(trunk=None, metrics={**metrics, "shipped": ["fp32"], "reason": reason}, reason=reason)
        with tempfile.TemporaryDirectory() as folder:
            rounded = save_corrected(model, backbone, correction, Path(folder) / "backbone.onnx")
            trunk = trunk_graph(rounded, tail, feature_dim=backbone.feature_dim, side=backbone.spec.size)
        return Measured(trunk=trunk, metrics={**metrics, "shipped": ["fp32", "int8"]})

    def with_test(self, measured: Measured, dataset: Dataset, trained: Trained, fitted: HeadFit) -> dict[str, Any]:
        """What was measured, and both results on test images where there are any, by which nothing is chosen.

        Args:
            measured: on validation.
            dataset: the data of the run.
            trained: the run.
            fitted: the head with the rows of the bundle, in the order of the data set's classes. Those of unseen
                classes are made as when a class is registered.
        """
        if measured.trunk is None or not dataset.testable:
            return measured.metrics
        labels = dataset.labels[dataset.test]
        index = dataset.test[sorted(even_rows(labels.tolist(), MEASURED_IMAGES))]
        judge = _Judge(index=index, labels=dataset.labels[index], seen=dataset.seen, fitted=fitted)
        session = open_session(measured.trunk)
        found = [
            session.run(["features"], {"image": pixels})[0] for pixels in self._pixels(self.images(), "test", index)
        ]
        features = {"fp32": dataset.features[index], "int8": np.concatenate(found)}
        scores = {
            name: judge.scores(trained, dict(zip(index.tolist(), some, strict=True))) for name, some in features.items()
        }
        lost = 100 * (scores["fp32"].H - scores["int8"].H)
        briefs = {name: _brief(one) for name, one in scores.items()}
        return {**measured.metrics, "test": {"images": len(index), **briefs, "lost_points_of_H": lost}}

    def _features(
        self, images: RunImages, quantiser: Quantiser, model: ModelProto, rows: NDArray[np.int64]
    ) -> dict[int, Float32]:
        """What a backbone gives for rows of the data set."""
        session, backbone = open_session(model.SerializeToString()), quantiser.backbone
        found = np.concatenate([backbone.run(session, pixels) for pixels in self._pixels(images, "int8", rows)])
        return dict(zip(rows.tolist(), found, strict=True))

    def _pixels(self, images: RunImages, step: str, rows: NDArray[np.int64]) -> Iterator[Float32]:
        done = 0

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            self.on_images(step, done, len(rows))

        return images.pixels(rows.tolist(), on_batch=on_batch)


def _validation(dataset: Dataset, trained: Trained) -> list[_FoldJudge]:
    """Held-out rows of each fold, and a head whose rows of the fold's hidden classes are made from descriptions."""
    device = next(trained.networks.student.parameters()).device
    some = dataset.trainval[list(even_rows(dataset.labels[dataset.trainval].tolist(), MEASURED_IMAGES))]
    judges = []
    for fold in used_folds(dataset, trained.config.selection, trained.config.seed):
        task = make_task(dataset, fold.train, fold.classes, trained.scaler, device)
        head = trained.selected.head
        fitted, unscaled = fit_heads(
            trained.networks,
            task,
            [dataset.classes[i].id for i in fold.classes.tolist()],
            [head, replace(head, unseen_scale=1.0)],
            samples=trained.config.selection.samples,
            key="",
        )
        index = fold.held[np.isin(fold.held, some)]
        judges.append(
            _FoldJudge(
                index=index,
                labels=np.searchsorted(fold.classes, dataset.labels[index]),
                seen=~np.isin(fold.classes, fold.pseudo_unseen),
                fitted=fitted,
                unscaled=unscaled,
            )
        )
    return judges


def _on_folds(
    judges: Sequence[_FoldJudge], trained: Trained, features: Mapping[int, Float32], exact: Mapping[int, Float32]
) -> dict[str, float]:
    """Means over the folds; `H_with_photos` where every fold can tell."""
    briefs = [_brief(judge.scores(trained, features)) for judge in judges]
    found = {name: float(np.mean([brief[name] for brief in briefs])) for name in briefs[0]}
    with_photos = [h for judge in judges if (h := judge.h_with_photos(trained, features, exact)) is not None]
    return found | ({WITH_PHOTOS: float(np.mean(with_photos))} if len(with_photos) == len(judges) else {})


def _lost(fp32: Mapping[str, float], int8: Mapping[str, float]) -> float:
    """Points of H that int8 loses, with descriptions or with photos, whichever is more."""
    return max(100 * (fp32[name] - int8[name]) for name in ("H", WITH_PHOTOS) if name in fp32)


def _brief(scores: GzslScores) -> dict[str, float]:
    return {"U": scores.U, "S": scores.S, "H": scores.H, "T1": scores.T1}


def _words(scores: Mapping[str, float]) -> str:
    with_photos = f", {100 * scores[WITH_PHOTOS]:.2f} with photos" if WITH_PHOTOS in scores else ""
    return f"H {100 * scores['H']:.2f}{with_photos} (U {100 * scores['U']:.2f}, S {100 * scores['S']:.2f})"
