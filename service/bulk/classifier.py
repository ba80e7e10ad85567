"""Files to rows of results: decoded in threads a little ahead of the model, with the service's decoding and engine.

Each of the model's batches has a thread, which also ranks what the model made of it; the next one begins meanwhile.

N: images of a batch, S: input side.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle import Bundle
from model.errors import BundleError, ImageError
from model.outside.folders import printable
from service.bulk.job import BulkRequest
from service.classes.ranking import RankedClass, RankOptions, chosen_rows, image_novelty, rank
from service.classes.snapshot import Snapshot
from service.inference.decoding import Decoded, decode
from service.inference.engine import Engine, Parts, TrunkOutput

_AHEAD = 3  # batches that are decoded or wait for it while the model works on one
_FAILED = "the model failed on this image"


class Classifier:
    """What a run asks of every file.

    Args:
        bundle: the model.
        engine: runs it.
        snapshot: the classes.
        asked: what is asked.
        batch: most images the model sees at once.
        workers: threads that decode.
        parts: the engine's, for several batches at once.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        snapshot: Snapshot,
        asked: BulkRequest,
        *,
        batch: int,
        workers: int,
        parts: Parts | None = None,
    ) -> None:
        self._bundle, self._engine, self._snapshot, self._asked = bundle, engine, snapshot, asked
        self._run = engine.embed if parts is None else parts.embed
        self._at_once = 1 if parts is None else parts.count
        self._ahead, self._batch = _AHEAD * batch, math.ceil(batch / self._at_once)
        self._question = RankOptions(top_k=asked.top_k, scope=asked.scope)
        self._rows = chosen_rows(snapshot, self._question)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._models = ThreadPoolExecutor(self._at_once, thread_name_prefix="model")

    def close(self) -> None:
        """Let the threads end."""
        for pool in (self._models, self._pool):
            pool.shutdown(wait=True, cancel_futures=True)

    def rows(self, paths: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """A row for each file in order, a batch at a time; files that cannot be read have status `error`."""
        waiting: deque[tuple[str, Future[Decoded | str]]] = deque()
        at_work: deque[Future[list[dict[str, Any]]]] = deque()
        remaining = iter(paths)
        while True:
            for path in remaining:
                waiting.append((path, self._pool.submit(self._decode, path)))
                if len(waiting) >= self._ahead:
                    break
            while (
                waiting and len(at_work) <= self._at_once
            ):  # one more, which begins while the rows of another are taken
                batch = [waiting.popleft() for _ in range(min(self._batch, len(waiting)))]
                at_work.append(self._models.submit(self._answer, batch))
            if not at_work:
                return
            yield at_work.popleft().result()

    def _decode(self, path: str) -> Decoded | str:
        """The image of a file, or what is wrong with it."""
        asked = self._asked
        try:
            with (Path(asked.root) / path).open("rb") as stream:
                data = stream.read(asked.max_bytes + 1)  # one more shows that it is too large
            return decode(
                data, self._bundle.manifest.preprocess, max_bytes=asked.max_bytes, max_pixels=asked.max_pixels
            )
        except OSError as error:
            return error.strerror or str(error)
        except ImageError as error:
            return str(error)

    def _answer(self, batch: Sequence[tuple[str, Future[Decoded | str]]]) -> list[dict[str, Any]]:
        paths, outcomes = [path for path, _ in batch], [future.result() for _, future in batch]
        decoded = [outcome for outcome in outcomes if isinstance(outcome, Decoded)]
        embedded = self._embed([one.image for one in decoded])
        finite = [one for one in embedded if one is not None]
        ranked: Iterator[tuple[RankedClass, ...]] = iter(())
        if finite:
            z = np.concatenate([one.embedding for one in finite])
            ranked = iter(rank(self._bundle, self._snapshot, self._rows, z, self._question))
        answers = iter(embedded)
        rows = []
        for path, outcome in zip(paths, outcomes, strict=True):
            row: dict[str, Any] = {
                "path": printable(path),
                "status": "error",
                "bundle_id": self._asked.bundle_id,
                "registry_version": self._snapshot.registry_version,
                "precision": self._engine.precision,
            }
            if isinstance(outcome, str):
                row["error"] = outcome
            else:
                row |= {"width": outcome.width, "height": outcome.height}
                answer = next(answers)
                best = () if answer is None else next(ranked)
                if answer is None or not best:
                    row["error"] = _FAILED
                else:
                    row |= {
                        "status": "ok",
                        "novelty": image_novelty(self._bundle, float(answer.teacher_score[0])),
                        "class_id": [one.entry.id for one in best],
                        "name": [one.entry.name for one in best],
                        "probability": [one.probability for one in best],
                    }
            rows.append(row)
        return rows

    def _embed(self, images: Sequence[Any]) -> list[TrunkOutput | None]:
        """What the model makes of each image, float32 [3, S, S]; None where it fails, each tried for itself."""
        if not images:
            return []
        try:
            found = self._run(np.stack(images))
        except BundleError:
            if len(images) == 1:
                return [None]
            return [outcome for image in images for outcome in self._embed([image])]
        finite = np.isfinite(found.embedding).all(axis=1) & np.isfinite(found.teacher_score)
        return [
            TrunkOutput(found.embedding[i : i + 1], found.teacher_score[i : i + 1]) if finite[i] else None
            for i in range(len(images))
        ]
