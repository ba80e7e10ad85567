"""The rows of all classes in append-only blocks, which many snapshots share: to add a class copies nothing.

B: rows of a block, Z: embedding dimension.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from json import dumps
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.errors import D3GZSLError
from model.head import Float32, Row
from model.outside.names import fold_name
from model.photos import PhotoPrior
from model.text.description import ClassText
from model.vocabulary import Described
from service.errors import RegistryDamagedError
from service.registry.change import UnreadableValueError, from_json

BLOCK = 2048
"""Rows of a block; at 2048-d it is large enough that the system backs it with huge pages, which halves a reading."""
_SEEN, _PHOTOS = '"kind": "seen"', '"examples": ['
Read = TypeVar("Read")

_NEVER = np.iinfo(np.int64).max
_PAGE = 1024
"""Numbers of a page of memory, which the system gives as a whole when one of them is written."""


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

    def described(self) -> Described:
        """What describes the class, for one who looks at all of them; nothing of it is kept either."""
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
        about = {
            "_id": class_id,
            "_document": document,
            "_seen": seen,
            "registry_version": registry_version,
            "row_at": row_at,
            "photo_share": prior.seen_share(photos) if prior else 0.0,
        }
        object.__setattr__(self, "__dict__", about)

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

    def described(self) -> Described:
        """See :class:`KnownClass`."""
        return self._read(_Description.from_json, self.__dict__["_document"], self.registry_version)

    @staticmethod
    def _parsed(document: str, version: int) -> ClassEntry:
        return StoredClass._read(ClassEntry.from_json, document, version)

    @staticmethod
    def _read(read: Callable[[Any], Read], document: str, version: int) -> Read:
        try:
            return read(from_json(document))
        except (D3GZSLError, UnreadableValueError, KeyError, TypeError, ValueError) as error:
            raise RegistryDamagedError(f"the registry is damaged at version {version}: {error}") from None


class _Description(NamedTuple):
    """What describes a class, without its words."""

    attributes: tuple[float, ...] | None
    text_vector: Float32 | None

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> _Description:
        """Of a class's document."""
        attributes, text = fields["attributes"], fields.get("text")
        return cls(
            None if attributes is None else tuple(attributes),
            None if text is None else ClassText.from_json(text).numbers,
        )


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

    @classmethod
    def touched(cls, dimension: int) -> RowBlock:
        """One whose memory the system has given already."""
        block = cls(dimension)
        block.weight.reshape(-1)[::_PAGE] = 0
        return block


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
        self._beside: ThreadPoolExecutor | None = None
        self._next: Future[RowBlock] | None = None

    def __len__(self) -> int:
        return len(self.known)

    @classmethod
    def of(cls, version: int, classes: Iterable[tuple[KnownClass, Row]], *, dimension: int) -> ClassTable:
        """A table of classes with their rows, in their order."""
        table = cls(dimension)
        for known, row in classes:
            table._write(known, row)
        table.finish(version)
        return table

    def extend(self, known: Sequence[KnownClass], weights: Float32, biases: NDArray[np.float64], version: int) -> None:
        """Add many classes at the end before :meth:`finish`; rows that they had before are gone from `version` on.

        Args:
            known: n classes, none of them twice.
            weights: their rows of the head, float32 [n, Z].
            biases: float64 [n].
            version: of the whole.
        """
        first, ids = len(self.known), [one.id for one in known]
        for class_id in self._slot.keys() & ids:
            self.remove(class_id, version)
        done = 0
        while done < len(known):
            slot = first + done
            block, place = self._room(slot)
            part = slice(done, done + min(BLOCK - place, len(known) - done))
            places = slice(place, place + part.stop - part.start)
            block.weight[places], block.bias[places] = weights[part], biases[part]
            block.seen[places] = [one.is_seen for one in known[part]]
            block.seen_share[places] = [one.seen_share for one in known[part]]
            done = part.stop
        self._before += [self._slot.get(class_id, -1) for class_id in ids]
        self.known += known
        self._slot.update(zip(ids, range(first, first + len(ids)), strict=True))

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Within the block, another thread makes room ahead once there are many classes: clearing it takes a while."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="room") as self._beside:
            try:
                yield
            finally:
                self._beside = self._next = None

    def finish(self, version: int) -> None:
        """Have what was added so far seen, as of a version."""
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

    def discard(self, class_id: str, version: int) -> None:
        """As :meth:`remove`, and nothing where the class never was there."""
        if class_id in self._slot:
            self.remove(class_id, version)

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

    def weights(self, slots: slice) -> Iterator[tuple[Float32, slice]]:
        """The head's weights of slots that adjoin, a block at a time, with their numbers; not to be written."""
        start = slots.start
        while start < slots.stop:
            block, place = self.blocks[start // BLOCK], start % BLOCK
            stop = min(slots.stop, start - place + BLOCK)
            yield block.weight[place : place + stop - start], slice(start, stop)
            start = stop

    def _blocks(self, length: int) -> list[RowBlock]:
        return self.blocks[: -(-length // BLOCK)]

    def _room(self, slot: int) -> tuple[RowBlock, int]:
        """The block of a slot that is there, or comes next, and its place in it."""
        if slot == BLOCK * len(self.blocks):
            self.blocks.append(RowBlock(self.dimension) if self._next is None else self._next.result())
            if self._beside is not None and len(self.blocks) > 1:
                self._next = self._beside.submit(RowBlock.touched, self.dimension)
        return self.blocks[slot // BLOCK], slot % BLOCK

    def _write(self, known: KnownClass, row: Row) -> None:
        slot = len(self.known)
        block, place = self._room(slot)
        block.weight[place], block.bias[place] = row.weight, row.bias
        block.seen[place] = known.is_seen
        block.seen_share[place] = known.seen_share
        self._before.append(self._slot.get(known.id, -1))
        self.known.append(known)
        self._slot[known.id] = slot  # last: from here on readers find the row
