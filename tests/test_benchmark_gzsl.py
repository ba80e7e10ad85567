"""What the table of generators says of chance: a bootstrap over test classes against a plain one."""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

path = sys.path[0]
from benchmarks.class_bootstrap import difference_of_h  # noqa: E402
from benchmarks.gzsl_table import against_baselines, over_resplits  # noqa: E402
from benchmarks.resplit import write_resplit  # noqa: E402

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


def test_a_resplit_hides_other_classes_and_gives_every_row_one_use(tmp_path: Path) -> None:
    labels, attributes = np.repeat(np.arange(1, 7), 10), np.arange(12.0).reshape(2, 6)
    source, drawn = tmp_path / "set", tmp_path / "drawn"
    source.mkdir()
    savemat(source / "res101.mat", {"features": np.zeros((3, 60)), "labels": labels[:, None]})
    unseen = np.flatnonzero(labels > 4) + 1
    savemat(source / "att_splits.mat", {"att": attributes, "test_unseen_loc": unseen[:, None]})
    write_resplit(source, drawn, 1)
    split = loadmat(drawn / "att_splits.mat")
    rows = {key: split[key].ravel() for key in ("trainval_loc", "test_seen_loc", "test_unseen_loc")}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(1, 61))
    classes = {key: {int(label) for label in labels[index - 1]} for key, index in rows.items()}
    assert len(classes["test_unseen_loc"]) == 2
    assert classes["test_unseen_loc"] != {5, 6}
    assert classes["trainval_loc"] == classes["test_seen_loc"] == set(range(1, 7)) - classes["test_unseen_loc"]
    assert len(rows["test_seen_loc"]) == 8  # a fifth of each class
    assert (split["att"] == attributes).all()
    assert (loadmat(drawn / "res101.mat")["labels"].ravel() == labels).all()


def test_draws_are_averaged_and_compared_in_pairs() -> None:
    def of(data: str, generator: str, score: float, **more: Any) -> dict[str, Any]:
        variant = "+D3" if more else "no learning"
        return {"data": data, "generator": generator, "variant": variant, "U": 0.5, "S": 0.5, "H": score, **more}

    rows = [
        of("A-resplit-1", "ridge + LDA", 0.5),
        of("A-resplit-2", "ridge + LDA", 0.7),
        of("A-resplit-1", "cpu-wgan", 0.6, student={}, novelty_auroc=0.8),
        of("A-resplit-2", "cpu-wgan", 0.9, student={}, novelty_auroc=0.6),
        of("A", "cpu-wgan", 0.1, student={}),  # the set's own split
    ]
    assert over_resplits(rows) == [
        "## A, other classes unseen",
        "",
        "| generator, variant | draws | U | S | H | H less that of ridge + LDA | AUROC of novelty |",
        "|---|---|---|---|---|---|---|",
        "| ridge + LDA, no learning | 2 | 0.500 (se 0.000) | 0.500 (se 0.000) | 0.600 (se 0.100) | - | - |",
        "| cpu-wgan, +D3 | 2 | 0.500 (se 0.000) | 0.500 (se 0.000) | 0.750 (se 0.150) | +0.150 (se 0.050) | "
        "0.700 (se 0.100) |",
        "",
    ]
