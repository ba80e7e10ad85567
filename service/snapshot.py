"""The classifier at one registry version: an immutable class table with its head.

C: classes, Z: embedding dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Float32, Row


@dataclass(frozen=True, kw_only=True)
class KnownClass:
    """A class in a snapshot.

    Attributes:
        entry: the class.
        registry_version: version at which it last changed; 0 for what the bundle brought.
    """

    entry: ClassEntry
    registry_version: int

    @cached_property
    def etag(self) -> str:
        """Entity tag: changes whenever anything that is answered about the class changes."""
        document = {**self.entry.to_json(), "registry_version": self.registry_version}
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        return f'"{self.registry_version}-{digest[:16]}"'


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """Everything an answer depends on, beside bundle and image; a request keeps the one it started with.

    Attributes:
        registry_version: 0 for the bundle alone.
        classes: C classes in the order of the rows.
        weight: float32 [C, Z], read-only.
        bias: float32 [C], read-only.
        seen: which classes were seen in training, bool [C], read-only.
    """

    registry_version: int
    classes: tuple[KnownClass, ...]
    weight: Float32
    bias: Float32
    seen: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for array in (self.weight, self.bias, self.seen):
            array.setflags(write=False)

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Snapshot:
        """Version 0: the classes that the bundle brings."""
        known = [KnownClass(entry=entry, registry_version=0) for entry in bundle.manifest.classes]
        rows = [Row(weight, float(bias)) for weight, bias in zip(bundle.weight, bundle.bias, strict=True)]
        return cls.build(0, known, rows, dimension=bundle.manifest.head.dimension)

    @classmethod
    def build(cls, version: int, classes: Sequence[KnownClass], rows: Sequence[Row], *, dimension: int) -> Snapshot:
        """A snapshot from C classes and their rows; `dimension` is Z."""
        return cls(
            registry_version=version,
            classes=tuple(classes),
            weight=np.array([row.weight for row in rows], dtype=np.float32).reshape(len(rows), dimension),
            bias=np.array([row.bias for row in rows], dtype=np.float32),
            seen=np.array([known.entry.kind == "seen" for known in classes], dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Row of each class id."""
        return {known.entry.id: i for i, known in enumerate(self.classes)}

    @cached_property
    def by_id(self) -> tuple[KnownClass, ...]:
        """The classes in the order of their ids, in which they are listed."""
        return tuple(sorted(self.classes, key=lambda known: known.entry.id))

    def get(self, class_id: str) -> KnownClass | None:
        """The class with this id, or None."""
        position = self.position.get(class_id)
        return None if position is None else self.classes[position]

    def row(self, class_id: str) -> Row:
        """The row of a class that is there."""
        position = self.position[class_id]
        return Row(self.weight[position], float(self.bias[position]))

    def rows(self) -> list[Row]:
        """All rows, in order."""
        return [Row(weight, float(bias)) for weight, bias in zip(self.weight, self.bias, strict=True)]

    def with_class(self, entry: ClassEntry, row: Row, version: int) -> Snapshot:
        """The next snapshot, with a class added at the end or replaced in its place."""
        known = KnownClass(entry=entry, registry_version=version)
        place = self.position.get(entry.id, len(self))
        weight, bias = row.weight.astype(np.float32)[None], np.array([row.bias], dtype=np.float32)
        return Snapshot(
            registry_version=version,
            classes=(*self.classes[:place], known, *self.classes[place + 1 :]),
            weight=np.concatenate([self.weight[:place], weight, self.weight[place + 1 :]]),
            bias=np.concatenate([self.bias[:place], bias, self.bias[place + 1 :]]),
            seen=np.concatenate([self.seen[:place], [entry.kind == "seen"], self.seen[place + 1 :]]),
        )

    def without(self, class_id: str, version: int) -> Snapshot:
        """The next snapshot, with a class that is there removed."""
        place = self.position[class_id]
        return Snapshot(
            registry_version=version,
            classes=(*self.classes[:place], *self.classes[place + 1 :]),
            weight=np.delete(self.weight, place, axis=0),
            bias=np.delete(self.bias, place),
            seen=np.delete(self.seen, place),
        )
