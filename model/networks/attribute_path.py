"""The path from attributes to features that a generator starts from: a fitted map that training leaves as it is.

B: rows, A: attributes, D: features, S: seen classes, J: likenesses, S of them or A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttributePath(nn.Module):
    """m + d(a) (l / |R d(a)|)^e with d(a) = W (k(a) - k0), k(a) the attributes or their likeness to the seen classes'.

    `kernel`: k_s(a) = exp(-g ||a - a_s||^2), so that an unseen class borrows most from the seen classes nearest to it.
    Without anchors, k(a) = a. What ridge regression predicts lies nearer to the mean m of all classes than real classes
    do; e says how much of that is undone: 0 leaves it, 1 moves every class to the distance l, measured in a metric R.
    It starts at zero; training/attribute_path.py fits it.
    """

    def __init__(self, *, attribute_dim: int, feature_dim: int, anchors: int) -> None:
        """Make a path with `anchors` seen classes to compare with; 0 for a linear one."""
        super().__init__()
        size = anchors or attribute_dim
        self.anchors = nn.Buffer(torch.zeros(anchors, attribute_dim)) if anchors else None
        self.sharpness = nn.Buffer(torch.ones(()))
        self.weight = nn.Buffer(torch.zeros(feature_dim, size))
        self.centre = nn.Buffer(torch.zeros(size))
        self.bias = nn.Buffer(torch.zeros(feature_dim))
        self.metric = nn.Buffer(torch.zeros(size, size))
        self.length = nn.Buffer(torch.ones(()))
        self.stretch = nn.Buffer(torch.zeros(()))

    def forward(self, attributes: Tensor) -> Tensor:
        """Attributes [B, A] to features [B, D], of either sign; under autocast as exact as without."""
        with torch.autocast(device_type=attributes.device.type, enabled=False):
            likeness = self.likeness(attributes) - self.centre
            distance = (likeness @ self.metric.T).square().sum(1, keepdim=True).clamp(min=1e-12).sqrt()
            return (likeness @ self.weight.T) * (self.length / distance) ** self.stretch + self.bias

    def likeness(self, attributes: Tensor) -> Tensor:
        """k(a), [B, J]."""
        if self.anchors is None:
            return attributes
        squares = attributes.square().sum(1, keepdim=True) + self.anchors.square().sum(1)
        distance = (squares - 2 * attributes @ self.anchors.T).clamp(min=0)
        return torch.exp(-self.sharpness * distance)
