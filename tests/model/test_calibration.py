"""From logits to probabilities, and novelty, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.calibration import Calibration, novelty, softmax


def some_logits(rows: int = 6, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 4, (rows, classes)).astype(np.float32)


SEEN = np.array([True, True, False, True, False])


@pytest.mark.parametrize("penalty", [-1.5, 0.0, 2.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_probabilities_against_a_loop(temperature: float, penalty: float) -> None:
    logits = some_logits()
    calibration = Calibration(seen_penalty=penalty, temperature=temperature)
    got = calibration.probabilities(logits, SEEN)
    assert got.dtype == np.float64
    for n, row in enumerate(logits.tolist()):
        scores = [math.exp(v / temperature - (penalty if seen else 0)) for v, seen in zip(row, SEEN, strict=True)]
        np.testing.assert_allclose(got[n], [s / sum(scores) for s in scores], rtol=1e-9)


def test_rows_sum_to_one_even_for_huge_logits() -> None:
    logits = np.array([[1e30, -1e30, 0], [3e38, 3e38, -3e38]], dtype=np.float32)
    got = Calibration(seen_penalty=0.0, temperature=0.01).probabilities(logits, np.zeros(3, dtype=bool))
    np.testing.assert_allclose(got, [[1, 0, 0], [0.5, 0.5, 0]], atol=1e-12)


def test_the_penalty_moves_the_odds_of_seen_against_unseen_and_nothing_else() -> None:
    logits = some_logits()
    calibration = Calibration(seen_penalty=0.7, temperature=2.0)
    low, high = (calibration.probabilities(logits, SEEN, seen_penalty=p) for p in (0.0, 3.0))
    odds = (low[:, SEEN].sum(1) / low[:, ~SEEN].sum(1)) / (high[:, SEEN].sum(1) / high[:, ~SEEN].sum(1))
    np.testing.assert_allclose(odds, math.exp(3.0), rtol=1e-9)
    np.testing.assert_allclose(low[:, 0] / low[:, 1], high[:, 0] / high[:, 1], rtol=1e-9)


def test_the_penalty_of_a_request_replaces_that_of_the_bundle() -> None:
    logits = some_logits()
    own = Calibration(seen_penalty=1.25, temperature=1.5)
    other = Calibration(seen_penalty=-9.0, temperature=1.5)
    np.testing.assert_array_equal(other.probabilities(logits, SEEN, seen_penalty=1.25), own.probabilities(logits, SEEN))
    np.testing.assert_array_equal(
        own.probabilities(logits, SEEN, seen_penalty=0.0),
        Calibration(seen_penalty=0.0, temperature=1.5).probabilities(logits, SEEN),
    )


def test_scores_rank_as_probabilities_do() -> None:
    calibration = Calibration(seen_penalty=0.7, temperature=2.0)
    scores, probabilities = calibration.scores(some_logits(), SEEN), calibration.probabilities(some_logits(), SEEN)
    np.testing.assert_array_equal(np.argsort(scores, axis=1), np.argsort(probabilities, axis=1))
    np.testing.assert_allclose(softmax(scores), probabilities)


@pytest.mark.parametrize(
    ("penalty", "temperature"), [(0, 0), (0, -1), (math.nan, 1), (math.inf, 1), (0, math.nan), (0, math.inf)]
)
def test_a_calibration_that_makes_no_sense_is_refused(penalty: float, temperature: float) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Calibration(seen_penalty=penalty, temperature=temperature)


def test_it_survives_json() -> None:
    calibration = Calibration(seen_penalty=-0.1, temperature=3.3)
    assert Calibration.from_json(calibration.to_json()) == calibration


def test_novelty_counts_the_seen_rows_above() -> None:
    random = np.random.default_rng(0)
    reference = np.sort(-random.integers(0, 20, 50)).astype(np.float32)  # with ties
    scores = -np.arange(-1, 22).astype(np.float32)
    expected = [sum(r > s for r in reference.tolist()) / 50 for s in scores.tolist()]
    got = novelty(scores, reference)
    np.testing.assert_allclose(got, expected)
    assert got[0] == 0
    assert got[-1] == 1
    assert (np.diff(got) >= 0).all()


def test_held_out_seen_rows_themselves_are_spread_evenly() -> None:
    reference = np.sort(np.random.default_rng(1).normal(size=100)).astype(np.float32)
    np.testing.assert_allclose(novelty(reference, reference), np.arange(99, -1, -1) / 100)
