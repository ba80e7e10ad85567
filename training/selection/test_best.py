"""The protocol of most papers, to compare with them: the epoch, head and penalty with the best H on the test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from training.config import TrainConfig
from training.datasets.dataset import Dataset
from training.features.scaler import Scaler
from training.method.trainer import Networks
from training.runs.checkpoints import Unkept
from training.selection.fold_scores import HeldOut, candidates
from training.selection.result import Selected
from training.selection.selection import Scores, best_scores, choose, measured_epochs, of_best_head
from training.task import Task

STAGE = 0

OnEpoch = Callable[[int, Networks, Mapping[str, float], dict[str, Scores] | None], None]


def train_test_best(
    dataset: Dataset, task: Task, scaler: Scaler, config: TrainConfig, kept: Unkept, *, on_epoch: OnEpoch
) -> tuple[Selected, Networks]:
    """Train on trainval, measure on the test rows, and take the networks of the best epoch.

    Args:
        dataset: with test rows of seen and of unseen classes.
        task: all of its trainval rows.
        scaler: fitted on them.
        config: hyper-parameters.
        kept: what an earlier part of the run has done already.
        on_epoch: called with the epoch (from 1), the networks, mean losses and, where the epoch was measured, the
            best test U, S and H of each head there.

    Raises:
        DataError: no head that may be chosen takes so many classes.
    """
    candidates(config.selection, classes=len(dataset.classes))  # refuses before anything is trained
    lengths = measured_epochs(config)
    held = HeldOut.of(dataset, dataset.test, np.arange(len(dataset.classes)), scaler, task.features.device)
    measured = kept.measured(STAGE)
    best: dict[str, Any] = {}

    def measure(epoch: int, networks: Networks, losses: Mapping[str, float]) -> None:
        scores = None
        if epoch in lengths:
            measured[epoch] = held.measure(networks, task, config, key=config.digest())
            kept.keep(STAGE, epoch, measured[epoch])
            scores = best_scores(measured[epoch])
            found = of_best_head(scores, config.selection.heads)
            lda = "lda" in config.selection.heads and found is scores["lda"]
            # A tie goes to `lda`, then to fewer epochs, as in `choose`.
            if (found["H"], lda) > (best.get("H", -1.0), best.get("lda", False)):
                best.update(H=found["H"], lda=lda, weights=_weights(networks))
        on_epoch(epoch, networks, losses, scores)

    networks = kept.train(STAGE, task, config, epochs=config.epochs, on_epoch=measure, carried=best)
    for name, module in networks.modules():
        module.load_state_dict(best["weights"][name])
    return choose([measured], config), networks


def _weights(networks: Networks) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value.detach().clone() for key, value in module.state_dict().items()}
        for name, module in networks.modules()
    }
