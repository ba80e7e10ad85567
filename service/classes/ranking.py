"""From embeddings to ranked classes: which classes take part, and with which probabilities.

N: images, C: classes that take part, Z: embedding dimension.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.calibration import novelty
from model.classes import ClassEntry
from model.errors import Problem
from model.head import Float32
from service.classes.snapshot import Snapshot
from service.errors import InferenceError, InvalidRequestError

_MUCH = 2_000_000  # multiplications; about a millisecond
_PART = 256  # probabilities of which only the largest is looked at first

Scope = Literal["all", "seen", "unseen"]


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """What is asked about an image.

    Attributes:
        top_k: most classes in the answer.
        scope: which kind of classes takes part.
        classes: ids that take part; empty for all.
        seen_penalty: replaces the bundle's; see `model.calibration`.
    """

    top_k: int = 5
    scope: Scope = "all"
    classes: tuple[str, ...] = ()
    seen_penalty: float | None = None


@dataclass(frozen=True)
class RankedClass:
    """One class with its probability among those that took part."""

    entry: ClassEntry
    probability: float


def chosen_rows(snapshot: Snapshot, question: RankOptions) -> NDArray[np.intp]:
    """Rows of the classes that take part, ascending.

    Raises:
        InvalidRequestError: an id is unknown, or no class is left.
    """
    rows = snapshot.rows
    if question.classes:
        asked = [(class_id, snapshot.row_number(class_id)) for class_id in question.classes]
        problems = [
            Problem(pointer=f"/query/classes/{i}", detail=f"no class has the id {class_id!r}")
            for i, (class_id, row) in enumerate(asked)
            if row is None
        ]
        if problems:
            raise InvalidRequestError("some of the classes asked for do not exist", problems)
        rows = np.unique(np.array([row for _, row in asked], dtype=np.intp))
    if question.scope != "all":
        rows = rows[snapshot.seen_at(rows) == (question.scope == "seen")]
    if len(rows) == 0:
        raise InvalidRequestError(
            "no class takes part",
            [Problem(pointer="/query/scope", detail=f"expected classes within scope {question.scope!r}, got none")],
        )
    return rows


def rank(
    bundle: Bundle, snapshot: Snapshot, rows: NDArray[np.intp], z_NZ: Float32, question: RankOptions
) -> list[tuple[RankedClass, ...]]:
    """The most probable classes of each image, most probable first; ties keep the order of the class table.

    An image has none where a score is not finite: then no probability is known, and the answer is :func:`no_scores`.

    Args:
        bundle: gives the calibration.
        snapshot: the classes.
        rows: of the classes that take part, from :func:`chosen_rows`; the probabilities sum to 1 over them.
        z_NZ: embeddings of the images.
        question: how many classes are wanted, and the penalty.
    """
    return rank_logits(bundle, snapshot, rows, snapshot.logits(z_NZ, rows), question)


def rank_logits(
    bundle: Bundle, snapshot: Snapshot, rows: NDArray[np.intp], logits_NC: Float32, question: RankOptions
) -> list[tuple[RankedClass, ...]]:
    """As :func:`rank`, from what :meth:`Snapshot.logits` gave for these rows."""
    seen_share = snapshot.seen_share_at(rows)
    ranked = []
    for logits_C in logits_NC:
        probabilities = bundle.manifest.calibration.probabilities(
            logits_C[None], seen_share, seen_penalty=question.seen_penalty
        )[0]
        best = _best(probabilities, question.top_k) if np.isfinite(probabilities).all() else []
        ranked.append(tuple(RankedClass(snapshot.at(rows[i]).entry, float(probabilities[i])) for i in best))
    return ranked


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
            same = not taken or asked.rows is taken[0].rows
            if same and (not taken or images + len(asked.embeddings) <= self._most):
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


def best_others(
    bundle: Bundle, snapshot: Snapshot, z_NZ: Float32, own_N: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Best calibrated score of each embedding among all classes but one, float64 [N], and whose it is, [N].

    Where there is no other class, the score is minus infinity and the number -1.

    Args:
        bundle: gives the calibration.
        snapshot: the classes.
        z_NZ: embeddings.
        own_N: number of the row that does not take part, -1 for none.
    """
    best = np.full(len(z_NZ), -np.inf)
    winner = np.full(len(z_NZ), -1, dtype=np.intp)
    for rows, weight, bias in snapshot.parts(snapshot.rows):
        scores = bundle.manifest.calibration.scores(z_NZ @ weight.T + bias, snapshot.seen_share_at(rows))
        scores[own_N[:, None] == rows] = -np.inf
        place = scores.argmax(axis=1)
        found = scores[np.arange(len(z_NZ)), place]
        better = found > best
        best[better], winner[better] = found[better], rows[place[better]]
    return best, winner


def no_scores() -> InferenceError:
    """What is said of an image for which the classes have no finite scores."""
    return InferenceError(
        "the scores of the classes are not finite numbers for this image; `d3gzsl registry check` finds rows that are "
        "damaged"
    )


def is_long(rows: NDArray[np.intp], images: int, dimension: int) -> bool:
    """Whether ranking takes so long that it should not be done in the thread that answers requests."""
    return len(rows) * images * dimension > _MUCH


def _best(probabilities_C: NDArray[np.float64], count: int) -> list[int]:
    """Places of the largest, in falling order, the first of equal ones first; without sorting all the others.

    The parts of the array whose largest values are the `count` largest have that many values to offer. Selection over
    the whole array costs sixteen times as much, and again as much where most probabilities are 0.
    """
    if count * _PART < len(probabilities_C):
        largest = np.maximum.reduceat(probabilities_C, np.arange(0, len(probabilities_C), _PART))
        candidates = np.flatnonzero(probabilities_C >= np.partition(largest, -count)[-count])
    else:
        candidates = np.arange(len(probabilities_C))
    best: list[int] = candidates[np.argsort(-probabilities_C[candidates], kind="stable")][:count].tolist()
    return best


def image_novelty(bundle: Bundle, teacher_score: float) -> float | None:
    """Fraction of held-out seen images that looked more familiar than this one, 0..1; None where the bundle has none.

    Args:
        bundle: says by which score.
        teacher_score: the trunk's output of this name, which is that score.
    """
    if bundle.novelty_reference is None:
        return None
    return float(novelty(np.array([teacher_score], dtype=np.float32), bundle.novelty_reference)[0])
