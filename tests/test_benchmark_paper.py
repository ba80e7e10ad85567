"""What the table of the paper's experiment takes by each protocol."""

from __future__ import annotations

import sys
from typing import Any

import pytest

path = sys.path[0]
from benchmarks.paper import variant_of  # noqa: E402
from benchmarks.paper_table import PROTOCOLS, chosen, effect  # noqa: E402
from training.config import TrainConfig  # noqa: E402

sys.path[0] = path  # which a benchmark, a script, sets for itself


def point(epoch: int, *, test: float, best: float, validated: float, folds: float, folds_best: float) -> dict[str, Any]:
    def scores(h: float) -> dict[str, float]:
        return {"U": h, "S": h, "H": h}

    return {
        "epoch": epoch,
        "test": scores(test),
        "test_best_penalty": scores(best),
        "test_with_validation_penalty": scores(validated),
        "folds_H": folds,
        "folds_H_best_penalty": folds_best,
    }


POINTS = [
    point(1, test=0.1, best=0.5, validated=0.4, folds=0.9, folds_best=0.2),
    point(2, test=0.3, best=0.4, validated=0.3, folds=0.1, folds_best=0.8),
    point(3, test=0.3, best=0.3, validated=0.2, folds=0.2, folds_best=0.8),
]


@pytest.mark.parametrize(
    ("protocol", "epoch", "h"),
    [("test-best", 2, 0.3), ("test-best, penalty", 1, 0.5), ("validation", 1, 0.1), ("validation, penalty", 2, 0.3)],
)
def test_each_protocol_looks_only_where_it_may(protocol: str, epoch: int, h: float) -> None:
    found = chosen(POINTS, protocol)
    assert (found["epoch"], found["H"]) == (epoch, h)
    assert protocol in PROTOCOLS


def test_effect_is_of_paired_seeds() -> None:
    def row(variant: str, seed: int, h: float) -> dict[str, Any]:
        points = [point(1, test=h, best=h, validated=h, folds=h, folds_best=h)]
        return {"variant": variant, "seed": seed, "curves": {"C_s": points}}

    rows = [row("base", 0, 0.4), row("base", 1, 0.5), row("+D3", 0, 0.42), row("+D3", 1, 0.56), row("+D3", 2, 0.9)]
    assert effect(rows, "C_s", "test-best") == "+4.0 (se 2.0)"
    assert effect(rows[:2], "C_s", "test-best") == "-"


def test_variants_leave_out_what_they_say() -> None:
    whole = TrainConfig()
    weights = {name: variant_of(whole, name).d3.weights() for name in ("base", "+ID2SD", "+O2DBD", "+D3")}
    assert [name for name, value in weights["base"].items() if value] == ["cls"]
    assert [name for name, value in weights["+ID2SD"].items() if value] == ["cls", "kl", "be"]
    assert [name for name, value in weights["+O2DBD"].items() if value] == ["cls", "od"]
    assert weights["+D3"] == whole.d3.weights()
