"""The two protocols of model selection.

`validation`: pseudo-unseen classes and held-out rows, both taken from trainval, and no test data. Training length,
shrinkage, seen penalty and temperature are those with the best mean pseudo-H over the folds; then everything is trained
again on all of trainval. `test-best`, as most papers do it, to compare with them: the epoch, shrinkage and penalty with
the best H on the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from training.config import TrainConfig
from training.datasets.dataset import Dataset, Task, make_task
from training.features.scaler import Scaler, Scaling
from training.method.heads import LDA
from training.method.trainer import Measuring, Networks, train
from training.selection.choice import Scores, Selection, best_scores, choose, choose_scaling, measured_epochs
from training.selection.fold_scores import HeldOut, Measurement, Stage
from training.selection.folds import used_folds


@dataclass(frozen=True, kw_only=True)
class FoldEpoch:
    """An epoch of a fold.

    Attributes:
        fold: from 0.
        epoch: from 1.
        epochs: that the fold trains at most.
        over: whether it is the fold's last.
        losses: means over the epoch.
        scores: where the epoch was measured, the fold's pseudo-U, S and H of the best head with its best penalty.
    """

    fold: int
    epoch: int
    epochs: int
    over: bool
    losses: Mapping[str, float]
    scores: Scores | None


OnFoldEpoch = Callable[[FoldEpoch], None]


def select(
    dataset: Dataset,
    config: TrainConfig,
    device: torch.device,
    *,
    on_epoch: OnFoldEpoch = lambda *_: None,
    stages: Callable[[int], Stage] = lambda _: Stage(),
    scaling: Scaling | None = None,
) -> Selection:
    """Choose scaling, length, head and calibration on pseudo-unseen validation.

    Args:
        dataset: only its trainval rows are read.
        config: hyper-parameters.
        device: where to train.
        on_epoch: called after each epoch of a fold.
        stages: for each fold by its number, from 0, where its training is kept; without it nothing is.
        scaling: of the features, where it is chosen already.

    Raises:
        DataError: the classes cannot be dealt into such folds.
    """
    epochs = config.epochs
    scaling, of_scaling = (scaling, {}) if scaling else choose_scaling(dataset, config)
    measurements: list[Mapping[int, Measurement]] = []
    for number, fold in enumerate(used_folds(dataset, config.selection, config.seed)):
        stage = stages(number)
        measured = stage.measured()
        if not stage.finished:
            scaler = Scaler.fit(dataset.features[fold.train], scaling)
            task = make_task(dataset, fold.train, fold.classes, scaler, device)
            measuring = FoldMeasuring(
                number=number,
                epochs=epochs,
                task=task,
                held=HeldOut.of(dataset, fold.held, fold.classes, scaler, device),
                measured=measured,
                config=config,
                stage=stage,
                on_epoch=on_epoch,
            )
            train(task, config, epochs=epochs, measuring=measuring, checkpoint=stage)
            stage.finish()
        epochs = max(measured)  # of the first fold; no other trains longer
        measurements.append(measured)
    selected = choose(measurements, config)
    return replace(selected, scaling=scaling, validation={**selected.validation, "scaling": of_scaling})


class FoldMeasuring(Measuring):
    """Measures a fold's held-out rows at the training lengths that selection considers.

    Args:
        number: of the fold, from 0; only the first may end early, and with it the others.
        epochs: that the fold trains at most.
        task: what it trains on.
        held: its held-out rows.
        measured: by epoch, what an earlier part of the run measured; filled.
        config: hyper-parameters.
        stage: keeps what is measured.
        on_epoch: told every epoch.
    """

    def __init__(
        self,
        *,
        number: int,
        epochs: int,
        task: Task,
        held: HeldOut,
        measured: dict[int, Measurement],
        config: TrainConfig,
        stage: Stage,
        on_epoch: OnFoldEpoch,
    ) -> None:
        self._number, self._epochs, self._task, self._held = number, epochs, task, held
        self._measured, self._config, self._stage, self._on_epoch = measured, config, stage, on_epoch
        self._lengths = measured_epochs(config)
        self._best = {epoch: best_scores(found)[LDA]["H"] for epoch, found in measured.items()}

    def measure(self, epoch: int, networks: Networks, losses: Mapping[str, float]) -> None:
        """Measure where selection considers this length, and tell."""
        scores = None
        if epoch in self._lengths:
            found = self._held.measure(networks, self._task, self._config, key="")
            self._measured[epoch] = found
            self._stage.keep(epoch, found)
            scores = best_scores(found)[LDA]
            self._best[epoch] = scores["H"]
        self._on_epoch(
            FoldEpoch(
                fold=self._number,
                epoch=epoch,
                epochs=self._epochs,
                over=epoch == self._epochs or self.enough(),
                losses=losses,
                scores=scores,
            )
        )

    def enough(self) -> bool:
        """Whether the last lengths were no better."""
        return self._number == 0 and exhausted(self._best, self._config.selection.patience)


def exhausted(best: Mapping[int, float], patience: int) -> bool:
    """Whether the last `patience` of some lengths are all longer than the one with the best H.

    Args:
        best: H by length; of equal ones the shortest counts.
        patience: 0 is without end.
    """
    lengths = sorted(best)
    return bool(patience) and bool(lengths) and lengths.index(max(lengths, key=best.__getitem__)) < len(best) - patience


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
