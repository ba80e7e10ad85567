"""Samplers of the four methods: noise and attributes in, features out, each against its plain form in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.tiny import METHODS, config
from training.generators import new_sampler
from training.networks.denoiser import FREQUENCIES, Denoiser, DiffusionSampler
from training.networks.generator import Encoder, FeedbackGenerator, Generator, Sampler, SemanticDecoder, location

B, D, A, K, H = 5, 7, 4, 3, 6  # as in the modules' legends


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def real_sized(module: nn.Module) -> Any:
    """Weights large enough that every path shows in the result."""
    for index, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(0.5 * normal(*parameter.shape, seed=50 + index))
    for index, (name, buffer) in enumerate(module.named_buffers()):
        values = 0.5 * normal(*buffer.shape, seed=90 + index)
        buffer.copy_(
            values.abs() if name.endswith(("spread", "sharpness", "length", "norm_correction", "variances")) else values
        )
    return module.double()


def sampler(method: str, *settings: str) -> Sampler:
    made: Sampler = real_sized(
        new_sampler(config(f"generator.method={method}", *settings), feature_dim=D, attribute_dim=A, seen_classes=3)
    )
    return made


# --- all four -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_features_are_a_function_of_noise_and_attributes(method: str) -> None:
    made = sampler(method)
    noise, attributes = normal(B, made.noise_dim, seed=1), normal(B, A, seed=2)
    features = made(noise, attributes)
    assert features.shape == (B, D)
    assert 0 < (features == 0).sum() < features.numel()
    assert (features >= 0).all()
    torch.manual_seed(5)  # no random numbers of their own
    assert torch.equal(made(noise, attributes), features)
    for row in range(B):  # rows do not see each other
        torch.testing.assert_close(made(noise[row : row + 1], attributes[row : row + 1])[0], features[row])
    assert not torch.equal(made(noise.flip(0), attributes), features)
    assert not torch.equal(made(noise, attributes.flip(0)), features)
    assert made(noise[:0], attributes[:0]).shape == (0, D)


@pytest.mark.parametrize(("asked", "size"), [(0, A), (2, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_noise_has_the_size_asked_for_or_that_of_the_attributes(method: str, asked: int, size: int) -> None:
    assert sampler(method, f"generator.noise_dim={asked}").noise_dim == (D if method == "diffusion" else size)


@pytest.mark.parametrize("method", METHODS)
def test_features_are_differentiable(method: str) -> None:
    """With respect to every weight that is trained, and to the attributes."""
    made = sampler(method)
    attributes = normal(B, A, seed=2).requires_grad_()
    made(normal(B, made.noise_dim, seed=1), attributes).sum().backward()
    assert attributes.grad is not None
    assert attributes.grad.any()
    unused = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()}
    decoder_output = {"tfvaegan": {"decoder.output.weight", "decoder.output.bias"}}  # trained by the semantic loss
    assert unused == decoder_output.get(method, set())


# --- feedback -------------------------------------------------------------------------------------


def feedback(strength: float) -> FeedbackGenerator:
    made: FeedbackGenerator = real_sized(
        FeedbackGenerator(noise_dim=K, attribute_dim=A, feature_dim=D, hidden=H, anchors=0, strength=strength)
    )
    return made


@torch.no_grad()
def test_without_feedback_it_is_the_generator() -> None:
    """Then TF-VAEGAN is f-VAEGAN-D2."""
    without = feedback(0)
    assert without.feedback is None
    plain = Generator(noise_dim=K, attribute_dim=A, feature_dim=D, hidden=H, anchors=0).double()
    missing = plain.load_state_dict(without.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all(name.startswith("decoder.") for name in missing.unexpected_keys)
    inputs = normal(B, K, seed=1), normal(B, A, seed=2)
    assert torch.equal(without(*inputs), plain(*inputs))


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_feedback_corrects_the_hidden_layer(strength: float) -> None:
    """x0 = G(e, a), h' = h + strength F(decoder's hidden layer of x0), x = the rest of G on h', row by row."""
    network = feedback(strength)
    noise, attributes = normal(B, K, seed=1), normal(B, A, seed=2)
    w = network.state_dict()

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def rest(h: Tensor, e: Tensor, a: Tensor) -> Tensor:
        beside = location(network.attribute_path(a[None])[0], w["spread"])
        beside = beside + w["noise_path.weight"] @ e
        return (w["output.weight"] @ leaky(h) + w["output.bias"] + beside).clamp(min=0)

    expected = []
    for e, a in zip(noise, attributes, strict=True):
        h = w["hidden_noise.weight"] @ e + w["hidden_noise.bias"] + w["hidden_attributes.weight"] @ a
        x0 = rest(h, e, a)
        seen = leaky(w["decoder.hidden_layer.weight"] @ x0 + w["decoder.hidden_layer.bias"])
        inner = leaky(w["feedback.0.weight"] @ seen + w["feedback.0.bias"])
        expected.append(rest(h + strength * (w["feedback.2.weight"] @ inner + w["feedback.2.bias"]), e, a))
    torch.testing.assert_close(network(noise, attributes), torch.stack(expected))
    assert not torch.allclose(network(noise, attributes), feedback(0)(noise, attributes))


@torch.no_grad()
def test_decoder_gives_attributes_of_length_one() -> None:
    decoder: SemanticDecoder = real_sized(SemanticDecoder(feature_dim=D, attribute_dim=A, hidden=H))
    features = normal(B, D, seed=1)
    decoded = decoder(features)
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(B, dtype=torch.float64))
    raw = nn.functional.leaky_relu(features @ decoder.hidden_layer.weight.T + decoder.hidden_layer.bias, 0.2)
    raw = raw @ decoder.output.weight.T + decoder.output.bias
    torch.testing.assert_close(decoded * raw.norm(dim=1, keepdim=True), raw)


@torch.no_grad()
def test_encoder_is_one_network_on_the_concatenation() -> None:
    encoder: Encoder = real_sized(Encoder(feature_dim=D, attribute_dim=A, noise_dim=K, hidden=H))
    features, attributes = normal(B, D, seed=1), normal(B, A, seed=2)
    weight = torch.cat([encoder.hidden_features.weight, encoder.hidden_attributes.weight], 1)
    hidden = torch.cat([features, attributes], 1) @ weight.T + encoder.hidden_features.bias
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    mean, log_variance = encoder(features, attributes)
    torch.testing.assert_close(mean, encoder.mean(hidden))
    torch.testing.assert_close(log_variance, encoder.log_variance(hidden))


# --- diffusion ------------------------------------------------------------------------------------


def diffusion(steps: int = 4) -> DiffusionSampler:
    made: DiffusionSampler = real_sized(
        DiffusionSampler(attribute_dim=A, feature_dim=D, hidden=H, anchors=3, directions=K, steps=steps)
    )
    made.start_from_gaussian(*gaussian())
    return made


def gaussian() -> tuple[Tensor, Tensor, Tensor]:
    """Spread, directions and variances; two of the variances at the borders of what there may be."""
    directions = torch.linalg.qr(normal(D, K, seed=8)).Q
    variances = torch.linspace(0, 3, K, dtype=torch.float64)
    return normal(D, seed=9).abs() + 0.1, directions, variances


def located(network: DiffusionSampler, attributes: Tensor) -> Tensor:
    """Of one class, where its Gaussian lies."""
    return location(network.attribute_path(attributes[None])[0], network.sampled_spread)


@torch.no_grad()
def test_denoiser_sees_the_level_as_waves() -> None:
    denoiser: Denoiser = real_sized(Denoiser(feature_dim=D, attribute_dim=A, hidden=H))
    noisy, attributes, level = normal(B, D, seed=1), normal(B, A, seed=2), normal(B, 1, seed=3).sigmoid()
    rows = []
    for x, a, t in zip(noisy, attributes, level[:, 0].tolist(), strict=True):
        waves = [f(t * math.pi * 2**k) for f in (math.sin, math.cos) for k in range(FREQUENCIES)]
        time = torch.tensor(waves, dtype=torch.float64)
        h = denoiser.hidden_features(x) + denoiser.hidden_attributes(a) + denoiser.hidden_level(time)
        h = torch.where(h > 0, h, 0.2 * h)
        m = denoiser.middle(h)
        rows.append(denoiser.output(h + torch.where(m > 0, m, 0.2 * m)))
    torch.testing.assert_close(denoiser(noisy, attributes, level), torch.stack(rows))


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 4, 9])
def test_sampling_is_ddim(steps: int) -> None:
    """x' = sqrt(a') x0 + sqrt(1 - a') eps, eps = (x - sqrt(a) x0) / sqrt(1 - a), a = cos^2(pi t / 2)."""
    network = diffusion(steps)
    noise, attributes = normal(B, D, seed=1), normal(B, A, seed=2)
    expected = []
    for e, a in zip(noise, attributes, strict=True):
        x = x0 = e
        for step in reversed(range(1, steps + 1)):
            now, after = (math.cos(math.pi / 2 * s / steps) ** 2 for s in (step, step - 1))
            level = torch.full((1, 1), step / steps, dtype=torch.float64)
            x0 = wiener(x, now) + network.denoiser(x[None], a[None], level)[0]
            eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            x = math.sqrt(after) * x0 + math.sqrt(1 - after) * eps
        torch.testing.assert_close(x, x0)  # at level 0 nothing of the noise is left
        expected.append((located(network, a) + network.spread * x0).clamp(min=0))
    torch.testing.assert_close(network(noise, attributes), torch.stack(expected))


def wiener(noisy: Tensor, kept: float) -> Tensor:
    """E[r | sqrt(a) r + sqrt(1 - a) e] of a Gaussian, by its covariance C: sqrt(a) C (a C + (1 - a) I)^-1 r_t."""
    _, directions, variances = gaussian()
    covariance = directions @ variances.diag() @ directions.T
    return math.sqrt(kept) * covariance @ torch.linalg.inv(kept * covariance + (1 - kept) * torch.eye(D)) @ noisy


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 4, 40])
def test_without_a_denoiser_samples_are_a_gaussian_whose_mean_is_the_path(steps: int) -> None:
    """Spread as said, behind the ReLU with the path's mean; with many steps the spread is that of the variances."""
    network, rows = diffusion(steps), 200_000
    network.denoiser = Oracle(torch.zeros(1, D))  # type: ignore[assignment]
    network.attribute_path.weight.zero_()
    network.attribute_path.bias.copy_(torch.linspace(0.2, 1.5, D))
    samples = network(normal(rows, D), normal(1, A, seed=2))
    spread, directions, variances = gaussian()
    assert steps > 1 or network.sampled_spread.max() < 1e-12  # from noise alone nothing but the mean is expected
    torch.testing.assert_close(samples.mean(dim=0), torch.linspace(0.2, 1.5, D).double(), rtol=0, atol=0.02)
    wide = spread * (directions.square() @ variances).sqrt()
    if steps == 40:
        torch.testing.assert_close(network.sampled_spread, wide, rtol=0.05, atol=0)
    else:
        assert (network.sampled_spread < wide).all()


@torch.no_grad()
def test_nothing_is_expected_of_a_direction_without_variance_and_noise() -> None:
    network = diffusion()
    level = torch.zeros(B, 1, dtype=torch.float64)
    residual = normal(B, D, seed=1)
    _, directions, variances = gaussian()
    kept = directions[:, variances > 0]
    torch.testing.assert_close(network.expected(residual, level), residual @ kept @ kept.T)


class Oracle(nn.Module):
    """Knows the clean residual of every row."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, noisy: Tensor, attributes: Tensor, level: Tensor) -> Tensor:
        assert ((level > 0) & (level <= 1)).all()
        assert torch.equal(level, level[:1].expand_as(level))
        return self.clean


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_with_a_perfect_denoiser_the_features_come_back(steps: int) -> None:
    network, features, attributes = diffusion(steps), normal(B, D, seed=4).relu(), normal(B, A, seed=2)
    residual = network.residual(features, attributes)
    network.variances.zero_()
    network.denoiser = Oracle(residual)  # type: ignore[assignment]
    torch.testing.assert_close(network(normal(B, D, seed=5), attributes), features, rtol=0, atol=1e-14)


@torch.no_grad()
def test_noise_is_mixed_in_by_the_level() -> None:
    """All of the residual at level 0, none at level 1, unit variance between."""
    network, residual, noise = diffusion(), normal(B, D, seed=1), normal(B, D, seed=2)
    level = torch.tensor([[0.0], [1.0], [0.5], [0.25], [0.75]], dtype=torch.float64)
    noisy = network.noisy(residual, noise, level)
    torch.testing.assert_close(noisy[0], residual[0])
    torch.testing.assert_close(noisy[1], noise[1])
    torch.testing.assert_close(noisy[2], (residual[2] + noise[2]) / math.sqrt(2))
    for row in range(B):
        angle = math.pi / 2 * float(level[row])
        torch.testing.assert_close(noisy[row], math.cos(angle) * residual[row] + math.sin(angle) * noise[row])
