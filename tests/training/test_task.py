"""The training task: which rows and classes it takes, and the teacher's order of the seen ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.training.tiny import task
from training.datasets.dataset import Task


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def test_a_task_refuses_rows_of_unseen_classes_and_seen_classes_without_rows(small: Task) -> None:
    with pytest.raises(ValueError, match="every seen class needs rows, and no unseen class may have any"):
        dataclasses.replace(small, labels=torch.cat([small.labels[:-1], small.unseen_index[:1]]))
    with pytest.raises(ValueError, match="every seen class needs rows"):
        dataclasses.replace(small, labels=small.labels.clamp(max=3))


def test_labels_of_the_teacher_count_seen_classes_only() -> None:
    mixed = Task(
        features=torch.rand(4, 2),
        labels=torch.tensor([3, 1, 4, 1]),
        attributes=torch.rand(5, 2),
        seen=torch.tensor([False, True, False, True, True]),
    )
    assert mixed.seen_index.tolist() == [1, 3, 4]
    assert mixed.unseen_index.tolist() == [0, 2]
    assert mixed.teacher_labels.tolist() == [1, 0, 2, 0]
