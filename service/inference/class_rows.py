"""From a class's description and example photos to its row of the head.

C: classes, N: synthesised samples, Z: embedding dimension.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import AttributesError, Problem
from model.head import Float32, Row
from model.synthesis import synthesizer_inputs
from service.errors import InvalidExamplesError
from service.inference.engine import Engine

_ROWS_AT_ONCE = 600
"""Rows in a call of the networks; more take more time each, as they leave the processor's caches."""
_SOLVED_TOGETHER = 256
"""Classes whose rows are solved for at once: the covariance factor is read once for all of them."""

TAKES_NONE = "expected none, as this bundle was exported without the numbers that photos need"

_MOST_AHEAD = 64  # classes; each takes some kilobytes

Photos = Callable[[ClassEntry], Float32]
"""Embeddings of a class's example photos in their order, float32 [n, Z]."""
Means = Callable[[ClassEntry], NDArray[np.float64] | None]
"""Mean embedding of a class as it is described, float64 [Z]; None where it is not made yet."""


class MeansAhead:
    """Mean embeddings of classes as they are described, made while the photos of the classes are looked at.

    Threads may share it. Each mean is given once.

    Args:
        bundle: of the classes.
        engine: of the bundle.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle, self._engine = bundle, engine
        self._lock = threading.Lock()
        self._made: dict[Hashable, NDArray[np.float64]] = {}

    def make(self, entry: ClassEntry) -> None:
        """Make the mean of a class; nothing where it has no description."""
        if entry.attributes is None:
            return
        with np.errstate(all="ignore"):  # as in compute_rows, which refuses what comes of it
            (mean,) = _described_means(self._bundle, self._engine, [entry])
        with self._lock:
            self._made[_description(entry)] = mean
            if len(self._made) > _MOST_AHEAD:
                del self._made[next(iter(self._made))]

    def take(self, entry: ClassEntry) -> NDArray[np.float64] | None:
        """The mean of a class, float64 [Z]; None where it was not made, or is taken already."""
        with self._lock:
            return self._made.pop(_description(entry), None)


def _description(entry: ClassEntry) -> Hashable:
    """All that the mean of a class depends on."""
    vector = entry.text_vector
    return entry.id, entry.attributes, None if vector is None else vector.tobytes()


def not_made(_entry: ClassEntry) -> None:
    """Of classes whose means are still to be made."""


def no_photos(entry: ClassEntry) -> Float32:
    """Of classes that have none."""
    assert not entry.examples
    return np.empty((0, 0), dtype=np.float32)


def compute_row(bundle: Bundle, engine: Engine, entry: ClassEntry, *, photos: Photos = no_photos) -> Row:
    """Make a class's row from its synthesised embeddings and its photos; the same whenever it is done.

    Raises:
        AttributesError: no finite row can be made from its attributes.
    """
    (made,) = compute_rows(bundle, engine, [entry], photos=photos)
    if isinstance(made, AttributesError):
        raise made
    return made


def compute_rows(
    bundle: Bundle,
    engine: Engine,
    entries: Sequence[ClassEntry],
    *,
    photos: Photos = no_photos,
    means: Means = not_made,
    go_on: Callable[[], object] = lambda: None,
) -> list[Row | AttributesError]:
    """What :func:`compute_row` gives or raises for each of many classes, with few calls of the networks.

    Args:
        bundle: of the classes.
        engine: of the bundle.
        entries: the classes.
        photos: gives the embeddings of a class's example photos.
        means: gives what was made ahead.
        go_on: called before each call of the networks; what it raises ends the work.
    """
    made: list[Row | AttributesError] = []
    for start in range(0, len(entries), _SOLVED_TOGETHER):
        part = entries[start : start + _SOLVED_TOGETHER]
        with np.errstate(all="ignore"):  # numbers beyond float32 are refused below, in words
            means_CZ = _described_means(bundle, engine, part, ahead=means, go_on=go_on)
            only_described = [i for i, entry in enumerate(part) if not entry.examples]
            rows = iter(_rows(bundle, means_CZ[only_described]))
            for i, entry in enumerate(part):
                described = None if entry.attributes is None else means_CZ[i]
                row = row_with_photos(bundle, described, photos(entry)) if entry.examples else next(rows)
                finite = np.isfinite(row.weight).all() and np.isfinite(row.bias)
                made.append(row if finite else unusable_attributes())
    return made


def _rows(bundle: Bundle, means_CZ: NDArray[np.float64]) -> list[Row]:
    if not len(means_CZ):  # or the head would read its whole factor for nothing
        return []
    return [Row(weight, float(bias)) for weight, bias in zip(*bundle.head.rows(means_CZ), strict=True)]


def _described_means(
    bundle: Bundle,
    engine: Engine,
    entries: Sequence[ClassEntry],
    *,
    ahead: Means = not_made,
    go_on: Callable[[], object] = lambda: None,
) -> NDArray[np.float64]:
    """Mean embedding of each class as it is described, float64 [C, Z]; zeros for one without a description."""
    manifest = bundle.manifest
    assert all(entry.examples for entry in entries if entry.attributes is None)  # else it would be no class
    means = np.zeros((len(entries), manifest.head.dimension))
    described = []
    for i, entry in enumerate(entries):
        if entry.attributes is None:
            continue
        if (made := ahead(entry)) is None:
            described.append(i)
        else:
            means[i] = made
    if not described:
        go_on()
        return means
    vectors = dict(zip(described, manifest.vocabulary.vectors([entries[i] for i in described]), strict=True))

    def inputs(part: Sequence[int]) -> tuple[Float32, Float32]:
        with np.errstate(all="ignore"):
            return synthesizer_inputs(
                bundle_id=manifest.bundle_id,
                classes=[(entries[i].id, vectors[i]) for i in part],
                vocabulary=manifest.vocabulary,
                head=manifest.head,
            )

    together = max(1, _ROWS_AT_ONCE // manifest.head.samples)
    parts = [described[start : start + together] for start in range(0, len(described), together)]
    with closing(_one_ahead(inputs, parts)) as ready:
        for part, (noise, attributes) in zip(parts, ready, strict=True):
            go_on()
            embeddings = engine.synthesize(noise, attributes)
            means[part] = embeddings.reshape(len(part), manifest.head.samples, -1).mean(axis=1, dtype=np.float64)
    return means


def _one_ahead(
    make: Callable[[Sequence[int]], tuple[Float32, Float32]], parts: Sequence[Sequence[int]]
) -> Generator[tuple[Float32, Float32], None, None]:
    """What is made of each part, the next one in another thread while this one is worked with."""
    if len(parts) == 1:  # what one class takes most is time, and a thread would add to it
        yield make(parts[0])
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="noise") as beside:
        following = beside.submit(make, parts[0])
        for part in parts[1:]:
            made = following.result()
            following = beside.submit(make, part)
            yield made
        yield following.result()


def row_with_photos(bundle: Bundle, described_Z: NDArray[np.float64] | None, photos_nZ: Float32) -> Row:
    """The row of a class with example photos.

    Args:
        bundle: gives the head.
        described_Z: mean embedding of the class as it is described; None without a description.
        photos_nZ: embeddings of its photos in their order, at least one.

    Raises:
        InvalidExamplesError: the bundle takes no photos.
    """
    prior = bundle.manifest.head.photos
    if prior is None:
        raise InvalidExamplesError(
            "no class can be made from photos", [Problem(pointer="/examples", detail=TAKES_NONE)]
        )
    mean = prior.mean(described_Z, photos_nZ)
    row = bundle.head.row_of(mean)
    unseen_scale = bundle.manifest.head.unseen_scale  # in the bundle's rows already
    scale = prior.scale(unseen_scale, len(photos_nZ)) / unseen_scale
    return Row((row.weight * scale).astype(np.float32), float(np.float32(row.bias * scale)))


def unusable_attributes() -> AttributesError:
    """What is said of attributes that no class can be made of."""
    detail = "expected values near the vocabulary's ranges, got some from which no finite numbers come"
    return AttributesError(
        "no class can be made from these attributes", [Problem(pointer="/attributes", detail=detail)]
    )
