"""Feature scaling to 0..1 per dimension, fitted on training rows only.

N: rows, D: features, Q: knots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor, nn


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` places, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


Scaling = Literal["range", "normal"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

_CONSTANT = 1e-6  # a dimension that varies less than this is only shifted
_KNOTS, _REACH = 33, 3.0  # of a normal scaling: as many quantiles, from -3 to 3 standard deviations
_NARROW, _NARROWEST = 1e-6, 1e-30  # knots closer than this share of the range, or this, are one: slopes stay finite
_FITTED_ROWS = 100_000  # more rows do not move quantiles by anything that counts
_ROWS_AT_ONCE = 256  # so many stay in the processor's cache


class Scaler(ABC):
    """A map of each dimension on its own, rising or constant."""

    @staticmethod
    def fit(features_ND: NDArray[np.float32], scaling: Scaling = "range") -> Scaler:
        """The scaler of training rows."""
        return (RangeScaler if scaling == "range" else NormalScaler).of(features_ND)

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Scaler:
        """The scaler of :meth:`tensors`.

        Raises:
            KeyError or TypeError: they are those of no scaler.
        """
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return RangeScaler(**arrays) if "range" in arrays else NormalScaler(**arrays)

    @abstractmethod
    def apply(self, features_ND: ArrayLike) -> NDArray[np.float32]:
        """Scale rows, float32 [N, D]."""

    @abstractmethod
    def module(self) -> nn.Module:
        """The same for tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """What decides the map, for a checkpoint."""
        return {name: torch.from_numpy(value) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class RangeScaler(Scaler):
    """(x - minimum) / range; values outside the training range are not clipped, as in the literature.

    Attributes:
        minimum: float32 [D].
        range: float32 [D], above 0.
    """

    minimum: NDArray[np.float32]
    range: NDArray[np.float32]

    @classmethod
    def of(cls, features_ND: NDArray[np.float32]) -> RangeScaler:
        """Minimum and range of training rows."""
        low, high = features_ND.min(axis=0), features_ND.max(axis=0)
        spread = (high - low).astype(np.float32)
        return cls(minimum=low.astype(np.float32), range=np.where(spread > _CONSTANT, spread, np.float32(1)))

    def apply(self, features_ND: ArrayLike) -> NDArray[np.float32]:
        """Scale rows, float32 [N, D]."""
        scaled: NDArray[np.float32] = (np.asarray(features_ND, dtype=np.float32) - self.minimum) / self.range
        return scaled

    def module(self) -> nn.Module:
        """The same for tensors."""
        return _Range(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormalScaler(Scaler):
    """Each dimension to a normal distribution, -3..3 standard deviations of which become 0..1.

    A value goes to the normal quantile of the share of training rows below it, rows with the same value counting half
    (the rank-based inverse normal transformation; Conover, Practical Nonparametric Statistics, 5.10). Between `Q`
    knots it is linear, beyond them constant.

    Attributes:
        knots: values, rising, the last one repeated where fewer differ, float32 [D, Q].
        levels: what they become, in 0..1, float32 [D, Q].
    """

    knots: NDArray[np.float32]
    levels: NDArray[np.float32]

    @classmethod
    def of(cls, features_ND: NDArray[np.float32]) -> NormalScaler:
        """Knots at the quantiles of training rows; of more than 100,000 rows, as many evenly spread ones count."""
        some = evenly(len(features_ND), _FITTED_ROWS)
        ordered_DN = np.sort(features_ND[some].T.astype(np.float32), axis=1)
        shares = ndtr(np.linspace(-_REACH, _REACH, _KNOTS))
        places = np.minimum((shares * len(some)).astype(np.int64), len(some) - 1)
        knots, levels = np.empty((2, len(ordered_DN), _KNOTS), dtype=np.float32)
        for dimension, ordered in enumerate(ordered_DN):
            values = np.unique(ordered[places])
            gap = max(_NARROW * float(ordered[-1] - ordered[0]), _NARROWEST)
            values = values[np.concatenate([[True], np.diff(values) > gap])]
            below = ordered.searchsorted(values, side="left") + ordered.searchsorted(values, side="right")
            deviations = ndtri(below / (2 * len(some))).clip(-_REACH, _REACH)
            beyond = (0, _KNOTS - len(values))
            knots[dimension] = np.pad(values, beyond, mode="edge")
            levels[dimension] = np.pad(0.5 + deviations / (2 * _REACH), beyond, mode="edge")
        return cls(knots=knots, levels=levels)

    def apply(self, features_ND: ArrayLike) -> NDArray[np.float32]:
        """Scale rows, float32 [N, D]."""
        rows = np.asarray(features_ND, dtype=np.float32)
        scaled = np.empty_like(rows)
        starts_QD, widths_QD, slopes_QD = (np.ascontiguousarray(x.T) for x in self.pieces())
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            total = np.repeat(self.levels[None, :, 0], len(some), axis=0)
            for start, width, slope in zip(starts_QD, widths_QD, slopes_QD, strict=True):
                total += (some - start).clip(0, width) * slope
            scaled[first : first + _ROWS_AT_ONCE] = total
        return scaled

    def pieces(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Start, width and slope of each linear piece, float32 [D, Q - 1]; all 0 where knots repeat."""
        widths = np.diff(self.knots, axis=1)
        slopes = np.divide(np.diff(self.levels, axis=1), widths, out=np.zeros_like(widths), where=widths > 0)
        return self.knots[:, :-1], widths, slopes

    def module(self) -> nn.Module:
        """The same for tensors."""
        return _Normal(self)


class _Range(nn.Module):
    def __init__(self, scaler: RangeScaler) -> None:
        super().__init__()
        self.minimum = nn.Buffer(torch.from_numpy(scaler.minimum))
        self.range = nn.Buffer(torch.from_numpy(scaler.range))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.minimum) / self.range


class _Normal(nn.Module):
    def __init__(self, scaler: NormalScaler) -> None:
        super().__init__()
        starts, widths, slopes = (torch.from_numpy(np.ascontiguousarray(x)) for x in scaler.pieces())
        self.starts, self.widths, self.slopes = nn.Buffer(starts), nn.Buffer(widths), nn.Buffer(slopes)
        self.lowest = nn.Buffer(torch.from_numpy(scaler.levels[:, 0].copy()))

    def forward(self, features: Tensor) -> Tensor:
        inside = torch.minimum((features[:, :, None] - self.starts).clamp(min=0), self.widths)
        return self.lowest + (inside * self.slopes).sum(dim=2)
