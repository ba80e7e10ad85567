"""Where generators start from: the ridge map of the class means, and the spread of rows within their classes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from model.networks.denoiser import DiffusionSampler
from tests.training.tiny import config, task
from training.generators.wgan import Wgan
from training.ridge import class_mean_ridge
from training.spread import FLOOR, within_class_spread
from training.task import Task
from training.trainer import Trainer


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


@pytest.mark.parametrize("strength", [0.05, 0.3, 4.0])
def test_ridge_is_the_closed_form(strength: float) -> None:
    """The normal equations in attribute space, against the code's in the space of classes."""
    work = task(seen=5, unseen=2, rows=4, dim=6, attributes=3)
    features, labels = work.features.double(), work.labels.tolist()
    means = np.array(
        [
            sum((features[i].numpy() for i in range(len(labels)) if labels[i] == c), np.zeros(6)) / labels.count(c)
            for c in range(5)
        ]
    )
    described = work.attributes[:5].double().numpy()
    a, m = described - described.mean(0), means - means.mean(0)
    penalty = strength * np.trace(a @ a.T) / 5
    expected = np.linalg.solve(a.T @ a + penalty * np.eye(3), a.T @ m).T
    weight, bias = class_mean_ridge(work, strength)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias.numpy(), means.mean(0) - expected @ described.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["wgan", "cegzsl", "tfvaegan"])
def test_the_generator_starts_from_the_ridge(small: Task, method: str) -> None:
    made = Trainer(small, config("generator.linear_path_ridge=0.3", f"generator.method={method}", "vae.feedback=0"))
    assert isinstance(made._method, Wgan)
    generator = made._method.sampler
    weight, bias = class_mean_ridge(small, 0.3)
    assert generator.linear_path is not None
    assert torch.equal(generator.linear_path.weight, weight)
    assert torch.equal(generator.output.bias, bias)
    with torch.no_grad():
        features = generator(torch.randn(7, 3), small.attributes)
        kept = made.networks.generator(torch.zeros(7, 3), small.attributes)
    torch.testing.assert_close(features, (small.attributes @ weight.T + bias).relu(), atol=0.02, rtol=0)
    torch.testing.assert_close(kept, (small.attributes @ weight.T + bias).relu(), atol=0.02, rtol=0)


@pytest.mark.parametrize("method", ["wgan", "cegzsl", "tfvaegan"])
def test_without_strength_the_path_starts_at_zero(small: Task, method: str) -> None:
    made = Trainer(small, config("generator.linear_path_ridge=0", f"generator.method={method}"))._method
    assert isinstance(made, Wgan)
    assert made.sampler.linear_path is not None
    assert not made.sampler.linear_path.weight.any()
    assert not made.sampler.output.bias.any()


@pytest.mark.parametrize("setting", ["generator.linear_path=true", "generator.linear_path=false"])
def test_diffusion_takes_the_ridge_or_the_mean(small: Task, setting: str) -> None:
    """And keeps it: what is learned are residuals around it, in units of the spread within classes."""
    settings = config("generator.method=diffusion", setting)
    trainer = Trainer(small, settings)
    trainer.run_epoch()
    slope, intercept = class_mean_ridge(small, settings.generator.linear_path_ridge)
    if not settings.generator.linear_path:
        slope, intercept = torch.zeros_like(slope), small.features.mean(dim=0)
    for made in (trainer._method.sampler, trainer.networks.generator):
        assert isinstance(made, DiffusionSampler)
        assert torch.equal(made.linear_path.weight, slope)
        assert torch.equal(made.linear_path.bias, intercept)
        assert torch.equal(made.spread, within_class_spread(small))
        residual = made.residual(small.features, small.attributes[small.labels]) * made.spread
        around = small.attributes[small.labels] @ slope.T + intercept
        torch.testing.assert_close(residual, small.features - around)


def test_spread_is_that_within_classes(small: Task) -> None:
    features, labels = small.features.clone(), small.labels.tolist()
    features[:, 2] = small.labels.float()  # no spread within a class, much between them
    work = dataclasses.replace(small, features=features)
    rows = features.double().numpy()
    means = {c: np.mean([x for x, y in zip(rows, labels, strict=True) if y == c], axis=0) for c in set(labels)}
    expected = np.sqrt(np.mean([(x - means[y]) ** 2 for x, y in zip(rows, labels, strict=True)], axis=0))
    assert expected[2] == 0
    expected[2] = FLOOR
    actual = within_class_spread(work)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6)
