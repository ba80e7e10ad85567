"""`d3gzsl-train evaluate`: a run's results on its test rows."""

from __future__ import annotations

from typing import Any

from training import console
from training.commands.options import AsJson, Data, RunDir


def evaluate(run_dir: RunDir, data: Data = None, as_json: AsJson = False) -> None:
    """Measure U, S, H, T1, AUSUC and the AUROC of novelty; write metrics.json and report.html."""
    from training.evaluation import evaluate_run
    from training.report import write_report
    from training.run_dir import METRICS, Trained, write_json
    from training.sources import reopen

    trained = Trained.load(run_dir)
    metrics = evaluate_run(reopen(trained, moved_to=data), trained)
    write_json(run_dir / METRICS, metrics)
    write_report(run_dir)
    console.result(metrics, table(metrics), as_json=as_json)


def table(metrics: dict[str, Any]) -> str:
    """The results as lines for people, the protocol below the numbers."""
    columns = ("U", "S", "H", "T1", "AUSUC")
    lines = ["".join(["head".ljust(28), *(c.rjust(8) for c in columns)])]
    for key, title in (("lda", "lda on E_s (served)"), ("student", "C_s (the paper's student)")):
        lines.append("".join([title.ljust(28), *(f"{metrics[key][c]:8.3f}" for c in columns)]))
    protocol = metrics["protocol"]
    rows, split = protocol["rows"], protocol["split"]
    lines += [
        f"novelty: AUROC {metrics['novelty']['auroc']:.3f} for unseen against seen test images",
        f"protocol: {protocol['selection']}; test images used for selection: no",
        f"  {protocol['metric']}",
        f"  {rows['trainval']} training rows, {rows['test_seen']} test rows of {protocol['classes']['seen']} seen and "
        f"{rows['test_unseen']} of {protocol['classes']['unseen']} unseen classes; seed {protocol['seed']}",
        f"  split: {split.get('rule', split)}",
    ]
    return "\n".join(lines)
