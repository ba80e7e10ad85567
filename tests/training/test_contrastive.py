"""CE-GZSL's losses and heads against loops over pairs and the plain network on concatenations, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.losses.generative import class_contrastive, supervised_contrastive
from training.networks import contrastive
from training.networks.contrastive import Comparator, Projector

D, A, H = 6, 4, 7  # embedding, attributes, hidden
Loss = Callable[[], Tensor]


# --- references -----------------------------------------------------------------------------------


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(v * w for v, w in zip(a, b, strict=True))


def slow_supervised_contrastive(z: list[list[float]], labels: list[int], temperature: float) -> float:
    """One pair after the other, as the formula has it."""
    anchors = []
    rows = range(len(labels))
    for i in rows:
        positives = [p for p in rows if p != i and labels[p] == labels[i]]
        if not positives or all(label == labels[i] for label in labels):
            continue
        total = sum(math.exp(dot(z[i], z[k]) / temperature) for k in rows if k != i)
        terms = [math.log(math.exp(dot(z[i], z[p]) / temperature) / total) for p in positives]
        anchors.append(-sum(terms) / len(positives))
    return sum(anchors) / len(anchors) if anchors else 0.0


def plain_supervised_contrastive(z: Tensor, labels: list[int], temperature: float) -> Tensor:
    """The same loops over tensors, for autograd."""
    anchors = []
    rows = range(len(labels))
    for i in rows:
        positives = [p for p in rows if p != i and labels[p] == labels[i]]
        if not positives or all(label == labels[i] for label in labels):
            continue
        total = torch.stack([(z[i].dot(z[k]) / temperature).exp() for k in rows if k != i]).sum()
        terms = [(z[i].dot(z[p]) / temperature).exp().div(total).log() for p in positives]
        anchors.append(-torch.stack(terms).mean())
    return torch.stack(anchors).mean() if anchors else (z * 0).sum()


def slow_class_contrastive(scores: list[list[float]], labels: list[int], temperature: float) -> float:
    rows = []
    for row, label in zip(scores, labels, strict=True):
        powers = [math.exp(score / temperature) for score in row]
        rows.append(-math.log(powers[label] / sum(powers)))
    return sum(rows) / len(rows)


def plain_comparator(network: Comparator, embeddings: Tensor, attributes: Tensor) -> Tensor:
    """One two-layer network on the concatenation of every embedding with every class."""
    joint = nn.Sequential(nn.Linear(D + A, H), nn.LeakyReLU(0.2), nn.Linear(H, 1)).double()
    state = {
        "0.weight": torch.cat([network.hidden_embeddings.weight, network.hidden_attributes.weight], 1),
        "0.bias": network.hidden_attributes.bias,
        "2.weight": network.output.weight,
        "2.bias": network.output.bias,
    }
    pairs = [torch.cat([h, a]) for h in embeddings for a in attributes]
    scores: Tensor = torch.func.functional_call(joint, state, (torch.stack(pairs),))
    return scores.view(len(embeddings), len(attributes))


# --- inputs ---------------------------------------------------------------------------------------


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def comparator() -> Comparator:
    """Weights as large as the inputs, biases too."""
    network = Comparator(dim=D, attribute_dim=A, hidden=H).double()
    for index, parameter in enumerate(network.parameters()):
        with torch.no_grad():
            parameter.copy_(normal(*parameter.shape, seed=100 + index))
    return network


LABELS = {
    "one row": [3],
    "two alike": [1, 1],
    "two unlike": [1, 0],
    "one class": [2, 2, 2, 2],
    "no positives": [0, 1, 2, 3, 4],
    "a single among pairs": [0, 5, 0, 1, 1],
    "many": [0, 1, 2, 0, 1, 2, 2, 2, 7, 9, 0],
}
EMPTY = {"one row", "two alike", "two unlike", "one class", "no positives"}


def projections(rows: int) -> Tensor:
    """On the sphere; the first row is zero wherever there are several."""
    z = nn.functional.normalize(normal(rows, 5, seed=rows), dim=1)
    if rows > 1:
        z[0] = 0
    return z.requires_grad_()


# --- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_supervised_contrastive(labels: list[int], temperature: float) -> None:
    z = projections(len(labels))
    loss = supervised_contrastive(z, torch.tensor(labels), temperature)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(slow_supervised_contrastive(z.tolist(), labels, temperature), rel=1e-11)
    plain = plain_supervised_contrastive(z, labels, temperature)
    (fast,), (slow,) = torch.autograd.grad(loss, z), torch.autograd.grad(plain, z)
    torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("name", sorted(EMPTY))
def test_without_an_anchor_supervised_contrastive_is_zero(name: str) -> None:
    """In the float32 of the training, next to the sharpest temperature in use."""
    labels = torch.tensor(LABELS[name])
    z = projections(len(labels)).detach().float().requires_grad_()
    loss = supervised_contrastive(z, labels, 0.01)
    loss.backward()
    assert loss.item() == 0
    assert z.grad is not None
    assert not z.grad.any()


def test_supervised_contrastive_by_hand() -> None:
    """Two pairs on two axes: e for the positive, 1 for either negative."""
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]], dtype=torch.float64)
    loss = supervised_contrastive(z, torch.tensor([4, 4, 7, 7]), 1.0)
    assert loss.item() == pytest.approx(-math.log(math.e / (math.e + 2)))
    crossed = supervised_contrastive(z, torch.tensor([4, 7, 4, 7]), 1.0)
    assert crossed.item() == pytest.approx(-math.log(1 / (math.e + 2)))


def test_supervised_contrastive_of_a_single_does_not_change_with_its_class() -> None:
    """A row without a partner pushes others away, but pulls and is pulled by nobody, whatever it is called."""
    z = projections(5)
    losses = [supervised_contrastive(z, torch.tensor([0, single, 0, 1, 1]), 0.1).item() for single in (5, 9)]
    assert losses[0] == losses[1]
    without = supervised_contrastive(z[[0, 2, 3, 4]], torch.tensor([0, 0, 1, 1]), 0.1).item()
    assert losses[0] > without


def test_supervised_contrastive_stays_finite_at_sharp_temperatures() -> None:
    z = nn.functional.normalize(normal(40, 3, seed=5), dim=1).float().requires_grad_()
    loss = supervised_contrastive(z, torch.arange(40) % 7, 1e-3)
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("temperature", [0.1, 2.0])
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (1, 5), (6, 1), (7, 4)])
def test_class_contrastive(rows: int, classes: int, temperature: float) -> None:
    scores = normal(rows, classes, seed=rows + classes)
    scores[0] = 0
    labels = torch.arange(rows) * 3 % classes
    loss = class_contrastive(scores, labels, temperature)
    expected = slow_class_contrastive(scores.tolist(), labels.tolist(), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-11, abs=1e-14)


# --- comparator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 20, contrastive.CPU_CHUNK], ids=["one at a time", "some", "all at once"])
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (1, 4), (5, 1), (5, 3), (3, 5), (6, 6)])
def test_comparator_is_the_network_on_concatenations(
    rows: int, classes: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, and every gradient, through the loss that training uses; with zero rows on either side."""
    monkeypatch.setattr(contrastive, "CPU_CHUNK", chunk * H)
    network = comparator()
    embeddings, attributes = normal(rows, D, seed=rows).relu(), normal(classes, A, seed=classes)
    if rows > 1:
        embeddings[0] = 0
    if classes > 1:
        attributes[-1] = 0
    embeddings.requires_grad_()
    attributes.requires_grad_()
    labels = torch.arange(rows) % classes
    inputs = [embeddings, attributes, *network.parameters()]

    fast, slow = network(embeddings, attributes), plain_comparator(network, embeddings, attributes)
    torch.testing.assert_close(fast, slow)
    gradients = [
        torch.autograd.grad(class_contrastive(scores, labels, 0.1) + scores.square().mean(), inputs)
        for scores in (fast, slow)
    ]
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)
    assert all(gradient.any() for gradient in gradients[0][1:])


def test_comparator_of_zeros_has_the_slope_of_the_plain_one() -> None:
    """Every pre-activation exactly 0: autograd's LeakyReLU takes the small slope there."""
    network = comparator()
    with torch.no_grad():
        network.hidden_attributes.bias.zero_()
    embeddings = torch.zeros(3, D, dtype=torch.float64, requires_grad=True)
    attributes = torch.zeros(2, A, dtype=torch.float64)
    inputs = [embeddings, *network.parameters()]
    fast = torch.autograd.grad(network(embeddings, attributes).square().sum(), inputs)
    slow = torch.autograd.grad(plain_comparator(network, embeddings, attributes).square().sum(), inputs)
    for actual, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("rows", "classes"), [(5, 3), (3, 5)])
def test_comparator_computes_the_gradients_that_are_asked_for(rows: int, classes: int) -> None:
    network = comparator().requires_grad_(False)
    embeddings = normal(rows, D, seed=1).requires_grad_()
    attributes = normal(classes, A, seed=2)
    network(embeddings, attributes).sum().backward()
    plain = plain_comparator(network, embeddings, attributes).sum()
    assert embeddings.grad is not None
    torch.testing.assert_close(embeddings.grad, torch.autograd.grad(plain, embeddings)[0])
    assert all(parameter.grad is None for parameter in network.parameters())


def test_comparator_never_holds_the_pairs() -> None:
    """The largest tensor of a step, forward and backward, is a chunk and no [B, C, H]."""
    rows, classes, hidden = 64, 48, 512
    network = Comparator(dim=D, attribute_dim=A, hidden=hidden)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            tensors = [t for t in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(t, Tensor)]
            largest = max([largest, *(t.untyped_storage().nbytes() // t.element_size() for t in tensors)])
            return result

    embeddings = torch.randn(rows, D, requires_grad=True)
    with Watch():
        network(embeddings, torch.randn(classes, A)).sum().backward()
    assert rows * hidden < largest <= contrastive.CPU_CHUNK
    assert largest < rows * classes * hidden


def test_comparator_under_autocast_scores_in_the_precision_of_its_weights() -> None:
    network = comparator().float()
    embeddings, attributes = normal(5, D, seed=1).float().requires_grad_(), normal(3, A, seed=2).float()
    exact = network(embeddings, attributes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = network(embeddings, attributes)
        loss = scores.square().mean()
    loss.backward()
    assert scores.dtype == torch.float32
    assert 0 < (scores - exact).abs().max() < 0.1 * exact.abs().max()
    assert embeddings.grad is not None
    assert torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize("name", ["comparator", "projector"])
def test_published_initialisation(name: str) -> None:
    """N(0, 0.02^2) and zero biases: the mean square of n weights has a spread of 0.02^2 sqrt(2 / n)."""
    torch.manual_seed(4)
    network = {
        "comparator": lambda: Comparator(dim=100, attribute_dim=90, hidden=200),
        "projector": lambda: Projector(dim=100, projection=90),
    }[name]()
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert layers
    for layer in layers:
        count = layer.weight.numel()
        square = float(layer.weight.detach().square().mean())
        assert square == pytest.approx(0.02**2, rel=5 * math.sqrt(2 / count))
        assert layer.bias is None or not layer.bias.any()


# --- projector ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_projector(rows: int) -> None:
    network = Projector(dim=D, projection=5).double()
    embeddings = normal(rows, D, seed=rows).relu()
    embeddings[0] = 0
    z = network(embeddings)
    weight, bias = network.linear.weight.tolist(), network.linear.bias.tolist()
    for actual, h in zip(z.tolist(), embeddings.tolist(), strict=True):
        raw = [dot(w, h) + b for w, b in zip(weight, bias, strict=True)]
        length = math.sqrt(dot(raw, raw))
        assert actual == pytest.approx([v / length if length else 0.0 for v in raw])


def test_gradient_of_a_zero_row_is_bounded() -> None:
    """A dead ReLU row meets the normalisation at its pole on the first step, when the bias is still 0."""
    network = Projector(dim=D, projection=5)
    z = network(torch.zeros(2, D))
    (z * torch.ones(5)).sum().backward()
    assert network.linear.bias.grad is not None
    assert float(network.linear.bias.grad.norm()) <= 2 * math.sqrt(5) / contrastive.SHORTEST * 1.001
