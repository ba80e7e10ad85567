"""The torch networks: shapes, initialisation, and the gradient that the critic writes out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from training.config import EmbeddingInit
from training.losses import generative
from training.networks.d3gzsl import Embedding, Student, Teacher
from training.networks.generator import SLOPE, Critic, Generator, location

B, D, A, K, H, Z, S, C = 5, 7, 4, 3, 6, 8, 3, 5  # as in the modules' legends; H: hidden


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(*, anchors: int | None = 0) -> Generator:
    torch.manual_seed(0)
    return Generator(noise_dim=K, attribute_dim=A, feature_dim=D, hidden=H, anchors=anchors)


def critic(hidden: int = H) -> Critic:
    torch.manual_seed(1)
    return Critic(attribute_dim=A, feature_dim=D, hidden=hidden)


def student(*, init: EmbeddingInit = "normal", dim: int = Z, w: float = 2.0, b: float = 0.5) -> Student:
    torch.manual_seed(2)
    return Student(feature_dim=D, dim=dim, classes=C, init=init, confidence_w=w, confidence_b=b)


# --- generator ------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [None, 0, 2])
def test_generator_is_the_published_network_and_two_paths(anchors: int | None) -> None:
    """A linear layer on [noise, attributes], split in two, gives what one layer on both gives."""
    network, noise, attributes = generator(anchors=anchors), random(B, K), random(B, A, seed=1)
    nn.init.normal_(network.hidden_noise.bias)
    nn.init.normal_(network.output.weight)
    joint = nn.Linear(K + A, H)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([network.hidden_noise.weight, network.hidden_attributes.weight], 1))
        joint.bias.copy_(network.hidden_noise.bias)
    hidden = nn.functional.leaky_relu(joint(torch.cat([noise, attributes], 1)), 0.2)
    expected = network.output(hidden)
    if anchors is not None:
        assert network.attribute_path is not None
        assert network.noise_path is not None
        nn.init.normal_(network.noise_path.weight)
        for index, buffer in enumerate(network.attribute_path.buffers()):
            buffer.copy_(random(*buffer.shape, seed=index).abs())
        network.spread.copy_(random(D, seed=7).abs())
        expected = expected + location(network.attribute_path(attributes), network.spread)
        expected = expected + noise @ network.noise_path.weight.T
    actual = network(noise, attributes)
    assert actual.shape == (B, D)
    assert 0 < (actual == 0).sum() < actual.numel()
    torch.testing.assert_close(actual, expected.relu())


@pytest.mark.parametrize("anchors", [0, 2])
def test_paths_start_at_zero(anchors: int) -> None:
    with_paths, without = generator(anchors=anchors), generator(anchors=None)
    assert without.attribute_path is None
    assert without.noise_path is None
    missing = with_paths.load_state_dict(without.state_dict(), strict=False).missing_keys
    assert {name.partition(".")[0] for name in missing} == {"attribute_path", "noise_path", "spread"}
    inputs = random(B, K), random(B, A)
    assert torch.equal(with_paths(*inputs), without(*inputs))


@pytest.mark.parametrize("spread", [0.0, 1e-3, 0.3, 2.0])
def test_a_gaussian_at_its_location_has_the_mean_behind_a_relu(spread: float) -> None:
    """E[ReLU(u + s n)] = u Phi(u / s) + s phi(u / s)."""
    mean = torch.cat([torch.linspace(0.02 * spread, 6 * spread, 200), torch.tensor([0.5, 4.0])]).double()
    u = location(mean, torch.tensor(spread, dtype=torch.float64)).numpy()
    if spread:
        u = u * norm.cdf(u / spread) + spread * norm.pdf(u / spread)
    np.testing.assert_allclose(u, mean, rtol=0, atol=0.012 * spread)
    below = location(torch.tensor([-1.0, 0.0]), torch.tensor([spread, spread]))
    if spread:
        assert torch.equal(below[0], below[1])
        assert 0 < norm.expect(lambda x: max(x, 0), loc=float(below[0]), scale=spread) < 0.03 * spread


@pytest.mark.parametrize("name", ["generator", "critic", "teacher", "embedding"])
def test_published_initialisation(name: str) -> None:
    """N(0, 0.02^2) and zero biases: the mean square of n weights has a spread of 0.02^2 sqrt(2 / n)."""
    torch.manual_seed(4)
    wide: nn.Module = {
        "generator": lambda: Generator(noise_dim=100, attribute_dim=90, feature_dim=80, hidden=200, anchors=None),
        "critic": lambda: Critic(attribute_dim=90, feature_dim=80, hidden=200),
        "teacher": lambda: Teacher(feature_dim=100, dim=90, seen_classes=80, init="normal"),
        "embedding": lambda: Embedding(feature_dim=100, dim=90, init="normal"),
    }[name]()
    layers = [module for module in wide.modules() if isinstance(module, nn.Linear)]
    assert layers
    for layer in layers:
        count = layer.weight.numel()
        mean, square = float(layer.weight.detach().mean()), float(layer.weight.detach().square().mean())
        assert abs(mean) < 5 * 0.02 / math.sqrt(count)
        assert square == pytest.approx(0.02**2, rel=5 * math.sqrt(2 / count))
        assert layer.bias is None or not layer.bias.any()


# --- critic ---------------------------------------------------------------------------------------


def test_critic_is_the_published_network() -> None:
    network, features, attributes = critic(), random(B, D), random(B, A, seed=1)
    joint = nn.Linear(D + A, H)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([network.hidden_features.weight, network.hidden_attributes.weight], 1))
        joint.bias.copy_(network.hidden_features.bias)
    expected = network.output(nn.functional.leaky_relu(joint(torch.cat([features, attributes], 1)), 0.2))
    torch.testing.assert_close(network(features, attributes), expected[:, 0])


def real_sized(network: Critic) -> Critic:
    """Weights large enough that the penalty's gradient is not all rounding."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return network.double()


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_input_gradient_and_penalty_are_those_of_double_backward(rows: int) -> None:
    network = real_sized(critic(hidden=9))
    features, attributes = random(rows, D).double().requires_grad_(), random(rows, A, seed=1).double()
    (expected,) = torch.autograd.grad(network(features, attributes).sum(), features, create_graph=True)
    actual = network.input_gradient(network.hidden_features(features.detach()) + network.hidden_attributes(attributes))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)

    parameters = dict(network.named_parameters())
    slow, fast = (
        torch.autograd.grad(penalty, list(parameters.values()), allow_unused=True, materialize_grads=True)
        for penalty in ((expected.norm(2, dim=1) - 1).pow(2).mean(), generative.gradient_penalty(actual))
    )
    for name, a, b in zip(parameters, fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert float(fast[list(parameters).index("hidden_features.weight")].norm()) > 0.01
    assert float(fast[list(parameters).index("output.weight")].norm()) > 0.01


def test_input_gradient_of_one_unit_by_hand() -> None:
    network = Critic(attribute_dim=1, feature_dim=2, hidden=1)
    with torch.no_grad():
        network.hidden_features.weight.copy_(torch.tensor([[3.0, 4.0]]))
        network.hidden_features.bias.fill_(0)
        network.hidden_attributes.weight.fill_(1)
        network.output.weight.fill_(2)
    gradient = network.input_gradient(network.hidden_features(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])))
    torch.testing.assert_close(gradient, torch.tensor([[6.0, 8.0], [6.0 * SLOPE, 8.0 * SLOPE]]))


# --- teacher and student --------------------------------------------------------------------------


def test_identity_embedding_starts_as_the_features() -> None:
    features = random(B, D).abs()
    teacher = Teacher(feature_dim=D, dim=D, seen_classes=S, init="identity")
    assert torch.equal(student(init="identity", dim=D).embedding(features), features)
    assert torch.equal(teacher.embedding(features), features)
    assert not torch.equal(student(init="normal", dim=D).embedding(features), features)


def test_embedding_is_rectified() -> None:
    z = student().embedding(random(50, D))
    assert z.shape == (50, Z)
    assert (z >= 0).all()
    assert (z > 0).any()


def test_teacher_gives_log_probabilities_and_their_largest() -> None:
    torch.manual_seed(3)
    teacher = Teacher(feature_dim=D, dim=Z, seen_classes=S, init="normal")
    nn.init.normal_(teacher.classifier.weight, 0, 2)
    embeddings, log_probs = teacher(random(B, D))
    assert (embeddings.shape, log_probs.shape) == ((B, Z), (B, S))
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(B))
    scores = teacher.score(random(B, D))
    assert torch.equal(scores, log_probs.max(dim=1).values)
    assert ((-math.log(S) - 1e-6 <= scores) & (scores <= 0)).all()


def test_student_shapes() -> None:
    network = student()
    z, logits = network(random(B, D))
    assert (z.shape, logits.shape) == ((B, Z), (B, C))
    assert torch.equal(logits, network.classifier(network.embedding(random(B, D))))
    assert network.ood_head(logits).shape == (B, 2)


def test_confidence_starts_as_asked() -> None:
    network, scores = student(w=1.7, b=0.6), random(B)
    torch.testing.assert_close(network.confidence(scores), torch.sigmoid(1.7 * (scores + 0.6)))


@given(
    log_w=st.floats(-6, 3),
    b=st.floats(-5, 5),
    scores=st.lists(st.floats(-6, 0).map(lambda score: round(score, 2)), min_size=2, unique=True),
)
def test_confidence_lies_in_0_to_1_and_grows_with_the_score(log_w: float, b: float, scores: list[float]) -> None:
    """Whatever training makes of its two scalars: w stays positive."""
    network = student().double()
    with torch.no_grad():
        network.log_w.fill_(log_w)
        network.b.fill_(b)
        confidence = network.confidence(torch.tensor(sorted(scores), dtype=torch.float64))
    assert ((confidence >= 0) & (confidence <= 1)).all()
    assert (confidence.diff() >= 0).all()
    assert (confidence.diff() > 0).all() or float(confidence[-1]) > 1 - 1e-12 or float(confidence[0]) < 1e-12


def test_confidence_learns() -> None:
    network = student()
    network.confidence(random(B)).sum().backward()
    assert network.log_w.grad is not None
    assert network.b.grad is not None
    assert network.log_w.grad != 0
    assert network.b.grad > 0
