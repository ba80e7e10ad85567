"""`progress/` of an unfinished run: the newest state of the training that is going on, and what the others measured.

A run is a sequence of stages: a training for each fold of the selection, the choice, the final training.
"""

from __future__ import annotations

import signal
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from model.errors import DataError
from training.files import renamed
from training.method.trainer import Measuring, Trainer
from training.runs.log import RunLog
from training.selection.fold_scores import Measurement, Stage

PROGRESS, STATE, LOG = "progress", "state.pt", "log.jsonl"


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
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def ask(number: int, _frame: FrameType | None) -> None:
        interruption.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Checkpoints:
    """Keeps what a run needs to go on after a kill, stage by stage.

    Args:
        run_dir: existing folder; what is in its `progress/` is continued, and its log cut to that.
        stages: what each stage is, for people.
        every_seconds: how often the state of a training is kept at most; 0 keeps it after every epoch.
        interruption: whether to save and stop.

    Raises:
        DataError: the state is damaged; names its file.
    """

    def __init__(
        self, run_dir: Path, stages: Sequence[str], *, every_seconds: float, interruption: Interruption
    ) -> None:
        self.folder, self.stages = run_dir / PROGRESS, stages
        self._every, self._interruption = every_seconds, interruption
        self.folder.mkdir(exist_ok=True)
        self.newest: dict[str, Any] = {"stage": 0, "trainer": None, "carried": {}, "log_bytes": 0, "seconds": 0.0}
        if self.file.exists():
            self.newest = _read(self.file)
        self.log = RunLog(run_dir / LOG, kept_bytes=self.newest["log_bytes"], seconds=self.newest["seconds"])
        self._saved_at = time.monotonic()

    @property
    def file(self) -> Path:
        """The newest state."""
        return self.folder / STATE

    def where(self) -> str:
        """What the newest state is of, for people."""
        if not self.file.exists():
            return "there is no checkpoint yet"
        stage, epoch = self.place
        at = f"after epoch {epoch} of {self.stages[stage]}" if epoch else f"before {self.stages[stage]}"
        return f"the last good checkpoint, {at}, is {self.file}"

    @property
    def place(self) -> tuple[int, int]:
        """The stage of the newest state, and how many of its epochs are done."""
        trainer = self.newest["trainer"]
        return int(self.newest["stage"]), int(trainer["epoch"]) if trainer else 0

    def stage(self, number: int) -> KeptStage:
        """The place of one stage's training and measurements."""
        return KeptStage(self, number)

    def save_if_due(self, stage: int, trainer: Trainer, measuring: Measuring) -> None:
        """Keep the state of a training, where the last one is old enough or somebody asked to stop."""
        if self._interruption.signal is not None or time.monotonic() - self._saved_at >= self._every:
            self.save(stage, trainer.state(), measuring.state())
            self._interruption.raise_if_asked(self.where())  # one that comes after the look above waits an epoch

    def finish(self, stage: int) -> None:
        """Note that a stage is over."""
        self.save(stage + 1, None, {})
        self._interruption.raise_if_asked(self.where())

    def save(self, stage: int, trainer: dict[str, Any] | None, carried: dict[str, Any]) -> None:
        """Write the newest state at once."""
        newest = {
            "stage": stage,
            "trainer": trainer,
            "carried": carried,
            "log_bytes": self.log.sync(),
            "seconds": self.log.seconds,
        }
        with renamed(self.file) as beside:
            torch.save(newest, beside)
        self.newest, self._saved_at = newest, time.monotonic()


class KeptStage(Stage):
    """One stage of a run directory.

    Args:
        checkpoints: of the run.
        number: of the stage, from 0.
    """

    def __init__(self, checkpoints: Checkpoints, number: int) -> None:
        self._checkpoints, self.number = checkpoints, number

    @property
    def finished(self) -> bool:
        """Whether the stage is over and need not be repeated."""
        return self._checkpoints.place[0] > self.number

    @property
    def epoch(self) -> int:
        """How many epochs of its training are done, 0 where the run is at another stage."""
        stage, epoch = self._checkpoints.place
        return epoch if stage == self.number else 0

    def load(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The states of trainer and measuring, where the run was left in this stage's training."""
        newest = self._checkpoints.newest
        if newest["stage"] != self.number or newest["trainer"] is None:
            return None
        return newest["trainer"], newest["carried"]

    def save(self, trainer: Trainer, measuring: Measuring) -> None:
        """Keep both states, where it is time to."""
        self._checkpoints.save_if_due(self.number, trainer, measuring)

    def measured(self) -> dict[int, Measurement]:
        """What the stage has measured, up to the newest state, by epoch.

        Raises:
            DataError: a file is damaged; names it.
        """
        files = self._checkpoints.folder.glob(f"{self._stem}-*.npz")
        found = {int(file.stem.rpartition("-")[2]): file for file in files}
        kept = [epoch for epoch in sorted(found) if self.finished or epoch <= self.epoch]
        return {epoch: _read_measurement(found[epoch]) for epoch in kept}

    def keep(self, epoch: int, measurement: Measurement) -> None:
        """Keep what was measured after an epoch, as `stage-<n>-epoch-<m>.npz`."""
        with renamed(self._checkpoints.folder / f"{self._stem}-{epoch}.npz") as beside:
            beside.write_bytes(measurement.to_bytes())

    def finish(self) -> None:
        """Note that the stage is over."""
        if not self.finished:
            self._checkpoints.finish(self.number)

    @property
    def _stem(self) -> str:
        return f"stage-{self.number}-epoch"


def _read(file: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the archive provokes
        raise DataError(
            f"{file}: damaged: {next(iter(str(error).splitlines()), '')}; begin anew with --overwrite"
        ) from None
    return state


def _read_measurement(file: Path) -> Measurement:
    try:
        return Measurement.from_bytes(file.read_bytes())
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: damaged: {error}; begin anew with --overwrite") from None
