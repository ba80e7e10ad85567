"""Options that several training commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory made by `d3gzsl-train fit`.")]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DATA", help="Where the run's data are now, if they were moved.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Splits = Annotated[
    str | None,
    typer.Option(
        metavar="att|sent", help="Of a benchmark: att_splits.mat (default where it is there) or sent_splits.mat."
    ),
]
