"""Line charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from training.reporting.svg import Scale, axis, grid, log_axis, number, spread, svg, text, ticks

STYLES = 6  # classes line0..line5 that the page has to define


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart.

    Attributes:
        label: written at its right end; empty writes none.
        points: x and y, ascending in x; points that are not finite are left out.
        strong: drawn thicker.
    """

    label: str
    points: Sequence[tuple[float, float]]
    strong: bool = False


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    width: int = 420,
    height: int = 220,
    log: bool = False,
    marked_x: float | None = None,
    marked_y: tuple[float, str] | None = None,
) -> str:
    """Lines over whole-numbered x, such as epochs.

    Args:
        title: read out and shown above the chart.
        lines: at least one point in all.
        x_label: below the axis.
        y_label: above the axis.
        width: pixels.
        height: pixels.
        log: logarithmic y axis in powers of ten; values that have no logarithm are drawn at its lower end.
        marked_x: drawn as a dashed vertical line.
        marked_y: value and label of a dashed horizontal line.
    """
    kept = [
        (place, line, [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)])
        for place, line in enumerate(lines)
    ]
    kept = [entry for entry in kept if entry[2]]
    if not kept:
        return f'<p class="note">{escape(title)}: no finite value to draw.</p>'
    xs = [x for _, _, points in kept for x, _ in points]
    ys = [y for _, _, points in kept for _, y in points] + ([marked_y[0]] if marked_y else [])
    labels = [line.label for _, line, _ in kept] + ([marked_y[1]] if marked_y else [])
    right = 12 + max(6.4 * len(label) + 22 if label else 0 for label in labels)
    y_low, y_high, y_ticks = log_axis(ys) if log else axis(ys)
    left, top, bottom = max(52.0, 14 + 6.4 * max(len(number(value)) for value in y_ticks)), 44, 36
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    x = Scale(low=x_low, high=x_high, start=left, end=width - right)
    y = Scale(low=y_low, high=y_high, start=height - bottom, end=top, log=log)
    x_ticks = ticks(x_low, x_high, count=6, whole=True)
    parts = [text(0, 13, title, "title"), *grid(x, y, x_ticks, y_ticks, x_label, y_label)]
    if marked_x is not None:
        parts.append(f'<line class="mark" x1="{x(marked_x):.1f}" x2="{x(marked_x):.1f}" y1="{top}" y2="{y.start}"/>')
    if marked_y is not None:
        at = y(marked_y[0])
        parts.append(f'<line class="mark" x1="{left}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
    for place, line, points in kept:
        parts.append(_drawn(line, f"line{place % STYLES}", [(x(a), y(b)) for a, b in points], points))
    ends = [
        (y(points[-1][1]), f"line{place % STYLES}", line.label, "strong" if line.strong else "axis")
        for place, line, points in kept
        if line.label
    ] + ([(y(marked_y[0]), "mark", marked_y[1], "axis")] if marked_y else [])
    for (end, style, label, weight), at in zip(sorted(ends), spread([e[0] for e in ends]), strict=True):
        parts.append(f'<path class="leader {style}" d="M{x.end + 5:.1f} {end:.1f}L{x.end + 16:.1f} {at:.1f}"/>')
        parts.append(text(x.end + 19, at + 4, label, weight))
    return svg(title, width, height, parts)


def _drawn(line: Line, style: str, pixels: Sequence[tuple[float, float]], values: Sequence[tuple[float, float]]) -> str:
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in pixels)
    strong = " thick" if line.strong else ""
    dots = (
        "".join(
            f'<circle class="{style}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"><title>{escape(line.label)} '
            f"{number(value[0])}: {number(value[1])}</title></circle>"
            for (a, b), value in zip(pixels, values, strict=True)
        )
        if len(pixels) <= 30
        else ""
    )
    return f'<path class="{style}{strong}" d="M{path}"/>{dots}'
