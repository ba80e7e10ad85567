"""A slim ResNet-101, and its training on drawings of the seen classes: labels and attributes, nothing of the unseen.

N: batch; S: input side in pixels; D: features; C: classes of the training head; A: attributes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from model.errors import DataError
from model.preprocess import PreprocessSpec
from training.console import OnStage
from training.demo.dataset import Drawings, render_inputs
from training.demo.world import ATTRIBUTES, COLOURS, SEEN

BLOCKS = (3, 4, 23, 3)  # ResNet-101: 1 stem + 3 * (3 + 4 + 23 + 3) convolutions + 1 classifier = 101 layers
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided), 1x1 convolution around a shortcut; [N, c, h, w] -> [N, 4 * width, h / s, w / s]."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        out = width * EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, rectified."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return cast(Tensor, self.relu(self.bn3(self.conv3(y)) + self.shortcut(x)))


class SlimResNet(nn.Module):
    """ResNet-101's trunk with `base_width` channels where the original has 64.

    The stem is the original's (a 7x7 convolution and a pooling, both strided), so that 64-pixel inputs reach the 23
    blocks of the third stage as 4x4 maps. The last scale of each residual branch starts at zero: every block starts as
    the identity, without which 101 layers hardly train in the few epochs that a CPU allows.

    Args:
        base_width: bottleneck width of the first stage; the features have 32 times as many dimensions.
        blocks: bottlenecks in each of the four stages.
    """

    def __init__(self, *, base_width: int = 8, blocks: Sequence[int] = BLOCKS) -> None:
        super().__init__()
        stem = base_width * 2
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, channels = [], stem
        for i, depth in enumerate(blocks):
            width = base_width * 2**i
            stage = []
            for j in range(depth):
                stage.append(Bottleneck(channels, width, stride=2 if i and not j else 1))
                channels = width * EXPANSION
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.feature_dim = channels
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images to features.

        Args:
            x: normalised images, float [N, 3, S, S].

        Returns:
            Rectified features averaged over the map, float [N, D], 0 or above.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return cast(Tensor, self.stages(x).mean(dim=(2, 3)))


def _initialise(trunk: SlimResNet) -> None:
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in trunk.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


class HeadOutputs(NamedTuple):
    """What the two training heads say of a batch: class logits [N, C] and attribute logits [N, A]."""

    classes: Tensor
    attributes: Tensor


class TwoHeadNet(nn.Module):
    """The trunk with its two training heads, both linear in the features; neither head is exported.

    Args:
        trunk: the network whose features are wanted.
        classes: number C of training classes.
        attributes: number A of attributes, each on a 0..1 scale; the head gives their logits.
    """

    def __init__(self, trunk: SlimResNet, *, classes: int, attributes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.class_head = nn.Linear(trunk.feature_dim, classes)
        self.attribute_head = nn.Linear(trunk.feature_dim, attributes)
        nn.init.normal_(self.class_head.weight, std=0.01)
        nn.init.normal_(self.attribute_head.weight, std=0.01)

    def forward(self, x: Tensor) -> HeadOutputs:
        """Normalised images, float [N, 3, S, S], to both heads' logits."""
        features = self.trunk(x)
        return HeadOutputs(self.class_head(features), self.attribute_head(features))


SPEC = PreprocessSpec(size=64, resize=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
"""The demo trunk's preprocessing."""


_COLOUR = {"warm", *(f"colour_{colour}" for colour in COLOURS)}
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
        recoloured: share of training inputs whose hues are turned at random. They teach every attribute but colour,
            and no class: a network that could learn texture and shape colour by colour would not recognise them in a
            combination that it never saw.
        seed: of drawings, initial weights, order and augmentation.
    """

    per_class: int = 180
    held_out_per_class: int = 10
    epochs: int = 14
    batch_size: int = 128
    learning_rate: float = 6e-3
    weight_decay: float = 0.02
    attribute_weight: float = 10.0
    label_smoothing: float = 0.1
    base_width: int = 8
    shift: int = 3
    recoloured: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (self.per_class, self.held_out_per_class, self.epochs, self.base_width)
        if min(whole) < 1 or self.batch_size < 2 or self.shift < 0 or self.seed < 0:
            raise DataError(f"pre-training needs counts above 0, a batch of at least 2 and a seed from 0, got {self}")
        if not (self.learning_rate > 0 and self.attribute_weight >= 0):
            raise DataError(f"pre-training needs a learning rate above 0 and losses weighed from 0, got {self}")
        if not (0 <= self.label_smoothing < 1 and 0 <= self.recoloured < 1):
            raise DataError(f"pre-training needs label_smoothing and recoloured from 0 to below 1, got {self}")


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


def pretrain(config: PretrainConfig, *, device: str = "cpu", progress: OnStage | None = None) -> Pretrained:
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
            x, turned = _recolour(_augment(x, config.shift), config.recoloured)
            loss = criterion(network(x), labels, attributes, turned)
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
    """Class loss plus weighted attribute loss of a batch, without class and colour where the hues were turned."""

    colour: Tensor  # bool [A]

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.smoothing = config.label_smoothing
        self.weight = config.attribute_weight
        self.register_buffer("colour", torch.tensor([name in _COLOUR for name in ATTRIBUTES]))

    def forward(self, outputs: HeadOutputs, labels: Tensor, attributes: Tensor, turned: Tensor) -> Tensor:
        class_N = cross_entropy(outputs.classes, labels, label_smoothing=self.smoothing, reduction="none")
        attribute_NA = binary_cross_entropy_with_logits(outputs.attributes, attributes, reduction="none")
        told_N, told_NA = ~turned, ~(turned[:, None] & self.colour)
        return _mean_where(told_N, class_N) + self.weight * _mean_where(told_NA, attribute_NA)


def _mean_where(told: Tensor, loss: Tensor) -> Tensor:
    return (loss * told).sum() / told.sum().clamp(min=1)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """No decay for scales and biases: it would undo the zero start of the residual branches' scales."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _batches(
    drawings: Drawings, config: PretrainConfig, rng: np.random.Generator, device: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One shuffled pass; the last batch takes rows from the first, so that all are of one size."""
    permutation = rng.permutation(len(drawings.labels))
    steps = math.ceil(len(permutation) / config.batch_size)
    rows = np.resize(permutation, steps * config.batch_size).reshape(steps, -1)
    for chosen in rows:
        yield to_batch(drawings.pixels[chosen], device), *_targets(drawings, chosen, device)


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


def _recolour(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Turn the hues of a random share of the inputs [N, 3, S, S] about the grey axis, each by its own angle.

    Returns:
        The inputs, and which were turned, bool [N].
    """
    turned = torch.rand(len(x), device=x.device) < share
    angle = torch.where(turned, torch.rand(len(x), device=x.device) * 2 * math.pi, 0.0)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    grey = torch.full((3, 3), 1 / 3, device=x.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=x.device) / math.sqrt(3)
    turn = cos * torch.eye(3, device=x.device) + sin * cross + (1 - cos) * grey  # Rodrigues' formula
    return torch.einsum("nij,njhw->nihw", turn, x).contiguous(memory_format=torch.channels_last), turned


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
        loss += float(criterion(outputs, labels, attributes, torch.zeros_like(labels, dtype=torch.bool))) * len(labels)
        hits += float((outputs.classes.argmax(dim=1) == labels).sum())
    return loss / len(drawings.labels), hits / len(drawings.labels)
