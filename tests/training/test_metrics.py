"""GZSL metrics against counting by hand: per class, over all penalties, over all pairs."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.metrics import (
    SeenUnseenCurve,
    auroc,
    class_weights,
    expected_calibration_error,
    gzsl_scores,
    harmonic_mean,
    per_class_accuracy,
    seen_unseen_curve,
)

SEEN = np.array([True, False, True, False, True])


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Scores from few values, so that ties are common; some classes have no rows."""
    classes = draw(st.integers(2, 5))
    seen = np.array(draw(st.lists(st.booleans(), min_size=classes, max_size=classes)))
    rows = draw(st.integers(2, 8))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
    assume(seen[labels].any() and not seen[labels].all())
    values = st.lists(st.integers(-3, 3), min_size=rows * classes, max_size=rows * classes)
    return np.array(draw(values), dtype=np.float32).reshape(rows, classes), labels, seen


def slow_accuracy(predicted: list[int], labels: list[int], classes: list[int]) -> float:
    """Mean over those of the classes that have rows."""
    per_class = []
    for wanted in classes:
        hits = [p == y for p, y in zip(predicted, labels, strict=True) if y == wanted]
        if hits:
            per_class.append(sum(hits) / len(hits))
    return sum(per_class) / len(per_class)


def slow_predictions(scores: NDArray[np.float32], seen: NDArray[np.bool_], penalty: float) -> list[int]:
    """The best class of each row at a penalty; a seen class keeps a tie with an unseen one, lower indices go first."""
    predicted = []
    for row in scores.tolist():
        best = max(range(len(row)), key=lambda c: (row[c] - (penalty if seen[c] else 0), bool(seen[c]), -c))
        predicted.append(best)
    return predicted


def slow_at(scores: Any, labels: Any, seen: Any, penalty: float) -> tuple[float, float]:
    predicted = slow_predictions(scores, seen, penalty)
    unseen = slow_accuracy(predicted, labels.tolist(), np.flatnonzero(~seen).tolist())
    return unseen, slow_accuracy(predicted, labels.tolist(), np.flatnonzero(seen).tolist())


# --- accuracies -----------------------------------------------------------------------------------


def test_per_class_accuracy_by_hand() -> None:
    labels = np.array([0, 0, 0, 2, 3, 3])
    predicted = np.array([0, 1, 0, 2, 4, 1])
    np.testing.assert_allclose(per_class_accuracy(predicted, labels, 5), [2 / 3, np.nan, 1, 0, np.nan])


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.3, 0.3) == pytest.approx(0.3)
    assert harmonic_mean(0.0, 1.0) == 0
    assert harmonic_mean(0.0, 0.0) == 0


def test_classes_count_the_same_however_many_rows_they_have() -> None:
    scores = np.eye(5)[[0] * 9 + [2] + [1, 1, 1] + [3]]
    labels = np.array([0] * 9 + [4] + [1, 1, 3] + [3])
    # Class 2 has no rows and counts for nothing; the row of class 4 takes class 2, one of the two of class 3 class 1.
    expected = {"U": (1 + 1 / 2) / 2, "S": (1 + 0) / 2, "H": 2 * 0.5 * 0.75 / 1.25, "T1": 3 / 4}
    result = gzsl_scores(scores, labels, SEEN).to_json()
    assert {name: result[name] for name in expected} == pytest.approx(expected)


@given(problems())
def test_evaluate_is_counting(problem: Any) -> None:
    scores, labels, seen = problem
    unseen_classes, seen_classes = np.flatnonzero(~seen).tolist(), np.flatnonzero(seen).tolist()
    predicted = [max(range(len(seen)), key=lambda c: (row[c], -c)) for row in scores.tolist()]
    among = [max(unseen_classes, key=lambda c: (row[c], -c)) for row in scores.tolist()]
    u = slow_accuracy(predicted, labels.tolist(), unseen_classes)
    s = slow_accuracy(predicted, labels.tolist(), seen_classes)
    assert gzsl_scores(scores, labels, seen).to_json() == pytest.approx(
        {
            "U": u,
            "S": s,
            "H": 2 * u * s / (u + s) if u + s else 0,
            "T1": slow_accuracy(among, labels.tolist(), unseen_classes),
            "AUSUC": seen_unseen_curve(scores, labels, seen).area,
        }
    )


@pytest.mark.parametrize("labels", [[0, 2, 4], [1, 3, 1], []])
def test_one_kind_of_rows_is_refused(labels: list[int]) -> None:
    scores = np.zeros((len(labels), 5))
    for function in (gzsl_scores, seen_unseen_curve):
        with pytest.raises(ValueError, match="need test rows of seen and of unseen classes"):
            function(scores, np.array(labels, dtype=np.int64), SEEN)


# --- the trade-off --------------------------------------------------------------------------------


@given(problems())
def test_curve_is_that_of_every_single_penalty(problem: Any) -> None:
    scores, labels, seen = problem
    curve = seen_unseen_curve(scores, labels, seen)
    gaps = scores[:, seen].max(axis=1) - scores[:, ~seen].max(axis=1)
    assert curve.penalties.tolist() == sorted(set(gaps.tolist()))
    tried = np.arange(-8, 8.25, 0.25)  # all gaps, and between them, and beyond
    unseen, of_seen = curve.at(tried)
    expected = np.array([slow_at(scores, labels, seen, penalty) for penalty in tried])
    np.testing.assert_allclose(np.stack([unseen, of_seen], axis=1), expected, atol=1e-12)
    np.testing.assert_allclose(unseen, [float(curve.at(float(p))[0]) for p in tried])


@given(problems())
def test_area_is_that_under_all_points(problem: Any) -> None:
    scores, labels, seen = problem
    points = [slow_at(scores, labels, seen, penalty) for penalty in np.arange(-8, 8.25, 0.25)]
    area = sum((u0 + u1) / 2 * (s0 - s1) for (u0, s0), (u1, s1) in pairwise(points))
    curve = seen_unseen_curve(scores, labels, seen)
    assert curve.area == pytest.approx(area, abs=1e-12)
    assert -1e-12 <= curve.area <= 1 + 1e-12


def test_area_of_the_extremes() -> None:
    labels = np.array([0, 1])
    seen = np.array([True, False])
    assert seen_unseen_curve(np.array([[9.0, 0], [0, 9.0]]), labels, seen).area == pytest.approx(1)
    assert seen_unseen_curve(np.array([[0.0, 9], [9, 0.0]]), labels, seen).area == pytest.approx(0)
    assert seen_unseen_curve(np.zeros((2, 2)), labels, seen).area == pytest.approx(0.5)


def test_curve_between_its_penalties() -> None:
    curve = SeenUnseenCurve(
        penalties=np.array([-1.0, 2.0]), unseen=np.array([0.0, 0.25, 1.0]), seen=np.array([1.0, 0.5, 0.0])
    )
    unseen, seen = curve.at(np.array([-np.inf, -1.0, -0.999, 2.0, 2.001, np.inf]))
    assert unseen.tolist() == [0, 0, 0.25, 0.25, 1, 1]
    assert seen.tolist() == [1, 1, 0.5, 0.5, 0, 0]


def test_thousands_of_rows() -> None:
    """As many penalties as rows: the ends of the curve are still exact."""
    random = np.random.default_rng(0)
    scores, labels = random.standard_normal((3000, 5)).astype(np.float32), random.integers(0, 5, 3000)
    curve = seen_unseen_curve(scores, labels, SEEN)
    assert len(curve.penalties) > 2900
    assert (np.diff(curve.unseen) >= 0).all()
    assert (np.diff(curve.seen) <= 1e-12).all()
    assert curve.seen[-1] == pytest.approx(0, abs=1e-12)
    assert (curve.unseen[-1], curve.seen[-1]) == pytest.approx(slow_at(scores, labels, SEEN, 1e6), abs=1e-12)
    assert (curve.unseen[0], curve.seen[0]) == pytest.approx(slow_at(scores, labels, SEEN, -1e6), abs=1e-12)
    assert curve.at(0.1) == pytest.approx(slow_at(scores, labels, SEEN, 0.1))


# --- AUROC ----------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
def test_auroc_is_the_share_of_pairs(positive: list[int], negative: list[int]) -> None:
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    actual = auroc(np.array(positive, dtype=np.float32), np.array(negative, dtype=np.float32))
    assert actual == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(("positive", "negative"), [([], [1.0]), ([1.0], []), ([], [])])
def test_auroc_needs_both_kinds(positive: list[float], negative: list[float]) -> None:
    with pytest.raises(ValueError, match=f"got {len(positive)} positive and {len(negative)} negative"):
        auroc(np.array(positive), np.array(negative))


def test_auroc_takes_infinities() -> None:
    assert auroc(np.array([math.inf, 0]), np.array([-math.inf, 0])) == pytest.approx((3 + 0.5) / 4)


# --- calibration ----------------------------------------------------------------------------------


def slow_calibration_error(probabilities: Any, labels: Any, weights: list[float], bins: int) -> float:
    """Bin by bin, row by row."""
    error = 0.0
    for place in range(bins):
        weight = hits = confidences = 0.0
        for row, label, counted in zip(probabilities.tolist(), labels.tolist(), weights, strict=True):
            if place / bins < max(row) <= (place + 1) / bins:
                weight += counted
                hits += counted * (row.index(max(row)) == label)
                confidences += counted * max(row)
        if weight:
            error += weight / sum(weights) * abs(hits / weight - confidences / weight)
    return error


@pytest.mark.parametrize("bins", [1, 2, 15])
@pytest.mark.parametrize(("rows", "classes", "sharpness"), [(1, 2, 1.0), (40, 3, 0.1), (200, 7, 3.0), (200, 7, 30.0)])
def test_calibration_error_is_counting(rows: int, classes: int, sharpness: float, bins: int) -> None:
    random = np.random.default_rng(rows)
    logits = sharpness * random.standard_normal((rows, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = random.integers(0, classes, rows)
    plain = expected_calibration_error(probabilities, labels, bins=bins)
    assert plain == pytest.approx(slow_calibration_error(probabilities, labels, [1.0] * rows, bins), abs=1e-12)
    counts = {label: labels.tolist().count(label) for label in labels.tolist()}
    weights = [1 / counts[label] / len(counts) for label in labels.tolist()]
    np.testing.assert_allclose(class_weights(labels), weights)
    balanced = expected_calibration_error(probabilities, labels, bins=bins, weights_N=class_weights(labels))
    assert balanced == pytest.approx(slow_calibration_error(probabilities, labels, weights, bins), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    sure, unsure = [1.0, 0.0], [0.6, 0.4]
    probabilities = np.array([sure, sure, sure, unsure, unsure])
    # |3/3 - 1| in the bin of 1, |1/2 - 0.6| in that of 0.6
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 0, 1])) == pytest.approx(2 / 5 * 0.1)
    # one row of class 1 now weighs as much as the four of class 0: accuracy in the bin of 0.6 is 1/5
    labels = np.array([0, 0, 0, 0, 1])
    balanced = expected_calibration_error(probabilities, labels, weights_N=class_weights(labels))
    assert balanced == pytest.approx(5 / 8 * abs(1 / 5 - 0.6))


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    """At 0.5 with two bins: 0.5 is in the lower one, so right and wrong rows do not cancel."""
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25]])
    assert expected_calibration_error(probabilities, np.array([0, 1]), bins=2) == pytest.approx((0.5 + 0.75) / 2)
    assert expected_calibration_error(probabilities, np.array([0, 1]), bins=1) == pytest.approx(abs(0.5 - 1.25 / 2))


def test_calibration_error_needs_rows() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        expected_calibration_error(np.zeros((0, 3)), np.array([], dtype=np.int64))
