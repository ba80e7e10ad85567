"""The part of a report that draws the accuracy of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.reporting.page import charts, paragraph, section
from training.reporting.svg_bars import Bar, bar_chart

UNFOLDED = 40  # bars of a kind that are shown at once
WORST = 20  # bars that are shown of more than that
Fields = Mapping[str, Any]


def per_class(metrics: Fields) -> str:
    """A bar for each class with test rows, worst first; long lists are folded."""
    of_head = metrics[metrics.get("served", "lda")]
    served, student = of_head["per_class"], metrics["student"]["per_class"]
    unseen = metrics.get("unseen_classes")
    bars = [
        Bar(label=name, value=served[name], other=student.get(name)) for name in sorted(served, key=served.__getitem__)
    ]
    heading = "Accuracy per class"
    text = "Top-1 among all classes, worst first. Bar: served head; black or white stroke: C_s."
    if unseen is None:  # written before metrics.json told the kinds of its classes
        note = "metrics.json does not say which classes are unseen; evaluate the run again to see it."
        return section(heading, paragraph(text), paragraph(note, "note"), *_group("All classes", bars, "unknown", None))
    of_unseen = set(unseen)
    groups = (
        ("Unseen classes", [bar for bar in bars if bar.label in of_unseen], "unseen", of_head["U"]),
        ("Seen classes", [bar for bar in bars if bar.label not in of_unseen], "seen", of_head["S"]),
    )
    shown, folded = [], []
    for title, of_kind, style, mean in groups:
        if not of_kind:
            continue
        chart, *rest = _group(title, of_kind, style, mean)
        shown.append(chart)
        folded += rest
    return section(heading, paragraph(f"{text} Dashed line: mean of the served head."), charts(*shown), *folded)


def _group(title: str, bars: Sequence[Bar], style: str, mean: float | None) -> list[str]:
    """The chart of a kind of classes; where there are many, of the worst, and a second one of all, folded."""
    if len(bars) <= UNFOLDED:
        return [bar_chart(title, bars, style=style, mean=mean)]
    half = -(-len(bars) // 2)
    columns = [
        bar_chart(f"{title}, {1 + start} to {start + len(part)}", part, style=style, mean=mean)
        for start, part in ((0, bars[:half]), (half, bars[half:]))
    ]
    return [
        bar_chart(f"{title}: the {WORST} worst of {len(bars)}", bars[:WORST], style=style, mean=mean),
        f"<details><summary>{title}: all {len(bars)}</summary>{charts(*columns)}</details>",
    ]
