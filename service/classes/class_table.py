"""The rows of all classes in append-only blocks, which many snapshots share: to add a class copies nothing.

B: rows of a block, Z: embedding dimension.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from json import dumps

import numpy as np
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.errors import D3GZSLError
from model.head import Float32, Row
from model.outside.names import fold_name
from model.photos import PhotoPrior
from service.errors import RegistryDamagedError
from service.registry.change import UnreadableValueError, from_json

BLOCK = 2048
"""Rows of a block; at 2048-d it is large enough that the system backs it with huge pages, which halves a reading."""
_SEEN, _PHOTOS = '"kind": "seen"', '"examples": ['
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownClass:
    """A class in a snapshot.

    Attributes:
        entry: the class.
        registry_version: version at which it last changed; 0 for what the bundle brought.
        row_at: position of the logged change that stored its row; None for the bundle's own row.
        photo_share: how much of the seen penalty applies to an unseen class, for its example photos, 0..1.
    """

    entry: ClassEntry
    registry_version: int
    row_at: int | None = None
    photo_share: float = 0.0

    def __eq__(self, other: object) -> bool:
        """Whether everything that is known is the same."""
        return isinstance(other, KnownClass) and self._all() == other._all()

    __hash__ = None  # type: ignore[assignment]  # metadata may change

    def _all(self) -> tuple[object, ...]:
        return self.entry, self.registry_version, self.row_at, self.photo_share

    @property
    def id(self) -> str:
        """The class's id."""
        return self.entry.id

    @property
    def is_seen(self) -> bool:
        """Whether it was seen in training."""
        return self.entry.kind == "seen"

    @property
    def seen_share(self) -> float:
        """How much of the seen penalty applies: all of it to a class that was seen in training."""
        return 1.0 if self.is_seen else self.photo_share

    def read(self) -> ClassEntry:
        """The class, for one who looks at all of them: what has to be parsed for that is not kept."""
        return self.entry

    @cached_property
    def etag(self) -> str:
        """Entity tag: changes whenever anything that is answered about the class changes."""
        document = {**self.entry.to_json(), "registry_version": self.registry_version}
        digest = sha256(dumps(document, sort_keys=True).encode()).hexdigest()
        return f'"{self.registry_version}-{digest[:16]}"'

    @cached_property
    def folded_name(self) -> str:
        """The name as it is searched."""
        return fold_name(self.entry.name)


class StoredClass(KnownClass):
    """A class of the log, whose document is parsed when somebody asks what it says; few are asked for.

    Args:
        class_id: its id.
        document: JSON that was held against its digest, as :meth:`ClassEntry.to_json` made it.
        registry_version: as of :class:`KnownClass`.
        row_at: likewise.
        prior: gives the share of the seen penalty by the number of example photos; None where photos change nothing.
    """

    def __init__(
        self, class_id: str, document: str, *, registry_version: int, row_at: int | None, prior: PhotoPrior | None
    ) -> None:
        # No text within JSON has these quotes, and in free metadata they only cost a look.
        seen = _SEEN in document and self._parsed(document, registry_version).kind == "seen"
        photos = len(self._parsed(document, registry_version).examples) if prior and _PHOTOS in document else 0
        self.__dict__.update(
            _id=class_id,
            _document=document,
            _seen=seen,
            registry_version=registry_version,
            row_at=row_at,
            photo_share=prior.seen_share(photos) if prior else 0.0,
        )

    @property
    def id(self) -> str:
        """See :class:`KnownClass`."""
        return str(self.__dict__["_id"])

    @property
    def is_seen(self) -> bool:
        """See :class:`KnownClass`."""
        return bool(self.__dict__["_seen"])

    @cached_property
    def entry(self) -> ClassEntry:
        """See :class:`KnownClass`; RegistryDamagedError where the document is no class, for this version at least."""
        return self.read()

    def read(self) -> ClassEntry:
        """See :class:`KnownClass`."""
        return self._parsed(self.__dict__["_document"], self.registry_version)

    @staticmethod
    def _parsed(document: str, version: int) -> ClassEntry:
        try:
            return ClassEntry.from_json(from_json(document))
        except (D3GZSLError, UnreadableValueError, KeyError, TypeError, ValueError) as error:
            raise RegistryDamagedError(f"the registry is damaged at version {version}: {error}") from None


class RowBlock:
    """Room for B rows.

    Attributes:
        weight: float32 [B, Z].
        bias: float32 [B].
        seen: which classes were seen in training, bool [B].
        seen_share: how much of the seen penalty applies to each, float32 [B].
        gone: version at which each row was removed or replaced, int64 [B]; a number beyond all versions until then.
    """

    def __init__(self, dimension: int) -> None:
        self.weight: Float32 = np.empty((BLOCK, dimension), dtype=np.float32)
        self.bias: Float32 = np.empty(BLOCK, dtype=np.float32)
        self.seen = np.empty(BLOCK, dtype=np.bool_)
        self.seen_share = np.empty(BLOCK, dtype=np.float32)
        self.gone = np.full(BLOCK, _NEVER, dtype=np.int64)


class ClassTable:
    """Every row there was, by its slot; a row is written once and then only marked as gone.

    A snapshot is a number of slots and a version: what was appended or removed later does not concern it. One thread
    writes, any may read.

    Args:
        dimension: Z.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.blocks: list[RowBlock] = []
        self.known: list[KnownClass] = []
        self.removed = 0
        self.version = 0
        self._before: list[int] = []  # slot of the same class's row before, or -1
        self._slot: dict[str, int] = {}  # the newest row of each class
        self._ids: list[str] = []  # sorted

    def __len__(self) -> int:
        return len(self.known)

    @classmethod
    def of(cls, version: int, classes: Iterable[tuple[KnownClass, Row]], *, dimension: int) -> ClassTable:
        """A table of classes with their rows, in their order."""
        table = cls(dimension)
        table.extend(version, ((known.id, (known, row)) for known, row in classes))
        return table

    def extend(self, version: int, edits: Iterable[tuple[str, tuple[KnownClass, Row] | None]]) -> None:
        """Many changes at once, which nobody looks at before the end: ids with the class, or None where it is gone."""
        for class_id, edit in edits:
            if class_id in self._slot:
                self.remove(class_id, version)
            if edit is not None:
                self._write(*edit)
        self._ids = sorted(self._slot)
        self.version = version

    def append(self, known: KnownClass, row: Row, version: int) -> None:
        """Add a class at the end; the row that it had before is gone from `version` on."""
        if known.id not in self._slot:
            insort(self._ids, known.id)
        else:
            self.remove(known.id, version)
        self._write(known, row)

    def remove(self, class_id: str, version: int) -> None:
        """Mark the newest row of a class as gone from `version` on; one that is gone already stays so."""
        block, place = divmod(self._slot[class_id], BLOCK)
        if self.blocks[block].gone[place] == _NEVER:
            self.blocks[block].gone[place] = version
            self.removed += 1

    def slot(self, class_id: str, *, length: int, version: int) -> int | None:
        """Slot of a class among the first `length` at a version, or None."""
        slot = self._slot.get(class_id, -1)
        while slot >= length:
            slot = self._before[slot]
        return slot if slot >= 0 and self.blocks[slot // BLOCK].gone[slot % BLOCK] > version else None

    def ids_after(self, class_id: str, limit: int) -> list[str]:
        """At most `limit` ids that come after one, sorted, of all classes that ever were."""
        start = bisect_right(self._ids, class_id)
        return self._ids[start : start + limit]

    def present(self, *, length: int, version: int) -> NDArray[np.intp]:
        """Slots among the first `length` that are there at a version, ascending."""
        gone = [block.gone for block in self._blocks(length)]
        return np.flatnonzero(np.concatenate([*gone, np.empty(0, dtype=np.int64)])[:length] > version)

    def seen(self, length: int) -> NDArray[np.bool_]:
        """Which of the first `length` slots hold classes seen in training, bool."""
        seen = [block.seen for block in self._blocks(length)]
        return np.concatenate([*seen, np.empty(0, dtype=np.bool_)])[:length]

    def seen_share(self, length: int) -> Float32:
        """How much of the seen penalty applies to each of the first `length` slots, float32."""
        shares = [block.seen_share for block in self._blocks(length)]
        return np.concatenate([*shares, np.empty(0, dtype=np.float32)])[:length]

    def _blocks(self, length: int) -> list[RowBlock]:
        return self.blocks[: -(-length // BLOCK)]

    def _write(self, known: KnownClass, row: Row) -> None:
        slot = len(self.known)
        if slot == BLOCK * len(self.blocks):
            self.blocks.append(RowBlock(self.dimension))
        block, place = self.blocks[slot // BLOCK], slot % BLOCK
        block.weight[place], block.bias[place] = row.weight, row.bias
        block.seen[place] = known.is_seen
        block.seen_share[place] = known.seen_share
        self._before.append(self._slot.get(known.id, -1))
        self.known.append(known)
        self._slot[known.id] = slot  # last: from here on readers find the row
