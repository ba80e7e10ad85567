"""What either training step of a method reaches, and what it must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from tests.training.plain_methods import batch, generator, made, mixed_task
from tests.training.tiny import METHODS
from training.datasets.dataset import Task
from training.generators.base import Method, Terms

# Added to every score, they change no difference, and no softmax over classes.
CONSTANTS = {"method.critic.output.bias", "method.comparator.output.bias"}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Noise is drawn in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def small() -> Task:
    return mixed_task()


def reached(terms: Terms, modules: dict[str, nn.Module]) -> set[str]:
    """Parameters with a gradient other than 0; all of them ask for one, the teacher's included."""
    sum(terms.values(), torch.zeros((), requires_grad=True)).backward()
    named = {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}
    return {name for name, p in named.items() if p.grad is not None and p.grad.any()}


def modules(built: Method) -> dict[str, nn.Module]:
    return {"method": built, "student": built.student, "teacher": built.teacher}


def named(built: Method, side: Callable[[], Iterator[nn.Parameter]]) -> set[str]:
    wanted = {id(p) for p in side() if p.requires_grad}
    return {f"method.{name}" for name, p in built.named_parameters() if id(p) in wanted}


@pytest.mark.parametrize("method", METHODS)
def test_the_critic_step_reaches_the_critic_and_never_the_sampler(small: Task, method: str) -> None:
    built = made(small, method)
    built.teacher.requires_grad_(True)
    found = reached(built.critic_loss(batch(small, "mixed"), generator()), modules(built))
    contrasts = {"student.embedding.linear.weight", "student.embedding.linear.bias"} if method == "cegzsl" else set()
    assert found - CONSTANTS == (named(built, built.critic_side) - CONSTANTS) | contrasts
    assert not any(name.startswith(("method.sampler", "method.encoder", "teacher")) for name in found)


@pytest.mark.parametrize("method", METHODS)
def test_the_generator_step_reaches_the_generator_only(small: Task, method: str) -> None:
    built = made(small, method)
    found = reached(built.generator_loss(batch(small, "mixed"), generator()), modules(built))
    assert found == named(built, built.generator_side)


@pytest.mark.parametrize("method", METHODS)
def test_the_two_sides_are_all_that_is_trained(small: Task, method: str) -> None:
    built = made(small, method)
    critic, generated = [id(p) for p in built.critic_side()], [id(p) for p in built.generator_side()]
    assert len({*critic, *generated}) == len(critic) + len(generated)
    assert {*critic, *generated} == {id(p) for p in built.parameters()}
    assert not {id(p) for p in (*built.student.parameters(), *built.teacher.parameters())} & {*critic, *generated}
    assert all(p.requires_grad for p in built.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_the_given_generator_draws(small: Task, method: str) -> None:
    """Resuming restores that one."""
    built, real = made(small, method), batch(small, "mixed")
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random = generator()
        terms = {**built.critic_loss(real, random), **built.generator_loss(real, random)}
        found.append({name: float(value.detach()) for name, value in terms.items()})
    assert found[0] == found[1]
