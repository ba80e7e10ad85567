"""What a fit tells about its progress, and the bars that show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.progress import Progress as RichProgress
from rich.progress import TaskID


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
