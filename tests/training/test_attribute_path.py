"""Where generators start from: a ridge map from attributes to class means, and rows spread as the classes' do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.networks.attribute_path import AttributePath
from model.networks.denoiser import DiffusionSampler
from model.networks.generator import location
from tests.training.tiny import config, task
from training.attribute_path import WIDTHS, fit_path
from training.generators.wgan import Wgan
from training.spread import FLOOR, class_means, residuals, within_class_directions, within_class_spread
from training.start import HIDDEN_SHARE
from training.task import Task
from training.trainer import Trainer

Float64 = NDArray[np.float64]
D, A, S = 6, 3, 5


@pytest.fixture(scope="module")
def small() -> Task:
    """Seen classes are not the first."""
    made = task(seen=S, unseen=2, rows=4, dim=D, attributes=A)
    order = torch.tensor([5, 0, 1, 6, 2, 3, 4])
    place = torch.argsort(order)
    return dataclasses.replace(
        made, labels=place[made.labels], attributes=made.attributes[order], seen=made.seen[order]
    )


def means(small: Task) -> Float64:
    """Of the seen classes, one row after the other."""
    rows, labels = small.features.double().numpy(), small.labels.tolist()
    return np.array(
        [np.mean([x for x, y in zip(rows, labels, strict=True) if y == c], axis=0) for c in small.seen_index.tolist()]
    )


def fitted(small: Task, *, anchors: int, strengths: tuple[float, ...]) -> AttributePath:
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=anchors)
    fit_path(path, small, strengths)
    return path


def kernel(a: Float64, b: Float64, g: float) -> Float64:
    return np.array([[math.exp(-g * sum((x - y) ** 2)) for y in b] for x in a])


def ridge(k: Float64, targets: Float64, penalty: float) -> tuple[Float64, Float64]:
    """Dual weights and intercept of min ||T - K w - b||^2 + penalty w^T K w, both by one linear system."""
    count = len(k)
    system = np.block([[k + penalty * np.eye(count), np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    solved = np.linalg.solve(system, np.vstack([targets, np.zeros((1, targets.shape[1]))]))
    return solved[:-1], solved[-1]


def trace(k: Float64) -> float:
    centring = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(centring @ k @ centring))


# --- the path -------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [0, 4])
def test_path_of_every_row(anchors: int) -> None:
    random = torch.Generator().manual_seed(0)
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=anchors)
    for buffer in path.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=random))
    path.sharpness.abs_()
    attributes = torch.randn(7, A, generator=random)
    expected = []
    for a in attributes:
        k = a
        if path.anchors is not None:
            k = torch.stack([(-path.sharpness * (a - anchor).square().sum()).exp() for anchor in path.anchors])
        expected.append(path.weight @ k + path.bias)
    torch.testing.assert_close(path(attributes), torch.stack(expected))
    assert not list(path.parameters())  # nothing of it is trained
    assert path(attributes[:0]).shape == (0, D)


def test_an_anchor_is_most_like_itself() -> None:
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=4)
    assert path.anchors is not None
    path.anchors.copy_(torch.randn(4, A))
    path.sharpness.fill_(3)
    likeness = path.likeness(path.anchors)
    torch.testing.assert_close(likeness.diagonal(), torch.ones(4), atol=1e-5, rtol=0)
    assert (likeness <= 1).all()  # rounding must not make a distance negative


# --- its fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.05, 0.3, 4.0])
def test_linear_ridge_is_the_closed_form(small: Task, strength: float) -> None:
    """The normal equations in attribute space, against the code's in the space of classes."""
    path, targets = fitted(small, anchors=0, strengths=(strength,)), means(small)
    described = small.attributes[small.seen_index].double().numpy()
    a, m = described - described.mean(0), targets - targets.mean(0)
    penalty = strength * np.trace(a @ a.T) / S
    expected = np.linalg.solve(a.T @ a + penalty * np.eye(A), a.T @ m).T
    np.testing.assert_allclose(path.weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    intercept = targets.mean(0) - expected @ described.mean(0)
    np.testing.assert_allclose(path.bias.numpy(), intercept, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("strength", [0.05, 0.3, 4.0])
def test_kernel_ridge_is_the_closed_form(small: Task, strength: float) -> None:
    path, targets = fitted(small, anchors=S, strengths=(strength,)), means(small)
    described = small.attributes[small.seen_index].double().numpy()
    g = float(path.sharpness)
    k = kernel(described, described, g)
    dual, intercept = ridge(k, targets, strength * trace(k) / S)
    every = small.attributes.double().numpy()
    expected = kernel(every, described, g) @ dual + intercept
    np.testing.assert_allclose(path(small.attributes).numpy(), expected, rtol=1e-4, atol=1e-5)
    scale = float(np.mean([[sum((x - y) ** 2) for y in described] for x in described]))
    assert any(g * scale == pytest.approx(width, rel=1e-5) for width in WIDTHS)


@pytest.mark.parametrize("anchors", [0, S])
def test_strength_and_width_are_those_that_predict_a_class_left_out_best(small: Task, anchors: int) -> None:
    """By fitting the other classes, one class at a time, at the same penalty."""
    strengths = (0.02, 0.1, 0.5, 2.0)
    targets, spread = means(small), within_class_spread(small).double().numpy()
    described = small.attributes[small.seen_index].double().numpy()
    scale = float(np.mean([[sum((x - y) ** 2) for y in described] for x in described]))
    widths = [width / scale for width in WIDTHS] if anchors else [0.0]
    errors = {}
    for strength in strengths:
        for g in widths:
            k = kernel(described, described, g) if anchors else described @ described.T
            penalty, wrong = strength * trace(k) / S, []
            for left in range(S):
                rest = [i for i in range(S) if i != left]
                dual, intercept = ridge(k[np.ix_(rest, rest)], targets[rest], penalty)
                wrong.append((targets[left] - k[left, rest] @ dual - intercept) / spread)
            errors[strength, g] = float(np.mean(np.square(wrong)))
    best, _ = min(errors, key=lambda candidate: errors[candidate])
    chosen, alone = (
        fitted(small, anchors=anchors, strengths=strengths),
        fitted(small, anchors=anchors, strengths=(best,)),
    )
    torch.testing.assert_close(chosen.weight, alone.weight)
    torch.testing.assert_close(chosen.bias, alone.bias)
    if anchors:
        assert float(chosen.sharpness) == pytest.approx(min(errors, key=lambda c: errors[c])[1], rel=1e-5)
    others = [strength for strength in strengths if strength != best]
    assert not any(
        torch.allclose(chosen.weight, fitted(small, anchors=anchors, strengths=(other,)).weight) for other in others
    )


# --- the spread -----------------------------------------------------------------------------------


def test_residuals_and_spread_are_those_within_classes(small: Task) -> None:
    features, labels = small.features.clone(), small.labels.tolist()
    features[:, 2] = small.labels.float()  # no spread within a class, much between them
    work = dataclasses.replace(small, features=features)
    rows = features.double().numpy()
    own = {c: np.mean([x for x, y in zip(rows, labels, strict=True) if y == c], axis=0) for c in set(labels)}
    away = np.array([x - own[y] for x, y in zip(rows, labels, strict=True)])
    np.testing.assert_allclose(residuals(work).numpy(), away, atol=1e-12)
    expected = np.sqrt(np.mean(away**2, axis=0))
    assert expected[2] == 0
    expected[2] = FLOOR
    actual = within_class_spread(work)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6)
    assert not class_means(work)[small.unseen_index].any()


@pytest.mark.parametrize("count", [1, 3, D, D + 2])
def test_directions_spread_noise_as_the_classes_do(small: Task, count: int) -> None:
    """V V^T is the within-class covariance, or the nearest matrix of that rank."""
    away = residuals(small).numpy()
    covariance = away.T @ away / len(away)
    found = within_class_directions(small, count)
    assert found.shape == (D, count)
    u, s, vt = np.linalg.svd(covariance)
    s[count:] = 0
    np.testing.assert_allclose((found @ found.T).numpy(), u @ np.diag(s) @ vt, atol=1e-6)
    lengths = found.norm(dim=0)
    assert (lengths.diff() <= 0).all()
    assert not found[:, D:].any()


# --- the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["wgan", "cegzsl", "tfvaegan"])
@pytest.mark.parametrize("name", ["kernel", "linear"])
def test_the_generator_starts_as_a_gaussian_of_every_class(small: Task, method: str, name: str) -> None:
    settings = config(f"generator.method={method}", f"generator.attribute_path={name}", "vae.feedback=0")
    made = Trainer(small, settings)
    assert isinstance(made._method, Wgan)
    sampler = made._method.sampler
    assert sampler.attribute_path is not None
    assert sampler.noise_path is not None
    path = fitted(small, anchors=S if name == "kernel" else 0, strengths=settings.generator.path_ridge)
    for key, value in path.state_dict().items():
        assert torch.equal(sampler.attribute_path.state_dict()[key], value)
    directions = within_class_directions(small, 3)
    assert torch.equal(sampler.noise_path.weight, directions)
    noise = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    spread = directions.norm(dim=1)
    torch.testing.assert_close(sampler.spread, spread)
    expected = (location(path(small.attributes), spread) + noise @ directions.T).relu()
    many = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for generator in (sampler, made.networks.generator):
            torch.testing.assert_close(generator(noise, small.attributes), expected, atol=2e-3, rtol=0)
            for attributes, mean in zip(small.attributes, path(small.attributes), strict=True):
                made_of_class = generator(many, attributes.expand(len(many), -1)).mean(dim=0)
                assert ((made_of_class - mean.clamp(min=0)).abs() < 0.03 * spread + 2e-3).all()
    std = float(sampler.output.weight.detach().std())
    assert std == pytest.approx(0.02 * HIDDEN_SHARE, rel=0.5)


@pytest.mark.parametrize("method", ["wgan", "tfvaegan"])
def test_without_paths_the_generator_starts_as_published(small: Task, method: str) -> None:
    made = Trainer(small, config(f"generator.method={method}", "generator.attribute_path=none"))._method
    assert isinstance(made, Wgan)
    assert made.sampler.attribute_path is None
    assert made.sampler.noise_path is None
    assert float(made.sampler.output.weight.detach().std()) == pytest.approx(0.02, rel=0.5)
    assert not made.sampler.output.bias.any()


@pytest.mark.parametrize("name", ["kernel", "linear", "none"])
def test_diffusion_takes_the_path_or_the_mean(small: Task, name: str) -> None:
    """And keeps it: what is learned are residuals around it, in units of the spread within classes."""
    settings = config("generator.method=diffusion", f"generator.attribute_path={name}")
    trainer = Trainer(small, settings)
    trainer.run_epoch()
    around = small.features.mean(dim=0).expand(len(small.features), -1)
    if name != "none":
        path = fitted(small, anchors=S if name == "kernel" else 0, strengths=settings.generator.path_ridge)
        around = path(small.attributes[small.labels])
    for made in (trainer._method.sampler, trainer.networks.generator):
        assert isinstance(made, DiffusionSampler)
        assert torch.equal(made.spread, within_class_spread(small))
        residual = made.residual(small.features, small.attributes[small.labels]) * made.spread
        torch.testing.assert_close(residual, small.features - around)


@pytest.mark.parametrize("method", ["wgan", "tfvaegan", "diffusion"])
def test_training_leaves_the_attribute_path_and_moves_the_noise_path(small: Task, method: str) -> None:
    trainer = Trainer(small, config(f"generator.method={method}"))
    path = trainer.networks.generator.attribute_path
    before = {key: value.clone() for key, value in path.state_dict().items()}
    noise_path = getattr(trainer._method.sampler, "noise_path", None)
    start = noise_path.weight.detach().clone() if noise_path is not None else None
    for _ in range(2):
        trainer.run_epoch()
    for sampler in (trainer._method.sampler, trainer.networks.generator):
        assert all(torch.equal(sampler.attribute_path.state_dict()[key], value) for key, value in before.items())
    if noise_path is not None:
        assert not torch.equal(noise_path.weight, start)
