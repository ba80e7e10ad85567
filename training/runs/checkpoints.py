"""`progress/` of an unfinished run: the newest state of the training that is going on, and what the others measured.

A run is a sequence of stages: a training for each fold of the selection, the choice, the final training.
"""

from __future__ import annotations

import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from model.errors import DataError
from training.config import TrainConfig
from training.files import renamed
from training.method.trainer import DivergedError, Networks, Trainer
from training.runs.log import RunLog
from training.selection.fold_scores import Measurement
from training.task import Task


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


PROGRESS, STATE, LOG = "progress", "state.pt", "log.jsonl"

OnEpoch = Callable[[int, Networks, dict[str, float]], None]


class Unkept:
    """Trains one stage after the other and keeps nothing; for a selection outside a run directory."""

    def finished(self, stage: int) -> bool:
        """Whether a stage is over and need not be repeated."""
        del stage
        return False

    def measured(self, stage: int) -> dict[int, Measurement]:
        """What a stage has measured so far, by epoch."""
        del stage
        return {}

    def keep(self, stage: int, epoch: int, measurement: Measurement) -> None:
        """Keep what a stage measured at an epoch."""

    def finish(self, stage: int) -> None:
        """Note that a stage is over."""

    def train(
        self,
        stage: int,
        task: Task,
        config: TrainConfig,
        *,
        epochs: int,
        on_epoch: OnEpoch,
        enough: Callable[[], bool] = lambda: False,
        carried: dict[str, Any] | None = None,
    ) -> Networks:
        """Train for some epochs, from where the stage was left.

        Args:
            stage: number of the stage.
            task: data on the device to train on.
            config: hyper-parameters.
            epochs: how long at most.
            on_epoch: called after each epoch with its number from 1, the networks and mean losses.
            enough: whether to end earlier; asked before each epoch.
            carried: tensors and plain values that go on besides the training; filled with what a checkpoint holds.

        Raises:
            DivergedError: the training diverged.
        """
        trainer = Trainer(task, config, self._state(stage, {} if carried is None else carried))
        while trainer.epoch < epochs and not enough():
            losses = trainer.run_epoch()
            on_epoch(trainer.epoch, trainer.networks, losses)
            self._after_epoch(stage, trainer, carried or {})
        trainer.release()
        return trainer.networks

    def _state(self, stage: int, carried: dict[str, Any]) -> dict[str, Any] | None:
        del stage, carried
        return None

    def _after_epoch(self, stage: int, trainer: Trainer, carried: dict[str, Any]) -> None:
        """Called after each epoch."""


class Checkpoints(Unkept):
    """Keeps what a run needs to go on after a kill.

    Args:
        run_dir: existing folder; what is in its `progress/` is continued, and its log cut to that.
        stages: what each stage is, for people.
        every_seconds: how often the state of a training is kept at most; 0 keeps it after every epoch.
        asked: whether to save and stop.

    Raises:
        DataError: the state is damaged; names its file.
    """

    def __init__(self, run_dir: Path, stages: Sequence[str], *, every_seconds: float, asked: Interruption) -> None:
        self._folder, self._stages, self._every, self._asked = run_dir / PROGRESS, stages, every_seconds, asked
        self._folder.mkdir(exist_ok=True)
        self._newest: dict[str, Any] = {"stage": 0, "trainer": None, "carried": {}, "log_bytes": 0, "seconds": 0.0}
        if self.file.exists():
            self._newest = _read(self.file)
        self.log = RunLog(run_dir / LOG, kept_bytes=self._newest["log_bytes"], seconds=self._newest["seconds"])
        self._saved_at = time.monotonic()

    @property
    def file(self) -> Path:
        """The newest state."""
        return self._folder / STATE

    def where(self) -> str:
        """What the newest state is of, for people."""
        if not self.file.exists():
            return "there is no checkpoint yet"
        stage, epoch = self.place
        at = f"after epoch {epoch} of {self._stages[stage]}" if epoch else f"before {self._stages[stage]}"
        return f"the last good checkpoint, {at}, is {self.file}"

    @property
    def place(self) -> tuple[int, int]:
        """The stage of the newest state, and how many of its epochs are done."""
        trainer = self._newest["trainer"]
        return int(self._newest["stage"]), int(trainer["epoch"]) if trainer else 0

    def finished(self, stage: int) -> bool:
        """Whether a stage is over and need not be repeated."""
        return self.place[0] > stage

    def measured(self, stage: int) -> dict[int, Measurement]:
        """What a stage has measured, up to the newest state, by epoch.

        Raises:
            DataError: a file is damaged; names it.
        """
        found = {int(file.stem.rpartition("-")[2]): file for file in self._folder.glob(f"{_stem(stage)}-*.npz")}
        if not self.finished(stage):
            done = self.place[1] if self.place[0] == stage else 0
            found = {epoch: file for epoch, file in found.items() if epoch <= done}
        return {epoch: _read_measurement(found[epoch]) for epoch in sorted(found)}

    def keep(self, stage: int, epoch: int, measurement: Measurement) -> None:
        """Keep what a stage measured at an epoch, as `stage-<n>-epoch-<m>.npz`."""
        with renamed(self._folder / f"{_stem(stage)}-{epoch}.npz") as beside:
            beside.write_bytes(measurement.to_bytes())

    def finish(self, stage: int) -> None:
        """Note that a stage is over."""
        if not self.finished(stage):
            self._save(stage + 1, None, {})
            self._asked.raise_if_asked(self.where())

    def train(
        self,
        stage: int,
        task: Task,
        config: TrainConfig,
        *,
        epochs: int,
        on_epoch: OnEpoch,
        enough: Callable[[], bool] = lambda: False,
        carried: dict[str, Any] | None = None,
    ) -> Networks:
        """As of the base class; a divergence says where the last good checkpoint is."""
        try:
            return super().train(stage, task, config, epochs=epochs, on_epoch=on_epoch, enough=enough, carried=carried)
        except DivergedError as error:
            raise DivergedError(f"{self._stages[stage]}: {error.message}; {self.where()}") from None

    def _state(self, stage: int, carried: dict[str, Any]) -> dict[str, Any] | None:
        if self._newest["stage"] != stage or self._newest["trainer"] is None:
            return None
        carried.update(self._newest["carried"])
        state: dict[str, Any] = self._newest["trainer"]
        return state

    def _after_epoch(self, stage: int, trainer: Trainer, carried: dict[str, Any]) -> None:
        asked = self._asked.signal is not None
        if asked or time.monotonic() - self._saved_at >= self._every:
            self._save(stage, trainer.state(), carried)
        self._asked.raise_if_asked(self.where())

    def _save(self, stage: int, state: dict[str, Any] | None, carried: dict[str, Any]) -> None:
        newest = {
            "stage": stage,
            "trainer": state,
            "carried": carried,
            "log_bytes": self.log.sync(),
            "seconds": self.log.seconds,
        }
        with renamed(self.file) as beside:
            torch.save(newest, beside)
        self._newest, self._saved_at = newest, time.monotonic()


def _stem(stage: int) -> str:
    return f"stage-{stage}-epoch"


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
