"""One whole training: select on validation, train on all of trainval, keep what is needed to evaluate and export."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import DataError
from training.config import TrainConfig
from training.console import OnStep
from training.datasets.dataset import Dataset
from training.evaluation import require_testable, testable
from training.features.scaler import Scaler, Scaling
from training.method.teacher import fit_teacher
from training.runs.checkpoints import LOG, PROGRESS, Checkpoints, Interruption
from training.runs.contents import Trained
from training.runs.directory import begin
from training.runs.log import Board
from training.runs.measuring import FinalEpochs, FoldEpochs, Monitor
from training.selection.folds import fold_count
from training.selection.result import Selected
from training.selection.scaling import choose_scaling
from training.selection.selection import make_task, select
from training.selection.test_best import STAGE, train_test_best
from training.task import Task


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a fit runs; none of it changes what is trained.

    Attributes:
        checkpoint_seconds: how often the state is kept at most; 0 keeps it after every epoch.
        monitor: measure the final training on the test rows while it goes, where there are any.
        tensorboard: write TensorBoard's events.
        asked: whether to save and stop.
        recipe: the recipe the settings began with, noted in `config.json`.
    """

    checkpoint_seconds: float = 60.0
    monitor: bool = True
    tensorboard: bool = False
    asked: Interruption = field(default_factory=Interruption)
    recipe: Mapping[str, Any] | None = None


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        DataError: `cuda` without a GPU, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise DataError(f"--device: expected auto, cpu or cuda, got {name!r}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DataError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def fit(
    dataset: Dataset,
    config: TrainConfig,
    run_dir: Path,
    *,
    data: Mapping[str, Any],
    device: torch.device,
    progress: OnStep = lambda _: None,
    options: FitOptions | None = None,
) -> Trained:
    """Select, train and save into a run directory; a run that was begun there and left is continued.

    Args:
        dataset: its test rows are measured for people to see; only under `test-best` is anything chosen by them.
        config: hyper-parameters.
        run_dir: existing folder; `config.json`, `checkpoint.pt` and `log.jsonl` are written into it.
        data: how to build the data set again, kept in `config.json`.
        device: where to train.
        progress: told after each epoch.
        options: how it runs.

    Raises:
        DataError: the run that was begun has other settings or data, and names what differs; or `test-best` without
            test rows.
        DivergedError: the training diverged; says where the last good checkpoint is.
        Interrupted: somebody asked to stop, and the state is saved.
    """
    options = options or FitOptions()
    described = {**data, "data_hash": dataset.data_hash, "split": dataset.split}
    record = begin(run_dir, config, described, options.recipe)
    stages = _stages(config)
    kept = Checkpoints(run_dir, stages, every_seconds=options.checkpoint_seconds, asked=options.asked)
    with closing(kept.log), ExitStack() as opened:
        if options.tensorboard:
            board = opened.enter_context(closing(Board(run_dir, run_dir / LOG)))
            kept.log.on_line.append(board.add)
        if config.selection.protocol == "test-best":
            require_testable(dataset)
            scaling, _ = choose_scaling(dataset, config)
            scaler, task = whole(dataset, scaling, device)
            final = FinalEpochs(task, config, kept, progress)
            final.begin(STAGE, config.epochs)
            selected, networks = train_test_best(dataset, task, scaler, config, kept, on_epoch=final.note)
            selected = dataclasses.replace(selected, scaling=scaling)
            _log_selected(kept, selected)
        else:
            selected = select(dataset, config, device, on_epoch=FoldEpochs(config, kept, progress), kept=kept)
            scaler, task = whole(dataset, selected.scaling, device)
            final = FinalEpochs(task, config, kept, progress)
            choice = len(stages) - 2
            if not kept.finished(choice):
                _log_selected(kept, selected)
                kept.finish(choice)
            final.begin(choice + 1, selected.epochs)
            if options.monitor and testable(dataset):
                final.monitor = Monitor(dataset, task, scaler, selected, config)
            networks = kept.train(choice + 1, task, config, epochs=selected.epochs, on_epoch=final.note)
        reference = held_out_scores(task, config)
    trained = Trained(
        config=config,
        data=record,
        recipe=options.recipe,
        selected=selected,
        scaler=scaler,
        networks=networks,
        novelty_reference=reference,
        attribute_dim=len(dataset.vocabulary),
    )
    trained.save(run_dir)
    shutil.rmtree(run_dir / PROGRESS)
    return trained


def whole(dataset: Dataset, scaling: Scaling, device: torch.device) -> tuple[Scaler, Task]:
    """The scaler and the task of all trainval rows."""
    scaler = Scaler.fit(dataset.features[dataset.trainval], scaling)
    return scaler, make_task(dataset, dataset.trainval, np.arange(len(dataset.classes)), scaler, device)


def _stages(config: TrainConfig) -> list[str]:
    if config.selection.protocol == "test-best":
        return ["the training"]
    count = fold_count(config.selection)
    return [*(f"fold {fold + 1} of {count}" for fold in range(count)), "the selection", "the final training"]


def _log_selected(kept: Checkpoints, selected: Selected) -> None:
    kept.log.write(
        stage="selected", epochs=selected.epochs, head=selected.served.choice.name, H=selected.validation["H"]
    )


def held_out_scores(task: Task, config: TrainConfig) -> NDArray[np.float32]:
    """Teacher scores of seen rows by teachers that did not see them, ascending, float32 [N].

    Rows are dealt into folds per class; each fold is scored by a teacher trained on the others.
    """
    labels = task.teacher_labels
    order = torch.argsort(labels, stable=True)
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(labels), device=labels.device) % config.selection.novelty_folds
    scores = []
    for number in range(config.selection.novelty_folds):
        torch.manual_seed(config.seed)
        rest, held = fold != number, fold == number
        teacher = fit_teacher(task.features[rest], labels[rest], len(task.seen_index), config)
        with torch.no_grad():
            scores.append(teacher.score(task.features[held]).cpu().numpy())
    return np.sort(np.concatenate(scores)).astype(np.float32)


def without_d3(config: TrainConfig) -> TrainConfig:
    """The base generator with a plain student: L_cls only."""
    d3 = dataclasses.replace(config.d3, label_distillation=0.0, embedding_distillation=0.0, ood_distillation=0.0)
    return dataclasses.replace(config, d3=d3)
