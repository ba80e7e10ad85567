"""The rows of benchmarks/describe.py as a table and as a drawing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

Row = dict[str, Any]
COLUMNS = (
    *("photos a class", "description and photos: U", "S", "H", "photos alone: H", "description alone: H"),
    *("gain over photos alone", "gain over description alone"),
)
TARGETS = {("FLO", 1): 0.76, ("FLO", 2): 0.82, ("FLO", 5): 0.88}
"""Least H wanted with description and photos, by set and number of photos."""
LINES = {
    True: ("description and photos", "#0072b2"),
    False: ("photos alone", "#d55e00"),
}
PANEL, LEFT, TOP, HEIGHT, BOTTOM = 300, 56, 76, 260, 62


def table(rows: list[Row], command: str, name: str) -> str:
    """A table for each set, its targets, what photos themselves give, how fast it is, and every row."""
    scored = [row for row in rows if "speed" not in row]
    lines = [
        "# Classes known by a description, by photos, or by both",
        "",
        "U, S and H in points, over HTTP. Protocol `validation`: nothing is chosen on test rows, neither the seen",
        "penalty nor how much photos count. A draw takes ten test rows of each unseen class as its photos. With fewer",
        "photos a class has the first of these. What is drawn is never tested. Mean and standard error over the draws;",
        "gains are paired by draw.",
        "",
        "    " + command,
        "",
        f"![H against photos per class, one panel for each set]({name}.svg)",
    ]
    for data in dict.fromkeys(row["data"] for row in scored):
        lines += ["", *of_set([row for row in scored if row["data"] == data and row["form"] == "pictures"])]
        if found := photos_themselves([row for row in scored if row["data"] == data]):
            lines += ["", found]
    lines += [line for row in rows if "speed" in row for line in ["", *speed(row["speed"])]]
    lines += [
        "",
        "## Every row",
        "",
        "| set | seed | sent as | draw | photos | described | U | S | H | bundle | commit |",
    ]
    lines.append("|" + "---|" * 11)
    for row in scored:
        cells = [row["data"], row["seed"], row["form"], row["draw"], row["photos"], "yes" if row["described"] else "no"]
        cells += [f"{100 * row[score]:.2f}" for score in ("U", "S", "H")] + [row["bundle"][:12], row["commit"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def of_set(rows: list[Row]) -> list[str]:
    """One set: a line for each number of photos, and what was chosen."""
    first = rows[0]
    lines = [f"## {first['data']}", "", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    alone = values(rows, 0, True)
    for photos in sorted({row["photos"] for row in rows}):
        both, without = values(rows, photos, True), values(rows, photos, False)
        cells = [str(photos), *(spread(list(values(rows, photos, True, score).values())) for score in ("U", "S", "H"))]
        cells += [spread(list(without.values())), spread(list(alone.values()))]
        cells += [gain(both, without), gain(both, alone) if photos else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    draws = len({row["draw"] for row in rows})
    prior = ", ".join(f"{name} {value:g}" for name, value in first["prior"].items())
    lines += [
        "",
        f"{draws} draws, {first['test_rows']} test rows, features: `{first['backbone']}`, recipe "
        f"`{first['recipe']}`, seed {first['seed']}, bundle `{first['bundle'][:12]}`. "
        f"Chosen on validation: seen penalty {first['seen_penalty']:.3f}; photos: {prior}.",
    ]
    lines += [
        "",
        f"- Numbers of photos with which both lose more than a standard error to either alone: {below(rows)}.",
    ]
    for (data, photos), target in TARGETS.items():
        if data == first["data"] and (both := values(rows, photos, True)):
            found = statistics.fmean(both.values())
            word, count = "reached" if found >= target else "missed", "one photo" if photos == 1 else f"{photos} photos"
            lines.append(f"- Target with {count}: H {100 * target:g}, {word} with {100 * found:.2f}.")
    return lines


def values(rows: Sequence[Row], photos: int, described: bool, score: str = "H") -> dict[int, float]:
    """A score of one state by draw."""
    return {row["draw"]: row[score] for row in rows if (row["photos"], row["described"]) == (photos, described)}


def spread(numbers: Sequence[float]) -> str:
    """Mean and standard error, in points."""
    if not numbers:
        return "-"
    return f"{100 * statistics.fmean(numbers):.2f}{error(numbers)}"


def error(numbers: Sequence[float]) -> str:
    return f" ± {100 * standard_error(numbers):.2f}" if len(numbers) > 1 else ""


def standard_error(numbers: Sequence[float]) -> float:
    return statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else 0.0


def gain(both: dict[int, float], other: dict[int, float]) -> str:
    """Mean difference of the same draws with its standard error, in points."""
    differences = paired(both, other)
    return f"{100 * statistics.fmean(differences):+.2f}{error(differences)}" if differences else "-"


def paired(both: dict[int, float], other: dict[int, float]) -> list[float]:
    """Differences of the same draws."""
    return [both[draw] - other[draw] for draw in sorted(both.keys() & other.keys())]


def below(rows: Sequence[Row]) -> str:
    """With which numbers of photos description and photos together lose to either of them."""
    found = []
    for photos in sorted({row["photos"] for row in rows} - {0}):
        both = values(rows, photos, True)
        for other in (values(rows, photos, False), values(rows, 0, True)):
            differences = paired(both, other)
            if differences and statistics.fmean(differences) < -standard_error(differences):
                found.append(str(photos))
    return ", ".join(dict.fromkeys(found)) or "none"


def photos_themselves(rows: list[Row]) -> str:
    """How far H of photos lies from H of pictures of their features."""
    by_state = {
        form: {(r["draw"], r["photos"], r["described"]): r["H"] for r in rows if r["form"] == form}
        for form in ("pictures", "photos")
    }
    common = by_state["pictures"].keys() & by_state["photos"].keys()
    if not common:
        return ""
    most = max(abs(by_state["pictures"][state] - by_state["photos"][state]) for state in common)
    return (
        f"With the photos themselves sent instead of pictures of their features, in {len(common)} states of draw 0, H "
        f"differs by at most {100 * most:.2f} points. (That bundle has another trunk, so another id, and other noise "
        "in what it synthesises.)"
    )


def speed(found: Row) -> list[str]:
    """What benchmarks/describe_speed.py measured."""
    post, cpu, classify, machine = found["post_ms"], found["cpu_ms"], found["classify_ms"], found["machine"]
    busy = " Other work ran beside it, which stretches the clock." if machine["load"] > 2 * machine["cpus"] else ""
    return [
        "## Speed",
        "",
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['threads']} threads, {machine['at']}, load "
        f"{machine['load']:.1f}.{busy} The bundle: {found['backbone']}, {found['dimension']} features, "
        f"{found['classes']} classes; commit {found['commit']}.",
        f"Medians of {found['rounds']} rounds on the clock, means of CPU time; ms; each round measures all in turn.",
        "",
        "| | p50 | CPU time |",
        "|---|---|---|",
        f"| `POST /classes`, description and five photos | {post['with_photos']:.1f} | {cpu['with_photos']:.1f} |",
        f"| decoding five photos and running the trunk, without a service | {post['bare']:.1f} | {cpu['bare']:.1f} |",
        f"| the first beyond the second, paired by round | {post['beyond']:.1f} | {cpu['beyond']:.1f} |",
        f"| `POST /classes` with a description alone | {post['described']:.1f} | |",
        f"| `POST /classify`, one image, the classes described | {classify['before']:.1f} | |",
        f"| `POST /classify`, one image, ten of the classes with five photos each | {classify['after']:.1f} | |",
        "",
        f"Target: at most 60 ms beyond. Classification after against before: {classify['ratio']:.3f}.",
    ]


def draw(rows: list[Row]) -> str:
    """H against photos per class, one panel per set: lines are means, bars standard errors; an SVG document."""
    shown = [row for row in rows if row["form"] == "pictures"]
    sets = list(dict.fromkeys(row["data"] for row in shown))
    width, height = LEFT + PANEL * max(1, len(sets)), TOP + HEIGHT + BOTTOM
    legend, x = [], LEFT
    for name, colour in (*LINES.values(), ("description alone", LINES[True][1])):
        dash = ' stroke-dasharray="5 4"' if name == "description alone" else ""
        legend.append(f'<line x1="{x}" x2="{x + 26}" y1="44" y2="44" stroke="{colour}" stroke-width="2"{dash}/>')
        legend.append(f'<text x="{x + 32}" y="48">{escape(name)}</text>')
        x += 200
    panels = [panel([r for r in shown if r["data"] == data], LEFT + i * PANEL) for i, data in enumerate(sets)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="24" font-size="15">H over seen and unseen classes against photos of each unseen class; '
        f"bars are standard errors over draws</text>{''.join(legend)}{''.join(panels)}</svg>\n"
    )


def panel(rows: list[Row], left: int) -> str:
    """One set; the axis of photos is the root of their number, that of H goes from the least to the most in tenths."""
    counts = sorted({row["photos"] for row in rows})
    heights = [row["H"] for row in rows]
    low, high = int(min(heights) * 10) / 10, -int(-max(heights) * 10 // 1) / 10
    across = (PANEL - LEFT) / max(counts[-1], 1) ** 0.5
    foot = TOP + HEIGHT

    def x(photos: int) -> float:
        return left + 12 + (across * photos**0.5)

    def y(h: float) -> float:
        return foot - (h - low) / (high - low) * HEIGHT

    parts = [f'<text x="{left + 12}" y="{TOP - 8}" font-weight="bold">{escape(rows[0]["data"])}</text>']
    for step in range(round((high - low) * 10) + 1):
        h = low + step / 10
        parts.append(
            f'<line x1="{left}" x2="{x(counts[-1]) + 8:.1f}" y1="{y(h):.1f}" y2="{y(h):.1f}" stroke="#dddddd"/>'
        )
        parts.append(f'<text x="{left - 6}" y="{y(h) + 4:.1f}" text-anchor="end" fill="#555555">{h:.1f}</text>')
    parts += [f'<text x="{x(n):.1f}" y="{foot + 18}" text-anchor="middle" fill="#555555">{n}</text>' for n in counts]
    parts.append(
        f'<text x="{x(counts[-1]) / 2 + left / 2:.1f}" y="{foot + 38}" text-anchor="middle">photos per class</text>'
    )
    if alone := list(values(rows, 0, True).values()):
        height = y(statistics.fmean(alone))
        parts.append(
            f'<line x1="{x(0):.1f}" x2="{x(counts[-1]):.1f}" y1="{height:.1f}" y2="{height:.1f}" '
            f'stroke="{LINES[True][1]}" stroke-width="1.5" stroke-dasharray="5 4"/>'
        )
    for described, (_, colour) in LINES.items():
        found = {n: list(values(rows, n, described).values()) for n in counts}
        found = {n: numbers for n, numbers in found.items() if numbers}
        points = [(x(n), y(statistics.fmean(numbers)), standard_error(numbers)) for n, numbers in found.items()]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for px, py, e in points:
            reach = e / (high - low) * HEIGHT
            parts.append(
                f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{py - reach:.1f}" y2="{py + reach:.1f}" stroke="{colour}"/>'
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"/>'
            )
    return "".join(parts)
