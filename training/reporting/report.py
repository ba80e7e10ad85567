"""`report.html` of a run: what it reached and under which protocol, what validation chose, and how training went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.errors import DataError
from training.console import plural
from training.files import renamed
from training.reporting.mistakes import mistakes
from training.reporting.novelty import novelty
from training.reporting.page import Fields, beside, definitions, page, paragraph, section, table
from training.reporting.result_sections import confusion, per_class, plane, trade_off
from training.reporting.training_sections import gradients, losses, progress, validation
from training.reporting.verdict import verdict_section
from training.reporting.words import words
from training.runs.contents import CONFIG, CURVES, LOG, METRICS, REPORT, SCHEMA, read_json, refuse_unfinished

SCORES = {"U": "U", "S": "S", "H": "H", "T1": "T1", "AUSUC": "AUSUC", "ece": "ECE"}
HEADS = {
    "lda": "lda on E_s (served)",
    "student": "C_s (the paper's student)",
    "softmax": "softmax on synthesised features",
}


def report(run_dir: Path) -> str:
    """The report of a run as one HTML document that needs no other file.

    Args:
        run_dir: with `config.json` and `log.jsonl`; without `metrics.json` the report says that there are no results,
            without `curves.json` that some pictures are missing.

    Raises:
        DataError: a file is missing, damaged or of another form; names it.
    """
    resolved = read_json(run_dir / CONFIG)
    if resolved.get("schema") != SCHEMA:
        raise DataError(f"{run_dir / CONFIG}: expected schema {SCHEMA!r}, found {resolved.get('schema')!r}")
    refuse_unfinished(run_dir, resolved)
    metrics, curves = (read_json(file) if (file := run_dir / name).exists() else None for name in (METRICS, CURVES))
    log = _read_log(run_dir / LOG)
    try:
        data, selected = resolved["data"], resolved["selected"]
        final = [line for line in log if line["stage"] == "final"]
        title = method_title(resolved["config"])
        name = Path(str(data["path"])).name if "path" in data else str(data.get("kind", "a run"))
        subtitle = (
            f"D3GZSL training, seed {resolved['config']['seed']}, {plural(selected['epochs'], 'epoch')}, "
            f"{_duration(log[-1]['seconds']) if log else 'no time'} of computing; d3gzsl {resolved['code_version']}, "
            f"commit {data.get('commit') or 'unknown'}"
        )
        selects = metrics is not None and bool(metrics["protocol"]["test_used_for_selection"])
        sections = [
            verdict_section(metrics, resolved),
            _results(metrics, selected, drawn=curves is not None),
            words(),
            *([trade_off(curves, selects=selects)] if metrics is not None and curves is not None else []),
            *([mistakes(curves)] if metrics is not None and curves is not None else []),
            progress(log, selects=selects),
            validation(selected, int(resolved["config"]["epochs"])),
            novelty(metrics, selected),
            losses(final),
            gradients(final, resolved["config"]["d3"]),
            *([confusion(curves), plane(curves)] if metrics is not None and curves is not None else []),
            *([per_class(metrics)] if metrics is not None else []),
            _settings(resolved),
        ]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{run_dir}: {CONFIG}, {METRICS}, {CURVES} or {LOG} lacks what a report needs or has another form: "
            f"{type(error).__name__}: {error}"
        ) from error
    return page(f"{title}: {name}", subtitle, filter(None, sections))


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, beside and then renamed.

    Raises:
        DataError: as :func:`report`.
    """
    content = report(run_dir)
    with renamed(run_dir / REPORT) as beside_it:
        beside_it.write_text(content, encoding="utf-8")
    return run_dir / REPORT


def _read_log(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; expected a run directory made by `d3gzsl-train fit`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    entries = []
    for place, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file} line {place}: expected a JSON object: {error}") from None
        if not isinstance(entry, dict) or "stage" not in entry:
            raise DataError(f"{file} line {place}: expected a JSON object with a field 'stage'")
        entries.append(entry)
    return entries


def _results(metrics: Fields | None, selected: Fields, *, drawn: bool) -> str:
    if metrics is None:
        return section(
            "Results on test images",
            paragraph(f"There are no test results: this run has no {METRICS}.", "warn"),
            paragraph(
                "`d3gzsl-train evaluate RUN_DIR` measures them where the data hold test images of seen and of unseen "
                f"classes. On validation the served head reached H {selected['validation']['H']:.3f}."
            ),
        )
    heads, on_validation = titles(metrics), _on_validation(selected)
    rows = [
        (
            title,
            *(f"{metrics[key][score]:.3f}" for score in SCORES),
            f"{on_validation[key]:.3f}" if key in on_validation else "–",
        )
        for key, title in heads.items()
    ]
    protocol = metrics["protocol"]
    loud = (
        [
            paragraph(
                "Test images were used for selection: these numbers are the best of several looks at the test set, as "
                "papers report them, and say less about new images than those of the protocol validation.",
                "loud",
            )
        ]
        if protocol["test_used_for_selection"]
        else []
    )
    return section(
        "Results on test images",
        *loud,
        beside(
            table(("head", *SCORES.values(), "H on validation"), rows, lead=True)
            + paragraph(
                "U and S: mean per-class top-1 of unseen and of seen classes among all classes; H = 2US/(U+S). T1: of "
                "unseen images among unseen classes only. AUSUC: area under the seen/unseen accuracy curve over all "
                f"penalties. ECE: expected calibration error of the probabilities, 15 bins{_balanced(metrics)}.",
                "note",
            )
            + ("" if drawn else paragraph(f"Some pictures are missing: this run has no {CURVES}.", "note")),
            definitions(_protocol(protocol)),
        ),
    )


def titles(metrics: Fields) -> dict[str, str]:
    """The classifiers that were measured with a title each, the served one first."""
    return {key: title for key, title in HEADS.items() if key in metrics}


def _on_validation(selected: Fields) -> dict[str, float]:
    """H on validation of what is chosen there; nothing is chosen for the row `softmax`."""
    found = selected["validation"]
    return {"lda": found["H"], "student": found["H_student"]}


def _balanced(metrics: Fields) -> str:
    """The calibration errors with which every class counts the same."""
    served, student = (f"{metrics[key]['ece_balanced']:.3f}" for key in ("lda", "student"))
    return f"; with every class counting the same {served} (served) and {student} (C_s)"


def method_title(config: Fields) -> str:
    """The generator, whether D3 was added to it, and which of its parts were not.

    Args:
        config: of `config.json`.
    """
    method, d3 = config["generator"]["method"], config["d3"]
    parts = {"L_kl": d3["label_distillation"], "L_be": d3["embedding_distillation"], "O2DBD": d3["ood_distillation"]}
    missing = [name for name, weight in parts.items() if not weight]
    if len(missing) == len(parts):
        return f"{method} without D3"
    if missing[:2] == ["L_kl", "L_be"]:
        missing = ["ID2SD"]
    return f"{method} + D3{' without ' if missing else ''}{' and '.join(missing)}"


def _protocol(protocol: Fields) -> Iterator[tuple[str, str]]:
    rows, classes = protocol["rows"], protocol["classes"]
    yield "protocol", str(protocol["name"])
    yield "selection", str(protocol["selection"])
    yield "test images used for selection", "YES" if protocol["test_used_for_selection"] else "no"
    yield "metric", str(protocol["metric"])
    yield "training rows", str(rows["trainval"])
    yield (
        "test rows",
        f"{rows['test_seen']} of {classes['seen']} seen, {rows['test_unseen']} of {classes['unseen']} unseen",
    )
    for name, value in protocol["split"].items():
        if name not in ("rows", "classes") and value not in (None, [], {}):
            yield f"split: {name.replace('_', ' ')}", _said(value)
    yield from (
        (name.replace("_", " "), str(protocol[name])) for name in ("seed", "commit", "data_hash", "config_hash")
    )


def _said(value: Any) -> str:
    """Nested plain values as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(of)}" for name, of in value.items())
    if isinstance(value, list):
        return "; ".join(map(_said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _settings(resolved: Fields) -> str:
    recipe = {"recipe": resolved.get("recipe") or "none"}
    rows = [*_flat(recipe, ""), *_flat(resolved["config"], ""), *_flat(resolved["data"], "data.")]
    return section(
        "Settings",
        "<details><summary>All settings, resolved, and the data</summary>",
        table(("setting", "value"), rows, style="text"),
        "</details>",
    )


def _flat(fields: Fields, prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
