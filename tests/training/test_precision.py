"""Networks in bfloat16, losses and penalties in float32; what is trained and kept stays float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.tiny import METHODS, Noting, config, same, state, task
from training.datasets.dataset import Task
from training.device import allow_tf32, at_least_float32, autocast, full_precision
from training.generators.base import Terms
from training.generators.wgan import Wgan
from training.losses import generative
from training.method.trainer import Networks, Trainer, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _products() -> Iterator[None]:
    """How float32 matrices are multiplied is a setting of the process."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def trainer(small: Task, method: str, precision: str, *settings: str) -> Trainer:
    made = Trainer(small, config(f"generator.method={method}", f"precision={precision}", *settings))
    for parameter in made._method.parameters():  # the published start is too flat to tell roundings apart
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return made


def step(made: Trainer, precision: Any) -> tuple[Terms, Terms]:
    """Terms of a critic and of a generator step, the student's included."""
    real, teacher = made._draw()
    with autocast(CPU, precision):
        critic = made._method.critic_loss(real, made._random)
        with torch.no_grad():
            synthetic = made._synthesise()
        _, of_student = made._student_loss(real, teacher, synthetic)
    with autocast(CPU, precision):
        generated = made._method.generator_loss(real, made._random)
        _, again = made._student_loss(real, teacher, made._synthesise())
    return {**critic, **of_student}, {**generated, **again}


# --- the losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_float32_and_near_those_of_float32_networks(small: Task, method: str) -> None:
    rounded = [step(trainer(small, method, "bf16"), "bf16") for _ in range(2)]
    exact = step(trainer(small, method, "fp32"), "fp32")
    assert all(
        torch.equal(a[name], b[name]) for a, b in zip(*rounded, strict=True) for name in a
    )  # the same again from the same seed
    for terms, expected in zip(rounded[0], exact, strict=True):
        assert terms.keys() == expected.keys()
        for name, value in terms.items():
            assert value.dtype == torch.float32, name
            torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.03, msg=lambda m, n=name: f"{n}: {m}")
        assert any(not torch.equal(value, expected[name]) for name, value in terms.items())


@pytest.mark.parametrize("method", METHODS)
def test_networks_run_in_bfloat16(small: Task, method: str) -> None:
    made = trainer(small, method, "bf16")
    real, _ = made._draw()
    with autocast(CPU, "bf16"):
        z, logits = made.networks.student(real.features)
        assert (z.dtype, logits.dtype) == (torch.bfloat16, torch.bfloat16)
        if isinstance(made._method, Wgan):
            sampler, noise = made._method.sampler, made._method.noise(16, made._random)
            hidden, _ = sampler.before_output(noise, *sampler.conditions(real.attributes))
            assert hidden.dtype == torch.bfloat16
            assert made._method.critic(real.features, real.attributes).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert made.networks.student(real.features)[1].dtype == torch.float32


def test_the_penalty_is_computed_in_full_precision(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pre-activations that it starts from are rounded."""
    made = trainer(small, "wgan", "bf16")
    assert isinstance(made._method, Wgan)
    critic, real = made._method.critic, made._draw()[0]
    seen: list[Tensor] = []

    def noted(hidden: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        seen.append(hidden)
        return original(hidden)

    original = critic.input_gradient
    monkeypatch.setattr(critic, "input_gradient", noted)
    with autocast(CPU, "bf16"):
        terms = made._method.critic_loss(real, made._random)
    (hidden,) = seen
    assert hidden.dtype == torch.float32
    assert not torch.equal(hidden, hidden.bfloat16().float())  # mixed after the rounding
    exact = generative.gradient_penalty(original(hidden).double())
    torch.testing.assert_close(terms["penalty"].double(), 10 * exact, rtol=1e-6, atol=0)


def test_the_distance_is_a_difference_of_float32_means(small: Task) -> None:
    """Means rounded to bfloat16 would lose it: scores of 100 are 0.5 apart there."""
    made = trainer(small, "wgan", "bf16")
    assert isinstance(made._method, Wgan)
    critic, real = made._method.critic, made._draw()[0]
    with torch.no_grad():
        critic.output.bias.fill_(0)
    before = made._random.get_state()
    with autocast(CPU, "bf16"), torch.no_grad():
        distance = made._method.critic_loss(real, made._random)["wasserstein"]
        made._random.set_state(before)
        fake = made._method.sampler(made._method.noise(len(real.labels), made._random), real.attributes)
        scores = [critic(x, real.attributes).float() for x in (fake, real.features)]
    torch.testing.assert_close(distance, scores[0].mean() - scores[1].mean(), rtol=0, atol=1e-6)
    assert not torch.equal(distance, distance.bfloat16().float())


def test_scores_of_synthetic_rows_are_as_exact_as_those_of_real_ones(small: Task) -> None:
    """A teacher's scores may differ by less than bfloat16 resolves, and the confidence divides by how much they do."""
    made = trainer(small, "diffusion", "bf16")
    real, teacher = made._draw()
    with torch.no_grad():
        made.networks.student.ood_head.weight.mul_(5)
        assert float(teacher.scores.std()) < 2**-7  # the step of bfloat16 at the scores, some -1.6
        exact = made._student_loss(real, teacher, real.features[:10])[1]["od"]
        with autocast(CPU, "bf16"):
            rounded = made._student_loss(real, teacher, real.features[:10])[1]["od"]
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)


@pytest.mark.parametrize("name", ["kernel", "linear"])
def test_the_fixed_path_is_the_same_under_autocast(small: Task, name: str) -> None:
    """It is fitted in float64, and its weights may nearly cancel."""
    path = trainer(small, "diffusion", "bf16", f"generator.attribute_path={name}").networks.generator.attribute_path
    expected = path(small.attributes)
    with autocast(CPU, "bf16"):
        assert torch.equal(path(small.attributes), expected)


# --- the training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_training_in_bfloat16(small: Task, method: str) -> None:
    def run(precision: str) -> tuple[Networks, dict[str, float]]:
        logged: list[dict[str, float]] = []
        settings = config(f"generator.method={method}", f"precision={precision}", "generator.averaging=0")
        return train(small, settings, epochs=2, measuring=Noting(lambda _e, _n, found: logged.append(found))), logged[
            -1
        ]

    (rounded, found), (exact, expected) = run("bf16"), run("fp32")
    assert found == pytest.approx(expected, rel=0.1, abs=0.02)
    assert same(rounded.teacher, exact.teacher)  # fitted before, in float32
    assert not same(rounded.generator, exact.generator)
    assert not same(rounded.student, exact.student)
    assert {value.dtype for value in state(rounded).values()} == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_the_student_survive_autocast(small: Task, method: str) -> None:
    """Weights first cast where no gradient is asked for must not be used where one is."""

    def gradients(precision: Any) -> dict[str, Tensor]:
        made = trainer(small, method, precision, "d3.embedding_init=normal", "seed=1")
        real, teacher = made._draw()
        with autocast(CPU, precision):
            terms = made._method.generator_loss(real, made._random)
            total, _ = made._student_loss(real, teacher, made._synthesise())
        sum(terms.values(), total).backward()
        modules = {**dict(made.networks.student.named_parameters()), **dict(made._method.named_parameters())}
        return {name: p.grad for name, p in modules.items() if p.grad is not None}

    rounded, exact = gradients("bf16"), gradients("fp32")
    assert rounded.keys() == exact.keys()
    assert {"embedding.linear.weight", "classifier.weight", "ood_head.weight"} <= rounded.keys()
    for name, gradient in rounded.items():
        assert gradient.dtype == torch.float32
        slack = 0.03 if name in ("log_w", "b") else 1e-4  # sums over rows that nearly cancel
        assert float((gradient - exact[name]).norm()) <= 0.15 * float(exact[name].norm()) + slack, name


def test_tf32_is_the_cpu_s_float32(small: Task) -> None:
    fp32, tf32 = (train(small, config(f"precision={name}"), epochs=1) for name in ("fp32", "tf32"))
    assert same(fp32, tf32)


# --- the helpers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "products"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "high")])
def test_products_of_float32(small: Task, precision: Any, products: str) -> None:
    for before in ("highest", "high"):
        torch.set_float32_matmul_precision(before)
        allow_tf32(precision)
        assert torch.get_float32_matmul_precision() == products
        torch.set_float32_matmul_precision(before)
        Trainer(small, config(f"precision={precision}"))
        assert torch.get_float32_matmul_precision() == products


def test_only_half_precision_is_widened() -> None:
    for half in (torch.bfloat16, torch.float16):
        assert at_least_float32(torch.ones(2, dtype=half)).dtype == torch.float32
    for whole in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=whole)
        assert at_least_float32(x) is x


def test_full_precision_within_autocast() -> None:
    a = torch.rand(3, 3)
    with autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
        with full_precision(CPU):
            assert (a @ a).dtype == torch.float32
    with autocast(CPU, "tf32"):
        assert (a @ a).dtype == torch.float32
