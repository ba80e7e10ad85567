"""Which named attributes spoke for and against a class, were each ordinary in its stead; and its nearest photos.

A: attributes, K: noise dimension, M: samples, n: example photos, Z: embedding dimension.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Float32
from model.text.description import ClassText
from service.inference.class_rows import Photos, no_photos
from service.inference.engine import Engine

SAMPLES = 16
"""Embeddings per description; both descriptions of a difference share their noise, so few are enough."""

_ROWS_AT_ONCE = 2048
_CACHE_BYTES = 32_000_000
_EPSILON = 1e-12

Key = tuple[str, tuple[float, ...], ClassText | None, tuple[str, ...]]
"""Id, attributes, text and digests of the photos of a class: what its row depends on."""


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


@dataclass(frozen=True, kw_only=True)
class PhotoEvidence:
    """What example photos have to do with a class's score for an image.

    Attributes:
        photos: how many the class has.
        share: how much of its mean, and so of its row, is theirs, n / (k + n).
        nearest: ids of the photos most similar to the image, with the cosine of both embeddings, the nearest first.
    """

    photos: int
    share: float
    nearest: tuple[tuple[str, float], ...]


class Explainer:
    """Explains scores; keeps the effects of the classes asked for last.

    The score of a class is s(a) = w(a) z + b(a), where (w, b) is the head's row of the embeddings that the synthesizer
    makes of the attributes a, under noise keyed by the class. Attribute i contributes (s(a) - s(a')) / temperature,
    where a' is a with attribute i at its mean over the training classes and everything else, noise and text too, is the
    same. For a class with example photos both descriptions count as they do in its row, beside the same photos. A class
    seen in training is explained through the embeddings synthesised from its description as well, though
    its served row comes from images.

    Args:
        bundle: gives vocabulary, head and temperature.
        engine: runs the synthesizer.
        photos: gives the embeddings of a class's example photos.
    """

    def __init__(self, bundle: Bundle, engine: Engine, photos: Photos = no_photos) -> None:
        self._bundle, self._engine, self._photos = bundle, engine, photos
        manifest = bundle.manifest
        bytes_each = 4 * len(manifest.vocabulary) * (manifest.head.dimension + 1)
        self._capacity = max(1, _CACHE_BYTES // max(1, bytes_each))
        self._lock = Lock()
        self._kept: OrderedDict[Key, AttributeEffects] = OrderedDict()

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
        if not len(manifest.vocabulary):  # classes are described by text alone
            return [], []
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

    def photos(self, entry: ClassEntry, embedding_Z: Float32, *, most: int) -> PhotoEvidence | None:
        """How much of a class's row its photos are, and which are nearest to an image; None where it has none.

        Args:
            entry: the class.
            embedding_Z: of the image.
            most: largest number of photos.

        Raises:
            StorageError: the database refuses to read photos that were not read lately.
        """
        prior = self._bundle.manifest.head.photos
        if not entry.examples or prior is None:
            return None
        photos = self._photos(entry)
        lengths = np.linalg.norm(photos, axis=1) * np.linalg.norm(embedding_Z)
        cosines = np.clip(photos @ embedding_Z / np.maximum(lengths, _EPSILON), -1, 1)
        best = np.argsort(-cosines, kind="stable")[:most]
        return PhotoEvidence(
            photos=len(photos),
            share=prior.weight_of_photos(len(photos), described=entry.attributes is not None),
            nearest=tuple((entry.examples[i].id, float(cosines[i])) for i in best),
        )

    def effects(self, entry: ClassEntry) -> AttributeEffects:
        """What each attribute of a class that is described does to its row."""
        assert entry.attributes is not None
        key = (entry.id, entry.attributes, entry.text, tuple(example.digest for example in entry.examples))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        effects = self._effects(entry)
        with self._lock:
            self._kept[key] = effects
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return effects

    def _effects(self, entry: ClassEntry) -> AttributeEffects:
        manifest = self._bundle.manifest
        vocabulary, head = manifest.vocabulary, manifest.head
        samples = min(SAMPLES, head.samples)
        noise_MK = head.noise(manifest.bundle_id, entry.id, samples)
        # The description as it is, then A times with one attribute at its mean.
        variants = np.tile(vocabulary.vectors([entry]), (len(vocabulary) + 1, 1))
        np.fill_diagonal(variants[1:, : len(vocabulary)], [a.mean for a in vocabulary.attributes])
        described = vocabulary.normalise(variants)
        means = np.empty((len(variants), head.dimension), dtype=np.float64)
        step = max(1, _ROWS_AT_ONCE // samples)
        for start in range(0, len(variants), step):
            part = described[start : start + step]
            embeddings = self._engine.synthesize(np.tile(noise_MK, (len(part), 1)), np.repeat(part, samples, axis=0))
            means[start : start + step] = embeddings.reshape(len(part), samples, -1).mean(axis=1, dtype=np.float64)
        scale = 1.0
        if entry.examples and head.photos is not None:
            photos = self._photos(entry)
            means = np.stack([head.photos.mean(mean, photos) for mean in means])
            scale = head.photos.scale(head.unseen_scale, len(photos)) / head.unseen_scale
        weight, bias = self._bundle.head.rows(means)
        return AttributeEffects(weight=scale * (weight[0] - weight[1:]), bias=scale * (bias[0] - bias[1:]))
