"""What the training commands print with: progress to stderr, results to stdout, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ERRORS = Console(stderr=True)


def progress_bar(*, quiet: bool = False, unit: Literal["items", "bytes"] = "items") -> Progress:
    """A progress bar on stderr that shows amount, elapsed and remaining time; nothing where `quiet` is set.

    Where stderr is no terminal, rich prints the finished bar only.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if unit == "items" else DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=ERRORS,
        disable=quiet,
    )


def warn(message: str) -> None:
    """Print a warning to stderr as it is, without rich's markup."""
    ERRORS.print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    """Print an error to stderr as it is, without rich's markup."""
    ERRORS.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


def result(fields: Mapping[str, Any], sentence: str, *, as_json: bool) -> None:
    """Print what a command did to stdout: the fields as one JSON object, or a sentence for people."""
    if as_json:
        Console(soft_wrap=True).print(json.dumps(fields), markup=False, highlight=False)
    else:
        Console(soft_wrap=True).print(sentence, markup=False, highlight=False)


def plural(count: int, noun: str) -> str:
    """A count with its noun, `1 epoch` or `2 epochs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
