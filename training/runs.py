"""One run from its beginning, or from where it was left, to its results and its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.config import TrainConfig
from training.datasets.dataset import Dataset
from training.evaluation import testable
from training.fit import FitOptions, fit
from training.progress import OnStep
from training.reporting.report import write_report
from training.results import write_results
from training.run_dir.begin import refuse_other
from training.run_dir.contents import METRICS, REPORT, Trained, read_json
from training.run_dir.place import is_finished, run_place


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
    """Train, measure and report into `out`; see :func:`training.run_dir.place.run_place`.

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
        if testable(dataset):
            metrics = (
                read_json(folder / METRICS) if (folder / METRICS).exists() else write_results(folder, dataset, trained)
            )
        if not (folder / REPORT).exists():
            write_report(folder)
    return Finished(trained=trained, metrics=metrics)
