"""What one epoch of training does: which optimiser steps how often, on which rows, and what it reports."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.tiny import METHODS, Noting, config, state, task
from training.datasets.dataset import Task
from training.generators import wgan
from training.method import trainer
from training.method.optimisers import average_into
from training.method.student import StudentBatch
from training.method.trainer import CriticBatch, Trainer, scale_gradient, train


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


class Counting(torch.optim.Adam):
    """Adam that counts its steps."""

    made: list[Counting] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = 0
        self.made.append(self)

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        return super().step(closure)


@pytest.fixture
def optimisers(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    made: list[Counting] = []
    monkeypatch.setattr(Counting, "made", made)
    monkeypatch.setattr(torch.optim, "Adam", Counting)
    return made


# --- who steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "outer"), [(8, 3), (3, 1)])
@pytest.mark.parametrize("method", METHODS)
def test_schedule(optimisers: list[Counting], rows: int, outer: int, method: str) -> None:
    """Per outer step the critic steps `critic_steps` times, the generator once, the student each time."""
    work = task(seen=5, unseen=2, rows=rows, dim=8)  # 40 or 15 rows in batches of 16
    teacher_steps = (rows * 5 // min(16, rows * 5)) * 2
    losses: list[dict[str, float]] = []
    settings = config(f"generator.method={method}", "generator.critic_steps=3", "d3.embedding_lr_factor=0.1")
    train(work, settings, epochs=2, measuring=Noting(lambda _e, _n, found: losses.append(found)))
    teacher, *critic, generator, student = optimisers
    assert teacher.steps == teacher_steps  # the last, smaller batch is dropped
    assert [one.steps for one in critic] == ([] if method == "diffusion" else [2 * outer * 3])
    assert (generator.steps, student.steps) == (2 * outer, 2 * outer * 4)
    assert [(g["role"], g["lr"], g["betas"]) for g in student.param_groups] == [
        ("embedding", pytest.approx(1e-4), (0.5, 0.999)),
        ("student", 1e-3, (0.5, 0.999)),
        ("confidence", 1e-3, (0.5, 0.999)),
    ]
    assert [set(found) for found in losses] == [{"cls", "kl", "be", "od", *NAMES[method]}] * 2
    assert all(np.isfinite(list(found.values())).all() for found in losses)


@pytest.mark.parametrize("method", METHODS)
def test_the_critic_warms_up_before_the_generator_steps(small: Task, optimisers: list[Counting], method: str) -> None:
    """Over epochs and over a stop; the kept generator stays where it started."""
    settings = config(f"generator.method={method}", "generator.warm_up=4")
    trainer = Trainer(small, settings)
    start = state(trainer.networks.generator)
    first = trainer.run_epoch()
    *_, generator, student = optimisers
    assert (generator.steps, student.steps) == (0, 3 * 2)
    assert all(torch.equal(value, start[key]) for key, value in state(trainer.networks.generator).items())
    assert all(torch.equal(value, start[key]) for key, value in state(trainer._method.sampler).items())
    assert not first.keys() & {"adversarial", "seen", "denoising"}
    again = Trainer(small, settings, copy.deepcopy(trainer.state()))
    assert again.run_epoch() == trainer.run_epoch()
    assert (generator.steps, student.steps) == (2, 3 * 2 + 3 * 2 + 2)


GAN = {"wasserstein", "penalty", "adversarial", "seen"}
NAMES = {
    "wgan": GAN,
    "cegzsl": GAN | {"instance", "class", "fake_instance", "fake_class"},
    "tfvaegan": GAN | {"reconstruction", "divergence", "semantic"},
    "diffusion": {"denoising", "seen"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_has_one_optimiser(small: Task, optimisers: list[Counting], method: str) -> None:
    made = Trainer(small, config(f"generator.method={method}"))
    held = Counter(id(p) for adam in optimisers[1:] for group in adam.param_groups for p in group["params"])
    wanted = [p for p in made._method.parameters() if p.requires_grad] + list(made.networks.student.parameters())
    assert set(held.values()) == {1}
    assert set(held) == {id(p) for p in wanted}
    embedding = {id(p) for p in made.networks.student.embedding.parameters()}
    confidence = {id(made.networks.student.log_w), id(made.networks.student.b)}
    groups = [{id(p) for p in group["params"]} for group in optimisers[-1].param_groups]
    assert groups[0] == embedding
    assert groups[2] == confidence


def test_the_kept_generator_is_the_moving_average(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """average = decay * average + (1 - decay) * generator after every outer step, from the start of training."""
    own: list[dict[str, torch.Tensor]] = []
    kept: list[dict[str, torch.Tensor]] = []

    def noted(average: nn.Module, module: nn.Module, decay: float) -> None:
        if not own:
            own.append(state(average))
        average_into(average, module, decay)
        own.append(state(module))
        kept.append(state(average))

    monkeypatch.setattr(trainer, "average_into", noted)
    networks = train(small, config("generator.averaging=0.7"), epochs=1)
    assert len(kept) == 3
    expected = own[0]
    for now, average in zip(own[1:], kept, strict=True):
        expected = {key: 0.7 * expected[key] + 0.3 * now[key] for key in expected}
        torch.testing.assert_close(average, expected)
    assert not any(p.requires_grad for p in networks.generator.parameters())
    torch.testing.assert_close(state(networks.generator), expected)


@pytest.mark.parametrize("method", METHODS)
def test_without_averaging_the_last_generator_is_kept(small: Task, method: str) -> None:
    made = Trainer(small, config("generator.averaging=0", f"generator.method={method}"))
    made.run_epoch()
    kept, own = state(made.networks.generator), state(made._method.sampler)
    assert kept.keys() == own.keys()
    assert all(torch.equal(kept[key], own[key]) for key in kept)


def test_scale_gradient() -> None:
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    scaled = scale_gradient(x, 0.25)
    torch.testing.assert_close(scaled, x)
    (scaled * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.25, 2.5, 25]


# --- on which rows --------------------------------------------------------------------------------


def noting(monkeypatch: pytest.MonkeyPatch, note: Callable[[StudentBatch, dict[str, torch.Tensor]], None]) -> None:
    original = trainer.student_terms

    def noted(student: Any, teacher: Any, batch: StudentBatch, *rest: Any) -> dict[str, torch.Tensor]:
        found = original(student, teacher, batch, *rest)
        note(batch, found)
        return found

    monkeypatch.setattr(trainer, "student_terms", noted)


@pytest.mark.parametrize("method", METHODS)
def test_synthetic_rows_are_of_unseen_classes_and_generated(
    small: Task, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    batches: list[StudentBatch] = []
    noting(monkeypatch, lambda batch, _: batches.append(batch))
    train(small, config("d3.synthetic_per_class=3", f"generator.method={method}"), epochs=1)
    assert len(batches) == 9  # 3 outer steps, 2 of the critic and 1 of the generator each
    real = {tuple(row): label for row, label in zip(small.features.tolist(), small.labels.tolist(), strict=True)}
    for batch in batches:
        assert batch.synthetic_labels.tolist() == [5, 5, 5, 6, 6, 6]
        assert not small.seen[batch.synthetic_labels].any()
        assert all(tuple(row) not in real for row in batch.synthetic.tolist())
        assert [real[tuple(row)] for row in batch.real.tolist()] == batch.real_labels.tolist()
        assert small.seen[batch.real_labels].all()
    assert [batch.synthetic.requires_grad for batch in batches] == [False, False, True] * 3
    assert len({tuple(batch.synthetic.flatten().tolist()) for batch in batches}) == 9  # fresh noise every time
    drawn = [tuple(batch.real.flatten().tolist()) for batch in batches]
    assert drawn[1::3] == drawn[2::3]  # the generator takes the last batch of the critic, as published
    assert len(set(drawn)) == 6


def test_the_teacher_speaks_of_the_same_rows(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[StudentBatch] = []
    noting(monkeypatch, lambda batch, _: batches.append(batch))
    networks = train(small, config(), epochs=1)
    for batch in batches:
        embeddings, log_probs = networks.teacher(batch.real)
        torch.testing.assert_close(batch.teacher.embeddings, embeddings)
        torch.testing.assert_close(batch.teacher.log_probs, log_probs)
        torch.testing.assert_close(batch.teacher.scores, log_probs.max(1).values)


# --- what is reported -----------------------------------------------------------------------------


def test_losses_are_means_over_their_steps(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers in the log: each term by the steps that it is part of."""
    terms: list[float] = []
    distances: list[float] = []
    noting(monkeypatch, lambda _, found: terms.append(float(found["kl"].detach())))
    original = wgan.critic_terms

    def noted(critic: Any, real: Any, fake: torch.Tensor, *rest: Any, **more: Any) -> dict[str, torch.Tensor]:
        scores = critic(fake, real.attributes).mean() - critic(real.features, real.attributes).mean()
        distances.append(float(scores.detach()))
        return original(critic, real, fake, *rest, **more)

    monkeypatch.setattr(wgan, "critic_terms", noted)
    logged: list[dict[str, float]] = []
    train(small, config(), epochs=1, measuring=Noting(lambda _e, _n, found: logged.append(found)))
    assert (len(terms), len(distances)) == (9, 6)
    assert logged[0]["kl"] == pytest.approx(np.mean(terms), rel=1e-4)
    assert logged[0]["wasserstein"] == pytest.approx(np.mean(distances), rel=1e-4)


class Waits(TorchDispatchMode):
    """Counts the operations for which a host waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += mask or name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(small: Task, method: str) -> None:
    """Numbers are fetched once an epoch, however many steps it has."""

    def waits(steps: int) -> int:
        made = Trainer(small, config(f"generator.method={method}", "d3.ood_target=class", steps=steps))
        with Waits() as mode:
            made.run_epoch()
        return mode.count

    with Waits() as mode:
        torch.ones(3).sum().item()
        torch.ones(3)[torch.tensor([True, False, True])]
    assert mode.count == 2
    assert waits(4) == waits(1)


# --- what is computed together --------------------------------------------------------------------


class OneByOne(Trainer):
    """Makes the rows of each critic step when it is due, and of each row all that it needs."""

    @torch.no_grad()
    def _critic_batches(self) -> Iterator[CriticBatch]:  # type: ignore[override]
        for _ in range(self._method.critic_steps):
            real, teacher = self._draw()
            draws = self._method.critic_draws(real, self._random)
            fake = self._method.sampler(draws.noise, real.attributes) if draws else None
            mix = draws.mix if draws else None
            yield CriticBatch(real=real, teacher=teacher, fake=fake, mix=mix, synthetic=self._synthesise())

    def _synthesise(self) -> torch.Tensor:
        noise = self._method.noise(len(self._synthetic_labels), self._random)
        features: torch.Tensor = self._method.sampler(noise, self._task.attributes[self._synthetic_labels])
        return features


@pytest.mark.parametrize("path", ["kernel", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_made_at_once_are_those_made_one_step_after_the_other(small: Task, method: str, path: str) -> None:
    settings = config(f"generator.method={method}", f"generator.attribute_path={path}", "generator.hidden=32")
    both = Trainer(small, settings), OneByOne(small, settings)
    for _ in range(2):
        losses = [made.run_epoch() for made in both]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-6)
    for ours, plain in zip(*(made.networks.modules() for made in both), strict=True):
        for name, value in plain[1].state_dict().items():
            torch.testing.assert_close(ours[1].state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)
