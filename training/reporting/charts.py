"""The charts of a report, drawn by matplotlib as inline SVG: text stays text, colours are the page's.

Every mark carries what it says in a `<title>`, read out and shown beside the pointer; a chart without colours tells the
same, since lines also differ by their dashes. The same values give the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec

from training.reporting.page import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Points = Sequence[Sequence[float]]
Range = tuple[float, float]

# What matplotlib draws with, and the CSS of the page that takes its place; no other colour is used.
TEXT, FAINT, EDGE, BACK = "#010101", "#020202", "#030303", "#040404"
LINES = ("#100000", "#110000", "#120000", "#130000", "#140000", "#150000")
_CSS = {TEXT: "text", FAINT: "faint", EDGE: "edge", BACK: "back"} | {c: f"c{i}" for i, c in enumerate(LINES)}
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.7)), (0, (1.2, 1.7)), (0, (5, 1.7, 1.2, 1.7)), (0, (3, 3)), (0, (7, 2.2)))
BOLD = 8  # pixels of a letter of a title, on average
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "d3gzsl",
    "text.parse_math": False,  # a class may be called $x$
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": TEXT,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": EDGE,
    "lines.linewidth": 1.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.limits": (-4, 5),
    "axes.formatter.useoffset": False,
    "path.simplify": False,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart.

    Attributes:
        label: written at its right end or in the legend; empty writes none.
        points: x and y, in the order to connect them; points that are not finite are left out.
        strong: drawn thicker.
    """

    label: str
    points: Sequence[tuple[float, float]]
    strong: bool = False


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


class Chart:
    """A figure in pixels, and what its marks say.

    Args:
        title: read out and shown above the chart.
        width: pixels.
        height: pixels.
    """

    def __init__(self, title: str, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        self.title, self.width, self.height = title, round(width), round(height)
        self._said: list[tuple[str, str]] = []
        self.figure: Figure = Figure(figsize=(self.width / 72, self.height / 72), dpi=72)
        letters = max(1, int(width / BOLD))
        shown = title if len(title) <= letters else f"{title[: letters - 1]}…"
        self.text(0, 12, shown, weight="bold", size=13)

    def text(self, x: float, y: float, said: str, **style: Any) -> None:
        """Write text with its base at a place, counted from the upper left corner."""
        self.figure.text(x / self.width, 1 - y / self.height, said, **{"color": TEXT, **style})

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Axes with these margins."""
        return self.figure.add_axes(
            (
                left / self.width,
                bottom / self.height,
                max(1.0, self.width - left - right) / self.width,
                max(1.0, self.height - top - bottom) / self.height,
            )
        )

    def says(self, artist: Any, kind: str, title: str) -> None:
        """Give a mark its kind, a CSS class of the page, and what it says."""
        artist.set_gid(f"said-{len(self._said)}")
        self._said.append((kind, title))

    def svg(self) -> str:
        """The chart as an element of an HTML page, its ids unlike those of other charts."""
        drawn = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the page's font has what matplotlib's lacks
            self.figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        content = re.sub(
            r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", drawn.getvalue(), flags=re.DOTALL
        )
        content = content[content.index("<svg") :]
        content = content[content.index(">") + 1 : content.rindex("</svg>")]
        content = re.sub(r">\s+<", "><", content)
        prefix = hashlib.sha256(f"{self.title}\0{content}".encode()).hexdigest()[:8]
        used = set(re.findall(r"(?:href=\"|url\()#([\w-]+)", content))
        # Tags only: between them stand texts, which may look like anything.
        content = re.sub(r"<[^>]*>", lambda tag: self._tag(tag[0], prefix, used), content)
        content = _without_bare_groups(content)
        label = escape(self.title)
        return (
            f'<svg role="img" aria-label="{label}" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}"><title>{label}</title>{content}</svg>'
        )

    def _tag(self, tag: str, prefix: str, used: set[str]) -> str:
        """A tag of matplotlib's in the page's colours, with ids of its own; where a mark begins, what it says."""
        if found := re.fullmatch(r'<g id="said-(\d+)">', tag):
            kind, title = self._said[int(found[1])]
            return f'<g class="{escape(kind)}"><title>{escape(title)}</title>'
        for colour, name in _CSS.items():
            tag = tag.replace(colour, f"var(--{name})")
        if tag.endswith(' style="fill: none"/>'):
            return ""  # a background that paints nothing
        tag = re.sub(r" font-family: [^;\"]*;", "", tag).replace("xlink:href", "href")  # the page's font
        tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
        tag = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", tag)
        tag = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", tag)
        tag = re.sub(r' d="([^"]*)"', lambda m: f' d="{_short_path(m[1])}"', tag)
        return re.sub(r"(\.\d\d)\d+", r"\1", tag)  # hundredths of a pixel


def _short_path(path: str) -> str:
    """A path in few characters: tenths of a pixel, but for curves, which are small; a line without length is a dot."""
    path = re.sub(r"\s*([A-Za-z])\s*", r"\1", path.strip())
    if "C" in path:
        return path
    path = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), path)
    return re.sub(r"M([^A-Za-z]+)L\1(?=M|$)", r"M\1h0", path)


def _without_bare_groups(content: str) -> str:
    """The content of groups that have no attributes, without those groups; and no `<defs>` that hold nothing."""
    kept: list[bool] = []

    def tag(found: re.Match[str]) -> str:
        if found[0] == "</g>":
            return found[0] if kept.pop() else ""
        kept.append(found[0] != "<g>")
        return found[0] if kept[-1] else ""

    content = content.replace("<g/>", "").replace("<defs></defs>", "")
    return re.sub(r"<g(?: [^>]*)?>|</g>", tag, content)


def in_style(draw: Callable[P, str]) -> Callable[P, str]:
    """Draw with the settings of these charts; those of the process stay as they are."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        return _styled(functools.partial(draw, *args, **kwargs))

    return drawn


def _styled(draw: functools.partial[str]) -> str:
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # whatever a user's own settings are
        mpl.rcParams.update(_SETTINGS)
        return draw()


@in_style
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
    """Lines over whole-numbered x, such as epochs, each with its label at its right end.

    Args:
        title: read out and shown above the chart.
        lines: at least one point in all.
        x_label: below the axis.
        y_label: above the axis.
        width: pixels.
        height: pixels.
        log: logarithmic y axis; values that have no logarithm are drawn at its lower end.
        marked_x: drawn as a dashed vertical line.
        marked_y: value and label of a dashed horizontal line.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    finite = [[(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)] for line in lines]
    if not any(finite):
        return f'<p class="note">{escape(title)}: no finite value to draw.</p>'
    labels = [line.label for line, points in zip(lines, finite, strict=True) if points]
    labels += [marked_y[1]] if marked_y else []
    chart = Chart(title, width, height)
    axes = chart.axes(58, 46, 14 + max((6.6 * len(label) + 18 if label else 0) for label in labels), 36)
    positive = [y for points in finite for _, y in points if y > 0] + ([marked_y[0]] if marked_y else [])
    lowest = 10 ** math.floor(math.log10(min(positive, default=1.0))) if log else -math.inf
    if log:
        axes.set_yscale("log")
    ends = []
    for place, (line, points) in enumerate(zip(lines, finite, strict=True)):
        if not points:
            continue
        y = [max(value, lowest) for _, value in points]
        (drawn,) = axes.plot(
            [x for x, _ in points],
            y,
            color=LINES[place % len(LINES)],
            linestyle=DASHES[place % len(LINES)],
            linewidth=3.2 if line.strong else 1.8,
            marker="o" if len(points) <= 30 else "",
            markersize=5,
            clip_on=False,
        )
        chart.says(drawn, "line", "\n".join(f"{line.label} {number(a)}: {number(b)}" for a, b in points))
        ends += [(y[-1], line.label, line.strong)] if line.label else []
    if marked_x is not None:
        axes.axvline(marked_x, color=TEXT, linewidth=1, linestyle=DASHES[4], alpha=0.7)
    if marked_y is not None:
        axes.axhline(marked_y[0], color=TEXT, linewidth=1, linestyle=DASHES[4], alpha=0.7)
        ends.append((marked_y[0], marked_y[1], False))
    if len({x for points in finite for x, _ in points}) == 1:
        axes.set_xlim(*(x + side for x, _ in max(finite, key=len)[:1] for side in (-0.5, 0.5)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if log:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.minorticks_off()
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    _finish(axes, x_label, y_label)
    _end_labels(axes, ends)
    return chart.svg()


def _end_labels(axes: Axes, ends: Sequence[tuple[float, str, bool]]) -> None:
    """Labels at the right ends of lines, moved apart where they would overlap."""
    box, gap = axes.get_window_extent(), 13.5
    places = sorted((axes.transData.transform((axes.get_xlim()[1], y))[1], label, strong) for y, label, strong in ends)
    at = [place for place, _, _ in places]
    for index in range(1, len(at)):
        at[index] = max(at[index], at[index - 1] + gap)
    over = at[-1] - max(box.y1 + 6, places[-1][0]) if at else 0
    at = [value - max(0.0, over) for value in at]
    for index in range(len(at) - 2, -1, -1):
        at[index] = min(at[index], at[index + 1] - gap)
    for value, (place, label, strong) in zip(at, places, strict=True):
        axes.annotate(
            label,
            xy=(1, (place - box.y0) / box.height),
            xytext=(1 + 14 / box.width, (value - box.y0) / box.height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=TEXT if strong else FAINT,
            weight="bold" if strong else "normal",
            arrowprops={"arrowstyle": "-", "color": EDGE, "shrinkA": 1, "shrinkB": 3},
            annotation_clip=False,
        )


@in_style
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
    height: int = 350,
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
    rows = len(lines) if marks else 1
    chart = Chart(title, width, height + 17 * rows)
    axes = chart.axes(58, 44 + 17 * rows, 16, 38)
    handles: list[Any] = []
    for place, line in enumerate(lines):
        colour = LINES[place % len(LINES)]
        (drawn,) = axes.plot(
            [x for x, _ in line.points],
            [y for _, y in line.points],
            color=colour,
            linestyle=DASHES[place % len(LINES)],
            linewidth=3.2 if line.strong else 1.8,
            label=line.label,
        )
        chart.says(drawn, "line", line.label)
        handles.append(drawn)
        for mark in sorted((m for m in marks if m.line == place), key=lambda m: m.filled):
            (point,) = axes.plot(
                [mark.x],
                [mark.y],
                linestyle="",
                marker="o",
                markersize=7 if mark.filled else 12,  # a disc in a ring still shows both
                markerfacecolor=colour if mark.filled else BACK,
                markeredgecolor=BACK if mark.filled else colour,
                markeredgewidth=1.5 if mark.filled else 2.5,
                label=mark.label,
                zorder=4 if mark.filled else 3,
                clip_on=False,
            )
            chart.says(point, "mark", f"{mark.title}: {number(mark.x)}, {number(mark.y)}")
            handles.append(point)
    axes.set_xlim(*x_range)
    axes.set_ylim(*y_range)
    _finish(axes, x_label, y_label)
    columns = max(1, len(handles) // rows)
    by_column = [handles[place] for column in range(columns) for place in range(column, len(handles), columns)]
    add_legend(chart, by_column, columns=columns)
    return chart.svg()


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, labelpad=3)
    axes.set_title(y_label, loc="left", y=1, fontsize=10.5, color=FAINT, pad=10, x=-58 / axes.get_window_extent().width)
    axes.grid(visible=True, axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3)


def add_legend(chart: Chart, handles: Sequence[Any], *, columns: int, top: float = 18) -> None:
    """A legend at the left, so many pixels below the upper edge; handles fill column by column."""
    chart.figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 1 - top / chart.height),
        ncols=columns,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=2.6,
        columnspacing=1.4,
        labelcolor=FAINT,
        labelspacing=0.35,
    )
