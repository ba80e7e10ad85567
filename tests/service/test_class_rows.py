"""Rows of many classes at once: the same numbers as one after another, in few calls of the networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle, Precision
from model.classes import ClassEntry
from model.errors import AttributesError
from service.inference.class_rows import MeansAhead, compute_row, compute_rows
from service.inference.engine import Engine, OnnxEngine
from tests.service import tiny


class Counting:
    """The synthesizer in NumPy; counts the rows of each call."""

    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.rows: list[int] = []

    def embed(self, images):
        raise AssertionError("no image is embedded here")

    def synthesize(self, noise, attributes):
        self.rows.append(len(noise))
        return tiny.synthesize(noise, attributes)


def entries(count: int) -> list[ClassEntry]:
    numbers = np.random.default_rng(5).random((count, tiny.A)).tolist()
    return [ClassEntry(id=f"c{i}", name="x", kind="unseen", attributes=tuple(a)) for i, a in enumerate(numbers)]


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


@pytest.mark.parametrize("count", [0, 1, 2, 250])
@pytest.mark.parametrize("onnx", [False, True])
def test_rows_are_those_of_each_class_alone(bundle: Bundle, count: int, onnx: bool) -> None:
    engine: Engine = OnnxEngine(bundle, threads=1) if onnx else Counting()
    many = entries(count)
    together = compute_rows(bundle, engine, many)
    assert len(together) == count
    for entry, made in zip(many, together, strict=True):
        alone = compute_row(bundle, engine, entry)
        assert not isinstance(made, AttributesError)
        assert (made.weight.tobytes(), made.bias) == (alone.weight.tobytes(), alone.bias)


def test_the_networks_run_a_few_times_only(bundle: Bundle) -> None:
    engine = Counting()
    compute_rows(bundle, engine, entries(250))
    assert len(engine.rows) == 9
    assert sum(engine.rows) == 250 * tiny.HEAD.samples
    assert max(engine.rows) <= 600


def test_only_the_class_that_is_too_far_has_no_row(bundle: Bundle) -> None:
    near, far = entries(1)[0], ClassEntry(id="far", name="x", kind="unseen", attributes=(1e30, 0.0, 0.0))
    first, second, third = compute_rows(bundle, Counting(), [near, far, near])
    assert isinstance(second, AttributesError)
    assert [p.pointer for p in second.problems] == ["/attributes"]
    for made in (first, third):
        assert not isinstance(made, AttributesError)
        assert made.weight.tobytes() == compute_row(bundle, Counting(), near).weight.tobytes()
    with pytest.raises(AttributesError):
        compute_row(bundle, Counting(), far)


def test_what_is_made_ahead_is_used_once_and_changes_no_bit(bundle: Bundle) -> None:
    engine = Counting()
    ahead = MeansAhead(bundle, engine)
    first, second = entries(2)
    moved = replace(first, attributes=second.attributes)
    ahead.make(first)
    (other,) = compute_rows(bundle, engine, [moved], means=ahead.take)  # of its id, but described otherwise
    assert len(engine.rows) == 2
    (made,) = compute_rows(bundle, engine, [replace(first, name="Words")], means=ahead.take)
    assert len(engine.rows) == 2
    (again,) = compute_rows(bundle, engine, [first], means=ahead.take)
    assert len(engine.rows) == 3
    alone = compute_row(bundle, engine, first)
    for row in (made, again):
        assert not isinstance(row, AttributesError)
        assert (row.weight.tobytes(), row.bias) == (alone.weight.tobytes(), alone.bias)
    assert not isinstance(other, AttributesError)
    assert other.weight.tobytes() == compute_row(bundle, engine, moved).weight.tobytes()


def test_what_is_made_ahead_and_never_wanted_does_not_pile_up(bundle: Bundle) -> None:
    ahead = MeansAhead(bundle, Counting())
    for entry in entries(70):
        ahead.make(entry)
    assert sum(ahead.take(entry) is not None for entry in entries(70)) == 64
