"""The protocol of most papers, to compare with them: the epoch, head and penalty with the best H on the test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from training.config import TrainConfig
from training.datasets.dataset import Dataset
from training.features.scaler import Scaler
from training.method.heads import LDA
from training.method.trainer import Measuring, Networks, train
from training.selection.choice import Scores, best_scores, choose, measured_epochs
from training.selection.fold_scores import HeldOut, Measurement, Stage
from training.selection.result import Selection
from training.task import Task

OnEpoch = Callable[[int, Networks, Mapping[str, float], dict[str, Scores] | None], None]


def train_test_best(
    dataset: Dataset, task: Task, scaler: Scaler, config: TrainConfig, stage: Stage, *, on_epoch: OnEpoch
) -> tuple[Selection, Networks]:
    """Train on trainval, measure on the test rows, and take the networks of the best epoch.

    Args:
        dataset: with test rows of seen and of unseen classes.
        task: all of its trainval rows.
        scaler: fitted on them.
        config: hyper-parameters.
        stage: where the training is kept.
        on_epoch: called with the epoch (from 1), the networks, mean losses and, where the epoch was measured, the
            best test U, S and H of each head there.
    """
    held = HeldOut.of(dataset, dataset.test, np.arange(len(dataset.classes)), scaler, task.features.device)
    measuring = TestMeasuring(held, task, config, stage, on_epoch)
    networks = train(task, config, epochs=config.epochs, measuring=measuring, checkpoint=stage)
    for name, module in networks.modules():
        module.load_state_dict(measuring.best["weights"][name])
    return choose([measuring.measured], config), networks


class TestMeasuring(Measuring):
    """Measures the test rows at some epochs, and remembers the networks of the best one.

    Args:
        held: the test rows.
        task: what is trained on.
        config: hyper-parameters.
        stage: keeps what is measured.
        on_epoch: told every epoch.
    """

    __test__ = False  # not a pytest class

    def __init__(self, held: HeldOut, task: Task, config: TrainConfig, stage: Stage, on_epoch: OnEpoch) -> None:
        self._held, self._task, self._config, self._stage, self._on_epoch = held, task, config, stage, on_epoch
        self._lengths = measured_epochs(config)
        self.measured: dict[int, Measurement] = stage.measured()
        self.best: dict[str, Any] = {}

    def measure(self, epoch: int, networks: Networks, losses: Mapping[str, float]) -> None:
        """Measure where papers would, and tell; a tie goes to fewer epochs, as in `choose`."""
        scores = None
        if epoch in self._lengths:
            found = self._held.measure(networks, self._task, self._config, key=self._config.digest())
            self.measured[epoch] = found
            self._stage.keep(epoch, found)
            scores = best_scores(found)
            if scores[LDA]["H"] > self.best.get("H", -1.0):
                self.best = {"H": scores[LDA]["H"], "weights": _weights(networks)}
        self._on_epoch(epoch, networks, losses, scores)

    def state(self) -> dict[str, Any]:
        """The best networks so far and their H."""
        return self.best

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the best networks of an earlier part of the run."""
        self.best = state


def _weights(networks: Networks) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value.detach().clone() for key, value in module.state_dict().items()}
        for name, module in networks.modules()
    }
