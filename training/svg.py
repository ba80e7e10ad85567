"""Line and bar charts as inline SVG, every text in them escaped.

Colours are CSS classes that the page defines (`line0`.., `seen`, `unseen`), so they follow its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLES = 6  # classes line0..line5 that the page has to define
ROW = 18  # height of a bar with its gap
LABEL_GAP = 14


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


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within a range, about `count` of them.

    Args:
        low: start of the range.
        high: its end, above `low`.
        count: how many to aim for.
        whole: whole numbers only.
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number for an axis or a table: four significant digits, without trailing zeros."""
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            part = (math.log10(max(value, self.low)) - low) / (high - low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


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
    left, top, bottom = 52, 44, 36
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    x = _Scale(low=x_low, high=x_high, start=left, end=width - right)
    y_low, y_high, y_ticks = _log_axis(ys) if log else _axis(ys)
    y = _Scale(low=y_low, high=y_high, start=height - bottom, end=top, log=log)
    parts = [_text(0, 13, title, "title"), _text(0, top - 13, y_label, "axis")]
    for value in y_ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{x.end:.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(left - 6, y(value) + 4, number(value), "axis", anchor="end"))
    parts += [
        _text(x(value), height - bottom + 16, number(value), "axis", anchor="middle")
        for value in ticks(x_low, x_high, count=6, whole=True)
    ]
    parts.append(_text((left + x.end) / 2, height - 4, x_label, "axis", anchor="middle"))
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
    for (end, style, label, weight), at in zip(sorted(ends), _spread([e[0] for e in ends]), strict=True):
        parts.append(f'<path class="leader {style}" d="M{x.end + 5:.1f} {end:.1f}L{x.end + 16:.1f} {at:.1f}"/>')
        parts.append(_text(x.end + 19, at + 4, label, weight))
    return _svg(title, width, height, parts)


def bar_chart(title: str, bars: Sequence[Bar], *, style: str, mean: float | None, width: int = 460) -> str:
    """Horizontal bars of values 0..1, one a row.

    Args:
        title: read out and shown above the chart.
        bars: in the order to draw.
        style: CSS class of the bars.
        mean: drawn as a dashed vertical line; None draws none.
        width: pixels.
    """
    left = min(170.0, 14 + 6.6 * max(len(bar.label) for bar in bars))
    top = 40
    height = top + ROW * len(bars) + 4
    x = _Scale(low=0, high=1, start=left, end=width - 44)
    parts = [_text(0, 13, title, "title")]
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top - 4}" y2="{height - 4}"/>')
        parts.append(_text(x(value), top - 9, number(value), "axis", anchor="middle"))
    for place, bar in enumerate(bars):
        at = top + ROW * place
        other = "" if bar.other is None else f", C_s {bar.other:.3f}"
        shown = bar.label if len(bar.label) <= 24 else f"{bar.label[:23]}…"
        stroke = (
            ""
            if bar.other is None
            else f'<line class="other" x1="{x(bar.other):.1f}" x2="{x(bar.other):.1f}" y1="{at}" y2="{at + ROW - 4}"/>'
        )
        parts.append(
            f"<g><title>{escape(bar.label)}: {bar.value:.3f}{other}</title>"
            f'{_text(left - 6, at + 11, shown, "axis", anchor="end")}<rect class="{escape(style)}" x="{left:.1f}" '
            f'y="{at + 1}" width="{x(bar.value) - left:.1f}" height="{ROW - 6}"/>{stroke}'
            f"{_text(width - 4, at + 11, f'{bar.value:.3f}', 'axis', anchor='end')}</g>"
        )
    if mean is not None:
        parts.append(f'<line class="mark" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{top - 4}" y2="{height - 4}"/>')
    return _svg(title, width, height, parts)


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Lower end, upper end and ticks; both ends are ticks."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    inner = ticks(low, high, count=4)
    step = inner[1] - inner[0] if len(inner) > 1 else (high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    shown = [index * step for index in range(first, last + 1)]
    return shown[0], shown[-1], shown


def _log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    positive = [value for value in values if value > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    shown = [10.0**power for power in range(first, max(last, first + 1) + 1)]
    return shown[0], shown[-1], shown


def _spread(places: Sequence[float]) -> list[float]:
    """Ascending places, moved apart so that labels there do not overlap, about the same middle."""
    moved: list[float] = []
    for place in sorted(places):
        moved.append(max(place, moved[-1] + LABEL_GAP) if moved else place)
    shift = (sum(moved) - sum(places)) / len(moved) if moved else 0.0
    return [place - shift for place in moved]


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


def _text(x: float, y: float, text: str, style: str, *, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'
    )
