"""The charts of classes: bars of their accuracies, a heat map of their confusions, clouds of their embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.reporting.charts import BACK, DASHES, EDGE, FAINT, LINES, TEXT, Chart, Points, Range, add_legend, in_style

if TYPE_CHECKING:
    from matplotlib.path import Path

BAR = 18  # pixels from one bar to the next
CELLS, LARGEST, SMALLEST = 760.0, 30.0, 3.0  # pixels that a heat map's cells fill at most, and of a cell
READABLE, NUMBERED = 10.5, 26.0  # the smallest cells that a label fits beside and a number into
LETTERS = 22
CROSS = 2.6  # half the width of a synthetic row's cross


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a chart.

    Attributes:
        label: written before it.
        value: its length, 0..1.
        other: a second value, 0..1, drawn as a stroke across the bar; None draws none.
    """

    label: str
    value: float
    other: float | None = None


@in_style
def cloud_chart(
    title: str,
    *,
    behind: Points,
    real: Points,
    synthetic: Points,
    x_range: Range,
    y_range: Range,
    width: int = 235,
    height: int = 230,
) -> str:
    """Real rows as discs and synthetic rows as crosses, before faint dots of others.

    Args:
        title: read out and shown above the chart.
        behind: x and y of each faint dot.
        real: x and y of each disc.
        synthetic: x and y of each cross.
        x_range: lower and upper end of the axis.
        y_range: the same.
        width: pixels.
        height: pixels.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.ticker import MaxNLocator

    chart = Chart(title, width, height)
    axes = chart.axes(38, 26, 8, 24)
    box = axes.get_window_extent()
    across = [CROSS * (high - low) / side for (low, high), side in ((x_range, box.width), (y_range, box.height))]
    for points, kind in ((behind, "behind"), (real, "real"), (synthetic, "synthetic")):
        reach = across if kind == "synthetic" else [0.0, 0.0]
        if points:
            style = _POINTS[kind]
            drawn = axes.add_patch(
                PathPatch(_strokes(points, *reach), edgecolor=style["color"], linewidth=style["width"], fill=False)
            )
            drawn.set_capstyle("round")
            chart.says(drawn, kind, f"{kind}: {len(points)} rows")
    axes.set_xlim(*x_range)
    axes.set_ylim(*y_range)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(length=0, pad=3)
    return chart.svg()


def _strokes(points: Points, across: float, up: float) -> Path:
    """A cross at every point, or a dot where its arms have no length: one path, a fifth of the size of markers."""
    from matplotlib.path import Path

    ends = [
        end
        for x, y in points
        for sign in ((1, -1) if across else (1,))
        for end in ((x - across, y - sign * up), (x + across, y + sign * up))
    ]
    return Path(ends, [Path.MOVETO, Path.LINETO] * (len(ends) // 2))


_POINTS: Mapping[str, Mapping[str, Any]] = {
    "real": {"marker": "o", "markersize": 5, "color": LINES[0], "markeredgewidth": 0, "width": 5},
    "synthetic": {"marker": "x", "markersize": 5, "color": LINES[1], "markeredgewidth": 1.5, "width": 1.5},
    "behind": {"marker": "o", "markersize": 4, "color": EDGE, "markeredgewidth": 0, "width": 4},
}


@in_style
def cloud_legend(entries: Sequence[tuple[str, str]], width: int = 240) -> str:
    """What discs (`real`), crosses (`synthetic`) and dots (`behind`) are: kind and label of each, in a column."""
    from matplotlib.lines import Line2D

    chart = Chart("Legend: " + "; ".join(label for _, label in entries), width, 4 + 17 * len(entries))
    chart.figure.texts.clear()
    handles = [
        Line2D([], [], linestyle="", label=label, **{k: v for k, v in _POINTS[kind].items() if k != "width"})
        for kind, label in entries
    ]
    add_legend(chart, handles, columns=1, top=2)
    return chart.svg()


@in_style
def bar_chart(title: str, bars: Sequence[Bar], *, kind: str, mean: float | None, width: int = 460) -> str:
    """Horizontal bars of values 0..1, one a row.

    Args:
        title: read out and shown above the chart.
        bars: in the order to draw.
        kind: `seen` or `unseen`, which decides their colour.
        mean: drawn as a dashed vertical line; None draws none.
        width: pixels.
    """
    shown = [bar.label if len(bar.label) <= 24 else f"{bar.label[:23]}…" for bar in bars]
    top = 42
    chart = Chart(title, width, top + BAR * len(bars) + 6)
    axes = chart.axes(min(170.0, 16 + 6.6 * max(map(len, shown))), top, 44, 6)
    colour = {"seen": LINES[0], "unseen": LINES[1]}[kind]
    for bar, patch in zip(
        bars,
        axes.barh(range(len(bars)), [bar.value for bar in bars], height=0.68, color=colour, clip_on=False),
        strict=True,
    ):
        other = "" if bar.other is None else f", C_s {bar.other:.3f}"
        chart.says(patch, f"bar {kind}", f"{bar.label}: {bar.value:.3f}{other}")
    beside = 1 + 42 / axes.get_window_extent().width
    for place, bar in enumerate(bars):
        if bar.other is not None:
            stroke = [place - 0.42, place + 0.42]
            axes.plot([bar.other] * 2, stroke, color=TEXT, linewidth=2.5, solid_capstyle="butt", clip_on=False)
        axes.text(beside, place, f"{bar.value:.3f}", ha="right", va="center", color=FAINT)
    if mean is not None:
        axes.axvline(mean, color=TEXT, linewidth=1, linestyle=DASHES[4], alpha=0.7)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks(range(len(bars)), shown)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=True, axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return chart.svg()


@in_style
def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    shares: Mapping[tuple[int, int], float],
    *,
    x_label: str,
    y_label: str,
) -> str:
    """Shares 0..1 as squares, the darker the larger; large squares also hold their share in percent.

    Args:
        title: read out and shown above the chart.
        rows: labels from top to bottom.
        columns: labels from left to right.
        shares: by row and column; those left out are 0.
        x_label: above the columns.
        y_label: before the rows.
    """
    from matplotlib.patches import Rectangle

    cell = max(SMALLEST, min(LARGEST, CELLS / len(columns)))
    labelled = cell >= READABLE
    cell = math.floor(cell) if labelled else cell
    left = round(12 + (6.6 * min(LETTERS, max(map(len, rows))) if labelled else 16))
    top = round(48 + (6.2 * min(LETTERS, max(map(len, columns))) if labelled else 0))
    # Labels of columns lean to the right by 60 degrees, so the last one needs room beside the cells.
    right = round(max(60.0, 3.6 * min(LETTERS, len(columns[-1])))) if labelled else 4
    chart = Chart(title, left + cell * len(columns) + right, top + cell * len(rows) + 6)
    chart.text(0, 30, f"rows: {y_label}; columns: {x_label}", color=FAINT)
    axes = chart.axes(left, top, right, 6)
    for (row, column), share in shares.items():
        square = axes.add_patch(
            Rectangle((column, row), 1, 1, color=LINES[0], alpha=max(share, 0.02), linewidth=0, clip_on=False)
        )
        chart.says(square, "heat", f"{rows[row]} taken for {columns[column]}: {share:.1%}")
        if cell >= NUMBERED and share >= 0.005:
            colour = BACK if share > 0.8 else TEXT
            axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    if len(columns) > len(rows):  # what follows the square is set off
        axes.axvline(len(rows), color=TEXT, linewidth=1.5)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.spines[["top", "right"]].set_visible(True)
    size = min(11.0, 0.86 * cell)  # neighbouring labels do not touch
    for labels, set_ticks in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
        kept = labels if labelled else []
        set_ticks([place + 0.5 for place in range(len(kept))], [_short(label) for label in kept])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=size)
    for text in axes.get_xticklabels():
        text.set(rotation=60, ha="left", va="bottom", rotation_mode="anchor")
    return chart.svg()


@in_style
def heat_scale() -> str:
    """The legend of a heat map: five shares and their squares."""
    from matplotlib.patches import Rectangle

    chart = Chart("Legend: share of a row", 340, 20)
    chart.figure.texts.clear()
    axes = chart.axes(0, 1, 0, 1)
    axes.set_xlim(0, 340)
    axes.set_ylim(0, 18)
    axes.set_axis_off()
    for place, share in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        axes.add_patch(Rectangle((2 + 66 * place, 2), 18, 14, color=LINES[0], alpha=share, linewidth=0))
        axes.add_patch(Rectangle((2 + 66 * place, 2), 18, 14, fill=False, edgecolor=EDGE, linewidth=1))
        axes.text(25 + 66 * place, 9, f"{share:.0%}", va="center", color=FAINT)
    return chart.svg()


def _short(label: str) -> str:
    return label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
