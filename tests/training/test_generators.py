"""Losses of the four methods: each term and its gradients against plain loops over rows in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.training.plain_methods import (
    BATCHES,
    batch,
    generator,
    made,
    mixed_task,
    plain_critic_step,
    plain_generator_step,
)
from tests.training.tiny import METHODS
from training.datasets.dataset import Task
from training.generators.base import Terms
from training.generators.wgan import Wgan


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Noise is drawn in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def small() -> Task:
    return mixed_task()


# --- against them ---------------------------------------------------------------------------------


def gradients(terms: Terms, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of each term by itself, so that a small one does not hide behind a large one."""
    found = {}
    for term, value in terms.items():
        if value.requires_grad:
            wanted = torch.autograd.grad(
                value, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            found.update({f"{term} on {name}": g for name, g in zip(parameters, wanted, strict=True)})
    return found


def assert_same(actual: Terms, expected: Terms, parameters: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert (value.shape, value.dtype) == ((), torch.float64), name
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    slow, fast = gradients(expected, parameters), gradients(actual, parameters)
    for name, value in fast.items():
        want = slow.get(name, torch.zeros_like(value))  # a constant has none
        torch.testing.assert_close(value, want, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def parameters(*modules: nn.Module) -> dict[str, Tensor]:
    return {f"{i}.{name}": p for i, m in enumerate(modules) for name, p in m.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("method", METHODS)
def test_critic_terms(small: Task, method: str, name: str) -> None:
    built, real = made(small, method), batch(small, name)
    actual, expected = built.critic_loss(real, generator()), plain_critic_step(built, real, generator(), small)
    wanted = {**parameters(built.student), **{f"own {i}": p for i, p in enumerate(built.critic_side())}}
    assert_same(actual, expected, wanted)
    if name == "mixed":
        assert all(float(value.detach()) != 0 for value in actual.values())


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("method", METHODS)
def test_generator_terms(small: Task, method: str, name: str) -> None:
    built, real = made(small, method), batch(small, name)
    actual, expected = built.generator_loss(real, generator()), plain_generator_step(built, real, generator(), small)
    wanted = {f"own {i}": p for i, p in enumerate(built.generator_side()) if p.requires_grad}
    assert_same(actual, expected, wanted)
    if name == "mixed":
        assert all(float(value.detach()) != 0 for value in actual.values())


def test_penalty_is_taken_between_the_rows(small: Task) -> None:
    """The first layer is linear: pre-activations between those of two rows are those of the rows between them."""
    built, real = made(small, "wgan"), batch(small, "mixed")
    assert isinstance(built, Wgan)
    fake, share = torch.rand_like(real.features), torch.rand(len(real.labels), 1)
    critic, mixed = built.critic, share * real.features + (1 - share) * fake
    hidden = [critic.hidden_features(x) + critic.hidden_attributes(real.attributes) for x in (real.features, fake)]
    between = share * hidden[0] + (1 - share) * hidden[1]
    torch.testing.assert_close(between, critic.hidden_features(mixed) + critic.hidden_attributes(real.attributes))


# --- what weights, sections and strengths switch --------------------------------------------------


@pytest.mark.parametrize(
    ("method", "setting", "absent"),
    [
        ("wgan", "generator.gp_weight=0", {"penalty"}),
        *((method, "generator.seen_classification=0", {"seen"}) for method in METHODS),
        ("cegzsl", "contrastive.instance_weight=0", {"fake_instance"}),
        ("cegzsl", "contrastive.class_weight=0", {"fake_class"}),
        ("tfvaegan", "vae.weight=0", {"reconstruction", "divergence"}),
        ("tfvaegan", "vae.semantic_weight=0", {"semantic"}),
    ],
)
def test_a_term_with_weight_zero_is_absent(small: Task, method: str, setting: str, absent: set[str]) -> None:
    def names(*settings: str) -> set[str]:
        built, real = made(small, method, *settings), batch(small, "mixed")
        return {*built.critic_loss(real, generator()), *built.generator_loss(real, generator())}

    assert names() - names(setting) == absent
    assert names(setting) <= names()


@pytest.mark.parametrize(
    ("method", "setting", "factor", "scaled"),
    [
        ("wgan", "generator.gp_weight=20", 2, {"penalty"}),
        ("diffusion", "generator.seen_classification=0.03", 3, {"seen"}),
        ("cegzsl", "contrastive.instance_weight=0.01", 10, {"fake_instance"}),
        ("cegzsl", "contrastive.class_weight=0.01", 10, {"fake_class"}),
        ("tfvaegan", "vae.weight=5", 5, {"reconstruction", "divergence"}),
        ("tfvaegan", "vae.semantic_weight=0.04", 4, {"semantic"}),
    ],
)
def test_weights_weigh(small: Task, method: str, setting: str, factor: float, scaled: set[str]) -> None:
    def values(*settings: str) -> dict[str, float]:
        built, real = made(small, method, *settings), batch(small, "mixed")
        random = generator()
        terms = {**built.critic_loss(real, random), **built.generator_loss(real, random)}
        return {name: float(value.detach()) for name, value in terms.items()}

    plain = values()
    expected = {name: value * (factor if name in scaled else 1) for name, value in plain.items()}
    assert values(setting) == pytest.approx(expected)


def test_without_feedback_the_critic_and_generator_terms_are_those_of_wgan(small: Task) -> None:
    """With the same generator, critic and noise."""
    ours, plain, real = made(small, "tfvaegan", "vae.feedback=0"), made(small, "wgan"), batch(small, "mixed")
    assert isinstance(plain, Wgan)
    plain.load_state_dict(ours.state_dict(), strict=False)
    terms, random = ours.generator_loss(real, generator()), generator()
    plain.noise(len(real.labels), random)  # the latent noise comes first
    expected = plain.generator_loss(real, random)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
