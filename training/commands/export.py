"""`d3gzsl-train export`: a run to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from training import console
from training.commands.options import AsJson, Data, Overwrite, RunDir


def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder the bundle is written to.")],
    data: Data = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the bundle that `d3gzsl serve --bundle` takes; every ONNX graph is held against torch first."""
    from training.export import export as run
    from training.run_dir import Trained
    from training.sources import reopen

    trained = Trained.load(run_dir)
    written = run(reopen(trained, moved_to=data), trained, out, overwrite=overwrite)
    sentence = f"{out}: bundle {written['bundle_id']}; next: d3gzsl serve --bundle {out}"
    console.result({"out": str(out), **written}, sentence, as_json=as_json)
