"""The classifier at one registry version: an immutable view of the class table with its head.

N: images, C: classes, R: rows that take part, Z: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.head import Float32, Row
from model.outside.threads import available_cpus
from service.classes.class_table import BLOCK, ClassTable, KnownClass
from service.errors import UnknownClassError

Part = TypeVar("Part")

_AT_ONCE = 256
_FEW = 4  # blocks that are scored sooner than other threads have been told of them
_READERS = min(available_cpus(), 4)
_WASTE = 256  # rows that may be gone before the others move together


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """Everything an answer depends on, beside bundle and image; a request keeps the one it started with.

    Rows are numbered; a number stays with its class for as long as snapshots share a table.

    Attributes:
        registry_version: 0 for the bundle alone.
        table: rows, shared with snapshots before and after.
        length: how many rows of the table this snapshot knows of.
    """

    registry_version: int
    table: ClassTable
    length: int

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Snapshot:
        """Version 0: the classes that the bundle brings."""
        known = [KnownClass(entry=entry, registry_version=0) for entry in bundle.manifest.classes]
        rows = [Row(weight, float(bias)) for weight, bias in zip(bundle.weight, bundle.bias, strict=True)]
        return cls.build(0, known, rows, dimension=bundle.manifest.head.dimension)

    @classmethod
    def build(cls, version: int, classes: Sequence[KnownClass], rows: Sequence[Row], *, dimension: int) -> Snapshot:
        """A snapshot from C classes and their rows; `dimension` is Z."""
        table = ClassTable.of(version, zip(classes, rows, strict=True), dimension=dimension)
        return cls(registry_version=version, table=table, length=len(table))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """Numbers of the rows that are there, ascending, [C]."""
        rows = self.table.present(length=self.length, version=self.registry_version)
        rows.setflags(write=False)
        return rows

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Which classes were seen in training, in the order of `rows`, bool [C]."""
        seen = self.seen_at(self.rows)
        seen.setflags(write=False)
        return seen

    def seen_at(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which of some classes, by the numbers of their rows, were seen in training, bool [R]."""
        return self._seen[rows]

    def seen_share_at(self, rows: NDArray[np.intp]) -> Float32:
        """How much of the seen penalty applies to some classes, by the numbers of their rows, float32 [R]."""
        return self._seen_share[rows]

    @cached_property
    def _seen_share(self) -> Float32:
        return self.table.seen_share(self.length)

    @cached_property
    def _seen(self) -> NDArray[np.bool_]:
        return self.table.seen(self.length)

    @cached_property
    def _blocks(self) -> list[tuple[int, slice | NDArray[np.intp], slice]]:
        return list(_by_block(self.rows))

    @property
    def classes(self) -> tuple[KnownClass, ...]:
        """The classes in the order of `rows`."""
        return tuple(self.table.known[row] for row in self.rows)

    @property
    def weight(self) -> Float32:
        """A copy of the head's weights in the order of `rows`, float32 [C, Z]."""
        return np.concatenate([*self.weight_parts(self.rows), np.empty((0, self.table.dimension), dtype=np.float32)])

    @property
    def bias(self) -> Float32:
        """A copy of the head's biases in the order of `rows`, float32 [C]."""
        parts = [self.table.blocks[index].bias[places] for index, places, _ in _by_block(self.rows)]
        return np.concatenate([*parts, np.empty(0, dtype=np.float32)])

    def weight_parts(self, rows: NDArray[np.intp]) -> Iterator[Float32]:
        """The head's weights of some classes in the order of their rows' numbers, a block at a time; not to be written.

        Args:
            rows: numbers of the rows, ascending, [R].
        """
        for index, places, _ in _by_block(rows):
            part = self.table.blocks[index].weight[places]
            part.setflags(write=False)
            yield part

    def parts(self, rows: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], Float32, Float32]]:
        """Some classes, a block at a time: numbers of their rows, weights and biases; not to be written.

        Args:
            rows: numbers of the rows, ascending, [R].
        """
        for index, places, part in _by_block(rows):
            block = self.table.blocks[index]
            yield rows[part], block.weight[places], block.bias[places]

    def row_number(self, class_id: str) -> int | None:
        """Number of a class's row, or None."""
        return self.table.slot(class_id, length=self.length, version=self.registry_version)

    def get(self, class_id: str) -> KnownClass | None:
        """The class with this id, or None."""
        number = self.row_number(class_id)
        return None if number is None else self.table.known[number]

    def there(self, class_id: str) -> KnownClass:
        """The class with this id; UnknownClassError where there is none."""
        known = self.get(class_id)
        if known is None:
            raise UnknownClassError(f"no class has the id {class_id!r}")
        return known

    def at(self, number: int) -> KnownClass:
        """The class whose row has this number."""
        return self.table.known[number]

    def row(self, class_id: str) -> Row:
        """A copy of the row of a class that is there."""
        number = self.row_number(class_id)
        if number is None:
            raise KeyError(class_id)
        row = self._row_at(number)
        return Row(row.weight.copy(), row.bias)

    def after(self, class_id: str = "") -> Iterator[KnownClass]:
        """The classes whose id comes after one, in the order of their ids, in which they are listed."""
        while ids := self.table.ids_after(class_id, _AT_ONCE):
            yield from (known for known in map(self.get, ids) if known is not None)
            class_id = ids[-1]

    def logits(self, z_NZ: Float32, rows: NDArray[np.intp]) -> Float32:
        """Scores of some classes, float32 [N, R].

        One dot product for each image and class: a class has the same score to the last bit wherever its row lies,
        whatever other classes and images there are.

        Args:
            z_NZ: embeddings.
            rows: numbers of the rows that take part, ascending, [R].
        """
        scores = np.empty((len(z_NZ), len(rows)), dtype=np.float32)

        def score(part_of_block: tuple[int, slice | NDArray[np.intp], slice]) -> None:
            index, places, part = part_of_block
            block = self.table.blocks[index]
            # Each row is read once for all images, as there may be far more rows than any cache holds.
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is answered in words
                scores[:, part] = (np.vecdot(block.weight[places][:, None], z_NZ) + block.bias[places][:, None]).T

        blocks = self._blocks if rows is self.rows else list(_by_block(rows))
        _do_all(score, blocks, together=len(blocks) > _FEW)
        return scores

    def with_changes(self, version: int, edits: Sequence[tuple[str, tuple[KnownClass, Row] | None]]) -> Snapshot:
        """The next snapshot.

        Args:
            version: its version, above this one's.
            edits: ids, each with the class and its row, which goes to the end, or with None where it is removed.

        Raises:
            KeyError: a class to be removed is not there.
        """
        present: dict[str, bool] = {}
        for class_id, edit in edits:
            if edit is None and not present.get(class_id, self.row_number(class_id) is not None):
                raise KeyError(class_id)
            present[class_id] = edit is not None
        table = self.table if self._is_newest() else self._compact()
        table.version = version
        for class_id, edit in edits:
            if edit is None:
                table.remove(class_id, version)
            else:
                table.append(*edit, version)
        return Snapshot(registry_version=version, table=table, length=len(table))

    def _is_newest(self) -> bool:
        """Whether the table may grow from here: no other snapshot has grown it, and little in it is gone."""
        table = self.table
        grown = table.version != self.registry_version or len(table) != self.length
        return not grown and table.removed <= max(_WASTE, self.length // 2)

    def _compact(self) -> ClassTable:
        pairs = ((self.table.known[number], self._row_at(number)) for number in self.rows.tolist())
        return ClassTable.of(self.registry_version, pairs, dimension=self.table.dimension)

    def _row_at(self, number: int) -> Row:
        block, place = self.table.blocks[number // BLOCK], number % BLOCK
        return Row(block.weight[place], float(block.bias[place]))


def _do_all(work: Callable[[Part], object], parts: Sequence[Part], *, together: bool) -> None:
    """Do something with every part, in this thread, and in others too where they are to help.

    One core alone does not read as fast as the memory gives. Each thread takes the next part until none is left.
    """
    left = iter(parts)

    def take() -> None:
        for part in left:
            work(part)

    others = [_readers().submit(take) for _ in range(_READERS - 1)] if together else []
    take()
    for other in others:
        other.result()


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _READERS - 1), thread_name_prefix="rows")


def _by_block(rows: NDArray[np.intp]) -> Iterator[tuple[int, slice | NDArray[np.intp], slice]]:
    """Ascending rows by block: its index, their places in it (a slice where they adjoin), and their part of `rows`."""
    if len(rows) == 0:
        return
    first, last = int(rows[0]) // BLOCK, int(rows[-1]) // BLOCK
    bounds = np.searchsorted(rows, BLOCK * np.arange(first, last + 2)).tolist()
    for index, start, stop in zip(range(first, last + 1), bounds, bounds[1:], strict=False):
        if start == stop:
            continue
        places = rows[start:stop] - BLOCK * index
        adjoin = int(places[-1] - places[0]) == stop - start - 1
        yield index, slice(int(places[0]), int(places[-1]) + 1) if adjoin else places, slice(start, stop)
