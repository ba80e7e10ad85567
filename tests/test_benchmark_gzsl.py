"""What the table of generators says of chance: a bootstrap over test classes against a plain one."""

from __future__ import annotations

import random
import statistics
import sys
from typing import Any

import pytest

path = sys.path[0]
from benchmarks.class_bootstrap import difference_of_h  # noqa: E402
from benchmarks.gzsl_table import against_baselines  # noqa: E402

sys.path[0] = path  # which a benchmark, a script, sets for itself

UNSEEN, SEEN = [f"u{i}" for i in range(5)], [f"s{i}" for i in range(8)]


def row(start: int, **of: Any) -> dict[str, Any]:
    draw = random.Random(start)
    return {"per_class": {name: draw.random() for name in (*SEEN, *UNSEEN)}, "unseen_classes": UNSEEN, **of}


def h(accuracy: dict[str, float], unseen: list[str], seen: list[str]) -> float:
    u, s = (statistics.fmean(accuracy[name] for name in names) for names in (unseen, seen))
    return 2 * u * s / (u + s)


def test_error_over_classes_is_that_of_a_plain_bootstrap() -> None:
    pairs = [(row(1), row(2)), (row(3), row(4))]

    def difference(unseen: list[str], seen: list[str]) -> float:
        return statistics.fmean(h(a["per_class"], unseen, seen) - h(b["per_class"], unseen, seen) for a, b in pairs)

    draw = random.Random(0)
    drawn = [difference(draw.choices(UNSEEN, k=5), draw.choices(SEEN, k=8)) for _ in range(4000)]
    mean, error = difference_of_h(pairs)
    assert mean == pytest.approx(difference(UNSEEN, SEEN))
    assert error == pytest.approx(statistics.stdev(drawn), rel=0.1)


def test_a_row_against_itself_differs_in_nothing() -> None:
    assert difference_of_h([(row(1), row(1))]) == (0, 0)


def test_generators_are_compared_with_each_baseline_of_the_same_set_and_seed() -> None:
    rows = [
        row(1, data="A", generator="ridge + LDA", variant="no learning", seed=0),
        row(2, data="A", generator="ridge + LDA", variant="no learning", seed=1),
        row(3, data="A", generator="cpu-wgan", variant="base", seed=1, student={}),
        row(4, data="A", generator="cpu-wgan", variant="base", seed=2, student={}),  # without a baseline
        row(5, data="B", generator="cpu-wgan", variant="base", seed=0, student={}),
    ]
    mean, error = difference_of_h([(rows[2], rows[1])])
    expected = f"- H of cpu-wgan, base: {mean:+.3f} (se over test classes {error:.3f}) against ridge + LDA."
    assert against_baselines(rows, "A") == [expected]
