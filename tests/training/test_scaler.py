from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from training.features.scaler import SCALINGS, NormalScaler, RangeScaler, Scaler, Scaling


def test_training_rows_become_0_to_1() -> None:
    rows = np.random.default_rng(0).normal(3, 5, (20, 4)).astype(np.float32)
    scaler = RangeScaler.of(rows)
    scaled = scaler.apply(rows)
    assert scaled.dtype == scaler.minimum.dtype == scaler.range.dtype == np.float32
    assert scaled.min(axis=0).tolist() == [0] * 4
    assert scaled.max(axis=0).tolist() == [1] * 4
    expected = [[(v - min(column)) / (max(column) - min(column)) for v in column] for column in rows.T.tolist()]
    np.testing.assert_allclose(scaled.T, expected, rtol=1e-5, atol=1e-6)


def test_other_rows_are_not_clipped() -> None:
    scaler = Scaler.fit(np.array([[0, 10], [4, 20]], dtype=np.float32))
    np.testing.assert_allclose(scaler.apply([[-4, 25], [8, 10]]), [[-1, 1.5], [2, 0]])


def test_a_constant_dimension_is_only_shifted() -> None:
    scaler = RangeScaler.of(np.array([[7, 0.5, 1], [7, 0.5 + 1e-7, 2]], dtype=np.float32))
    assert scaler.range.tolist() == [1, 1, 1]
    np.testing.assert_allclose(scaler.apply([[7, 0.5, 1.5], [9, 0.5, 2]]), [[0, 0, 0.5], [2, 0, 1]])


# --- to a normal distribution ---------------------------------------------------------------------


def plain_normal(column: list[float], value: float) -> float:
    """Where the normal quantile of the share below a value lies between -3 and 3 standard deviations."""
    below = sum((v < value) + 0.5 * (v == value) for v in column) / len(column)
    if not 0 < below < 1:
        return float(below >= 1)
    return min(max(statistics.NormalDist().inv_cdf(below) / 6 + 0.5, 0), 1)


@pytest.mark.parametrize("kind", ["skewed", "tied", "two values"])
def test_rows_become_normal(kind: str) -> None:
    random = np.random.default_rng(1)
    rows = random.gamma(0.7, 20, (2000, 3)).astype(np.float32)
    if kind == "tied":
        rows = rows.round() * (random.random(rows.shape) < 0.8)
    if kind == "two values":
        rows = (rows > 20).astype(np.float32)
    scaled = NormalScaler.of(rows).apply(rows)
    expected = [[plain_normal(column, value) for value in column[:200]] for column in rows.T.tolist()]
    np.testing.assert_allclose(scaled[:200].T, expected, atol=0.02)
    if kind == "skewed":
        assert scaled.mean() == pytest.approx(0.5, abs=0.005)
        assert (scaled.std() * 6) == pytest.approx(1, abs=0.02)


def test_values_beyond_the_training_rows_stay_in_0_to_1() -> None:
    rows = np.random.default_rng(2).normal(3, 5, (5000, 2)).astype(np.float32)
    scaled = NormalScaler.of(rows).apply([[-1e9, 1e9], [1e9, -1e9], [3, 3]])
    np.testing.assert_allclose(scaled, [[0, 1], [1, 0], [0.5, 0.5]], atol=0.01)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.floats(-1e6, 1e6, width=32))
)
def test_a_larger_value_never_becomes_a_smaller_one(rows: np.ndarray) -> None:
    scaled = NormalScaler.of(rows).apply(rows)
    assert np.isfinite(scaled).all()
    assert scaled.min() >= -1e-6
    assert scaled.max() <= 1 + 1e-6
    for column, of_column in zip(rows.T, scaled.T, strict=True):
        assert (np.diff(of_column[np.argsort(column)]) >= -1e-5).all()


def test_a_constant_dimension_is_in_the_middle() -> None:
    scaler = NormalScaler.of(np.full((9, 1), 7, dtype=np.float32))
    assert scaler.apply([[7], [8], [-8]]).tolist() == [[0.5], [0.5], [0.5]]


def test_values_that_hardly_differ_are_one() -> None:
    rows = np.array([[0, 0], [1e-45, 1e-7], [0, 1]] * 3, dtype=np.float32)
    scaler = NormalScaler.of(rows)
    assert np.isfinite(np.stack(scaler.pieces())).all()
    near, far = scaler.apply([[0, 0], [1e-45, 1]])
    assert near[0] == far[0]
    assert far[1] > near[1] + 0.1


def test_of_many_rows_some_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).gamma(2, 1, (4000, 2)).astype(np.float32)
    whole = NormalScaler.of(rows).apply(rows)
    monkeypatch.setattr("training.features.scaler._FITTED_ROWS", 1000)
    np.testing.assert_allclose(NormalScaler.of(rows).apply(rows), whole, atol=0.05)


# --- both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
def test_tensors_are_scaled_alike_and_a_checkpoint_keeps_it(scaling: Scaling) -> None:
    rows = np.random.default_rng(4).gamma(1, 3, (300, 5)).astype(np.float32)
    scaler = Scaler.fit(rows, scaling)
    others = np.random.default_rng(5).normal(2, 9, (700, 5)).astype(np.float32)
    expected = scaler.apply(others)
    np.testing.assert_allclose(scaler.module()(torch.from_numpy(others)).numpy(), expected, rtol=1e-5, atol=1e-6)
    again = Scaler.from_tensors(scaler.tensors())
    assert type(again) is type(scaler)
    np.testing.assert_array_equal(again.apply(others), expected)


def test_tensors_of_no_scaler_are_refused() -> None:
    with pytest.raises(TypeError):
        Scaler.from_tensors({"minimum": torch.zeros(2)})
