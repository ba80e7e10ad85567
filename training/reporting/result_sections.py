"""The sections of a report on the test rows: trade-off, teacher's scores, confusions, embeddings, each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from training.method.heads import LDA
from training.reporting.charts import Line, Mark, curve_chart
from training.reporting.class_charts import Bar, bar_chart, cloud_chart, cloud_legend, heat_map, heat_scale
from training.reporting.page import Fields, charts, paragraph, section, table
from training.selection.fold_scores import STUDENT

SEEN_COLUMN = "a seen class"
LISTED = 12  # confusions in the table
UNFOLDED = 40  # bars of a kind that are shown at once
WORST = 20  # bars that are shown of more than that
SCORES = {"test_seen": "seen, test", "synthetic_unseen": "unseen, synthetic", "test_unseen": "unseen, test"}


def trade_off(curves: Fields, *, selects: bool) -> str:
    """U against S over all penalties, and the teacher's scores, side by side.

    Args:
        curves: of `curves.json`.
        selects: whether the test results chose the penalty.
    """
    use = "" if selects else ", there to judge the choice and never used for it"
    return section(
        "Seen against unseen",
        paragraph(
            "Left: U and S of both classifiers for every penalty on the seen classes; the disc is the chosen penalty, "
            f"the ring the largest H on the test images{use}. Right: the teacher's score, by which seen and unseen "
            "images are told apart; synthetic rows should lie where test images of unseen classes do."
        ),
        charts(_trade_off(curves["trade_off"]), _densities(curves["teacher_scores"])),
    )


def _trade_off(found: Fields) -> str:
    lines, marks = [], []
    for place, (name, curve) in enumerate(found.items()):
        title = "C_s" if name == STUDENT else "served head"
        lines.append(Line(label=title, points=list(zip(curve["U"], curve["S"], strict=True)), strong=name != STUDENT))
        for key, label, filled in (("chosen", "chosen", True), ("best", "largest", False)):
            point = curve[key]
            said = f"{label}, H {point['H']:.3f}"
            marks.append(
                Mark(label=said, title=f"{title}, {said}", x=point["U"], y=point["S"], line=place, filled=filled)
            )
    return curve_chart(
        "Trade-off",
        lines,
        marks=marks,
        x_range=(0, _above(max(x for line in lines for x, _ in line.points))),
        y_range=(0, _above(max(y for line in lines for _, y in line.points))),
        x_label="U, accuracy of unseen classes",
        y_label="S, accuracy of seen classes",
    )


def _densities(found: Fields) -> str:
    edges = found["edges"]
    lines = []
    for name, title in SCORES.items():
        shares = found["shares"][name]
        steps = [(edge, share) for place, share in enumerate(shares) for edge in edges[place : place + 2]]
        points = [(edges[0], 0.0), *steps, (edges[-1], 0.0)]
        lines.append(Line(label=title, points=points))
    highest = max(y for line in lines for _, y in line.points)
    return curve_chart(
        "Teacher's score e",
        lines,
        x_range=(edges[0], edges[-1]),
        y_range=(0, highest * 1.02),
        x_label="largest log-probability among seen classes",
        y_label=f"share of rows in each of {len(edges) - 1} bins",
        height=330,
    )


def _above(value: float) -> float:
    """The next tenth, at least 0.1 and at most 1."""
    return min(1.0, (int(value * 10 + 1e-9) + 1) / 10)


def confusion(curves: Fields) -> str:
    """What test images of unseen classes are taken for by the served head."""
    found = curves["confusion"]
    classes, counts = found["classes"], found["counts"]
    totals = Counter[int]()
    for row, _, count in counts:
        totals[row] += count
    kept = [place for place in range(len(classes)) if totals[place]]
    row_of = {place: row for row, place in enumerate(kept)}
    column_of = {place: column for column, place in enumerate([*kept, *sorted(set(range(len(classes))) - set(kept))])}
    columns = [*(classes[place] for place in column_of), SEEN_COLUMN]
    shares = {(row_of[row], column_of.get(column, len(classes))): count / totals[row] for row, column, count in counts}
    wrong = sorted(((share, cell) for cell, share in shares.items() if cell[0] != cell[1]), reverse=True)[:LISTED]
    rows = [(columns[row], columns[column], f"{share:.1%}") for share, (row, column) in wrong]
    to_seen = sum(share for (_, column), share in shares.items() if column == len(classes)) / len(kept)
    return section(
        "Confusion of the unseen classes",
        paragraph(
            f"Share of each unseen class's test images that the served head takes for each unseen class or for "
            f"{SEEN_COLUMN} (the last column: {to_seen:.1%} on average)."
        ),
        heat_scale(),
        '<div class="wide">',
        heat_map(
            "What unseen classes are taken for",
            [classes[place] for place in kept],
            columns,
            shares,
            x_label="taken for",
            y_label="the class",
        ),
        "</div>",
        f"<details><summary>The {len(rows)} largest confusions</summary>",
        table(("class", "taken for", "share of its images"), rows, style="pairs"),
        "</details>",
    )


def plane(curves: Fields) -> str:
    """Real and synthetic embeddings of some unseen classes in two dimensions, one chart a class."""
    found = curves["plane"]
    classes: Sequence[Fields] = found["classes"]
    first, second = found["variance_shares"]
    everything = [point for entry in classes for kind in ("real", "synthetic") for point in entry[kind]]
    ranges = [_padded([point[axis] for point in everything]) for axis in (0, 1)]
    drawn = [
        cloud_chart(
            entry["id"],
            behind=[point for other in classes if other is not entry for point in other["real"]],
            real=entry["real"],
            synthetic=entry["synthetic"],
            x_range=ranges[0],
            y_range=ranges[1],
        )
        for entry in classes
    ]
    return section(
        "Real against synthetic features",
        paragraph(
            f"E_s of {len(classes)} unseen classes, spread from the least to the most accurate, on the first two "
            f"principal axes of real seen training rows ({first:.0%} and {second:.0%} of their variance; the same axes "
            "in every chart). Crosses should lie among the discs of their class and spread as widely; what two axes do "
            "not show may still differ."
        ),
        cloud_legend(
            [
                ("real", "real test images of the class"),
                ("synthetic", "synthetic rows of the class"),
                ("behind", "real images of the other classes"),
            ]
        ),
        charts(*drawn),
    )


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def per_class(metrics: Fields) -> str:
    """A bar for each class with test rows, worst first; long lists are folded."""
    of_head = metrics[LDA]
    served, student = of_head["per_class"], metrics[STUDENT]["per_class"]
    bars = [
        Bar(label=name, value=served[name], other=student.get(name)) for name in sorted(served, key=served.__getitem__)
    ]
    of_unseen = set(metrics["unseen_classes"])
    groups = (
        ("Unseen classes", [bar for bar in bars if bar.label in of_unseen], "unseen", of_head["U"]),
        ("Seen classes", [bar for bar in bars if bar.label not in of_unseen], "seen", of_head["S"]),
    )
    shown, folded = [], []
    for title, of_kind, kind, mean in groups:
        if not of_kind:
            continue
        chart, *rest = _bars(title, of_kind, kind, mean)
        shown.append(chart)
        folded += rest
    said = (
        "Top-1 among all classes, worst first. Bar: served head; black or white stroke: C_s. Dashed line: mean of the "
        "served head."
    )
    return section("Accuracy per class", paragraph(said), charts(*shown), *folded)


def _bars(title: str, bars: Sequence[Bar], kind: str, mean: float) -> list[str]:
    """The chart of a kind of classes; where there are many, of the worst, and a second one of all, folded."""
    if len(bars) <= UNFOLDED:
        return [bar_chart(title, bars, kind=kind, mean=mean)]
    half = -(-len(bars) // 2)
    columns = [
        bar_chart(f"{title}, {1 + start} to {start + len(part)}", part, kind=kind, mean=mean)
        for start, part in ((0, bars[:half]), (half, bars[half:]))
    ]
    return [
        bar_chart(f"{title}: the {WORST} worst of {len(bars)}", bars[:WORST], kind=kind, mean=mean),
        f"<details><summary>{title}: all {len(bars)}</summary>{charts(*columns)}</details>",
    ]
