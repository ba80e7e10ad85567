from __future__ import annotations

import numpy as np

from training.scaler import Scaler


def test_training_rows_become_0_to_1() -> None:
    rows = np.random.default_rng(0).normal(3, 5, (20, 4)).astype(np.float32)
    scaler = Scaler.fit(rows)
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
    scaler = Scaler.fit(np.array([[7, 0.5, 1], [7, 0.5 + 1e-7, 2]], dtype=np.float32))
    assert scaler.range.tolist() == [1, 1, 1]
    np.testing.assert_allclose(scaler.apply([[7, 0.5, 1.5], [9, 0.5, 2]]), [[0, 0, 0.5], [2, 0, 1]])
