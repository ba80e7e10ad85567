"""What the training commands print with: progress to stderr, results to stdout, as a table or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


def say(message: str) -> None:
    """Print what goes on to stderr as it is, without rich's markup."""
    ERRORS.print(message, markup=False, highlight=False, soft_wrap=True)


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


def duration(seconds: float) -> str:
    """A time as people say it: `40 seconds`, `4 minutes`, `2 hours 5 minutes`."""
    if seconds < 90:
        return plural(max(1, round(seconds)), "second")
    hours, minutes = divmod(round(seconds / 60), 60)
    parts = [plural(hours, "hour")] if hours else []
    return " ".join([*parts, plural(minutes, "minute")] if minutes else parts)


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

    def scored(self) -> str:
        """The scores as text; empty where there are none."""
        if self.scores is None:
            return ""
        kind, values = self.scores
        return " ".join([kind, *(f"{score} {values[score]:.2f}" for score in ("U", "S", "H"))])


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
            self._scores[name] = step.scored()
        text = "  ".join(part for part in (name, step.detail, self._scores.get(name)) if part)
        if name not in self._bars:
            # What an earlier part of the run did is there from the start, so that it does not count as speed.
            self._bars[name] = self._shown.add_task(text, total=step.total, completed=step.done)
        self._shown.update(self._bars[name], description=text, completed=step.done, total=step.total)


class Pace:
    """How fast something advances, and when it will be done, from the first that is told of it on."""

    def __init__(self, done: int) -> None:
        self._first, self._began, self.newest = done, time.monotonic(), done

    def left(self, done: int, total: int) -> str:
        """The time left as text; empty where nothing can be said, or nothing is left."""
        self.newest = done
        gained = done - self._first
        if gained <= 0 or done >= total:
            return ""
        return f"about {duration((time.monotonic() - self._began) * (total - done) / gained)} left"


class Lines:
    """One line for each epoch, in place of :class:`Bars` where stderr is a file; a context manager."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def of(self, prefix: str) -> OnStep:
        """What is told the steps of one run; the prefix stands before the names of its stages."""

        def tell(step: Step) -> None:
            name = f"{prefix}{step.stage}"
            known = self._paces.get(name)
            if known is None or step.done < known.newest:  # it begins, or another training of this name does
                self._paces[name] = Pace(step.done)  # what an earlier part of the run did does not count as speed
                if known is None or step.done == 0:
                    return
            left = self._paces[name].left(step.done, step.total)
            parts = (f"{name} epoch {step.done} of {step.total}", step.detail, step.scored(), left)
            say("  ".join(filter(None, parts)))

        return tell


def steps(*, quiet: bool = False) -> Bars | Lines:
    """What shows the epochs of a training: bars on a terminal, lines in a file, nothing where `quiet` is set."""
    return Bars(progress_bar(quiet=quiet)) if quiet or ERRORS.is_terminal else Lines()


_PARTS = 10  # lines of a count in a file


@contextmanager
def counts(*, quiet: bool = False) -> Iterator[OnStage]:
    """What shows counts: bars on a terminal, in a file a line for every tenth, nothing where `quiet` is set."""
    if quiet or ERRORS.is_terminal:
        with progress_bar(quiet=quiet) as shown:
            bars: dict[str, TaskID] = {}

            def advance(name: str, done: int, total: int | None) -> None:
                if name not in bars:
                    bars[name] = shown.add_task(name, total=total, completed=done)
                shown.update(bars[name], completed=done, total=total)

            yield advance
        return
    paces: dict[str, Pace] = {}
    tenths: dict[str, int] = {}

    def line(name: str, done: int, total: int | None) -> None:
        if total is None:
            return
        tenth = _PARTS * done // max(total, 1)
        if name not in paces:
            paces[name] = Pace(done)
        elif tenth > tenths[name]:
            say("  ".join(filter(None, (f"{name} {done} of {total}", paces[name].left(done, total)))))
        tenths[name] = tenth

    yield line
