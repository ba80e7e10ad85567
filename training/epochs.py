"""What a fit does after every epoch besides training: measure, log and tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.config import TrainConfig
from training.folds import fold_count
from training.gradients import gradient_shares
from training.monitor import Monitor
from training.progress import OnStep, Step
from training.run_dir.checkpoints import Checkpoints
from training.selection import FoldEpoch, Scores, measured_epochs, of_best_head
from training.task import Task
from training.trainer import Networks


class FoldEpochs:
    """Logs and tells the epochs of the selection's folds."""

    def __init__(self, config: TrainConfig, kept: Checkpoints, progress: OnStep) -> None:
        self._epochs, self._folds = config.epochs, fold_count(config.selection)
        self._kept, self._progress = kept, progress
        stage, epoch = kept.place
        if stage < self._folds:
            self._tell(stage, epoch, None)

    def __call__(self, at: FoldEpoch) -> None:
        """Note an epoch of a fold, with its pseudo-U, S and H where it was measured."""
        measured = {} if at.scores is None else {"validation": at.scores}
        self._kept.log.write(stage="selection", fold=at.fold, epoch=at.epoch, losses=at.losses, **measured)
        self._epochs = at.epochs
        self._tell(at.fold, at.epoch, at.scores)

    def _tell(self, fold: int, epoch: int, scores: Scores | None) -> None:
        step = Step(
            stage="selection",
            done=fold * self._epochs + epoch,
            total=self._folds * self._epochs,
            detail=f"fold {fold + 1}/{self._folds}",
            scores=None if scores is None else ("pseudo", scores),
        )
        self._progress(step)


class FinalEpochs:
    """Logs, measures and tells the epochs of the final training.

    Attributes:
        monitor: measures the test rows, where they may be looked at.
    """

    def __init__(self, task: Task, config: TrainConfig, kept: Checkpoints, progress: OnStep) -> None:
        self._task, self._config, self._kept, self._progress = task, config, kept, progress
        self._measured, self._epochs = measured_epochs(config), 0
        self.monitor: Monitor | None = None

    def begin(self, stage: int, epochs: int) -> None:
        """Say that the training, which is this stage of the run, begins or goes on."""
        self._epochs = epochs
        at, epoch = self._kept.place
        self._tell(epoch if at == stage else 0, None)

    def note(
        self,
        epoch: int,
        networks: Networks,
        losses: Mapping[str, float],
        scores: Mapping[str, Scores] | None = None,
    ) -> None:
        """Note an epoch, with U, S and H of the heads on the test rows where they were measured already."""
        line: dict[str, Any] = {"stage": "final", "epoch": epoch, "losses": losses}
        if epoch in self._measured or epoch == 1:
            shares = gradient_shares(networks, self._task, self._config)
            line |= {"gradient_shares": shares} if shares else {}
        if epoch in self._measured and self.monitor is not None:
            scores = self.monitor.measure(networks)
        if scores is not None:
            line["test"] = scores
        self._kept.log.write(**line)
        self._tell(epoch, scores)

    def _tell(self, epoch: int, scores: Mapping[str, Scores] | None) -> None:
        step = Step(
            stage="training",
            done=epoch,
            total=self._epochs,
            scores=None if scores is None else ("test", of_best_head(scores)),
        )
        self._progress(step)
