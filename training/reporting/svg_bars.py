"""Bar charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from training.reporting.svg import Scale, number, svg, text

ROW = 18  # height of a bar with its gap


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
    x = Scale(low=0, high=1, start=left, end=width - 44)
    parts = [text(0, 13, title, "title")]
    for value in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{top - 4}" y2="{height - 4}"/>')
        parts.append(text(x(value), top - 9, number(value), "axis", anchor="middle"))
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
            f'{text(left - 6, at + 11, shown, "axis", anchor="end")}<rect class="{escape(style)}" x="{left:.1f}" '
            f'y="{at + 1}" width="{x(bar.value) - left:.1f}" height="{ROW - 6}"/>{stroke}'
            f"{text(width - 4, at + 11, f'{bar.value:.3f}', 'axis', anchor='end')}</g>"
        )
    if mean is not None:
        parts.append(f'<line class="mark" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{top - 4}" y2="{height - 4}"/>')
    return svg(title, width, height, parts)
