"""Learning rates over the epochs, and which optimiser steps what by how much."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.training.tiny import METHODS, config, same, task
from training.datasets.dataset import Task
from training.method.optimisers import schedule
from training.method.trainer import Trainer

ROLES = ("critic", "generator", "embedding", "student", "confidence")


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def rates(trainer: Trainer) -> dict[str, float]:
    groups = [group for optimiser in trainer._optimisers for group in optimiser.param_groups]
    found = {group["role"]: group["lr"] for group in groups}
    assert len(found) == len(groups)
    return found


def test_constant() -> None:
    assert {schedule(config(), role, epoch) for role in ROLES for epoch in (0, 19, 20, 1000)} == {1.0}


def test_cosine_ends_near_zero() -> None:
    settings = config("schedule=cosine", epochs=50)
    for role in ROLES:
        values = [schedule(settings, role, epoch) for epoch in range(50)]
        assert values[0] == 1
        assert values[25] == pytest.approx(0.5)
        assert all(later < value for value, later in pairwise(values))
        assert 0 < values[-1] < 0.002


@pytest.mark.parametrize(
    ("epoch", "generator", "student", "confidence"),
    [
        (0, 1e-4, 1e-4, 1e-4),
        (19, 1e-4, 1e-4, 1e-4),
        (20, 1.09e-4, 0.98e-4, 0.99e-4),
        (39, 1.09e-4, 0.98e-4, 0.99e-4),
        (100, 1.54e-4, 0.904e-4, 0.951e-4),
        (200, 2.37e-4, 0.817e-4, 0.904e-4),
        (500, 8.6e-4, 0.603e-4, 0.778e-4),
        (1000, 7.4e-3, 0.364e-4, 0.605e-4),
        (2000, 0.55, 0.1326e-4, 0.366e-4),
    ],
)
def test_published_rates_of_critic_and_generator_grow(
    epoch: int, generator: float, student: float, confidence: float
) -> None:
    """Every 20 epochs x 1.09; the student's x 0.98, the confidence's x 0.99."""
    settings = config("schedule=published", learning_rate=1e-4, epochs=2000)
    found = [settings.learning_rate * schedule(settings, role, epoch) for role in ROLES]
    assert found == pytest.approx([generator, generator, student, student, confidence], rel=6e-3)


@pytest.mark.parametrize("method", METHODS)
def test_optimisers_take_the_rates_of_their_epoch(small: Task, method: str) -> None:
    made = ("schedule=published", "steps=1", "d3.embedding_lr_factor=0.1", "generator.learning_rate_factor=0.2")
    trainer = Trainer(small, config(*made, f"generator.method={method}", learning_rate=1e-3))
    expected = {"critic": 1e-3, "generator": 2e-4, "embedding": 1e-4, "student": 1e-3, "confidence": 1e-3}
    if method == "diffusion":
        del expected["critic"]
    trainer.run_epoch()
    assert rates(trainer) == pytest.approx(expected)
    trainer.epoch = 45
    trainer.run_epoch()
    grown = {"critic": 1.09**2, "generator": 1.09**2, "embedding": 0.98**2, "student": 0.98**2, "confidence": 0.99**2}
    assert rates(trainer) == pytest.approx({role: rate * grown[role] for role, rate in expected.items()})
    assert trainer.epoch == 46


def test_schedules_change_the_weights(small: Task) -> None:
    def after(name: str) -> Trainer:
        trainer = Trainer(small, config(f"schedule={name}", "steps=1", "generator.averaging=0", epochs=40))
        trainer.epoch = 20
        trainer.run_epoch()
        return trainer

    constant, cosine, published = (after(name).networks for name in ("constant", "cosine", "published"))
    assert same(constant.teacher, published.teacher)
    for one, other in ((constant, cosine), (constant, published), (cosine, published)):
        assert not same(one.generator, other.generator)
        assert not same(one.student, other.student)
