"""The meter: means per kind of step, and the first step at which a loss went wrong."""

from __future__ import annotations

import math

import pytest
import torch

from training.device import LIMIT, Meter


def meter(*steps: dict[str, float]) -> Meter:
    made = Meter(torch.device("cpu"))
    for values in steps:
        made.begin_step()
        made.add({name: torch.tensor(value) for name, value in values.items()})
    return made


def test_means_are_over_the_steps_that_had_the_term() -> None:
    made = meter({"a": 1, "b": 10}, {"a": 3, "b": 20}, {"c": 5}, {"b": 60, "c": 7}, {})
    assert made.means() == {"a": 2, "b": 30, "c": 6}
    assert made.first_bad() is None


def test_nothing_added_is_nothing_found() -> None:
    assert meter().means() == {}
    assert meter({}).first_bad() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.01 * LIMIT, -1.01 * LIMIT])
def test_the_first_step_and_all_its_bad_terms(bad: float) -> None:
    fine = {"a": 1.0, "b": -1.0, "c": 0.0}
    made = meter(fine, {"d": LIMIT}, {**fine, "b": bad, "c": math.nan}, {**fine, "a": bad}, fine, {"d": bad})
    assert made.first_bad() == (2, ["b", "c"])
    assert meter(fine, {"d": -LIMIT}).first_bad() is None


def test_the_first_step_across_kinds_of_steps() -> None:
    """Critic and generator report different terms in the same outer step."""
    made = Meter(torch.device("cpu"))
    for step in range(3):
        made.begin_step()
        made.add({"critic": torch.tensor(math.nan if step == 2 else 0.0)})
        made.add({"generator": torch.tensor(math.nan if step >= 1 else 0.0)})
    assert made.first_bad() == (1, ["generator"])


def test_half_precision_is_summed_in_float32() -> None:
    made = Meter(torch.device("cpu"))
    for _ in range(1000):
        made.add({"a": torch.tensor(1.0, dtype=torch.bfloat16), "b": torch.tensor(1.0)})
    assert made.means() == {"a": 1, "b": 1}


def test_terms_are_let_go_of() -> None:
    """The published code keeps every step's graph for printing."""
    made = Meter(torch.device("cpu"))
    made.add({"a": torch.tensor(2.0, requires_grad=True) * 3})
    assert not any(values.requires_grad for values in made._sums.values())
    assert made.means() == {"a": 6}


def test_after_a_reset_steps_count_anew() -> None:
    made = meter({"a": 1, "b": math.nan}, {"a": 3, "b": 0}, {"c": 5})
    sums = made._sums[("a", "b")]
    made.reset()
    assert made.means() == {}
    assert made.first_bad() is None
    made.begin_step()
    made.add({"a": torch.tensor(7.0), "b": torch.tensor(8.0)})
    made.begin_step()
    made.add({"a": torch.tensor(math.inf), "b": torch.tensor(8.0)})
    assert made.first_bad() == (1, ["a"])
    assert made.means()["b"] == 8
    assert made._sums[("a", "b")] is sums
