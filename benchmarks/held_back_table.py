"""The rows of benchmarks/held_back.py as a table."""

from __future__ import annotations

import statistics
from typing import Any

SCORES = ("U", "S", "H")
COLUMNS = (
    *("set", "seeds", "known: U", "S", "H", "registered: U", "S", "H"),
    *("difference of H", "H on validation"),
)
Row = dict[str, Any]


def difference(row: Row) -> str:
    return f"H {row['knew']['H']:.3f}, registered {row['registered']['H']:.3f}"


def table(rows: list[Row], command: str) -> str:
    """Means over seeds per set, and the paired difference with its standard error; then every row."""
    lines = [
        "# Classes held back and registered, against the run that knew them",
        "",
        "A third of the unseen classes is held back from training and registered over HTTP afterwards. U, S and H of",
        "all test rows, in points; protocol `validation`; means over seeds. Difference: registered less known, paired,",
        "with its standard error.",
        "",
        "    " + command,
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        some = [row for row in rows if row["data"] == data]
        means = [
            f"{100 * statistics.fmean(row[label][name] for row in some):.2f}"
            for label in ("knew", "registered")
            for name in SCORES
        ]
        paired = [100 * (row["registered"]["H"] - row["knew"]["H"]) for row in some]
        error = f" ± {statistics.stdev(paired) / len(paired) ** 0.5:.2f}" if len(paired) > 1 else ""
        validation = 100 * statistics.fmean(row["knew"]["validation_H"] for row in some)
        cells = [data, str(len(some)), *means, f"{statistics.fmean(paired):+.2f}{error}", f"{validation:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| set | seed | known H | registered H | choice | held back | test rows | commit |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        h = [f"{100 * row[label]['H']:.2f}" for label in ("knew", "registered")]
        rest = [row["knew"]["choice"], str(len(row["held_back"])), str(row["test_rows"]), str(row["commit"])]
        lines.append("| " + " | ".join([row["data"], str(row["seed"]), *h, *rest]) + " |")
    return "\n".join(lines) + "\n"
