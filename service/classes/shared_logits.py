"""Scores of the head for the images of several requests at once: the rows of many classes are read once for all.

N: images, R: classes that take part, Z: embedding dimension.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.head import Float32
from service.classes.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class _Asked:
    snapshot: Snapshot
    rows: NDArray[np.intp]
    embeddings: Float32
    answer: asyncio.Future[Float32]


class SharedLogits:
    """Scores images in another thread, those of all requests that wait for the same classes together.

    A hundred thousand classes have 800 MB of rows at 2048-d, and reading them takes longer than multiplying by them. A
    score does not depend on which other images there are (see :meth:`Snapshot.logits`). Used in one event loop.

    Args:
        most: images that are scored together; a request with more of them is scored alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: list[_Asked] = []
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, snapshot: Snapshot, rows: NDArray[np.intp], z_NZ: Float32) -> Float32:
        """Scores of some classes, float32 [N, R].

        Args:
            snapshot: the classes.
            rows: numbers of the rows that take part, ascending, [R]; shared by requests that have the same array.
            z_NZ: embeddings.
        """
        asked = _Asked(snapshot, rows, z_NZ, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._work is None:
            self._work = asyncio.create_task(self._score_all())
        return await asked.answer

    async def _score_all(self) -> None:
        try:
            while together := self._take():
                await _score(together)
        finally:
            self._work = None

    def _take(self) -> list[_Asked]:
        """The request that has waited longest, with all for the same classes that there is room for."""
        waiting = [asked for asked in self._waiting if not asked.answer.done()]
        taken: list[_Asked] = []
        left: list[_Asked] = []
        images = 0
        for asked in waiting:
            fits = images + len(asked.embeddings) <= self._most and asked.rows is taken[0].rows if taken else True
            if fits:
                taken.append(asked)
                images += len(asked.embeddings)
            else:
                left.append(asked)
        self._waiting = left
        return taken


async def _score(together: list[_Asked]) -> None:
    first = together[0]
    try:
        logits = await asyncio.to_thread(
            first.snapshot.logits, np.concatenate([asked.embeddings for asked in together]), first.rows
        )
    except Exception as error:
        for asked in together:
            if not asked.answer.done():
                asked.answer.set_exception(error)
        return
    ends = np.cumsum([len(asked.embeddings) for asked in together])
    for asked, own in zip(together, np.split(logits, ends[:-1]), strict=True):
        if not asked.answer.done():
            asked.answer.set_result(own)
