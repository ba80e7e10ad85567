"""The exact rows of a `softmax` head, solved behind the class table, which answers with provisional rows meanwhile."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace

from model.bundle import Bundle
from model.errors import D3GZSLError, StoppedError
from model.head import Float16, Float32, Row
from model.softmax import SoftmaxHead
from service.classes.follower import Waiters
from service.classes.registrar import Registrar
from service.classes.snapshot import Snapshot
from service.errors import RegistryError
from service.registry.log import ChangeLog

log = logging.getLogger(__name__)

_RETRY = 5.0  # seconds until a solution that failed is tried again

Source = tuple[int, tuple[float, ...]]
"""Which embeddings a registered class has: their place in the log, and its attributes, as logs can be restored."""
Contents = dict[str, Source | None]
"""What a solution depends on: the source of every class, None where it is the bundle's bank."""


class Solver:
    """A thread that solves the head for the newest class table; tables that were overtaken are given up.

    The rows of a table depend on the bundle and on the stored embeddings of the table's classes only, so every process
    that follows the same registry arrives at the same ones.

    Args:
        bundle: with its `softmax` head.
        head: the head of the bundle.
        registrar: the class table.
        registry: holds the embeddings of registered classes.
    """

    def __init__(self, bundle: Bundle, head: SoftmaxHead, registrar: Registrar, registry: ChangeLog) -> None:
        self._head, self._registrar, self._registry = head, registrar, registry
        self._bundled = [entry.id for entry in bundle.manifest.classes]
        self._embeddings: dict[str, tuple[Source, Float16]] = {}
        self._contents: Contents = dict.fromkeys(self._bundled)
        self._rows: Mapping[str, Row] = dict(zip(self._bundled, _rows(head.weight, head.bias), strict=True))
        self._changed = threading.Condition()
        self._closing = False
        self._waiting = Waiters()
        self._thread = threading.Thread(target=self._run, name="solver", daemon=True)
        newest = registrar.snapshot
        self._shown = newest, self._show(newest)

    def start(self) -> None:
        """Start solving, in the running event loop."""
        self._waiting.start()
        self._registrar.subscribe(self._announce)
        self._thread.start()

    def close(self) -> None:
        """Give up what is being solved and end the thread; for a solver that was never started too."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot: with exact rows once they are there, before that with provisional ones."""
        newest = self._registrar.snapshot
        if self._shown[0] is not newest:
            shown = self._show(newest)
            with self._changed:
                if self._shown[0] is not newest:  # the thread may have been faster, with exact rows
                    self._shown = newest, shown
        return self._shown[1]

    async def wait_for(self, version: int, seconds: float) -> Snapshot:
        """The newest snapshot once it is exact and of at least this version; a provisional one where time runs out."""
        try:
            async with asyncio.timeout(seconds):
                while not (snapshot := self.snapshot).exact or snapshot.registry_version < version:
                    await self._waiting.wait_while(functools.partial(self._unchanged, snapshot))
        except TimeoutError:
            snapshot = self.snapshot
        return snapshot

    def _unchanged(self, snapshot: Snapshot) -> bool:
        return self.snapshot is snapshot

    def _show(self, newest: Snapshot) -> Snapshot:
        """A table with the rows of the last solution where that was solved for it, else as it is."""
        with self._changed:
            contents, rows = self._contents, self._rows
        if contents != contents_of(newest):
            return replace(newest, exact=False)
        by_id = {known.entry.id: known for known in newest.classes}
        # In the order of the solution and not of the history, so that sums over classes round the same.
        known = [by_id[class_id] for class_id in rows]
        return Snapshot.build(newest.registry_version, known, [*rows.values()], dimension=self._head.dimension)

    def _run(self) -> None:
        while not self._closing:
            newest = self._registrar.snapshot
            contents, patience = contents_of(newest), None
            if contents != self._contents:
                try:
                    self._solve(contents)
                except StoppedError:
                    continue
                except (D3GZSLError, MemoryError) as error:
                    log.error("version %d of the class table stays provisional: %s", newest.registry_version, error)
                    patience = _RETRY if isinstance(error, RegistryError) else None
            self._rest(newest, patience)

    def _rest(self, newest: Snapshot, seconds: float | None) -> None:
        """Wait for a change, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._registrar.snapshot is not newest, seconds)

    def _solve(self, contents: Contents) -> None:
        """Solve for a table and show it.

        Raises:
            StoppedError: it was overtaken by one of other classes.
        """
        self._load(contents)
        kept = [i for i, class_id in enumerate(self._bundled) if contents.get(class_id, ()) is None]
        added = {class_id: rows for class_id, (_, rows) in self._embeddings.items()}
        checked: list[Snapshot] = []

        def overtaken() -> bool:
            newest = self._registrar.snapshot
            if checked[-1:] != [newest] and contents_of(newest) != contents:
                return True
            checked[:] = [newest]
            return self._closing

        solution = self._head.refit(kept, added, stop=overtaken)
        ids = [*(self._bundled[i] for i in kept), *sorted(added)]
        newest = self._registrar.snapshot
        with self._changed:
            self._contents = contents
            self._rows = dict(zip(ids, _rows(solution.weight, solution.bias), strict=True))
        shown = self._show(newest)
        with self._changed:
            self._shown = newest, shown
        self._waiting.wake()

    def _load(self, contents: Contents) -> None:
        """Bring the embeddings of a table's registered classes into memory, and let others go."""
        wanted = {class_id: source for class_id, source in contents.items() if source is not None}
        held = {i: kept for i, kept in self._embeddings.items() if wanted.get(i) == kept[0]}
        missing = {source[0]: class_id for class_id, source in wanted.items() if class_id not in held}
        for position, rows in self._registry.embeddings(list(missing)).items():
            held[missing[position]] = wanted[missing[position]], rows
        self._embeddings = held

    def _announce(self) -> None:
        """Wake the thread and who waits; called by the registrar from any thread."""
        with self._changed:
            self._changed.notify_all()
        self._waiting.wake()


def contents_of(snapshot: Snapshot) -> Contents:
    """What a solution for a class table depends on."""
    return {k.entry.id: None if k.row_at is None else (k.row_at, k.entry.attributes) for k in snapshot.classes}


def _rows(weight_CZ: Float32, bias_C: Float32) -> list[Row]:
    return [Row(weight, float(bias)) for weight, bias in zip(weight_CZ, bias_C, strict=True)]
