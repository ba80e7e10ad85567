"""The teacher: fitted once on real seen rows, then frozen; what it says of every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.training.tiny import config, same, task
from training.datasets.dataset import Task
from training.method.teacher import TeacherOutputs, fit_teacher
from training.method.trainer import Networks, train
from training.networks.d3gzsl import Teacher
from training.runs import fit


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


@pytest.fixture(scope="module")
def base(small: Task) -> Networks:
    return train(small, config(), epochs=2)


def test_the_teacher_is_fitted_once_and_stays(small: Task, base: Networks) -> None:
    settings = config()
    torch.manual_seed(settings.seed)
    teacher = fit_teacher(small.features, small.teacher_labels, len(small.seen_index), settings)
    assert same(teacher, base.teacher)
    assert not teacher.training
    assert not any(p.requires_grad for p in base.teacher.parameters())


def test_the_teacher_learns() -> None:
    work = task(seen=4, unseen=1, rows=20, dim=8)
    fitted = fit_teacher(
        work.features, work.teacher_labels, 4, config("teacher.epochs=60", "teacher.learning_rate=0.01")
    )
    accuracy = (fitted(work.features)[1].argmax(1) == work.teacher_labels).float().mean()
    assert accuracy > 0.8


def test_the_embedding_learns_at_a_rate_of_its_own(small: Task) -> None:
    """The first step of Adam moves every weight with a gradient by the learning rate."""
    moved = []
    for factor in (1, 0.01):
        settings = config(
            "teacher.epochs=1",
            "teacher.batch_size=40",
            "teacher.learning_rate=0.01",
            f"teacher.embedding_lr_factor={factor}",
        )
        fitted = fit_teacher(small.features, small.teacher_labels, 5, settings)
        moved.append((fitted.embedding.linear.weight - torch.eye(8)).abs().max().item())
    assert moved == pytest.approx([0.01, 0.0001], rel=0.01)


def test_teacher_outputs(small: Task, base: Networks) -> None:
    outputs = TeacherOutputs.of(base.teacher, small.features)
    rows = torch.tensor([7, 0, 7])
    taken, again = outputs.take(rows), TeacherOutputs.of(base.teacher, small.features[rows])
    for name in ("embeddings", "log_probs", "scores"):
        torch.testing.assert_close(getattr(taken, name), getattr(again, name))
    assert torch.equal(outputs.scores, outputs.log_probs.max(1).values)


def test_held_out_scores_come_from_teachers_that_did_not_see_the_row(
    small: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("teacher.epochs=40", "teacher.learning_rate=0.01")
    learned_from: list[set[tuple[float, ...]]] = []

    def noted(features: torch.Tensor, labels: torch.Tensor, *rest: Any) -> Teacher:
        learned_from.append({tuple(row) for row in features.tolist()})
        assert set(labels.tolist()) == set(range(5))
        return fit_teacher(features, labels, *rest)

    monkeypatch.setattr(fit, "fit_teacher", noted)
    scores = fit.held_out_scores(small, settings)
    rows = {tuple(row) for row in small.features.tolist()}
    held = [rows - learned for learned in learned_from]
    assert [len(fold) for fold in held] == [8] * 5
    assert set.union(*held) == rows
    assert scores.shape == (40,)
    assert scores.dtype == np.float32
    assert (np.diff(scores) >= 0).all()
    by_heart = fit_teacher(small.features, small.teacher_labels, 5, settings).score(small.features)
    assert scores.mean() < float(by_heart.mean())
