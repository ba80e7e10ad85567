"""The files that hold a run's results on its test rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.datasets.dataset import Dataset
from training.evaluation import TestRows, evaluate_run, fit_chosen_heads, require_testable, run_key
from training.reporting.figures import figures
from training.run_dir.contents import CURVES, METRICS, Trained, write_json


def write_results(run_dir: Path, dataset: Dataset, trained: Trained) -> dict[str, Any]:
    """Measure a run; write `metrics.json`, and `curves.json` for the report.

    Returns:
        The metrics.

    Raises:
        DataError: there are no test rows of seen or of unseen classes.
    """
    require_testable(dataset)
    rows = TestRows.of(dataset, trained)
    heads = fit_chosen_heads(dataset, trained, key=run_key(trained))
    metrics = evaluate_run(dataset, trained, heads=heads, rows=rows)
    write_json(run_dir / CURVES, figures(dataset, trained, rows, heads[trained.selected.kind]))
    write_json(run_dir / METRICS, metrics)
    return metrics
