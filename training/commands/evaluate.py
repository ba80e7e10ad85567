"""`d3gzsl-train evaluate`: a run's results on its test rows."""

from __future__ import annotations

from typing import Any

from training import console
from training.commands.options import AsJson, Data, Device, RunDir


def evaluate(run_dir: RunDir, data: Data = None, device: Device = "auto", as_json: AsJson = False) -> None:
    """Measure U, S, H, T1, AUSUC, calibration and the AUROC of novelty.

    Writes metrics.json, curves.json and report.html into RUN_DIR.
    """
    from training.fit import choose_device
    from training.reporting.report import write_report
    from training.results import write_results
    from training.run_dir.contents import Trained
    from training.sources import reopen

    target = choose_device(device)
    trained = Trained.load(run_dir)
    trained.networks.to(target)
    metrics = write_results(run_dir, reopen(trained, moved_to=data), trained)
    write_report(run_dir)
    console.result(metrics, table(metrics), as_json=as_json)


def table(metrics: dict[str, Any]) -> str:
    """The results as lines for people, the protocol below the numbers."""
    from training.reporting.report import titles

    columns = {"U": "U", "S": "S", "H": "H", "T1": "T1", "AUSUC": "AUSUC", "ece": "ECE"}
    lines = ["".join(["head".ljust(28), *(c.rjust(8) for c in columns.values())])]
    for key, title in titles(metrics).items():
        lines.append("".join([title.ljust(28), *(f"{metrics[key][c]:8.3f}" for c in columns)]))
    protocol = metrics["protocol"]
    rows, split = protocol["rows"], protocol["split"]
    lines += [
        f"novelty: AUROC {metrics['novelty']['auroc']:.3f} for unseen against seen test images",
        f"protocol: {protocol['selection']}; test images used for selection: "
        f"{'YES' if protocol['test_used_for_selection'] else 'no'}",
        f"  {protocol['metric']}",
        f"  {rows['trainval']} training rows, {rows['test_seen']} test rows of {protocol['classes']['seen']} seen and "
        f"{rows['test_unseen']} of {protocol['classes']['unseen']} unseen classes; seed {protocol['seed']}",
        f"  split: {split.get('rule', split)}",
    ]
    return "\n".join(lines)
