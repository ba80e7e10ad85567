"""Descriptions on another scale than the training classes': what is said of them, and what is not said of others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from model.outside.scales import TrainingScale

DATA = Path(__file__).parents[2] / "../shared/data"
Values = NDArray[np.float64]


def percents(classes: int = 20, attributes: int = 30) -> Values:
    """Classes whose attributes are on 0..100, about half of them 0."""
    generator = np.random.default_rng(3)
    values = generator.integers(1, 100, (classes, attributes)) * (generator.random((classes, attributes)) < 0.5)
    return values.astype(np.float64)


def doubts(scale: TrainingScale, values: Values, given: list[int] | None = None) -> str:
    chosen = np.ones(len(values), dtype=bool)
    if given is not None:
        chosen[:] = False
        chosen[given] = True
    return " ".join(scale.doubts(values, chosen))


def test_nothing_is_said_of_training_classes_nor_of_new_ones_like_them() -> None:
    values = percents(40)
    scale = TrainingScale(values[:20])
    assert [doubts(scale, one) for one in values] == [""] * 40


@pytest.mark.parametrize(
    ("known", "given", "words"),
    [
        (1.0, 0.01, "looks like values on 0..1; the bundle's are on 0..100: times 100?"),
        (0.01, 1.0, "looks like values on 0..100; the bundle's are on 0..1: divided by 100?"),
        (1.0, 0.1, "looks like values on 0..10; the bundle's are on 0..100: times 10?"),
        (0.1, 0.01, "looks like values on 0..1; the bundle's are on 0..10: times 10?"),
        (0.001, 1.0, "times larger than the bundle's, which are on 0..1: are they on another scale?"),
        (1.0, 0.00002, "times smaller than the bundle's, which are on 0..100: are they on another scale?"),
    ],
)
def test_the_other_scale_is_named(known: float, given: float, words: str) -> None:
    values = percents(40)
    scale = TrainingScale(known * values[:20])
    assert all(doubts(scale, given * one).endswith(words) for one in values)


def test_yes_and_no_are_not_per_cent() -> None:
    values = percents()
    said = doubts(TrainingScale(values), (values[0] > 0) * 1.0)
    assert said == "looks like values on 0..1; the bundle's are on 0..100: times 100?"


def test_the_scale_is_that_of_the_attributes_that_were_given() -> None:
    values = percents()
    scale = TrainingScale(values)
    filled = values.mean(axis=0)
    filled[:4] = (0.9, 0.8, 0.0, 1.0)
    assert "times 100?" in doubts(scale, filled, [0, 1, 2, 3])
    assert doubts(scale, filled) == ""
    assert doubts(scale, filled, []) == ""


def test_a_few_small_values_beside_large_ones_are_no_other_scale() -> None:
    values = percents()
    one = values[0].copy()
    one[:15] = 0.5
    assert doubts(TrainingScale(values), one) == ""


@pytest.mark.parametrize("of_classes", [True, False])
def test_standardised_values_are_named(of_classes: bool) -> None:
    values = percents()
    axis = 0 if of_classes else 1
    standardised = (values - values.mean(axis=axis, keepdims=True)) / values.std(axis=axis, keepdims=True)
    for known, end in ((values, "100"), (values / 100, "1")):
        said = [doubts(TrainingScale(known), one) for one in standardised]
        assert all(f"values are below 0; the bundle's are on 0..{end}: were they standardised?" in s for s in said)


def test_where_training_classes_go_below_zero_others_may() -> None:
    vectors = np.random.default_rng(5).standard_normal((30, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = TrainingScale(vectors[:25])
    assert [doubts(scale, one) for one in vectors] == [""] * 30
    assert "about 21 times larger than the bundle's, which are on -0.4..0.4" in doubts(scale, 20 * vectors[27])


def test_values_turned_round_or_in_another_order_are_far_from_all() -> None:
    generator = np.random.default_rng(9)
    typical = np.where(np.arange(60) < 20, 80.0, 5.0)  # most classes agree on most attributes
    values = np.clip(typical + generator.normal(0, 4, (30, 60)), 0, 100)
    scale = TrainingScale(values[:25])
    assert [doubts(scale, one) for one in values] == [""] * 30
    for wrong in (100 - values[27], values[27][::-1].copy()):
        assert "unlike those of every training class" in doubts(scale, wrong)


def test_one_value_for_all_attributes_says_little() -> None:
    scale = TrainingScale(percents())
    assert doubts(scale, np.full(30, 50.0)) == "every attribute is 50, which says little about the class"
    assert doubts(scale, np.zeros(30)) == "every attribute is 0, which says little about the class"


def test_without_training_classes_or_attributes_nothing_is_said() -> None:
    assert doubts(TrainingScale([]), np.ones(3)) == ""
    assert doubts(TrainingScale(np.empty((2, 0))), np.empty(0)) == ""
    assert doubts(TrainingScale(np.zeros((3, 2))), np.array([1.0, 5.0])) == ""


@pytest.mark.parametrize("tiny", [1e-200, 1e-300])
def test_values_that_underflow_are_small(tiny: float) -> None:
    assert "times smaller" in doubts(TrainingScale(percents()), np.full(30, tiny) * np.arange(30))


def tables() -> dict[str, tuple[Path, str]]:
    benchmarks = {name: (DATA / "gzsl" / name / "att_splits.mat", "att") for name in ("FLO", "CUB50", "AWA40")}
    return {**benchmarks, "animals": (DATA / "animals/classes.csv", ""), "cub50": (DATA / "cub50/classes.csv", "")}


def read(file: Path, key: str) -> Values:
    if not file.exists():
        pytest.skip(f"needs {file}")
    if key:
        return np.asarray(scipy.io.loadmat(file)[key].T, dtype=np.float64)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [*csv.DictReader(stream)]
    names = [name for name in rows[0] if name not in ("class", "split", "id", "description")]
    return np.array([[float(row[name]) for name in names] for row in rows])


@pytest.mark.parametrize("name", tables())
def test_left_out_classes_of_benchmarks_are_ordinary_until_their_scale_is_wrong(name: str) -> None:
    values = read(*tables()[name])
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    for i, one in enumerate(values[:40]):
        scale = TrainingScale(np.delete(values, i, axis=0))
        assert doubts(scale, one) == ""
        assert doubts(scale, values[i - 1]) == ""  # a training class
        assert doubts(scale, one / 100) != ""
        assert doubts(scale, one * 100) != ""
        assert doubts(scale, (one - mean) / deviation) != ""
