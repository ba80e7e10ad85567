"""Train the slim ResNet-101 on drawings of the seen classes: class labels and attributes, nothing of the unseen.

N: batch; S: input side; C: seen classes; A: attributes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import DataError
from model.networks.slim_resnet import HeadOutputs, SlimResNet, TwoHeadNet
from model.preprocess import PreprocessSpec
from training.demo.dataset import Drawings, render_inputs
from training.demo.world import ATTRIBUTES, SEEN

SPEC = PreprocessSpec(size=64, resize=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""The demo trunk's preprocessing."""

Progress = Callable[[str, int, int], None]

_HELD_OUT = 1_000_003  # added to the seed of the held-out drawings


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How the trunk is trained.

    Attributes:
        per_class: training drawings of each seen class.
        held_out_per_class: drawings of each seen class that choose among epochs.
        epochs: passes over the training drawings.
        batch_size: drawings per step.
        learning_rate: the peak of the one-cycle schedule.
        weight_decay: of AdamW, on the weights of convolutions and heads only.
        attribute_weight: factor of the attribute loss against the class loss.
        label_smoothing: share of a class label spread over all classes.
        base_width: of :class:`SlimResNet`.
        shift: largest random displacement of a training input, in pixels.
        seed: of drawings, initial weights, order and augmentation.
    """

    per_class: int = 500
    held_out_per_class: int = 20
    epochs: int = 22
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    attribute_weight: float = 5.0
    label_smoothing: float = 0.1
    base_width: int = 8
    shift: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (self.per_class, self.held_out_per_class, self.epochs, self.base_width)
        if min(whole) < 1 or self.batch_size < 2 or self.shift < 0 or self.seed < 0:
            raise DataError(f"pre-training needs counts above 0, a batch of at least 2 and a seed from 0, got {self}")
        if not (self.learning_rate > 0 and self.attribute_weight >= 0 and 0 <= self.label_smoothing < 1):
            raise DataError(f"pre-training needs a learning rate above 0 and losses weighed from 0, got {self}")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What one pass over the drawings did: mean training loss, and loss and accuracy on held-out seen drawings."""

    train_loss: float
    held_out_loss: float
    held_out_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A trained trunk.

    Attributes:
        network: trunk and heads of the best epoch, on the CPU, in evaluation mode.
        history: one entry per epoch.
        best: number of the epoch kept, from 0: the lowest held-out loss.
    """

    network: TwoHeadNet
    history: tuple[Epoch, ...]
    best: int


def pretrain(config: PretrainConfig, *, device: str = "cpu", progress: Progress | None = None) -> Pretrained:
    """Draw the training set, train, and keep the epoch with the lowest held-out loss.

    The loss is cross-entropy over the C seen classes, label-smoothed, plus `attribute_weight` times the mean
    over the A attributes of the binary cross-entropy between their logits and what the drawing shows, in 0..1.

    Args:
        config: sizes, rates and seed; one seed gives one result on one machine and thread count.
        device: where torch computes.
        progress: called with a description, steps done and all steps.
    """
    torch.manual_seed(config.seed)
    train = render_inputs(
        SEEN,
        SPEC,
        per_class=config.per_class,
        seed=config.seed,
        progress=progress and (lambda done, total: progress("drawing", done, total)),
    )
    held_out = render_inputs(SEEN, SPEC, per_class=config.held_out_per_class, seed=config.seed + _HELD_OUT)
    trunk = SlimResNet(base_width=config.base_width)
    network = TwoHeadNet(trunk, classes=len(SEEN), attributes=len(ATTRIBUTES))
    network = network.to(memory_format=torch.channels_last).to(device)
    criterion = _Criterion(config).to(device)
    order = np.random.default_rng(config.seed)
    steps = math.ceil(len(train.labels) / config.batch_size)
    optimiser = torch.optim.AdamW(_groups(network, config.weight_decay), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.learning_rate, total_steps=steps * config.epochs, pct_start=0.15
    )
    history: list[Epoch] = []
    best, best_state = 0, copy.deepcopy(network.state_dict())
    for epoch in range(config.epochs):
        network.train()
        losses = []
        for step, (x, labels, attributes) in enumerate(_batches(train, config, order, device)):
            loss = criterion(network(x), labels, attributes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
            if progress is not None:
                progress("training", epoch * steps + step + 1, config.epochs * steps)
        held_out_loss, accuracy = _measure(network, criterion, held_out, config.batch_size, device)
        train_loss = float(torch.stack(losses).mean())
        history.append(Epoch(train_loss=train_loss, held_out_loss=held_out_loss, held_out_accuracy=accuracy))
        if held_out_loss <= history[best].held_out_loss:
            best, best_state = epoch, copy.deepcopy(network.state_dict())
    network.load_state_dict(best_state)
    return Pretrained(network=network.to("cpu").eval(), history=tuple(history), best=best)


def to_batch(pixels: NDArray[np.uint8], device: str = "cpu") -> Tensor:
    """Uint8 [N, S, S, 3] to normalised float32 [N, 3, S, S] in channels-last memory, as :data:`SPEC` has it."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (SPEC.mean, SPEC.std))
    return (x.float() / 255 - mean) / std


class _Criterion(nn.Module):
    """Class loss plus weighted attribute loss of a batch."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.classes = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.attributes = nn.BCEWithLogitsLoss()
        self.weight = config.attribute_weight

    def forward(self, outputs: HeadOutputs, labels: Tensor, attributes: Tensor) -> Tensor:
        attribute_loss = self.attributes(outputs.attributes, attributes)
        return cast(Tensor, self.classes(outputs.classes, labels) + self.weight * attribute_loss)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """No decay for scales and biases: it would undo the zero start of the residual branches' scales."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _batches(
    drawings: Drawings, config: PretrainConfig, rng: np.random.Generator, device: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One shuffled, augmented pass; the last batch takes rows from the first, so that all are of one size."""
    permutation = rng.permutation(len(drawings.labels))
    steps = math.ceil(len(permutation) / config.batch_size)
    rows = np.resize(permutation, steps * config.batch_size).reshape(steps, -1)
    for chosen in rows:
        x = _augment(to_batch(drawings.pixels[chosen], device), config.shift)
        yield x, *_targets(drawings, chosen, device)


def _targets(drawings: Drawings, rows: NDArray[np.int64] | slice, device: str) -> tuple[Tensor, Tensor]:
    """Labels int64 [N] and attributes float32 [N, A] of some drawings."""
    labels, attributes = drawings.labels[rows], drawings.attributes[rows]
    return torch.from_numpy(labels).to(device), torch.from_numpy(attributes).to(device)


def _augment(x: Tensor, shift: int) -> Tensor:
    """Mirror, displace and re-light every input of a batch [N, 3, S, S] by its own chance, without a loop over N."""
    count, _, side, _ = x.shape
    line = torch.arange(side, device=x.device)
    dy, dx = torch.randint(-shift, shift + 1, (2, count, 1), device=x.device)
    rows, columns = (line + dy).clamp(0, side - 1), (line + dx).clamp(0, side - 1)
    mirrored = torch.rand(count, 1, device=x.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(count, device=x.device)[:, None, None]
    x = x.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    gain = 1 + 0.1 * torch.randn(count, 1, 1, 1, device=x.device)
    return x * gain + 0.1 * torch.randn(count, 3, 1, 1, device=x.device)


@torch.no_grad()
def _measure(
    network: TwoHeadNet, criterion: _Criterion, drawings: Drawings, batch_size: int, device: str
) -> tuple[float, float]:
    """Mean loss and accuracy over all drawings."""
    network.eval()
    loss = hits = 0.0
    for start in range(0, len(drawings.labels), batch_size):
        rows = slice(start, start + batch_size)
        labels, attributes = _targets(drawings, rows, device)
        outputs = network(to_batch(drawings.pixels[rows], device))
        loss += float(criterion(outputs, labels, attributes)) * len(labels)
        hits += float((outputs.classes.argmax(dim=1) == labels).sum())
    return loss / len(drawings.labels), hits / len(drawings.labels)
