"""What a training knows: the data of a task, on the device.

N: real rows, D: scaled features, A: attributes, C: classes of this training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a training knows: real rows of seen classes, and attributes of all its classes.

    Attributes:
        features: scaled, float32 [N, D].
        labels: class of each row, int64 [N], indices of seen classes only.
        attributes: normalised, float32 [C, A].
        seen: which classes have rows, bool [C].
    """

    features: Tensor
    labels: Tensor
    attributes: Tensor
    seen: Tensor

    def __post_init__(self) -> None:
        present = torch.zeros_like(self.seen)
        present[self.labels] = True
        if not bool((present == self.seen).all()):
            raise ValueError("every seen class needs rows, and no unseen class may have any")

    @property
    def seen_index(self) -> Tensor:
        """Indices of the seen classes, ascending."""
        return self.seen.nonzero().squeeze(1)

    @property
    def unseen_index(self) -> Tensor:
        """Indices of the unseen classes, ascending."""
        return (~self.seen).nonzero().squeeze(1)

    @property
    def teacher_labels(self) -> Tensor:
        """Labels in the teacher's order: the position of each row's class among the seen ones."""
        return (self.seen.long().cumsum(0) - 1)[self.labels]
