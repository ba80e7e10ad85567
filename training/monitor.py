"""How a final training does on the test rows while it goes; for people, nothing is chosen by it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainConfig
from training.datasets.dataset import Dataset
from training.heads import fit_head
from training.measurement import STUDENT, HeldOut
from training.metrics import evaluate
from training.scaler import Scaler
from training.selected import Selected
from training.selection import Scores
from training.task import Task
from training.trainer import Networks


class Monitor:
    """Measures networks on the test rows with what selection chose.

    Args:
        dataset: with test rows of seen and of unseen classes.
        task: of the final training.
        scaler: of the final training.
        selected: head and calibration.
        config: hyper-parameters.
    """

    def __init__(self, dataset: Dataset, task: Task, scaler: Scaler, selected: Selected, config: TrainConfig) -> None:
        classes = np.arange(len(dataset.classes))
        self._held = HeldOut.of(dataset, dataset.test, classes, scaler, task.features.device)
        self._task, self._selected, self._config = task, selected, config
        self._seen = dataset.seen

    @torch.no_grad()
    def measure(self, networks: Networks) -> dict[str, Scores]:
        """U, S and H of the served head, by its form, and of the `student`."""
        head = fit_head(
            networks,
            self._task,
            self._held.names,
            self._selected.served.choice,
            samples=self._config.selection.samples,
            key=self._config.digest(),
        )
        z, logits = networks.student(self._held.features)
        both: dict[str, NDArray[np.float64]] = {
            self._selected.kind: self._selected.head.scores(head.logits(z.cpu().numpy()), self._seen),
            STUDENT: self._selected.student.scores(logits.cpu().numpy(), self._seen),
        }
        results = {name: evaluate(scores, self._held.labels, self._seen).to_json() for name, scores in both.items()}
        return {name: {score: found[score] for score in ("U", "S", "H")} for name, found in results.items()}
