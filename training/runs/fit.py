"""One whole training: select on validation, train on all of trainval, keep what is needed to evaluate and export."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.config import TrainConfig
from training.console import OnStep
from training.datasets.dataset import Dataset, Task, make_task
from training.device import choose_device
from training.features.scaler import Scaler, Scaling
from training.method.heads import HeadRows
from training.method.novelty import TEACHER, familiarity
from training.method.teacher import fit_teacher
from training.method.trainer import DivergedError, Networks, train
from training.runs.checkpoints import LOG, PROGRESS, Checkpoints, Interruption
from training.runs.contents import Trained
from training.runs.directory import begin
from training.runs.log import Board, RunLog
from training.runs.measuring import FinalMeasuring, FoldLog, Monitor
from training.selection.choice import Selection, choose_scaling
from training.selection.folds import fold_count
from training.selection.protocols import select, train_test_best


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a fit runs; none of it changes what is trained.

    Attributes:
        checkpoint_seconds: how often the state is kept at most; 0 keeps it after every epoch.
        monitor: measure the final training on the test rows while it goes, where there are any.
        tensorboard: write TensorBoard's events.
        interruption: whether to save and stop.
        recipe: the recipe the settings began with, noted in `config.json`.
    """

    checkpoint_seconds: float = 60.0
    monitor: bool = True
    tensorboard: bool = False
    interruption: Interruption = field(default_factory=Interruption)
    recipe: Mapping[str, Any] | None = None


def fit(
    dataset: Dataset,
    config: TrainConfig,
    run_dir: Path,
    *,
    data: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
    progress: OnStep = lambda _: None,
    options: FitOptions | None = None,
) -> Trained:
    """Select, train and save into a run directory; a run that was begun there and left is continued.

    Args:
        dataset: its test rows are measured for people to see; only under `test-best` is anything chosen by them.
        config: hyper-parameters.
        run_dir: folder; `config.json`, `checkpoint.pt` and `log.jsonl` are written into it.
        data: how to build the data set again, as :func:`training.open_data` gives it; kept in `config.json`, for
            the commands `evaluate` and `export`.
        device: where to train; a GPU where there is one, else the CPU.
        progress: told after each epoch.
        options: how it runs.

    Raises:
        DataError: the run that was begun has other settings or data, and names what differs; or `test-best` without
            test rows.
        DivergedError: the training diverged; says where the last good checkpoint is.
        Interrupted: somebody asked to stop, and the state is saved.

    Example:
        >>> from training import TrainConfig, fit, open_data
        >>> dataset, described = open_data(FEATURES)
        >>> config = TrainConfig.from_json({"epochs": 2, "selection": {"folds": 2}})
        >>> trained = fit(dataset, config, RUN_DIR, data=described)
        >>> trained.selected.epochs in (1, 2)
        True
        >>> sorted(file.name for file in RUN_DIR.iterdir())
        ['checkpoint.pt', 'config.json', 'log.jsonl']
    """
    options, device = options or FitOptions(), device or choose_device("auto")
    run_dir.mkdir(parents=True, exist_ok=True)
    described = {**(data or {}), "data_hash": dataset.data_hash, "split": dataset.split}
    record = begin(run_dir, config, described, options.recipe)
    checkpoints = Checkpoints(
        run_dir, _stages(config), every_seconds=options.checkpoint_seconds, interruption=options.interruption
    )
    with closing(checkpoints.log), ExitStack() as opened:
        if options.tensorboard:
            board = opened.enter_context(closing(Board(run_dir, run_dir / LOG)))
            checkpoints.log.on_line.append(board.add)
        protocol = _on_test if config.selection.protocol == "test-best" else _on_validation
        try:
            selected, scaler, task, networks = protocol(dataset, config, checkpoints, device, progress, options)
        except DivergedError as error:
            stage = checkpoints.stages[checkpoints.place[0]]
            raise DivergedError(f"{stage}: {error.message}; {checkpoints.where()}") from None
        reference = novelty_reference(networks, task, config, selected)
    trained = Trained(
        config=config,
        data=record,
        recipe=options.recipe,
        selected=selected,
        scaler=scaler,
        networks=networks,
        novelty_reference=reference,
        attribute_dim=dataset.vocabulary.dimension,
    )
    trained.save(run_dir)
    shutil.rmtree(run_dir / PROGRESS)
    return trained


_Fitted = tuple[Selection, Scaler, Task, Networks]


def _on_validation(
    dataset: Dataset,
    config: TrainConfig,
    checkpoints: Checkpoints,
    device: torch.device,
    progress: OnStep,
    options: FitOptions,
) -> _Fitted:
    """Select on pseudo-unseen classes, then train on all of trainval."""
    on_epoch = FoldLog(config, checkpoints, progress)
    selected = select(dataset, config, device, on_epoch=on_epoch, stages=checkpoints.stage)
    scaler, task = whole(dataset, selected.scaling, device)
    choice = checkpoints.stage(fold_count(config.selection))
    if not choice.finished:
        _log_selected(checkpoints.log, selected)
        choice.finish()
    final = checkpoints.stage(choice.number + 1)
    measuring = FinalMeasuring(
        task,
        config,
        epochs=selected.epochs,
        stage=final,
        log=checkpoints.log,
        progress=progress,
        monitor=Monitor(dataset, task, scaler, selected, config) if options.monitor and dataset.testable else None,
    )
    return selected, scaler, task, train(task, config, epochs=selected.epochs, measuring=measuring, checkpoint=final)


def _on_test(
    dataset: Dataset,
    config: TrainConfig,
    checkpoints: Checkpoints,
    device: torch.device,
    progress: OnStep,
    _options: FitOptions,
) -> _Fitted:
    """Train on all of trainval and select on the test rows, as papers do it."""
    dataset.require_testable()
    scaling, compared = choose_scaling(dataset, config)
    scaler, task = whole(dataset, scaling, device)
    stage = checkpoints.stage(0)
    final = FinalMeasuring(task, config, epochs=config.epochs, stage=stage, log=checkpoints.log, progress=progress)
    selected, networks = train_test_best(dataset, task, scaler, config, stage, on_epoch=final.note)
    validation = {**selected.validation, "scaling": compared}
    selected = dataclasses.replace(selected, scaling=scaling, validation=validation)
    _log_selected(checkpoints.log, selected)
    return selected, scaler, task, networks


def whole(dataset: Dataset, scaling: Scaling, device: torch.device) -> tuple[Scaler, Task]:
    """The scaler and the task of all trainval rows."""
    scaler = Scaler.fit(dataset.features[dataset.trainval], scaling)
    return scaler, make_task(dataset, dataset.trainval, np.arange(len(dataset.classes)), scaler, device)


def _stages(config: TrainConfig) -> list[str]:
    if config.selection.protocol == "test-best":
        return ["the training"]
    count = fold_count(config.selection)
    return [*(f"fold {fold + 1} of {count}" for fold in range(count)), "the selection", "the final training"]


def _log_selected(log: RunLog, selected: Selection) -> None:
    log.write(stage="selected", epochs=selected.epochs, head=selected.head.name, H=selected.validation["H"])


def novelty_reference(
    networks: Networks, task: Task, config: TrainConfig, selected: Selection
) -> NDArray[np.float32] | None:
    """Held-out seen rows by the chosen novelty score, ascending, float32 [N]; None where none was chosen."""
    if selected.novelty is None:
        return None
    if selected.novelty == TEACHER:
        return held_out_scores(task, config)
    rows, scores = HeadRows.of(networks, task), []
    choice = dataclasses.replace(selected.head, unseen_scale=1.0)
    for held in held_out_rows(task, config):
        held_N = held.cpu().numpy()
        labels = rows.labels[~held_N]
        seen = np.isin(np.arange(len(rows.seen)), labels)  # a class with one row has none where that is held out
        (head,) = HeadRows(z=rows.z[~held_N], labels=labels, seen=seen).lda({}, [choice])
        scores.append(familiarity(selected.novelty, head, seen, rows.z[held_N]))
    return np.sort(np.concatenate(scores))


def held_out_scores(task: Task, config: TrainConfig) -> NDArray[np.float32]:
    """Teacher scores of seen rows by teachers that did not see them, ascending, float32 [N].

    Each fold of :func:`held_out_rows` is scored by a teacher trained on the others.
    """
    labels, scores = task.teacher_labels, []
    for held in held_out_rows(task, config):
        torch.manual_seed(config.seed)
        teacher = fit_teacher(task.features[~held], labels[~held], len(task.seen_index), config)
        with torch.no_grad():
            scores.append(teacher.score(task.features[held]).cpu().numpy())
    return np.sort(np.concatenate(scores)).astype(np.float32)


def held_out_rows(task: Task, config: TrainConfig) -> Iterator[torch.Tensor]:
    """Rows dealt into folds class by class: which of them each fold holds out, bool [N]."""
    labels = task.teacher_labels
    order = torch.argsort(labels, stable=True)
    fold = torch.empty_like(labels)
    fold[order] = torch.arange(len(labels), device=labels.device) % config.selection.novelty_folds
    for number in range(config.selection.novelty_folds):
        yield fold == number


def without_d3(config: TrainConfig) -> TrainConfig:
    """The base generator with a plain student: L_cls only."""
    d3 = dataclasses.replace(config.d3, label_distillation=0.0, embedding_distillation=0.0, ood_distillation=0.0)
    return dataclasses.replace(config, d3=d3)
