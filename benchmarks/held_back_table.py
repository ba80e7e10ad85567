"""The rows of benchmarks/held_back.py as a table."""

from __future__ import annotations

import statistics
from typing import Any

HEADS = ("lda", "softmax")
SCORES = ("U", "S", "H")
COLUMNS = (
    *("set", "head", "seeds", "known: U", "S", "H", "registered: U", "S", "H"),
    *("difference of H", "H on validation", "chosen"),
)
Row = dict[str, Any]


def difference(head: str, row: Row) -> str:
    knew, later = row["knew"][head]["H"], row["registered"][head]["H"]
    return f"{head} H {knew:.3f}, registered {later:.3f}"


def table(rows: list[Row], command: str) -> str:
    """Means over seeds per set and head, and the paired difference with its standard error; then every row."""
    lines = [
        "# Classes held back and registered, against the run that knew them",
        "",
        "A third of the unseen classes is held back from training and registered over HTTP afterwards. U, S and H of",
        "all test rows, in points; protocol `validation`; means over seeds. Difference: registered less known, paired,",
        "with its standard error. Chosen: how often validation chose this head for the run that knew all classes.",
        "",
        "    " + command,
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        some = [row for row in rows if row["data"] == data]
        for head in HEADS:
            means = [
                f"{100 * statistics.fmean(row[label][head][name] for row in some):.2f}"
                for label in ("knew", "registered")
                for name in SCORES
            ]
            paired = [100 * (row["registered"][head]["H"] - row["knew"][head]["H"]) for row in some]
            error = f" ± {statistics.stdev(paired) / len(paired) ** 0.5:.2f}" if len(paired) > 1 else ""
            validation = 100 * statistics.fmean(row["knew"][head]["validation_H"] for row in some)
            times = sum(row["knew"]["served"] == head for row in some)
            cells = [data, head, str(len(some)), *means, f"{statistics.fmean(paired):+.2f}{error}"]
            lines.append("| " + " | ".join([*cells, f"{validation:.2f}", f"{times} of {len(some)}"]) + " |")
    lines += [
        "",
        "| set | seed | head | known H | registered H | choice | held back | test rows | commit |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        for head in HEADS:
            h = [f"{100 * row[label][head]['H']:.2f}" for label in ("knew", "registered")]
            rest = [row["knew"][head]["choice"], str(len(row["held_back"])), str(row["test_rows"]), str(row["commit"])]
            lines.append("| " + " | ".join([row["data"], str(row["seed"]), head, *h, *rest]) + " |")
    return "\n".join(lines) + "\n"
