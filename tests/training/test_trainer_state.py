"""Stopping after an epoch and going on, bit for bit; and what is reported where a training diverges."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import weakref
from typing import Any

import pytest
import torch

from model.errors import DataError
from tests.training.tiny import METHODS, config, task
from training.config import TrainConfig
from training.datasets.dataset import Task
from training.method import trainer as trainer_module
from training.method.trainer import DivergedError, Trainer


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def settings(method: str, *more: str) -> TrainConfig:
    return config(f"generator.method={method}", "generator.averaging=0.7", "schedule=cosine", *more, epochs=6)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    read: dict[str, Any] = torch.load(file, weights_only=True)
    return read


def equal(a: Any, b: Any) -> bool:
    """Whether nested values are the very same."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def running(small: Task, method: str, epochs: int) -> Trainer:
    trainer = Trainer(small, settings(method))
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_continued_training_is_the_uninterrupted_one(small: Task, method: str, stopped: int) -> None:
    whole, first = running(small, method, stopped), running(small, method, stopped)
    kept = through_a_file(first.state())
    first.run_epoch()  # what happens to the first one after that does not matter
    losses = [whole.run_epoch(), whole.run_epoch()]
    torch.manual_seed(99)
    again = Trainer(small, settings(method), kept)
    assert again.epoch == stopped
    assert equal(again.state(), kept)
    assert [again.run_epoch(), again.run_epoch()] == losses
    assert equal(again.state(), whole.state())


def test_a_training_goes_on_where_its_random_numbers_are(small: Task) -> None:
    state = running(small, "wgan", 1).state() | {"device": "cuda"}
    with pytest.raises(
        DataError, match=r"^--device: expected cuda, where the training was begun .*, got cpu; --overwrite"
    ):
        Trainer(small, settings("wgan"), state)


def test_continued_twice(small: Task) -> None:
    whole = running(small, "cegzsl", 3)
    kept = None
    for _ in range(3):
        trainer = Trainer(small, settings("cegzsl"), kept)
        trainer.run_epoch()
        kept = through_a_file(trainer.state())
    assert equal(kept, whole.state())


@pytest.mark.parametrize("part", ["generator", "teacher", "student", "method", "optimisers", "random", "epoch"])
def test_every_part_of_the_state_is_needed(small: Task, part: str) -> None:
    """With one part of an epoch earlier the training goes on another way."""
    early, late = running(small, "tfvaegan", 1), running(small, "tfvaegan", 2)
    other, kept = copy.deepcopy(early.state()), copy.deepcopy(late.state())
    if part == "teacher":  # it does not change; another one does
        teacher = kept["modules"]["teacher"]
        kept["modules"]["teacher"] = {name: value + 0.1 for name, value in teacher.items()}
    elif part in kept["modules"]:
        kept["modules"][part] = other["modules"][part]
    else:
        kept[part] = other[part]
    again = Trainer(small, settings("tfvaegan"), kept)
    again.run_epoch()
    late.run_epoch()
    assert not equal(again.state()["modules"], late.state()["modules"])


def test_a_state_holds_tensors_and_plain_values_only(small: Task) -> None:
    """So that reading one runs nobody's code."""

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str | int) and plain(inner) for key, inner in value.items())
        if isinstance(value, list | tuple):
            return all(plain(inner) for inner in value)
        return value is None or isinstance(value, torch.Tensor | str | int | float | bool)

    for method in METHODS:
        assert plain(running(small, method, 1).state())


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_learning_rate_that_is_too_high(small: Task, method: str) -> None:
    trainer = Trainer(small, dataclasses.replace(settings(method), learning_rate=1e30))
    with pytest.raises(
        DivergedError,
        match=r"^the training diverged in epoch 1, outer step [12] of 3: [a-z_ ]+ not finite or beyond 1e\+06; "
        r"use a lower learning_rate$",
    ):
        trainer.run_epoch()
    assert trainer.epoch == 0


def test_features_that_are_not_finite(small: Task) -> None:
    work = dataclasses.replace(small, features=small.features.clone())
    trainer = Trainer(work, dataclasses.replace(settings("wgan"), batch_size=40))
    work.features[:, 2] = math.inf
    with pytest.raises(DivergedError, match=r"epoch 1, outer step 1 of 1: wasserstein and penalty"):
        trainer.run_epoch()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2e6])
def test_step_and_loss_are_named_and_what_was_saved_goes_on(
    small: Task, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = running(small, "wgan", 1)
    kept = copy.deepcopy(trainer.state())
    calls, original = 0, trainer_module.student_terms

    def broken(*args: Any) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        terms = original(*args)
        return {**terms, "kl": terms["kl"] * 0 + bad} if calls == 5 else terms  # two critic steps and one more each

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "student_terms", broken)
        with pytest.raises(DivergedError, match=r"in epoch 2, outer step 2 of 3: (?:.* and )?kl\b.* not finite or"):
            trainer.run_epoch()
    assert calls == 9  # looked at once an epoch, so that a GPU is not waited for at every step
    assert trainer.epoch == 1
    whole, again = running(small, "wgan", 3), Trainer(small, settings("wgan"), kept)
    for _ in range(2):
        again.run_epoch()
    assert equal(again.state(), whole.state())


# --- giving back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_only_training_needs_is_given_back(small: Task, method: str) -> None:
    trainer = running(small, method, 1)
    kept = copy.deepcopy(through_a_file(trainer.state())["modules"])
    moments = [weakref.ref(tensor) for o in trainer._optimisers for s in o.state.values() for tensor in s.values()]
    assert moments
    trainer.release()
    assert not any(moment() for moment in moments)
    assert all(p.grad is None for _, network in trainer.networks.modules() for p in network.parameters())
    assert equal(through_a_file(trainer.state())["modules"], kept)
