"""The sections of a report on how training went: candidates, U, S and H, losses, gradients of D3 terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from training.reporting.charts import Line, line_chart
from training.reporting.page import Fields, charts, definitions, number, paragraph, section, table
from training.runs.measuring import INERT
from training.selection.fold_scores import STUDENT

TERMS = {  # of the log: what it is, and the setting that holds its weight
    "cls": ("L_cls, classification", "classification"),
    "kl": ("L_kl, label distillation", "label_distillation"),
    "be": ("L_be, embedding distillation", "embedding_distillation"),
    "od": ("L_od, out-of-distribution", "ood_distillation"),
    "wasserstein": ("Critic: Wasserstein term", ""),
    "penalty": ("Critic: gradient penalty", ""),
    "adversarial": ("Generator: critic's score", ""),
    "seen": ("Generator: seen classes", ""),
    "instance": ("Projector: instance contrast", ""),
    "class": ("Comparator: class contrast", ""),
    "fake_instance": ("Generator: instance contrast", ""),
    "fake_class": ("Generator: class contrast", ""),
    "reconstruction": ("VAE: reconstruction", ""),
    "divergence": ("VAE: divergence", ""),
    "semantic": ("Semantic decoder", ""),
    "denoising": ("Denoiser: squared error", ""),
}
SHOWN_FOLDS = 6


def validation(selected: Fields, longest: int) -> str:
    """What the selection chose, and H of every candidate: pseudo-H, or under `test-best` that of the test images.

    Args:
        selected: of `config.json`.
        longest: epochs of the longest training considered.
    """
    found = selected["validation"]
    served = f"lda/{selected['head']['shrinkage']}"
    honest = not str(found["protocol"]).startswith("test-best")
    score = "mean pseudo-H" if honest else "H on test images"
    by_head = groupby(sorted(found["candidates"], key=lambda c: (c["head"], c["epochs"])), key=lambda c: c["head"])
    lines = {head: [(c["epochs"], c["H"]) for c in candidates] for head, candidates in by_head}
    student = {"C_s": lines.pop(STUDENT)} if STUDENT in lines else {}
    drawn = [
        line_chart(
            title,
            [Line(label=label, points=points, strong=label in (served, "C_s")) for label, points in group.items()],
            x_label="epochs of training",
            y_label=f"{score} over folds" if honest else score,
            marked_x=selected["epochs"],
        )
        for title, group in (("Served head lda, by shrinkage", lines), ("Student's own classifier", student))
        if group
    ]
    chosen = [
        *_scaling(selected),
        ("training length", f"{selected['epochs']} of at most {longest} epochs (dashed line)"),
        ("served head", served),
        ("its seen penalty, temperature", _calibration(selected["head"])),
        *(
            [("its scale of unseen classes' scores", number(scale))]
            if (scale := selected["head"]["unseen_scale"]) != 1
            else []
        ),
        ("C_s: seen penalty, temperature", _calibration(selected["student"])),
        (f"{score}, served head", f"{found['H']:.3f}"),
        (f"{score}, C_s", f"{found['H_student']:.3f}"),
        ("novelty by", selected.get("novelty", "teacher") or "no score, as none told unseen classes apart"),
        ("folds", f"{found['folds']}, seed {found['seed']}"),
    ]
    hint = (
        [paragraph("The longest training was the best one considered; a longer one may do better.", "note")]
        if selected["epochs"] == longest
        else []
    )
    return section(
        "What validation chose" if honest else "What the test images chose",
        paragraph(f"Chosen on {found['protocol']}."),
        definitions(chosen),
        *hint,
        charts(*drawn),
    )


def _calibration(fields: Fields) -> str:
    return f"{number(fields['seen_penalty'])}, {number(fields['temperature'])}"


def progress(log: Sequence[Fields], *, selects: bool) -> str:
    """U, S and H over training, where the log has them; empty where it has none.

    Args:
        log: its lines; those of the final training may have `test`, those of the selection `validation`.
        selects: whether the test results chose the length.
    """
    drawn = []
    titles = {"lda": "Test images, lda head", STUDENT: "Test images, C_s"}
    for head, title in titles.items():
        points = [(e["epoch"], e["test"][head]) for e in log if e["stage"] == "final" and head in e.get("test", {})]
        drawn += [_scores_chart(title, points)] if points else []
    of_fold: dict[int, list[tuple[int, Fields]]] = {}
    for line in log:
        if line["stage"] == "selection" and line.get("validation"):
            of_fold.setdefault(line["fold"], []).append((line["epoch"], line["validation"]))
    folds = [_scores_chart(f"Validation, fold {fold + 1}", points) for fold, points in sorted(of_fold.items())]
    if len(folds) > SHOWN_FOLDS:
        folded = f"<details><summary>Validation: all {len(folds)} folds</summary>{charts(*folds)}</details>"
    else:
        drawn, folded = [*drawn, *folds], ""
    if not drawn and not folded:
        return ""
    said = (
        paragraph("Test images chose the length of training (protocol test-best).", "warn")
        if selects
        else paragraph(
            "Monitoring only, nothing was selected by it. Test images: at the penalty that was chosen in the end. "
            "Validation: each point with the head and the penalty that are best there.",
            "note",
        )
    )
    return section("U, S and H over training", said, charts(*drawn), folded)


def _scores_chart(title: str, points: Sequence[tuple[int, Fields]]) -> str:
    lines = [
        Line(label=name, points=[(epoch, scores[name]) for epoch, scores in points], strong=name == "H")
        for name in ("U", "S", "H")
    ]
    return line_chart(title, lines, x_label="epoch", y_label="mean per-class top-1", width=330, height=210)


def losses(final: Sequence[Fields]) -> str:
    """A chart for each loss; `final` are the log's lines of the final training."""
    names = dict.fromkeys(name for line in final for name in line["losses"])
    drawn = [
        line_chart(
            _title(name),
            [Line(label="", points=[(e["epoch"], e["losses"][name]) for e in final if name in e["losses"]])],
            x_label="epoch",
            y_label="mean over the epoch",
            width=320,
            height=190,
        )
        for name in names
    ]
    text = (
        "Of the final training on all training rows. The student's terms (L_) are drawn without their weights, the "
        "generator's and the critic's with them. A term that is switched off has no chart."
    )
    return section("Losses", paragraph(text), charts(*drawn))


def _title(name: str) -> str:
    return TERMS[name][0] if name in TERMS else name


def gradients(final: Sequence[Fields], d3: Fields) -> str:
    """How much each term of the D3 losses pulls, and which are inert.

    Args:
        final: the log's lines of the final training.
        d3: its settings.
    """
    measured = [(line["epoch"], line["gradient_shares"]) for line in final if "gradient_shares" in line]
    names = [n for n in dict.fromkeys(name for _, shares in measured for name in shares) if n != "cls"]
    series = {name: [(epoch, shares[name]) for epoch, shares in measured if name in shares] for name in names}
    heading = "Gradients of the D3 terms on the student"
    if not series:
        return section(heading, paragraph("Not measured: L_cls or every other term is switched off."))
    rows = []
    for name, points in series.items():
        values = [value for _, value in points]
        low = sum(value < INERT for value in values)
        said = "" if not low else f"below {INERT:.0%} at {low} of {len(values)} measured epochs"
        if low == len(values):
            said = f"below {INERT:.0%} of L_cls throughout: the term is inert"
        weight = number(d3[TERMS[name][1]]) if name in TERMS else ""
        rows.append((_title(name), weight, *(number(v) for v in (values[0], min(values), values[-1])), said))
    chart = line_chart(
        "Share of each term",
        [Line(label=_title(name).split(",")[0], points=points) for name, points in series.items()],
        x_label="epoch",
        y_label="gradient norm over that of L_cls (log scale)",
        width=440,
        log=True,
        marked_y=(INERT, f"{INERT:.0%}: inert below"),
    )
    text = "Norm of each weighted term's gradient on the student's parameters, relative to that of L_cls, on one batch."
    head = ("term", "weight", "first", "smallest", "last", "note")
    return section(heading, paragraph(text), charts(chart), table(head, rows, style="notes"))


def _scaling(selected: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The scaling of the features, where it is another than usual or was compared."""
    kind, compared = selected["scaling"], selected["validation"]["scaling"]
    if kind == "range" and not compared:
        return []
    of_each = ", ".join(f"{name} {h:.3f}" for name, h in compared.items())
    return [("scaling of features", kind + (f" (H of class means and ridge regression: {of_each})" if of_each else ""))]
