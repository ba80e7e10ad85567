"""What the comparison of C_s by how it starts takes from the folds, and what from the test rows."""

from __future__ import annotations

import sys

import numpy as np
import pytest

path = sys.path[0]
from benchmarks.student import SOFTMAX, STUDENT, point, rows_from  # noqa: E402
from benchmarks.student_table import table  # noqa: E402

sys.path[0] = path  # which a benchmark, a script, sets for itself

from tests.training.tiny import config  # noqa: E402
from training.selection.fold_scores import FoldScores  # noqa: E402

SEEN = np.array([True, True, False, False])
LABELS = np.arange(40) % 4


def scores(*, noise: float, bias: float, seed: int) -> FoldScores:
    """Logits of 1 for the right class, and `bias` for every seen one."""
    made = np.random.default_rng(seed).normal(0, noise, (len(LABELS), 4)) + bias * SEEN
    made[np.arange(len(LABELS)), LABELS] += 1
    return FoldScores(logits=made.astype(np.float32), labels=LABELS, seen=SEEN)


def part(**noise: float) -> dict[str, dict[int, dict[str, FoldScores]]]:
    """Of one variant at two epochs; at the second the head is no better than chance."""
    heads = {"lda/0.3": noise["head"], "lda/0.7": 2.0}
    by_epoch = {}
    for epoch, worse in ((1, 0.0), (2, 3.0)):
        of_heads = {name: scores(noise=value + worse, bias=3, seed=2) for name, value in heads.items()}
        others = {STUDENT: scores(noise=noise["student"], bias=3, seed=3), SOFTMAX: scores(noise=0, bias=0, seed=4)}
        by_epoch[epoch] = {**others, **of_heads}
    return {"head's rows": by_epoch}


def test_penalty_comes_from_the_folds_and_accuracy_from_the_test_rows() -> None:
    right, favoured = scores(noise=0, bias=0, seed=0), scores(noise=0, bias=3, seed=0)
    found = point(favoured, [favoured, favoured])
    assert 2 < found["penalty"] < 4
    assert found["validation"] == pytest.approx({"H": 1.0, "H_no_penalty": 0.0})
    assert found["test"] == pytest.approx({"U": 1.0, "S": 1.0, "H": 1.0})
    assert found["test_no_penalty"] == pytest.approx({"U": 0.0, "S": 1.0, "H": 0.0})
    other = point(right, [favoured, favoured])
    assert other["test"]["S"] == 0.0  # the folds' penalty, too large for these rows
    assert other["test_no_penalty"]["H"] == pytest.approx(1.0)


def test_length_and_shrinkage_come_from_the_folds() -> None:
    (row,) = rows_from(part(head=5.0, student=0.0), [part(head=0.0, student=0.0)] * 2, config())
    assert (row["epoch"], row["head"]) == (1, "lda/0.3")
    assert row["classifiers"]["served head"]["validation"]["H"] == pytest.approx(1.0)
    assert row["classifiers"]["served head"]["test"]["H"] < 0.9
    assert row["classifiers"][STUDENT]["test"]["H"] == pytest.approx(1.0)
    assert set(row["C_s by epoch"]) == {"1", "2"}


def test_table_has_mean_and_deviation_over_seeds() -> None:
    (row,) = rows_from(part(head=0.0, student=0.0), [part(head=0.0, student=0.0)] * 2, config())
    rows = [
        {**row, "data": "A", "seed": seed, "folds": 2, "commit": "1234567", "command": "python x"} for seed in (0, 1)
    ]
    rows[1] = {**rows[1], "classifiers": {**row["classifiers"], STUDENT: point(*_half())}}
    lines = [line for line in table(rows).splitlines() if line.startswith("| head's rows | C_s |")]
    assert lines[0].split("|")[3].strip() == "1.000 (0.000)"
    assert lines[0].split("|")[-2].strip() == "0.500 (0.707)"


def _half() -> tuple[FoldScores, list[FoldScores]]:
    right = scores(noise=0, bias=0, seed=0)
    return right, [right, right]
