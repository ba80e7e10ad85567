"""One whole training: select on validation, train on all of trainval, keep what is needed to evaluate and export."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import DataError
from training.config import TrainConfig
from training.dataset import Dataset
from training.gradients import gradient_shares
from training.run_dir import LOG, Trained
from training.scaler import Scaler
from training.selection import make_task, measured_epochs, select
from training.task import Task
from training.teacher import fit_teacher
from training.trainer import Networks, train

Progress = Callable[[str, int, int], None]
"""Called with what is being done, epochs done and epochs in all."""


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
    progress: Progress = lambda *_: None,
) -> Trained:
    """Select, train and save into a run directory.

    Args:
        dataset: test rows are not read.
        config: hyper-parameters.
        run_dir: existing folder; `config.json`, `checkpoint.pt` and `log.jsonl` are written into it.
        data: how to build the data set again, kept in `config.json`.
        device: where to train.
        progress: told after each epoch.
    """
    with (run_dir / LOG).open("w", encoding="utf-8") as log:
        started = time.monotonic()

        def write(**fields: Any) -> None:
            log.write(json.dumps({"seconds": round(time.monotonic() - started, 2), **fields}) + "\n")
            log.flush()

        def on_selection(fold: int, epoch: int, losses: Mapping[str, float]) -> None:
            write(stage="selection", fold=fold, epoch=epoch, losses=losses)
            progress("selection", fold * config.epochs + epoch, config.selection.folds * config.epochs)

        selected = select(dataset, config, device, on_epoch=on_selection)
        write(stage="selected", epochs=selected.epochs, shrinkage=selected.shrinkage, H=selected.validation["H"])
        scaler = Scaler.fit(dataset.features[dataset.trainval])
        task = make_task(dataset, dataset.trainval, np.arange(len(dataset.classes)), scaler, device)
        networks = _final(task, config, selected.epochs, write, progress)
        reference = held_out_scores(task, config)
    trained = Trained(
        config=config,
        data={**data, "data_hash": dataset.data_hash, "split": dataset.split, "commit": code_commit()},
        selected=selected,
        scaler=scaler,
        networks=networks,
        novelty_reference=reference,
        attribute_dim=len(dataset.vocabulary),
    )
    trained.save(run_dir)
    return trained


def _final(task: Task, config: TrainConfig, epochs: int, write: Callable[..., None], progress: Progress) -> Networks:
    measured = measured_epochs(config)

    def on_epoch(epoch: int, networks: Networks, losses: dict[str, float]) -> None:
        shares = gradient_shares(networks, task, config) if epoch in measured or epoch == 1 else {}
        write(stage="final", epoch=epoch, losses=losses, **({"gradient_shares": shares} if shares else {}))
        progress("training", epoch, epochs)

    return train(task, config, epochs=epochs, on_epoch=on_epoch)


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


def code_commit() -> str | None:
    """Commit of the checkout that runs, if it is one and git is there."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
