"""Heat maps of shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from training.reporting.svg import svg, text

SIDE = 800.0  # pixels that the cells fill, at most
LARGEST, SMALLEST = 30.0, 3.0  # a cell
READABLE = 10.5  # the smallest cell that a label fits beside
NUMBERED = 26.0  # the smallest cell that a number fits into
LETTERS = 22


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
    cell = max(SMALLEST, min(LARGEST, SIDE / len(columns)))
    labelled = cell >= READABLE
    left = 12 + (6.6 * min(LETTERS, max(map(len, rows))) if labelled else 16)
    top = 48 + (5.7 * min(LETTERS, max(map(len, columns))) if labelled else 0)
    width, height = left + cell * len(columns), top + cell * len(rows)
    # Labels of columns lean to the right by 60 degrees, so the last one needs room beside the cells.
    room = max(60.0, 3.3 * min(LETTERS, len(columns[-1]))) if labelled else 4.0
    parts = [
        text(0, 13, title, "title"),
        text(0, 32, f"rows: {y_label}; columns: {x_label}", "axis"),
        f'<rect class="frame" x="{left:.1f}" y="{top:.1f}" width="{width - left:.1f}" height="{height - top:.1f}"/>',
    ]
    for (row, column), share in shares.items():
        x, y = left + cell * column, top + cell * row
        parts.append(
            f'<g><title>{escape(rows[row])} taken for {escape(columns[column])}: {share:.1%}</title><rect class="heat" '
            f'x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{cell:.1f}" fill-opacity="{share:.3f}"/>'
        )
        if cell >= NUMBERED and share >= 0.005:
            style = "over" if share > 0.8 else "within"
            parts.append(text(x + cell / 2, y + cell / 2 + 4, f"{100 * share:.0f}", style, anchor="middle"))
        parts.append("</g>")
    if len(columns) > len(rows):  # what follows the square is set off
        at = left + cell * len(rows)
        parts.append(f'<line class="edge" x1="{at:.1f}" x2="{at:.1f}" y1="{top:.1f}" y2="{height:.1f}"/>')
    if labelled:
        size = min(11.5, 0.86 * cell)  # neighbouring labels do not touch
        parts.append(f'<g font-size="{size:.1f}">')
        parts += [
            text(left - 5, top + cell * (place + 0.5) + 0.35 * size, _short(label), "axis", anchor="end")
            for place, label in enumerate(rows)
        ]
        parts += [
            f'<g transform="translate({left + cell * (place + 0.5) + 3:.1f} {top - 5:.1f}) rotate(-60)">'
            f"{text(0, 0, _short(label), 'axis')}</g>"
            for place, label in enumerate(columns)
        ]
        parts.append("</g>")
    return svg(title, width + room, height + 4, parts)


def heat_scale() -> str:
    """The legend of a heat map: five shares and their squares."""
    parts = []
    for place, share in enumerate((0, 0.25, 0.5, 0.75, 1)):
        x = 1 + 62 * place
        parts.append(f'<rect class="frame" x="{x}" y="2" width="18" height="14"/>')
        parts.append(f'<rect class="heat" x="{x}" y="2" width="18" height="14" fill-opacity="{share}"/>')
        parts.append(text(x + 23, 13, f"{share:.0%}", "axis"))
    return svg("Legend: share of a row", 320, 18, parts)


def _short(label: str) -> str:
    return label if len(label) <= LETTERS else f"{label[: LETTERS - 1]}…"
