"""`d3gzsl-train report`: a run's page for people."""

from __future__ import annotations

from training import console
from training.commands.options import AsJson, RunDir


def report(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Write RUN_DIR/report.html: results with their protocol, what validation chose, losses, accuracy per class.

    One file without scripts or anything from elsewhere. `fit` and `evaluate` write it too.
    """
    from training.reporting.report import write_report

    out = write_report(run_dir)
    console.result({"out": str(out)}, str(out), as_json=as_json)
