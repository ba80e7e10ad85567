"""Charts whose two axes are both measured: curves and steps with a legend, and clouds of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from training.reporting.svg import Scale, grid, number, svg, text, ticks
from training.reporting.svg_lines import STYLES, Line

LETTER = 6.1  # pixels, about, of a letter in a legend
CROSS = 2.6  # half the width of a synthetic row's cross
Points = Sequence[Sequence[float]]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point set off in a chart.

    Attributes:
        label: what it is, in the legend after its line.
        title: what it is, read out.
        x: its place.
        y: its place.
        line: which line it belongs to, from 0.
        filled: a disc rather than a ring.
    """

    label: str
    title: str
    x: float
    y: float
    line: int
    filled: bool


def curve_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_range: Range,
    y_range: Range,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    width: int = 440,
    height: int = 330,
) -> str:
    """Curves with a legend above them.

    Args:
        title: read out and shown above the chart.
        lines: points in the order to connect them.
        x_range: lower and upper end of the axis.
        y_range: the same.
        x_label: below the axis.
        y_label: above the axis.
        marks: drawn over the lines.
        width: pixels.
        height: pixels without the legend.
    """
    entries = []
    for place, line in enumerate(lines):
        entries.append((_swatch(place, line.strong), line.label))
        entries += [(_mark(mark, 14, 0), mark.label) for mark in marks if mark.line == place]
    legend, used = _legend(entries, width)
    left, top, bottom = 52, 50 + used, 36
    x = Scale(low=x_range[0], high=x_range[1], start=left, end=width - 14)
    y = Scale(low=y_range[0], high=y_range[1], start=height + used - bottom, end=top)
    parts = [text(0, 13, title, "title"), *legend]
    parts += grid(x, y, ticks(*x_range), ticks(*y_range), x_label, y_label)
    for place, line in enumerate(lines):
        path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
        parts.append(
            f'<path class="{_style(place)}{" thick" if line.strong else ""}" d="M{path}">'
            f"<title>{escape(line.label)}</title></path>"
        )
    parts += [_mark(mark, x(mark.x), y(mark.y)) for mark in sorted(marks, key=lambda mark: mark.filled)]
    return svg(title, width, height + used, parts)


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
    x = Scale(low=x_range[0], high=x_range[1], start=34, end=width - 6)
    y = Scale(low=y_range[0], high=y_range[1], start=height - 24, end=26)
    shown = title if len(title) * 7 < width else f"{title[: width // 7 - 1]}…"
    frame = (
        f'<rect class="frame" x="{x.start:.1f}" y="{y.end:.1f}" width="{x.end - x.start:.1f}" '
        f'height="{y.start - y.end:.1f}"/>'
    )
    parts = [text(0, 13, shown, "title"), frame]
    parts += [text(x(v), y.start + 15, number(v), "axis", anchor="middle") for v in ticks(*x_range, count=4)]
    parts += [text(x.start - 5, y(v) + 4, number(v), "axis", anchor="end") for v in ticks(*y_range, count=4)]
    for style, points in (("behind", behind), ("real", real)):
        parts.append(f'<path class="{style}" d="{"".join(f"M{x(a):.1f} {y(b):.1f}h0" for a, b in points)}"/>')
    crosses = "".join(
        f"M{x(a) - CROSS:.1f} {y(b) - CROSS:.1f}l{2 * CROSS:.1f} {2 * CROSS:.1f}m0 {-2 * CROSS:.1f}"
        f"l{-2 * CROSS:.1f} {2 * CROSS:.1f}"
        for a, b in synthetic
    )
    parts.append(f'<path class="synthetic" d="{crosses}"/>')
    return svg(title, width, height, parts)


def cloud_legend(entries: Sequence[tuple[str, str]], width: int) -> str:
    """What discs (`real`), crosses (`synthetic`) and dots (`behind`) are: CSS class and label of each."""
    drawn = {
        "real": '<path class="real" d="M14 0h0"/>',
        "behind": '<path class="behind" d="M14 0h0"/>',
        "synthetic": f'<path class="synthetic" d="M{14 - CROSS} {-CROSS}l{2 * CROSS} {2 * CROSS}m0 {-2 * CROSS}'
        f'l{-2 * CROSS} {2 * CROSS}"/>',
    }
    parts, used = _legend([(drawn[style], label) for style, label in entries], width, top=6)
    return svg("Legend: " + "; ".join(label for _, label in entries), width, used + 4, parts)


def _legend(entries: Sequence[tuple[str, str]], width: int, *, top: float = 30) -> tuple[list[str], int]:
    """Drawn samples (about 28 pixels wide, about y = 0) with their labels in rows, and the height of all rows."""
    parts, x, row = [], 0.0, 0
    for sample, label in entries:
        wide = 34 + LETTER * len(label) + 14
        if x > 0 and x + wide > width:
            x, row = 0.0, row + 1
        at = top + 17 * row
        parts.append(f'<g transform="translate({x:.1f} {at:.1f})">{sample}{text(34, 4, label, "axis")}</g>')
        x += wide
    return parts, 17 * (row + 1)


def _style(place: int) -> str:
    return f"line{place % STYLES}"


def _swatch(place: int, strong: bool) -> str:
    return f'<path class="{_style(place)}{" thick" if strong else ""}" d="M0 0h28"/>'


def _mark(mark: Mark, x: float, y: float) -> str:
    kind, radius = ("disc", 4) if mark.filled else ("ring", 6)  # a disc in a ring still shows both
    return (
        f'<circle class="{kind} {_style(mark.line)}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
        f"<title>{escape(mark.title)}: {number(mark.x)}, {number(mark.y)}</title></circle>"
    )
