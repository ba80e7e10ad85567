"""Whether the numbers that describe a class are on the scale of those that the classifier learned from.

A: attributes, C: training classes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

_OFF: Final = ((10, 3.0), (3, 5.0), (0, 10.0))
"""From how many values on, and how many times beyond the training classes a size is on another scale; few vary more."""
_BELOW: Final = 0.2  # share of values below 0 that is no accident where training classes have none
_FEWEST_BELOW: Final = 3
_FAR: Final = 1.25  # times farther than any training class from its nearest one is far from all
_FEWEST_CLASSES: Final = 5  # that can say how far classes usually are from each other
_MOST_COMPARED: Final = 500  # training classes of which the nearest ones are looked for
_MOST_DEVIATIONS: Final = 5.0  # what one odd attribute counts at most
_SMALLEST: Final = 1e-300


class TrainingScale:
    """Where the attributes of the training classes lie, for comparison with those of another class.

    The size of a class is the root mean square of its values other than 0, each divided by the largest that a training
    class has. A class is on a smaller scale where its size lies far below that of every training class. It is on a
    larger scale where the geometric mean of the same quotients, which one large value moves little, lies far above, and
    where some value needs the larger scale.

    Args:
        values_CA: attributes of the C training classes as users write them, [C, A].
    """

    def __init__(self, values_CA: ArrayLike) -> None:
        values = np.asarray(values_CA, dtype=np.float64)
        values = values.reshape(len(values), values.size // max(len(values), 1))
        largest = np.abs(values).max(axis=0, initial=0)
        self._largest, self._least = largest, values.min(axis=0, initial=np.inf)
        self._unit = np.where(largest > 0, largest, 1.0)
        self._squares, self._logs, self._there = _parts(values / self._unit)
        self._below = (values < 0).astype(np.float64)
        self._all_constant = bool((np.ptp(values, axis=1) == 0).any()) if values.size else True
        spread = values.std(axis=0) if len(values) else largest
        self._told_apart = spread > np.maximum(0.01 * largest, 1e-6 * largest.max(initial=0))
        self._mean = values.mean(axis=0) if len(values) else largest
        self._spread = np.where(self._told_apart, spread, 1.0)
        self._places = self._place(values)
        self._lengths = (self._places**2).sum(axis=1)
        self._usual = self._usual_distance()

    def __len__(self) -> int:
        return len(self._squares)

    def doubts(self, values_A: NDArray[np.float64], given_A: NDArray[np.bool_]) -> tuple[str, ...]:
        """What about a class's attributes was probably not meant so, in sentences; none for what is like training.

        Args:
            values_A: attributes of the class, float64 [A].
            given_A: which of them somebody gave, bool [A]; the scale is that of these.
        """
        if not len(self) or not given_A.any():
            return ()
        doubt = self._constant(values_A, given_A) or self._below_zero(values_A, given_A)
        doubt = doubt or self._other_scale(values_A, given_A) or self._far(values_A)
        return () if doubt is None else (doubt,)

    def _constant(self, values_A: NDArray[np.float64], given_A: NDArray[np.bool_]) -> str | None:
        if len(values_A) < 3 or not given_A.all() or np.ptp(values_A) > 0 or self._all_constant:
            return None
        return f"every attribute is {values_A[0]:g}, which says little about the class"

    def _below_zero(self, values_A: NDArray[np.float64], given_A: NDArray[np.bool_]) -> str | None:
        given = int(given_A.sum())
        below = int((values_A[given_A] < 0).sum())
        if below < _FEWEST_BELOW or below / given < _BELOW + 2 * (self._below @ given_A).max() / given:
            return None
        return (
            f"{below} of {given} values are below 0; the bundle's are on {self._range(given_A)}: were they "
            "standardised? Give them as they were before; the service normalises them"
        )

    def _other_scale(self, values_A: NDArray[np.float64], given_A: NDArray[np.bool_]) -> str | None:
        squares, logs, there = (part[given_A] for part in _parts(values_A / self._unit))
        chosen = given_A.astype(np.float64)
        counts = self._there @ chosen
        if not there.any() or not counts.any():
            return None
        known = np.maximum(counts, 1)
        sizes = np.sqrt(self._squares @ chosen / known)[counts > 0]
        middles = np.exp(self._logs @ chosen / known)[counts > 0]
        size, middle = np.sqrt(squares.sum() / there.sum()), np.exp(logs.sum() / there.sum())
        size = max(float(size), _SMALLEST)
        limit = next(limit for fewest, limit in _OFF if there.sum() >= fewest)
        usual = float(np.median(sizes))
        own, theirs = _round_scale(np.abs(values_A[given_A]).max()), _round_scale(self._largest[given_A].max())
        small, large = size * limit < sizes.min(), middle > limit * middles.max() and own > theirs
        if not small and not large:
            return None
        fits = size * theirs / own >= sizes.min() / 2 and middle * theirs / own <= 2 * middles.max()
        if fits and own != theirs and self._is_from_zero(given_A) and values_A[given_A].min() >= 0:
            factor = f"times {theirs / own:g}" if theirs > own else f"divided by {own / theirs:g}"
            return f"looks like values on 0..{own:g}; the bundle's are on 0..{theirs:g}: {factor}?"
        times = float(f"{(usual / size if small else size / usual):.2g}")
        return (
            f"the values are about {times:g} times {'smaller' if small else 'larger'} than the bundle's, which are "
            f"on {self._range(given_A)}: are they on another scale?"
        )

    def _far(self, values_A: NDArray[np.float64]) -> str | None:
        if self._usual is None:
            return None
        distance = float(self._distances(self._place(values_A[None])).min())
        if distance <= _FAR * self._usual:
            return None
        return (
            f"the values are unlike those of every training class: the nearest is {distance:.2g} standard deviations "
            f"away, while each of them has another one within {self._usual:.2g}: are they in the order of the "
            "vocabulary, and does a larger value mean more of the attribute?"
        )

    def _is_from_zero(self, given_A: NDArray[np.bool_]) -> bool:
        return bool(self._least[given_A].min() >= -0.05 * self._largest[given_A].max())

    def _range(self, given_A: NDArray[np.bool_]) -> str:
        """The range of the training classes' values in words."""
        if self._is_from_zero(given_A):
            return f"0..{_round_scale(self._largest[given_A].max()):g}"
        return f"{self._least[given_A].min():.2g}..{self._largest[given_A].max():.2g}"

    def _place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard deviations from the mean, of the attributes that tell training classes apart."""
        places = ((values - self._mean) / self._spread)[:, self._told_apart]
        clipped: NDArray[np.float64] = np.clip(places, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
        return clipped

    def _distances(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Root mean squared difference to each training class, [rows, C]."""
        squares = (places**2).sum(axis=1)[:, None] + self._lengths - 2 * places @ self._places.T
        distances: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0) / max(places.shape[1], 1))
        return distances

    def _usual_distance(self) -> float | None:
        """The largest distance of a training class from its nearest other one; None where too few can say it."""
        if len(self) < _FEWEST_CLASSES or not self._told_apart.any():
            return None
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), _MOST_COMPARED)).astype(int))
        distances = self._distances(self._places[chosen])
        distances[np.arange(len(chosen)), chosen] = np.inf
        return float(distances.min(axis=1).max())


def _parts(
    shares: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Squares, logarithms of the amounts (0 for 0), and whether each is other than 0."""
    there = shares != 0
    return shares**2, np.log(np.abs(shares), out=np.zeros_like(shares), where=there), there.astype(np.float64)


def _round_scale(largest: float) -> float:
    """The end of the scale that people use for values up to `largest`: 1, 10, 100 or another power of ten above."""
    return float(10.0 ** max(0, np.ceil(np.log10(largest) - 1e-9))) if largest > 0 else 1.0
