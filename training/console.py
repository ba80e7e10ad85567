"""What the training commands print with: progress to stderr, results to stdout, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

OnProgress = Callable[[int, int | None], None]
"""Told how much is done and how much there is in all, None where that is not known."""

OnStage = Callable[[str, int, int | None], None]
"""The same for work in stages: the stage comes first."""

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


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a stage of a fit is.

    Attributes:
        stage: `selection` or `training`.
        done: epochs done.
        total: epochs in all.
        detail: what goes on, for people.
        scores: the newest U, S and H, and which: `pseudo` or `test`.
    """

    stage: str
    done: int
    total: int
    detail: str = ""
    scores: tuple[str, Mapping[str, float]] | None = None


OnStep = Callable[[Step], None]


class Bars:
    """One bar a stage, with what goes on, the newest scores and the time left; a context manager.

    Args:
        shown: rich's progress display; started with the first step, so that an error before it stands alone.
    """

    def __init__(self, shown: RichProgress) -> None:
        self._shown, self._started = shown, False
        self._bars: dict[str, TaskID] = {}
        self._scores: dict[str, str] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            self._shown.stop()

    def of(self, prefix: str) -> OnStep:
        """What is told the steps of one run; the prefix stands before the names of its stages."""

        def tell(step: Step) -> None:
            self._tell(f"{prefix}{step.stage}", step)

        return tell

    def _tell(self, name: str, step: Step) -> None:
        if not self._started:
            self._shown.start()
            self._started = True
        if step.scores is not None:
            kind, values = step.scores
            self._scores[name] = " ".join([kind, *(f"{score} {values[score]:.2f}" for score in ("U", "S", "H"))])
        text = "  ".join(part for part in (name, step.detail, self._scores.get(name)) if part)
        if name not in self._bars:
            # What an earlier part of the run did is there from the start, so that it does not count as speed.
            self._bars[name] = self._shown.add_task(text, total=step.total, completed=step.done)
        self._shown.update(self._bars[name], description=text, completed=step.done, total=step.total)
