"""Plain renditions of what training computes in cheap exact forms: how the formulas read, loops and copies included.

Written for benchmarks/training.py from the published descriptions; the same maths, so that values agree to rounding.

B: batch, C: classes, Z: embedding, A: attributes, D: features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from training.config import LossForm
from training.losses.d3gzsl import EPSILON
from training.networks.contrastive import Comparator
from training.networks.generator import SLOPE, Critic, Generator


def comparator_loss(
    joint: nn.Module, embeddings: Tensor, attributes: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """CE-GZSL's class-level loss, one row of the batch at a time, each concatenated with every class."""
    total = embeddings.new_zeros(())
    for i in range(len(embeddings)):
        pairs = torch.cat([embeddings[i].repeat(len(attributes), 1), attributes], dim=1)
        scores = joint(pairs).squeeze(1)
        total = total + F.cross_entropy(scores[None] / temperature, labels[i : i + 1])
    return total / len(embeddings)


def pair_loss(a: Tensor, b: Tensor, groups: Tensor, form: LossForm) -> Tensor:
    """Both sides repeated for every pair, then one cosine per pair of vectors."""
    left = a.unsqueeze(1).repeat(1, len(b), 1)
    right = b.unsqueeze(0).repeat(len(a), 1, 1)
    cosine = F.cosine_similarity(left, right, dim=2)
    same = groups.unsqueeze(1).repeat(1, len(b)) == groups.unsqueeze(0).repeat(len(a), 1)
    if form == "faithful":
        return F.binary_cross_entropy_with_logits((cosine + 1) / 2, same.float())
    similarity = cosine.clamp(EPSILON, 1 - EPSILON)
    halves = [
        F.binary_cross_entropy(part, torch.full_like(part, target))
        for part, target in ((similarity[same], 1.0), (similarity[~same], 0.0))
        if len(part)
    ]
    return torch.stack(halves).mean()


def ood_distillation(logits: Tensor, head: nn.Module, confidence: Tensor, groups: Tensor, form: LossForm) -> Tensor:
    """L_od on repeated pairs."""
    b = torch.stack([confidence, 1 - confidence], dim=1)
    if form == "faithful":
        return pair_loss(F.softmax(head(F.log_softmax(logits, 1)), 1), F.softmax(b, 1), groups, form)
    return pair_loss(F.softmax(head(F.softmax(logits, 1)), 1), b, groups, form)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, attributes: Tensor, mix: Tensor) -> Tensor:
    """Autograd's gradient of the score with respect to rows between real and fake, itself differentiated again."""
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    scores = critic(torch.cat([between, attributes], dim=1))
    (gradient,) = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True, retain_graph=True)
    return ((gradient.norm(2, dim=1) - 1) ** 2).mean()


def critic_loss(
    critic: nn.Module, real: Tensor, fake: Tensor, attributes: Tensor, mix: Tensor, *, gp_weight: float
) -> Tensor:
    """E[D(fake)] - E[D(real)] + gp_weight * penalty, three passes through the critic."""
    distance = critic(torch.cat([fake, attributes], dim=1)).mean() - critic(torch.cat([real, attributes], dim=1)).mean()
    return distance + gp_weight * gradient_penalty(critic, real, fake, attributes, mix)


def joint_comparator(network: Comparator) -> nn.Sequential:
    """The comparator as one network on [h, a], with the same weights."""
    return _two_layers(
        torch.cat([network.hidden_embeddings.weight, network.hidden_attributes.weight], dim=1),
        network.hidden_attributes.bias,
        network.output,
    )


def joint_critic(network: Critic) -> nn.Sequential:
    """The critic as one network on [x, a], with the same weights."""
    return _two_layers(
        torch.cat([network.hidden_features.weight, network.hidden_attributes.weight], dim=1),
        network.hidden_features.bias,
        network.output,
    )


def joint_generator(network: Generator) -> nn.Sequential:
    """The generator, which must have no paths, as one network on [noise, a], with the same weights."""
    layers = _two_layers(
        torch.cat([network.hidden_noise.weight, network.hidden_attributes.weight], dim=1),
        network.hidden_noise.bias,
        network.output,
    )
    return layers.append(nn.ReLU())


def _two_layers(weight: Tensor, bias: Tensor, output: nn.Linear) -> nn.Sequential:
    hidden, inputs = weight.shape
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, output.out_features)
    with torch.no_grad():
        first.weight.copy_(weight)
        first.bias.copy_(bias)
        last.weight.copy_(output.weight)
        last.bias.copy_(output.bias)
    return nn.Sequential(first, nn.LeakyReLU(SLOPE), last).to(weight.device, weight.dtype)
