"""A ResNet-101 at reduced width, for the embedded demo: the same 101 layers in about a megabyte of weights.

N: batch; S: input side in pixels; D: features; C: classes of the training head; A: attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

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
