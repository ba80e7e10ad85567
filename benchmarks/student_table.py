"""The rows of benchmarks/student.py as a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.rows import Row

COLUMNS: dict[str, Callable[[Row], float]] = {
    "validation H": lambda found: found["validation"]["H"],
    "validation H, no penalty": lambda found: found["validation"]["H_no_penalty"],
    "test U": lambda found: found["test"]["U"],
    "test S": lambda found: found["test"]["S"],
    "test H": lambda found: found["test"]["H"],
    "test H, no penalty": lambda found: found["test_no_penalty"]["H"],
}


def table(rows: list[Row]) -> str:
    """Mean (sample standard deviation) over seeds for each set, variant and classifier."""
    lines = [
        "# The student's own classifier C_s",
        "",
        "C_s by how it starts: at random, as published, or from the rows of an `lda` head on the starting embeddings.",
        "Beside it the field's usual classifier, a softmax on real features of seen and synthesised ones of unseen",
        "classes, and the served head. Length, shrinkage and penalties are those with the best mean H on the folds;",
        "test rows select nothing. Mean (sample standard deviation) over seeds.",
        "",
        *dict.fromkeys(f"    {row['command']}" for row in rows),
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == data]
        seeds = sorted({row["seed"] for row in of_data})
        commits = ", ".join(dict.fromkeys(str(row["commit"]) for row in of_data))
        folds = of_data[0]["folds"]
        lines += [f"## {data}", "", f"Seeds {', '.join(map(str, seeds))}; {folds} folds; commit {commits}.", ""]
        lines += ["| start of C_s | classifier | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
        for variant in dict.fromkeys(row["variant"] for row in of_data):
            group = [row for row in of_data if row["variant"] == variant]
            lines += [line(variant, name, group) for name in group[0]["classifiers"]]
        lines.append("")
    return "\n".join(lines)


def line(variant: str, name: str, group: list[Row]) -> str:
    """One classifier of one variant."""
    cells = [spread([value(row["classifiers"][name]) for row in group]) for value in COLUMNS.values()]
    return f"| {variant} | {name} | " + " | ".join(cells) + " |"


def spread(numbers: list[float]) -> str:
    """Mean, and deviation where there are several."""
    deviation = f" ({statistics.stdev(numbers):.3f})" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.3f}{deviation}"
