"""The rows of benchmarks/paper.py as a table and as a drawing."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import pyplot

from benchmarks.paper_classifiers import CLASSIFIERS

Row = dict[str, Any]
COLOURS = {
    "base": "#0072b2",
    "+ID2SD": "#009e73",
    "+O2DBD": "#cc79a7",
    "+D3": "#d55e00",
    "+D3 x 0.1": "#e69f00",
    "+D3 searched": "#56b4e9",
    "+D3 as published": "#777777",
}
PROTOCOLS = {
    "test-best": "the epoch with the best H on the test rows, no seen penalty, as papers report it",
    "test-best, penalty": "the epoch and the seen penalty with the best H on the test rows",
    "validation": "the epoch with the best mean H on the folds, no seen penalty",
    "validation, penalty": "the epoch and the seen penalty with the best mean H on the folds",
}


def chosen(points: Sequence[Row], protocol: str) -> Row:
    """U, S, H on the test rows and the epoch, by a protocol; ties go to fewer epochs."""
    kind, _, penalty = protocol.partition(", ")
    tests = {"test-best": "test_best_penalty", "validation": "test_with_validation_penalty"}
    test = tests[kind] if penalty else "test"
    folds = "folds_H_best_penalty" if penalty else "folds_H"
    key: Callable[[Row], float] = (lambda p: p[test]["H"]) if kind == "test-best" else (lambda p: p[folds])
    best = max(points, key=key)
    return {**best[test], "epoch": best["epoch"]}


def table(rows: list[Row], searched: Sequence[Row] = ()) -> str:
    """H by recipe, classifier, protocol and variant; D3's effect over paired seeds; the teacher; the search."""
    lines = [
        "# The paper's experiment",
        "",
        "Every network from random weights at the full learning rate, corrected losses. H in per cent, mean (sample",
        "standard deviation) over seeds. Protocols:",
        "",
        *(f"- `{name}`: {text}." for name, text in PROTOCOLS.items()),
        "",
        *("    " + command for command in dict.fromkeys(row["command"] for row in rows)),
        "",
    ]
    for data, recipe in dict.fromkeys((row["data"], row["recipe"]) for row in rows):
        group = [row for row in rows if (row["data"], row["recipe"]) == (data, recipe)]
        variants = [v for v in COLOURS if any(row["variant"] == v for row in group)]
        lines += [
            f"## {recipe} on {data}",
            "",
            f"{group[0]['device']}, {group[0]['precision']}; {len({row['seed'] for row in group})} seeds, "
            f"{group[0]['folds']} folds; commit {group[0]['commit']}.",
            "",
        ]
        lines += [
            "| classifier | protocol | "
            + " | ".join(variants)
            + "".join(f" | {variant} against base" for variant in compared(variants))
            + " |",
            "|" + "---|" * (2 + len(variants) + len(compared(variants))),
        ]
        for classifier in CLASSIFIERS:
            for protocol in PROTOCOLS:
                of = {v: [h(row, classifier, protocol) for row in group if row["variant"] == v] for v in variants}
                cells = " | ".join(mean(values) for values in of.values())
                against = " | ".join(effect(group, classifier, protocol, v) for v in compared(variants))
                lines.append(f"| {classifier} | {protocol} | {cells} | {against} |")
        lines += ["", "U and S of C_s without a penalty, by epoch chosen on the test rows:", ""]
        for variant in variants:
            found = [chosen(row["curves"]["C_s"], "test-best") for row in group if row["variant"] == variant]
            lines.append(
                f"- {variant}: U {mean([f['U'] for f in found])}, S {mean([f['S'] for f in found])}, epochs "
                + ", ".join(str(f["epoch"]) for f in found)
            )
        lines += ["", "The teacher: " + teacher(group), "", "Gradients on the student, relative to L_cls's, +D3:", ""]
        lines += shares(group)
        lines += ["", *search([row for row in searched if (row["data"], row["recipe"]) == (data, recipe)]), ""]
    return "\n".join(lines).rstrip() + "\n"


def h(row: Row, classifier: str, protocol: str) -> float:
    return float(chosen(row["curves"][classifier], protocol)["H"])


def mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ({100 * statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def compared(variants: Sequence[str]) -> list[str]:
    """The variants whose difference from the base is shown."""
    return [variant for variant in variants if variant in ("+D3", "+D3 searched")]


def effect(group: list[Row], classifier: str, protocol: str, variant: str = "+D3") -> str:
    """Mean difference of a variant from the base over paired seeds with its standard error, in points."""
    by = {(row["variant"], row["seed"]): h(row, classifier, protocol) for row in group}
    pairs = [100 * (by[variant, s] - by["base", s]) for v, s in by if v == variant and ("base", s) in by]
    if not pairs:
        return "-"
    error = f" (se {statistics.stdev(pairs) / len(pairs) ** 0.5:.1f})" if len(pairs) > 1 else ""
    return f"{statistics.fmean(pairs):+.1f}{error}"


def teacher(group: list[Row]) -> str:
    found = [row["teacher"] for row in group]
    return (
        f"accuracy on test rows of seen classes {statistics.fmean(t['accuracy_of_seen_rows'] for t in found):.3f}, "
        f"AUROC of its score for unseen rows {statistics.fmean(t['auroc_of_unseen_rows'] for t in found):.3f}."
    )


def shares(group: list[Row]) -> list[str]:
    row = next((row for row in group if row["variant"] == "+D3"), None)
    if row is None:
        return []
    terms = [name for name in next(iter(row["gradient_shares"].values())) if name != "cls"]
    lines = ["| epoch | " + " | ".join(f"L_{name}" for name in terms) + " |", "|" + "---|" * (1 + len(terms))]
    for epoch, found in row["gradient_shares"].items():
        lines.append(f"| {epoch} | " + " | ".join(f"{found[name]:.3g}" for name in terms) + " |")
    return lines


def search(rows: Sequence[Row]) -> list[str]:
    """What was tried on the folds for `+D3 searched`, the best epoch of each by the column's own H."""
    if not rows:
        return []
    lines = [
        f"Weights searched on the folds, seed {rows[0]['seed']}, with H of their held-out rows:",
        "",
        "| L_kl | L_be | L_od | " + " | ".join(f"{name} | {name}, penalty" for name in CLASSIFIERS) + " |",
        "|" + "---|" * (3 + 2 * len(CLASSIFIERS)),
    ]
    for row in rows:
        cells = [f"{weight:g}" for weight in row["weights"].values()]
        for name in CLASSIFIERS:
            best = (max(p[key] for p in row["curves"][name]) for key in ("folds_H", "folds_H_best_penalty"))
            cells += [f"{100 * value:.1f}" for value in best]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(rows: list[Row]) -> str:
    """H by epoch, mean over seeds: by recipe without a seen penalty and with the best one, one column a classifier."""
    kinds = list(dict.fromkeys((row["data"], row["recipe"]) for row in rows))
    lines = [(kind, penalty) for kind in kinds for penalty in (False, True)]
    figure, axes = pyplot.subplots(
        len(lines), len(CLASSIFIERS), figsize=(3.2 * len(CLASSIFIERS), 2.6 * len(lines)), squeeze=False, sharey="row"
    )
    for line, ((data, recipe), penalty) in zip(axes, lines, strict=True):
        test, folds = ("test_best_penalty", "folds_H_best_penalty") if penalty else ("test", "folds_H")
        for axis, classifier in zip(line, CLASSIFIERS, strict=True):
            for variant, colour in COLOURS.items():
                group = [r for r in rows if (r["data"], r["recipe"], r["variant"]) == (data, recipe, variant)]
                if not group:
                    continue
                curves = [row["curves"][classifier] for row in group]
                epochs = [point["epoch"] for point in curves[0]]
                of_test = [statistics.fmean(p[test]["H"] for p in points) for points in zip(*curves, strict=True)]
                of_folds = [statistics.fmean(p[folds] for p in points) for points in zip(*curves, strict=True)]
                axis.plot(epochs, of_test, "-", color=colour, lw=1.6, label=variant)
                axis.plot(epochs, of_folds, ":", color=colour, lw=1)
            axis.set_title(f"{recipe}: {classifier}", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        line[0].set_ylabel("H, best seen penalty" if penalty else "H, no seen penalty", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.suptitle("H on the test rows (lines) and on the folds' held-out rows (dots), mean over seeds", fontsize=9)
    figure.tight_layout(rect=(0, 0.04, 1, 0.99))
    content = io.StringIO()
    with pyplot.rc_context({"svg.fonttype": "none"}):
        figure.savefig(content, format="svg")
    pyplot.close(figure)
    return content.getvalue()
