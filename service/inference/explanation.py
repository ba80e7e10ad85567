"""Which attributes spoke for and against a class: how its score would change were each of them ordinary.

A: attributes, K: noise dimension, M: samples, Z: embedding dimension.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Float32
from service.inference.engine import Engine

SAMPLES = 16
"""Embeddings per description; both descriptions of a difference share their noise, so few are enough."""

_ROWS_AT_ONCE = 2048
_CACHE_BYTES = 32_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class AttributeEffects:
    """What each attribute does to a class's row of the head: the row, less the row with that attribute at its mean.

    Attributes:
        weight: float32 [A, Z].
        bias: float32 [A].
    """

    weight: Float32
    bias: Float32


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one attribute adds to a class's log-odds for one image.

    Attributes:
        attribute: its name.
        value: of the class.
        mean: over the training classes, with which it is compared.
        contribution: log-odds against every other class; below 0 where it speaks against this one.
    """

    attribute: str
    value: float
    mean: float
    contribution: float


class Explainer:
    """Explains scores; keeps the effects of the classes asked for last.

    The score of a class is s(a) = w(a) z + b(a), where (w, b) is the head's row of the embeddings that the synthesizer
    makes of the attributes a, under noise keyed by the class. Attribute i contributes (s(a) - s(a')) / temperature,
    where a' is a with attribute i at its mean over the training classes and everything else, the noise too, is the
    same. A class seen in training is explained through the embeddings synthesised from its attributes as well, though
    its served row comes from images.

    Args:
        bundle: gives vocabulary, head and temperature.
        engine: runs the synthesizer.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle, self._engine = bundle, engine
        manifest = bundle.manifest
        bytes_each = 4 * len(manifest.vocabulary) * (manifest.head.dimension + 1)
        self._capacity = max(1, _CACHE_BYTES // bytes_each)
        self._lock = Lock()
        self._kept: OrderedDict[tuple[str, tuple[float, ...]], AttributeEffects] = OrderedDict()

    def explain(
        self, entry: ClassEntry, embedding_Z: Float32, *, most: int
    ) -> tuple[list[Contribution], list[Contribution]]:
        """The attributes that speak for a class and those that speak against it, the strongest first.

        There are none for a class without a description.

        Args:
            entry: the class.
            embedding_Z: of the image.
            most: largest number of each.
        """
        if entry.attributes is None:
            return [], []
        manifest = self._bundle.manifest
        effects = self.effects(entry)
        score_A = effects.weight.astype(np.float64) @ embedding_Z.astype(np.float64) + effects.bias
        contribution_A = score_A / manifest.calibration.temperature
        every = [
            Contribution(attribute=a.name, value=value, mean=a.mean, contribution=contribution)
            for a, value, contribution in zip(
                manifest.vocabulary.attributes, entry.attributes, contribution_A.tolist(), strict=True
            )
        ]
        ranked = sorted(every, key=lambda c: -abs(c.contribution))
        return (
            [c for c in ranked if c.contribution > 0][:most],
            [c for c in ranked if c.contribution < 0][:most],
        )

    def effects(self, entry: ClassEntry) -> AttributeEffects:
        """What each attribute of a class that is described does to its row."""
        assert entry.attributes is not None
        key = (entry.id, entry.attributes)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        effects = self._effects(*key)
        with self._lock:
            self._kept[key] = effects
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return effects

    def _effects(self, class_id: str, attributes: tuple[float, ...]) -> AttributeEffects:
        manifest = self._bundle.manifest
        vocabulary, head = manifest.vocabulary, manifest.head
        samples = min(SAMPLES, head.samples)
        noise_MK = head.noise(manifest.bundle_id, class_id, samples)
        # The description as it is, then A times with one attribute at its mean.
        variants = np.tile(np.array(attributes, dtype=np.float64), (len(vocabulary) + 1, 1))
        np.fill_diagonal(variants[1:], [a.mean for a in vocabulary.attributes])
        described = vocabulary.normalise(variants)
        means = np.empty((len(variants), head.dimension), dtype=np.float64)
        step = max(1, _ROWS_AT_ONCE // samples)
        for start in range(0, len(variants), step):
            part = described[start : start + step]
            embeddings = self._engine.synthesize(np.tile(noise_MK, (len(part), 1)), np.repeat(part, samples, axis=0))
            means[start : start + step] = embeddings.reshape(len(part), samples, -1).mean(axis=1, dtype=np.float64)
        weight, bias = self._bundle.head.rows(means)
        return AttributeEffects(weight=weight[0] - weight[1:], bias=bias[0] - bias[1:])
