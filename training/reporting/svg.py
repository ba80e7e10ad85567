"""What charts are made of: scales, round ticks, text and the frame, as inline SVG with every text escaped.

Colours are CSS classes that the page defines (`line0`.., `seen`, `unseen`), so they follow its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LABEL_GAP = 14


def ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within a range, about `count` of them.

    Args:
        low: start of the range.
        high: its end, above `low`.
        count: how many to aim for.
        whole: whole numbers only.
    """
    step = round_step((high - low) / count)
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def round_step(rough: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is at least `rough`, which is above 0."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def number(value: float) -> str:
    """A number for an axis or a table: four significant digits, without trailing zeros."""
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values to pixels, linearly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            part = (math.log10(max(value, self.low)) - low) / (high - low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Lower end, upper end and ticks of a linear axis over some values; both ends are ticks."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    step = round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    shown = [index * step for index in range(first, last + 1)]
    return shown[0], shown[-1], shown


def log_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The same of a logarithmic axis in powers of ten."""
    positive = [value for value in values if value > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    shown = [10.0**power for power in range(first, max(last, first + 1) + 1)]
    return shown[0], shown[-1], shown


def spread(places: Sequence[float]) -> list[float]:
    """Ascending places, moved apart so that labels there do not overlap, about the same middle."""
    moved: list[float] = []
    for place in sorted(places):
        moved.append(max(place, moved[-1] + LABEL_GAP) if moved else place)
    shift = (sum(moved) - sum(places)) / len(moved) if moved else 0.0
    return [place - shift for place in moved]


def text(x: float, y: float, said: str, style: str, *, anchor: str = "start") -> str:
    """Text at a place, with a CSS class."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def grid(
    x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str
) -> list[str]:
    """Horizontal grid lines, numbers on both axes and what they are; y runs upwards from its start."""
    parts = [text(0, y.end - 13, y_label, "axis")]
    for value in y_ticks:
        at = y(value)
        parts.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(x.start - 6, at + 4, number(value), "axis", anchor="end"))
    parts += [text(x(value), y.start + 16, number(value), "axis", anchor="middle") for value in x_ticks]
    return [*parts, text((x.start + x.end) / 2, y.start + 32, x_label, "axis", anchor="middle")]


def svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A chart of the given size in pixels, read out as its title."""
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>'
    )
