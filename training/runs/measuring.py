"""What a fit does after every epoch besides training: measure, log and tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainConfig
from training.console import OnStep, Step
from training.datasets.dataset import Dataset, Task
from training.features.scaler import Scaler
from training.method.heads import LDA, fit_head
from training.method.student import StudentBatch, student_terms
from training.method.teacher import TeacherOutputs
from training.method.trainer import Measuring, Networks
from training.metrics import gzsl_scores
from training.runs.checkpoints import Checkpoints, KeptStage
from training.runs.log import RunLog
from training.selection.choice import Scores, Selection, measured_epochs
from training.selection.fold_scores import STUDENT, HeldOut
from training.selection.folds import fold_count
from training.selection.protocols import FoldEpoch

INERT = 0.01  # a term whose gradient is below this share of L_cls's does nothing


def gradient_shares(networks: Networks, task: Task, config: TrainConfig) -> dict[str, float]:
    """Norm of each weighted term's gradient on the student's parameters, over that of L_cls, on one batch.

    The batch is the first `batch_size` rows of a fixed permutation, so that the training's random numbers stay as
    they are. Empty where L_cls is off.
    """
    device = task.features.device
    random = torch.Generator(device=device).manual_seed(config.seed)
    rows = torch.randperm(len(task.features), generator=random, device=device)[: config.batch_size]
    labels = task.unseen_index.repeat_interleave(config.d3.synthetic_per_class)
    noise = torch.randn(len(labels), networks.generator.noise_dim, generator=random, device=device)
    with torch.no_grad():
        synthetic = networks.generator(noise, task.attributes[labels])
    batch = StudentBatch(
        synthetic=synthetic,
        synthetic_labels=labels,
        real=task.features[rows],
        real_labels=task.labels[rows],
        teacher=TeacherOutputs.of(networks.teacher, task.features[rows]),
    )
    parameters = list(networks.student.parameters())
    weights, norms = config.d3.weights(), {}
    for name, value in student_terms(networks.student, networks.teacher, batch, task.seen_index, config.d3).items():
        gradients = torch.autograd.grad(weights[name] * value, parameters, retain_graph=True, allow_unused=True)
        norms[name] = float(torch.stack([g.norm() for g in gradients if g is not None]).norm())
    reference = norms.get("cls", 0.0)
    return {name: norm / reference for name, norm in norms.items()} if reference > 0 else {}


class Monitor:
    """Measures networks on the test rows with what selection chose.

    Args:
        dataset: with test rows of seen and of unseen classes.
        task: of the final training.
        scaler: of the final training.
        selected: head and calibration.
        config: hyper-parameters.
    """

    def __init__(self, dataset: Dataset, task: Task, scaler: Scaler, selected: Selection, config: TrainConfig) -> None:
        classes = np.arange(len(dataset.classes))
        self._held = HeldOut.of(dataset, dataset.test, classes, scaler, task.features.device)
        self._task, self._selected, self._config = task, selected, config
        self._seen = dataset.seen

    @torch.no_grad()
    def measure(self, networks: Networks) -> dict[str, Scores]:
        """U, S and H of the served head, `lda`, and of the `student`."""
        head = fit_head(
            networks,
            self._task,
            self._held.names,
            self._selected.head,
            samples=self._config.selection.samples,
            key=self._config.digest(),
        )
        z, logits = networks.student(self._held.features)
        both: dict[str, NDArray[np.float64]] = {
            LDA: self._selected.calibration.scores(head.logits(z.cpu().numpy()), self._seen),
            STUDENT: self._selected.student.scores(logits.cpu().numpy(), self._seen),
        }
        results = {name: gzsl_scores(scores, self._held.labels, self._seen).to_json() for name, scores in both.items()}
        return {name: {score: found[score] for score in ("U", "S", "H")} for name, found in results.items()}


class FoldLog:
    """Logs and tells the epochs of the selection's folds.

    Args:
        config: hyper-parameters.
        checkpoints: of the run.
        progress: told how far the selection is.
    """

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints, progress: OnStep) -> None:
        self._epochs, self._folds = config.epochs, fold_count(config.selection)
        self._log, self._progress = checkpoints.log, progress
        stage, epoch = checkpoints.place
        if stage < self._folds:
            self._tell(stage, epoch, None)

    def __call__(self, at: FoldEpoch) -> None:
        """Note an epoch of a fold, with its pseudo-U, S and H where it was measured."""
        measured = {} if at.scores is None else {"validation": at.scores}
        self._log.write(stage="selection", fold=at.fold, epoch=at.epoch, losses=at.losses, **measured)
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


class FinalMeasuring(Measuring):
    """Measures, logs and tells the epochs of the final training.

    Args:
        task: of the final training.
        config: hyper-parameters.
        epochs: of the final training.
        stage: of the run, which begins or goes on.
        log: of the run.
        progress: told how far the training is.
        monitor: measures the test rows, where they may be looked at.
    """

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        *,
        epochs: int,
        stage: KeptStage,
        log: RunLog,
        progress: OnStep,
        monitor: Monitor | None = None,
    ) -> None:
        self._task, self._config, self._epochs, self._monitor = task, config, epochs, monitor
        self._log, self._progress, self._lengths = log, progress, measured_epochs(config)
        self._tell(stage.epoch, None)

    def measure(self, epoch: int, networks: Networks, losses: Mapping[str, float]) -> None:
        """Note an epoch, with U, S and H on the test rows where the monitor measures them."""
        scores = self._monitor.measure(networks) if self._monitor and epoch in self._lengths else None
        self.note(epoch, networks, losses, scores)

    def note(
        self, epoch: int, networks: Networks, losses: Mapping[str, float], scores: Mapping[str, Scores] | None
    ) -> None:
        """Note an epoch, with U, S and H of the heads on the test rows where they were measured."""
        line: dict[str, Any] = {"stage": "final", "epoch": epoch, "losses": losses}
        if epoch in self._lengths or epoch == 1:
            shares = gradient_shares(networks, self._task, self._config)
            line |= {"gradient_shares": shares} if shares else {}
        if scores is not None:
            line["test"] = scores
        self._log.write(**line)
        self._tell(epoch, scores)

    def _tell(self, epoch: int, scores: Mapping[str, Scores] | None) -> None:
        step = Step(
            stage="training",
            done=epoch,
            total=self._epochs,
            scores=None if scores is None else ("test", scores[LDA]),
        )
        self._progress(step)
