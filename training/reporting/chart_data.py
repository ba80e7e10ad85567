"""What a report draws of a run's test rows, as JSON values: trade-off, teacher's scores, confusions, a plane.

N: rows, C: classes, U: unseen classes, Z: embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh

from model.calibration import softmax
from training.datasets.dataset import Dataset
from training.evaluation import TestRows, run_key
from training.features.scaler import evenly
from training.method.heads import LDA, HeadFit, embed, synthesise_features
from training.metrics import harmonic_mean, harmonic_means, per_class_accuracy, seen_unseen_curve
from training.runs.contents import Trained

CURVE_POINTS = 400
BINS = 40
SHOWN_CLASSES = 8
SHOWN_PHOTOS = 24  # of seen and of unseen classes each
SHOWN_ROWS = 60  # of a class, real and synthetic each
PLANE_ROWS = 4000  # real training rows that the plane is fitted on, at most

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def figures(dataset: Dataset, trained: Trained, rows: TestRows, head: HeadFit) -> dict[str, Any]:
    """All that is drawn, of test rows of seen and of unseen classes.

    Args:
        dataset: the data the run was trained on.
        trained: the run.
        rows: what its networks say of the test rows.
        head: the served head.
    """
    chosen = trained.selected
    served = LDA
    logits = {served: head.logits(rows.embeddings), "student": rows.student_logits}
    calibrations = {served: chosen.calibration, "student": chosen.student}
    scores = chosen.calibration.scores(logits[served], dataset.seen)
    predicted = scores.argmax(axis=1)
    shown = spread_classes(per_class_accuracy(predicted, rows.labels, len(dataset.classes)), ~dataset.seen)
    synthetic_scores, synthetic = synthetic_rows(dataset, trained, shown)
    seen = dataset.seen[rows.labels]
    return {
        "trade_off": {
            name: trade_off(
                calibrations[name].scores(values, dataset.seen, seen_penalty=0.0),
                rows.labels,
                dataset.seen,
                penalty=calibrations[name].seen_penalty,
            )
            for name, values in logits.items()
        },
        "teacher_scores": histograms(
            {
                "test_seen": rows.teacher_scores[seen],
                "synthetic_unseen": synthetic_scores,
                "test_unseen": rows.teacher_scores[~seen],
            }
        ),
        "confusion": confusion(predicted, rows.labels, dataset),
        "plane": plane(dataset, trained, rows, synthetic),
        **mistakes(dataset, rows.labels, softmax(scores)),
    }


def mistakes(dataset: Dataset, labels_N: Ints, probabilities_NC: Floats) -> dict[str, Any]:
    """Test photos that are taken for another class: how many, and up to `SHOWN_PHOTOS` of seen and of unseen classes.

    They are taken from the classes in turn, of each class those first whose wrong answer is the surest.

    Args:
        dataset: the data; nothing where its rows are not of photos.
        labels_N: class of each test row.
        probabilities_NC: of the served head.
    """
    if dataset.photos is None:
        return {}
    predicted, sure = probabilities_NC.argmax(axis=1), probabilities_NC.max(axis=1)
    seen, wrong = dataset.seen[labels_N], predicted != labels_N
    shown = []
    for kind, of_kind in (("unseen", ~seen), ("seen", seen)):
        places = np.flatnonzero(wrong & of_kind)
        places = places[np.lexsort((places, -sure[places]))]
        turns = Counter[int]()  # how many of its class come before each
        ranked = []
        for place in places.tolist():
            label = int(labels_N[place])
            ranked.append((turns[label], -float(sure[place]), place))
            turns[label] += 1
        for _, _, place in sorted(ranked)[:SHOWN_PHOTOS]:
            image = dataset.photos.images[int(dataset.test[place])]
            shown.append(
                {
                    "kind": kind,
                    "path": image.path,
                    "sha256": image.sha256,
                    "class": dataset.classes[int(labels_N[place])].name,
                    "taken_for": dataset.classes[int(predicted[place])].name,
                    "probability": round(float(sure[place]), 4),
                }
            )
    counts = {
        name: {"unseen": int((of & ~seen).sum()), "seen": int((of & seen).sum())}
        for name, of in (("wrong", wrong), ("rows", np.ones_like(seen)))
    }
    return {"mistakes": {"root": dataset.photos.root, **counts, "shown": shown}}


def trade_off(scores_NC: Floats, labels_N: Ints, seen_C: NDArray[np.bool_], *, penalty: float) -> dict[str, Any]:
    """U and S over all penalties on seen classes, at most `CURVE_POINTS` of them evenly along the curve.

    Args:
        scores_NC: without a penalty.
        labels_N: class of each row.
        seen_C: which classes are seen.
        penalty: the chosen one; its point is `chosen`, that of the largest H is `best`.
    """
    curve = seen_unseen_curve(scores_NC, labels_N, seen_C)
    h = harmonic_means(curve.unseen, curve.seen)
    best = int(h.argmax())
    steps = np.hypot(np.diff(curve.unseen), np.diff(curve.seen))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], CURVE_POINTS - 1)).clip(max=len(along) - 1))
    unseen, seen = curve.at(penalty)
    return {
        "U": rounded(curve.unseen[kept]),
        "S": rounded(curve.seen[kept]),
        "chosen": {"U": float(unseen), "S": float(seen), "H": harmonic_mean(float(unseen), float(seen))},
        "best": {"U": float(curve.unseen[best]), "S": float(curve.seen[best]), "H": float(h[best])},
    }


def histograms(values: Mapping[str, Floats]) -> dict[str, Any]:
    """Share of each kind's values in `BINS` bins of equal width over the range of all."""
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    return {
        "edges": rounded(edges),
        "shares": {name: rounded(np.histogram(v, edges)[0] / len(v)) for name, v in values.items()},
    }


def confusion(predicted_N: Ints, labels_N: Ints, dataset: Dataset) -> dict[str, Any]:
    """What unseen test rows are taken for, as counts [class, taken for, rows]; U stands for any seen class."""
    unseen = np.flatnonzero(~dataset.seen)
    place = np.where(dataset.seen, len(unseen), np.cumsum(~dataset.seen) - 1)
    rows = ~dataset.seen[labels_N]
    pairs, counts = np.unique(
        np.stack([place[labels_N[rows]], place[predicted_N[rows]]], axis=1), axis=0, return_counts=True
    )
    return {
        "classes": [dataset.classes[index].id for index in unseen.tolist()],
        "counts": np.column_stack([pairs, counts]).tolist(),
    }


def spread_classes(accuracy_C: Floats, among_C: NDArray[np.bool_]) -> list[int]:
    """At most `SHOWN_CLASSES` classes with test rows, evenly from the least to the most accurate."""
    order = np.argsort(accuracy_C, kind="stable")
    ranked = order[among_C[order] & np.isfinite(accuracy_C[order])]
    count = min(SHOWN_CLASSES, len(ranked))
    places = np.linspace(0, len(ranked) - 1, count).round().astype(int)
    chosen: list[int] = ranked[places].tolist()
    return chosen


def synthetic_rows(
    dataset: Dataset, trained: Trained, embedded: list[int]
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
    """`SHOWN_ROWS` synthetic rows of each unseen class.

    Args:
        dataset: the data the run was trained on.
        trained: the run; its key decides the noise, as in evaluation.
        embedded: classes whose embeddings are wanted.

    Returns:
        The teacher's scores of all rows, float32 [U * SHOWN_ROWS], and E_s of the wanted ones, float32 [SHOWN_ROWS, Z].
    """
    networks, key = trained.networks, run_key(trained)
    device = next(networks.student.parameters()).device
    attributes = torch.from_numpy(dataset.attributes).to(device)
    scores, embeddings = [], {}
    for index in np.flatnonzero(~dataset.seen).tolist():
        features = synthesise_features(networks, attributes[index], key, dataset.classes[index].id, SHOWN_ROWS)
        with torch.no_grad():
            scores.append(networks.teacher.score(features).cpu().numpy())
        if index in embedded:
            embeddings[index] = embed(networks, features)
    return np.concatenate(scores), {index: embeddings[index] for index in embedded}


def plane(
    dataset: Dataset, trained: Trained, rows: TestRows, synthetic: Mapping[int, NDArray[np.float32]]
) -> dict[str, Any]:
    """Real and synthetic embeddings of some unseen classes on the first two principal axes of real seen training rows.

    Args:
        dataset: the data the run was trained on.
        trained: the run.
        rows: what its networks say of the test rows.
        synthetic: E_s of synthetic rows of the classes to show, float32 [n, Z] each.
    """
    device = next(trained.networks.student.parameters()).device
    training = dataset.trainval[evenly(len(dataset.trainval), PLANE_ROWS)]
    features = torch.from_numpy(trained.scaler.apply(dataset.features[training])).to(device)
    mean, axes, shares = principal_axes(embed(trained.networks, features))
    classes = []
    for index, made in synthetic.items():
        real = rows.embeddings[rows.labels == index]
        classes.append(
            {
                "id": dataset.classes[index].id,
                "real": rounded((real[evenly(len(real), SHOWN_ROWS)] - mean) @ axes),
                "synthetic": rounded((made - mean) @ axes),
            }
        )
    return {"variance_shares": rounded(shares), "classes": classes}


def principal_axes(z_NZ: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean [Z], the two axes of largest variance [Z, 2] and their shares of it [2], float64.

    The largest component of each axis is positive, so that the same rows give the same plane.
    """
    mean = z_NZ.mean(axis=0, dtype=np.float64)
    centred = z_NZ - mean
    covariance = centred.T @ centred
    size = len(covariance)
    values, vectors = eigh(covariance, subset_by_index=(max(size - 2, 0), size - 1))
    axes = np.zeros((size, 2))
    axes[:, : len(values)] = vectors[:, ::-1]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)
    shares = np.zeros(2)
    shares[: len(values)] = values[::-1] / max(float(np.trace(covariance)), 1e-12)
    return mean, axes, shares


def rounded(values: Floats) -> list[Any]:
    """JSON numbers of four decimals, nested as the array is; a picture shows no more."""
    numbers: list[Any] = np.round(values.astype(np.float64), 4).tolist()
    return numbers
