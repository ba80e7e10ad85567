"""The path from attributes to features that a generator starts from: a fitted map that training leaves as it is.

B: rows, A: attributes, D: features, S: seen classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttributePath(nn.Module):
    """W k(a) + b, with k(a) the attributes themselves or their likeness to the seen classes' attributes.

    `kernel`: k_s(a) = exp(-g ||a - a_s||^2), so that an unseen class borrows most from the seen classes nearest to it.
    Without anchors, k(a) = a. It starts at zero; training/attribute_path.py fits it.
    """

    def __init__(self, *, attribute_dim: int, feature_dim: int, anchors: int) -> None:
        """Make a path with `anchors` seen classes to compare with; 0 for a linear one."""
        super().__init__()
        self.anchors = nn.Buffer(torch.zeros(anchors, attribute_dim)) if anchors else None
        self.sharpness = nn.Buffer(torch.ones(()))
        self.weight = nn.Buffer(torch.zeros(feature_dim, anchors or attribute_dim))
        self.bias = nn.Buffer(torch.zeros(feature_dim))

    def forward(self, attributes: Tensor) -> Tensor:
        """Attributes [B, A] to features [B, D], of either sign; under autocast as exact as without."""
        with torch.autocast(device_type=attributes.device.type, enabled=False):
            return nn.functional.linear(self.likeness(attributes), self.weight, self.bias)

    def likeness(self, attributes: Tensor) -> Tensor:
        """k(a), [B, S] or [B, A]."""
        if self.anchors is None:
            return attributes
        squares = attributes.square().sum(1, keepdim=True) + self.anchors.square().sum(1)
        distance = (squares - 2 * attributes @ self.anchors.T).clamp(min=0)
        return torch.exp(-self.sharpness * distance)
