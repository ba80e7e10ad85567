"""benchmarks/training.py at sizes of a moment: both forms of every case run, and compute the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.outer_step import generated
from benchmarks.timing import compare
from benchmarks.training import KINDS, NO_GPU, cases, write
from benchmarks.training_cases import Sizes

CPU = torch.device("cpu")
TINY = Sizes(
    features=12,
    hidden=16,
    attributes=5,
    seen=6,
    unseen=3,
    batch=16,
    synthetic_per_class=2,
    comparator_batch=8,
    comparator_hidden=10,
    comparator_attributes=4,
    comparator_plain_rows=4,
    outer_steps=2,
    rows=60,
)


@pytest.mark.parametrize("kind", KINDS)
def test_both_forms_agree(kind: str) -> None:
    torch.manual_seed(0)
    rows = [compare(case, repeats=2, device=CPU) for case in cases(TINY, CPU, [kind])]
    assert rows
    for row in rows:
        assert row["relative_difference"] < 1e-4
        assert row["ratio_lowest"] <= row["ratio_highest"]
        assert row["plain_s"] > 0


def test_forms_that_differ_are_no_measurement() -> None:
    case = next(cases(TINY, CPU, ["critic"]))
    with pytest.raises(RuntimeError, match=r"the forms differ, plain 1\.0 and fast 1\.1"):
        compare(replace(case, values=lambda: (1.0, 1.1)), repeats=1, device=CPU)


def test_a_part_of_the_plain_form_counts_as_the_whole() -> None:
    case = next(cases(TINY, CPU, ["comparator"]))
    assert case.scale == 2
    assert case.note.startswith("plain: 4 of 8 rows measured")


def test_report(tmp_path: Path) -> None:
    rows = [compare(case, repeats=1, device=CPU) for case in cases(TINY, CPU, ["critic"])]
    machine = {"cpu": "a machine", "gpu": None, "threads": 1, "load": 0.5, "torch": "2"}
    write({"command": "python x", "commit": "c", "machine": machine, "rows": rows, "awa2": NO_GPU}, tmp_path / "r")
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == rows
    text = (tmp_path / "r.md").read_text()
    assert "critic step" in text
    assert text.endswith("100 epochs): not run: no GPU.\n")


def test_generated_rows_are_scaled_and_of_seen_classes() -> None:
    task = generated(rows=50, features=7, attributes=4, seen=5, unseen=2, device=CPU)
    assert task.features.shape == (50, 7)
    assert 0 <= float(task.features.min()) < float(task.features.max()) == 1
    assert task.unseen_index.tolist() == [5, 6]
