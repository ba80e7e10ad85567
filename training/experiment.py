"""One run, or one for each of several seeds, from the beginning or from where it was left to results and report."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.errors import DataError
from training.config import TrainConfig
from training.console import OnStep
from training.datasets.dataset import Dataset
from training.evaluation import SOFTMAX, TestRows, evaluate, fit_chosen_head, run_key
from training.files import write_json
from training.method.heads import LDA
from training.reporting.chart_data import figures
from training.reporting.report import write_report
from training.runs.contents import CONFIG, CURVES, METRICS, REPORT, Trained, read_json
from training.runs.directory import is_finished, refuse_other, run_place
from training.runs.fit import FitOptions, fit


def write_results(run_dir: Path, dataset: Dataset, trained: Trained) -> dict[str, Any]:
    """Measure a run; write `metrics.json`, and `curves.json` for the report.

    Returns:
        The metrics.

    Raises:
        DataError: there are no test rows of seen or of unseen classes.
    """
    dataset.require_testable()
    rows = TestRows.of(dataset, trained)
    head = fit_chosen_head(dataset, trained, key=run_key(trained))
    metrics = evaluate(dataset, trained, head=head, rows=rows)
    write_json(run_dir / CURVES, figures(dataset, trained, rows, head))
    write_json(run_dir / METRICS, metrics)
    return metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """What every run of one command has in common.

    Attributes:
        dataset: rows, classes and their split.
        data: how to build it again.
        device: where to train.
        options: how the trainings run.
        resume: continue what was begun and keep what has finished.
        overwrite: begin anew.
    """

    dataset: Dataset
    data: Mapping[str, Any]
    device: torch.device
    options: FitOptions
    resume: bool
    overwrite: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """A finished run and its results, where there are test rows."""

    trained: Trained
    metrics: dict[str, Any] | None


def run(order: Order, config: TrainConfig, out: Path, *, progress: OnStep = lambda _: None) -> Finished:
    """Train, measure and report into `out`; see :func:`training.runs.directory.run_place`.

    Raises:
        DataError: `out` holds something else, or a run with other settings or data.
        Interrupted: somebody asked to stop, and the state is saved.
    """
    dataset = order.dataset
    with run_place(out, resume=order.resume, overwrite=order.overwrite) as folder:
        if is_finished(folder):
            refuse_other(folder, config, {**order.data, "data_hash": dataset.data_hash, "split": dataset.split})
            trained = Trained.load(folder)
        else:
            trained = fit(
                dataset,
                config,
                folder,
                data=order.data,
                device=order.device,
                progress=progress,
                options=order.options,
            )
        metrics = None
        if dataset.testable:
            metrics = (
                read_json(folder / METRICS) if (folder / METRICS).exists() else write_results(folder, dataset, trained)
            )
        if not (folder / REPORT).exists():
            write_report(folder)
    return Finished(trained=trained, metrics=metrics)


SUMMARY = "summary.json"
SCHEMA = "d3gzsl-seeds/1"
HEADS, SCORES = (LDA, "student", SOFTMAX), ("U", "S", "H", "T1", "AUSUC")


def parse_seeds(text: str) -> list[int]:
    """`0,1,5` is a list of seeds, `3` the first three: 0, 1, 2.

    Raises:
        DataError: not whole numbers of at least 0, none, or one of them twice.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise DataError(f"--seeds: expected a number of seeds or a list like 0,1,2, got {text!r}")
    numbers = [int(part) for part in parts]
    seeds = list(range(numbers[0])) if len(numbers) == 1 else numbers
    if not seeds or len(set(seeds)) != len(seeds):
        raise DataError(f"--seeds: expected at least one seed and each once, got {text!r}")
    return seeds


def run_seeds(
    order: Order, config: TrainConfig, seeds: Sequence[int], out: Path, *, progress: Callable[[int], OnStep]
) -> dict[str, Any]:
    """Train into `out/seed-<n>` for every seed; `out/summary.json` is written after each.

    Args:
        order: what the runs have in common.
        config: hyper-parameters; the seed is replaced.
        seeds: which.
        out: folder of the runs.
        progress: what is told after each epoch of the run with a seed.

    Returns:
        The summary: a row for each seed, mean and sample standard deviation.

    Raises:
        DataError: `out` is no folder of such runs.
        Interrupted: somebody asked to stop, and the state is saved.
    """
    if (out / CONFIG).exists():
        raise DataError(f"--out {out}: holds a single run; choose another place for several seeds")
    if out.exists() and (foreign := [p.name for p in _others(out)]):
        raise DataError(f"--out {out}: exists and holds other things than runs with seeds: {', '.join(foreign)}")
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for seed in seeds:
        name = f"seed-{seed}"
        order.options.interruption.raise_if_asked(f"{len(rows)} of {len(seeds)} seeds have finished")
        finished = run(order, dataclasses.replace(config, seed=seed), out / name, progress=progress(seed))
        rows.append(row(finished, name))
        summary = {"schema": SCHEMA, "seeds": list(seeds), "rows": rows, "summary": summarise(rows)}
        write_json(out / SUMMARY, summary)
    return summary


def _others(out: Path) -> Iterator[Path]:
    if not out.is_dir():
        yield out
        return
    for child in sorted(out.iterdir()):
        if child.name != SUMMARY and not child.name.lstrip(".").startswith("seed-"):
            yield child


def row(finished: Finished, name: str) -> dict[str, Any]:
    """One run's results with what they came from."""
    trained, metrics = finished.trained, finished.metrics
    protocol = trained.config.selection.protocol
    return {
        "run": name,
        "seed": trained.config.seed,
        "recipe": trained.recipe and trained.recipe["name"],
        "protocol": protocol,
        "test_used_for_selection": protocol != "validation",
        "commit": trained.data.get("commit"),
        "config_hash": trained.config.digest(),
        "data_hash": trained.data["data_hash"],
        "epochs": trained.selected.epochs,
        "selected_H": trained.selected.validation["H"],
        "head": trained.selected.head.name,
        **_scores(metrics),
    }


def _scores(metrics: Mapping[str, Any] | None) -> dict[str, dict[str, float] | None]:
    """Of every classifier that was measured; None without test rows."""
    if metrics is None:
        return dict.fromkeys(HEADS)
    return {head: {score: metrics[head][score] for score in SCORES} for head in HEADS}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of each score; no deviation of a single row, nothing without test rows."""
    found: dict[str, Any] = {}
    for head in HEADS:
        measured = [row[head] for row in rows if row[head] is not None]
        if measured:
            found[head] = {score: _spread([values[score] for values in measured]) for score in SCORES}
    return found


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": deviation}


def table(summary: dict[str, Any]) -> str:
    """The rows as lines for people, mean and deviation below, the protocol last."""
    rows = summary["rows"]
    lines = []
    for head in summary["summary"]:
        lines.append("".join([head.ljust(12), *(score.rjust(16) for score in SCORES)]))
        measured = [r for r in rows if r[head] is not None]
        lines += ["".join([r["run"].ljust(12), *(f"{r[head][s]:16.3f}" for s in SCORES)]) for r in measured]
        lines.append("".join(["mean (sd)".ljust(12), *(_cell(summary["summary"][head][s]) for s in SCORES)]))
    used = "YES" if any(r["test_used_for_selection"] for r in rows) else "no"
    lines.append(f"protocol: {rows[0]['protocol']}; test images used for selection: {used}")
    return "\n".join(lines)


def _cell(spread: dict[str, float | None]) -> str:
    deviation = "" if spread["sd"] is None else f" ({spread['sd']:.3f})"
    return f"{spread['mean']:.3f}{deviation}".rjust(16)
