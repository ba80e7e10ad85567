"""Ctrl-C and SIGTERM: the first asks the training to save and stop after its epoch, the second stops at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):  # noqa: N818  # no error: what was asked for
    """A training that was stopped by a signal after saving its state.

    Args:
        number: of the signal.
        where: what is saved.
    """

    def __init__(self, number: int, where: str) -> None:
        self.number = number
        super().__init__(where)

    @property
    def status(self) -> int:
        """The exit status, as a shell gives it."""
        return 128 + self.number


class Interruption:
    """Whether somebody asked the training to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def raise_if_asked(self, where: str) -> None:
        """Raise Interrupted if a signal came."""
        if self.signal is not None:
            raise Interrupted(self.signal, where)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Take SIGINT and SIGTERM while the block runs, once; then they do what they did before.

    A signal that is ignored, as Ctrl-C is in a job in the background, stays so.
    """
    asked = Interruption()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
