"""The way of a request's images through decoding and model, each for itself."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from model.errors import D3GZSLError, ImageError, UnreadableImageError
from model.head import Float32
from service.classes.ranking import RankedClass, RankOptions, image_novelty, is_long, no_scores, rank, rank_logits
from service.classes.snapshot import Snapshot
from service.errors import DeadlineError, InferenceError, MalformedBodyError, NotFiniteOutputError, NotReadyError
from service.http.images import SentImage
from service.http.problems import detail_of, problem_type_of
from service.http.schemas import Explanation, ImageAnswer, ImageFailure, ImageProblem, Prediction
from service.inference.batcher import Batcher, InferenceResult
from service.inference.decoding import Decoded, PixelBudget
from service.service import Service
from service.telemetry.request_stats import current_stats

Result = TypeVar("Result")


@dataclass(frozen=True)
class EmbeddedImage:
    """An image behind decoding and model.

    Attributes:
        decoded: the image.
        decode_ms: time that decoding took.
        answer: what the model says.
        digest: SHA-256 of the network's input, in hexadecimal digits, where it was asked for.
    """

    decoded: Decoded
    decode_ms: float
    answer: InferenceResult
    digest: str = ""


class _Meeting:
    """Where the images of a batch wait for each other, to be queued together.

    Args:
        batcher: takes them.
        images: how many come.
        client: whose turns they take.
    """

    def __init__(self, batcher: Batcher, images: int, *, client: str) -> None:
        self._batcher, self._missing, self._client = batcher, images, client
        self._waiting: list[tuple[Float32, asyncio.Future[asyncio.Future[InferenceResult]]]] = []

    async def queued(self, image: Float32) -> asyncio.Future[InferenceResult]:
        """One is decoded: its answer to come, once all are queued; raises what :meth:`Batcher.queue` raises."""
        queued: asyncio.Future[asyncio.Future[InferenceResult]] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, queued))
        self.come()
        return await queued

    def come(self) -> None:
        """One more is decoded, or never will be."""
        self._missing -= 1
        if self._missing:
            return
        waiting = [(image, queued) for image, queued in self._waiting if not queued.done()]
        try:
            answers = self._batcher.queue([image for image, _ in waiting], client=self._client)
        except NotReadyError as error:
            for _, queued in waiting:
                queued.set_exception(error)
        else:
            for (_, queued), answer in zip(waiting, answers, strict=True):
                queued.set_result(answer)


async def embed_all(
    service: Service, images: Sequence[SentImage], *, client: str, examples: bool = False
) -> list[EmbeddedImage | D3GZSLError]:
    """Decode and embed images for which there are places; what is wrong with one alone comes back as a value.

    Args:
        service: the decoder and the model.
        images: of one request, which have a budget of pixels together; identical ones are decoded once.
        client: whose turns they take.
        examples: whether they are photos of a class. Those that fit into one batch then wait for each other before the
            model, which takes longer for one image and four than for five; and each gets its digest meanwhile.
    """
    pixels = PixelBudget(service.settings.max_request_pixels)
    if len(images) == 1:  # the usual request needs no tasks of its own
        meeting = _Meeting(service.batcher, 1, client=client)
        return [await _observed(_embed(service, images[0].data, client, pixels, meeting, examples))]
    first = _first_of_same(images)
    distinct = sorted(set(first))
    size = service.settings.batch_size if examples else 1
    batches = [distinct[start : start + size] for start in range(0, len(distinct), size)]
    works: dict[int, asyncio.Task[EmbeddedImage | D3GZSLError]] = {}
    for batch in batches:
        meeting = _Meeting(service.batcher, len(batch), client=client)
        for i in batch:
            works[i] = asyncio.ensure_future(_embed(service, images[i].data, client, pixels, meeting, examples))
    return await asyncio.gather(*(_observed(works[i]) for i in first))


def _first_of_same(images: Sequence[SentImage]) -> list[int]:
    """For each image the place of the first one with the same bytes. Only those of equal length are compared."""
    lengths = Counter(len(image.data) for image in images if isinstance(image.data, bytes))
    first: dict[bytes, int] = {}
    return [
        first.setdefault(image.data, i) if isinstance(image.data, bytes) and lengths[len(image.data)] > 1 else i
        for i, image in enumerate(images)
    ]


async def embed_inputs(service: Service, inputs: Float32, *, client: str) -> list[EmbeddedImage | D3GZSLError]:
    """Embed network inputs that the client made itself, float32 [N, 3, S, S]; as :func:`embed_all`."""
    return await asyncio.gather(*(_observed(_embed_input(service, image, client)) for image in inputs))


async def rank_all(
    service: Service,
    snapshot: Snapshot,
    rows: NDArray[np.intp],
    outcomes: Sequence[EmbeddedImage | D3GZSLError],
    question: RankOptions,
) -> list[tuple[RankedClass, ...]]:
    """The classes of each image, none for those that could not be read; see :func:`service.classes.ranking.rank`.

    Raises:
        InferenceError: no image has finite scores.
    """
    z_NZ = np.array([outcome.answer.embedding for outcome in outcomes if isinstance(outcome, EmbeddedImage)])
    if len(z_NZ) == 0:
        return [()] * len(outcomes)
    started = time.perf_counter()
    if is_long(rows, *z_NZ.shape):
        logits_NC = await service.logits(snapshot, rows, z_NZ)
        ranked = await asyncio.to_thread(rank_logits, service.bundle, snapshot, rows, logits_NC, question)
    else:
        ranked = rank(service.bundle, snapshot, rows, z_NZ, question)
    current_stats().ranked(1000 * (time.perf_counter() - started))
    if not any(ranked):
        raise no_scores()
    following = iter(ranked)
    return [next(following) if isinstance(outcome, EmbeddedImage) else () for outcome in outcomes]


async def _observed(work: Awaitable[EmbeddedImage | D3GZSLError]) -> EmbeddedImage | D3GZSLError:
    """The outcome of an image, which is counted."""
    try:
        outcome = await work
    except asyncio.CancelledError:
        current_stats().image("abandoned")
        raise
    except D3GZSLError as error:
        current_stats().image(problem_type_of(error).name)
        raise
    if isinstance(outcome, EmbeddedImage):
        answer = outcome.answer
        current_stats().embedded(
            decode_ms=outcome.decode_ms, queue_ms=answer.queue_ms, inference_ms=answer.inference_ms
        )
        current_stats().image("answered")
    else:
        current_stats().image(problem_type_of(outcome).name)
    return outcome


async def _embed_input(service: Service, image: Float32, client: str) -> EmbeddedImage | D3GZSLError:
    _, height, width = image.shape
    try:
        answer = await service.batcher.submit(image, client=client)
    except NotFiniteOutputError:
        least, most = float(image.min()), float(image.max())
        return UnreadableImageError(
            f"the model gives no finite numbers for these pixels, which lie from {least:.3g} to {most:.3g}; "
            "expected pixels that are normalised as the bundle's preprocess says"
        )
    except InferenceError as error:
        return error
    return EmbeddedImage(Decoded(image=image, width=width, height=height), 0.0, answer)


async def _embed(
    service: Service,
    data: bytes | MalformedBodyError,
    client: str,
    pixels: PixelBudget,
    meeting: _Meeting,
    with_digest: bool,
) -> EmbeddedImage | D3GZSLError:
    if isinstance(data, MalformedBodyError):
        meeting.come()
        return data
    started = time.perf_counter()
    try:
        try:
            decoded = await service.decoder(data, client=client, pixels=pixels)
        except BaseException as error:
            service.batcher.dropped += isinstance(error, asyncio.CancelledError)
            meeting.come()
            raise
        decode_ms = 1000 * (time.perf_counter() - started)
        queued = await meeting.queued(decoded.image)
        if not with_digest:
            return EmbeddedImage(decoded, decode_ms, await queued)
        # Not before: the cores decode until then, and are not all busy all the time that the model runs.
        answer, digest = await asyncio.gather(queued, asyncio.to_thread(_digest, decoded.image))
        return EmbeddedImage(decoded, decode_ms, answer, digest)
    except (ImageError, InferenceError) as error:
        return error


def _digest(image: Float32) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def image_answer(
    service: Service,
    image_id: str,
    outcome: EmbeddedImage | D3GZSLError,
    best: Sequence[RankedClass],
    explanations: Sequence[Explanation] = (),
) -> ImageAnswer | ImageFailure:
    """What is answered about one image: its classes, of which the first may be explained, or why it has none."""
    if isinstance(outcome, EmbeddedImage) and not best:
        outcome = no_scores()
    if isinstance(outcome, D3GZSLError):
        kind = problem_type_of(outcome)
        error = ImageProblem(type=kind.type, title=kind.title, status=kind.status, detail=detail_of(outcome))
        return ImageFailure(id=image_id, error=error)
    predictions = [
        Prediction(class_id=r.entry.id, name=r.entry.name, kind=r.entry.kind, probability=r.probability) for r in best
    ]
    for i, explanation in enumerate(explanations):
        predictions[i] = predictions[i].model_copy(update={"explanation": explanation})
    warnings = {"warnings": list(outcome.decoded.warnings)} if outcome.decoded.warnings else {}
    return ImageAnswer(
        id=image_id,
        width=outcome.decoded.width,
        height=outcome.decoded.height,
        novelty=image_novelty(service.bundle, outcome.answer.teacher_score),
        predictions=predictions,
        **warnings,
    )


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is dropped when the client goes away.

    It runs in the request's own task: every other task would cost each request some hundredths of a millisecond.

    Raises:
        DeadlineError: the client has gone.
    """
    task, gone, done = asyncio.current_task(), False, False
    assert task is not None  # as every coroutine has one
    watch = asyncio.ensure_future(_disconnected(request))

    def drop(_: object) -> None:
        nonlocal gone
        if not done:
            gone = True
            task.cancel()

    watch.add_done_callback(drop)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:  # nobody else has cancelled the request
            raise DeadlineError("the client has gone") from None
        raise
    finally:
        done = True  # `drop` may have been called for already, which nothing takes back
        watch.cancel()
        await asyncio.wait({watch})


class Client:
    """Whether the client of a request is still there, for work in threads."""

    def __init__(self) -> None:
        self._gone = threading.Event()

    def check(self) -> None:
        """Raise DeadlineError where the client has gone."""
        if self._gone.is_set():
            raise DeadlineError("the client has gone")

    @contextmanager
    def there(self) -> Iterator[None]:
        """The client counts as gone once the block is left."""
        try:
            yield
        finally:
            self._gone.set()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
