"""The rows of benchmarks/gzsl.py as a table and as a drawing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from benchmarks.class_bootstrap import difference_of_h

Row = dict[str, Any]
COLOURS = {
    "no learning": "#777777",
    "base": "#0072b2",
    "+D3": "#d55e00",
    "+D3 without ID2SD": "#cc79a7",
    "+D3 without O2DBD": "#009e73",
}
RESPLIT = "-resplit-"
"""Between the name of a set and the number of a draw of other unseen classes."""
WIDTH, LEFT, LINE, TOP = 930, 340, 22, 66


def table(rows: list[Row], command: str) -> str:
    """Mean (sample standard deviation) per set, generator and variant; then D3's effect; then every row."""
    lines = [
        "# Base generators with and without D3GZSL",
        "",
        "Protocol `validation`: length, head, penalty and temperature are chosen on pseudo-unseen classes and held-out",
        "rows of trainval; test rows select nothing. Scores of the served `lda` head, and of the student's classifier",
        "C_s calibrated and without a seen penalty (as papers report it). Mean (sample standard deviation) over seeds.",
        "",
        "    " + command,
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows if RESPLIT not in row["data"]):
        lines += [f"## {data}", "", head(), "|" + "---|" * 11]
        lines += [line(group) for group in groups(rows, data)]
        lines += ["", *effects(rows, data), "", *against_baselines(rows, data), ""]
    lines += over_resplits(rows)
    lines += [
        "## Every row",
        "",
        "| set | recipe | variant | seed | H | H of C_s | epochs | config | seconds | commit |",
    ]
    lines += ["|" + "---|" * 10]
    for row in rows:
        student = f"{row['student']['H']:.3f}" if "student" in row else "-"
        lines.append(
            f"| {row['data']} | {row['generator']} | {row['variant']} | {row['seed']} | {row['H']:.3f} | {student} | "
            f"{row.get('epochs', '-')} | {str(row.get('config_hash', '-'))[:8]} | {row['seconds']} | {row['commit']} |"
        )
    return "\n".join(lines) + "\n"


def head() -> str:
    return "| generator | variant | seeds | U | S | H | T1 | AUSUC | ECE | H of C_s | H of C_s, no penalty |"


def groups(rows: list[Row], data: str) -> list[list[Row]]:
    """Rows of one set that differ in their seed only."""
    keys = dict.fromkeys((row["generator"], row["variant"]) for row in rows if row["data"] == data)
    return [[r for r in rows if (r["data"], r["generator"], r["variant"]) == (data, *key)] for key in sorted(keys)]


def line(group: list[Row]) -> str:
    first = group[0]
    cells = [spread(group, lambda row, s=score: row.get(s)) for score in ("U", "S", "H", "T1", "AUSUC", "ece")]
    cells.append(spread(group, lambda row: row.get("student", {}).get("H")))
    cells.append(spread(group, lambda row: row.get("student", {}).get("uncalibrated", {}).get("H")))
    return f"| {first['generator']} | {first['variant']} | {len(group)} | " + " | ".join(cells) + " |"


def spread(group: list[Row], value: Callable[[Row], float | None]) -> str:
    numbers = [number for row in group if (number := value(row)) is not None]
    if not numbers:
        return "-"
    deviation = f" ({statistics.stdev(numbers):.3f})" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.3f}{deviation}"


def effects(rows: list[Row], data: str) -> list[str]:
    """D3's effect on H, paired by seed, for the served head and for C_s."""
    found = []
    for generator in sorted({row["generator"] for row in rows if row["data"] == data and "student" in row}):
        by_variant = {
            variant: {
                row["seed"]: row
                for row in rows
                if (row["data"], row["generator"], row["variant"]) == (data, generator, variant)
            }
            for variant in ("base", "+D3")
        }
        seeds = sorted(by_variant["base"].keys() & by_variant["+D3"].keys())
        if not seeds:
            continue
        texts = []
        for what, score in (
            ("served head", lambda row: row["H"]),
            ("C_s", lambda row: row["student"]["H"]),
            ("C_s without penalty", lambda row: row["student"]["uncalibrated"]["H"]),
        ):
            differences = [score(by_variant["+D3"][seed]) - score(by_variant["base"][seed]) for seed in seeds]
            texts.append(f"{what} {mean_and_error(differences)}")
        found.append(f"- D3's effect on H, {generator}, {len(seeds)} paired seeds: {', '.join(texts)}.")
    return found


def mean_and_error(differences: Sequence[float], digits: int = 3) -> str:
    """Mean of paired differences, and its standard error where there are several."""
    count = len(differences)
    error = f" (se {statistics.stdev(differences) / count**0.5:.{digits}f})" if count > 1 else ""
    return f"{statistics.fmean(differences):+.{digits}f}{error}"


def against_baselines(rows: list[Row], data: str) -> list[str]:
    """H of every generator less that of each baseline, paired by seed, with the standard error over test classes."""
    rows = [row for row in rows if row["data"] == data and "per_class" in row]
    baselines = sorted({row["generator"] for row in rows if "student" not in row})
    found = []
    for generator, variant in sorted({(row["generator"], row["variant"]) for row in rows if "student" in row}):
        texts = []
        own = [row for row in rows if (row["generator"], row["variant"]) == (generator, variant)]
        for baseline in baselines:
            others = {row["seed"]: row for row in rows if row["generator"] == baseline}
            if pairs := [(row, others[row["seed"]]) for row in own if row["seed"] in others]:
                difference, error = difference_of_h(pairs)
                texts.append(f"{difference:+.3f} (se over test classes {error:.3f}) against {baseline}")
        if texts:
            found.append(f"- H of {generator}, {variant}: {', '.join(texts)}.")
    return found


def over_resplits(rows: list[Row]) -> list[str]:
    """H over draws of which classes are unseen, and its paired difference to each baseline."""
    lines = []
    rows = [row for row in rows if RESPLIT in row["data"]]
    for data in dict.fromkeys(row["data"].partition(RESPLIT)[0] for row in rows):
        by_split: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row["data"].partition(RESPLIT)[0] == data:
                by_split.setdefault(f"{row['generator']}, {row['variant']}", {})[row["data"]] = row
        baselines = {name: of for name, of in by_split.items() if "student" not in next(iter(of.values()))}
        titles = [f"H less that of {name.rpartition(', ')[0]}" for name in baselines]
        lines += [
            f"## {data}, other classes unseen",
            "",
            f"| generator, variant | draws | U | S | H | {' | '.join(titles)} | AUROC of novelty |",
            "|" + "---|" * (6 + len(titles)),
        ]
        for name, of in by_split.items():
            cells = [mean_and_error([row[score] for row in of.values()]).lstrip("+") for score in ("U", "S", "H")]
            for other in baselines.values():
                both = sorted(of.keys() & other.keys()) if other is not of else []
                cells.append(mean_and_error([of[s]["H"] - other[s]["H"] for s in both]) if both else "-")
            known = [row["novelty_auroc"] for row in of.values() if row.get("novelty_auroc") is not None]
            cells.append(mean_and_error(known).lstrip("+") if known else "-")
            lines.append(f"| {name} | {len(of)} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def draw(rows: list[Row]) -> str:
    """H of every row as a dot and the mean as a bar's end, one panel per set; an SVG document."""
    panels, height = [], TOP
    for data in dict.fromkeys(row["data"] for row in rows):
        entries = groups(rows, data)
        panels.append(panel(data, entries, height))
        height += (len(entries) + 3) * LINE
    legend = "".join(
        f'<circle cx="{18 + place * 165}" cy="40" r="5" fill="{colour}"/>'
        f'<text x="{27 + place * 165}" y="44">{escape(name)}</text>'
        for place, (name, colour) in enumerate(COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="12" y="22" font-size="15">H of the served head under protocol validation: dots are seeds, bars '
        f"their mean</text>{legend}{''.join(panels)}</svg>\n"
    )


def panel(data: str, entries: list[list[Row]], top: int) -> str:
    most = max(row["H"] for group in entries for row in group) * 1.05
    scale = (WIDTH - LEFT - 70) / most
    parts = [f'<text x="12" y="{top + 16}" font-weight="bold">{escape(data)}</text>']
    for place, group in enumerate(entries, start=1):
        y = top + place * LINE + 10
        first, mean = group[0], statistics.fmean(row["H"] for row in group)
        colour = COLOURS.get(first["variant"], "#000000")
        name = f"{first['generator']}, {first['variant']}"
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{y - 6}" width="{mean * scale:.1f}" height="12" fill="{colour}" opacity="0.35"/>'
        )
        parts += [f'<circle cx="{LEFT + row["H"] * scale:.1f}" cy="{y}" r="3.5" fill="{colour}"/>' for row in group]
        parts.append(f'<text x="{LEFT + most * scale + 8:.0f}" y="{y + 4}">{mean:.3f}</text>')
    bottom = top + (len(entries) + 1) * LINE
    for step in range(int(most / 0.05) + 1):
        x = LEFT + step * 0.05 * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + 20}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle" fill="#555555">{step * 0.05:.2f}</text>'
        )
    return "".join(parts)
