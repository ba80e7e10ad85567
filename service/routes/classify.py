"""POST /classify: images in, ranked classes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from model.errors import D3GZSLError
from model.errors import ImageError as BadImageError
from service.access import may_classify
from service.batcher import Answer
from service.decoding import Decoded
from service.errors import DeadlineError, InferenceError, MalformedBodyError
from service.images import MULTIPART_FIELD, Sent, read_images
from service.problems import detail_of, kind_of
from service.ranking import Question, chosen_rows, image_novelty, rank
from service.routes.shared import TheService, problems
from service.schemas import (
    ClassifyAnswer,
    ClassifyQuery,
    ImageAnswer,
    ImageError,
    ImageFailure,
    Prediction,
    Timing,
)
from service.service import Service

router = APIRouter(tags=["classify"], dependencies=[Depends(may_classify)])

_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": [MULTIPART_FIELD],
    "properties": {MULTIPART_FIELD: {"type": "array", "items": _BINARY, "minItems": 1}},
    "additionalProperties": False,
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file as it is, a form with files, or JSON with base64.",
        "content": {
            "image/*": {"schema": _BINARY},
            "multipart/form-data": {"schema": _FORM},
            "application/json": {"schema": {"$ref": "#/components/schemas/JsonImages"}},
        },
    }
}


@dataclass(frozen=True)
class _Done:
    """One image on its way through decoding and model."""

    decoded: Decoded
    decode_ms: float
    answer: Answer


@router.post(
    "/classify",
    summary="Recognise what images show",
    responses=problems(400, 413, 415, 422, 503),
    openapi_extra=_BODY,
)
async def classify(request: Request, query: Annotated[ClassifyQuery, Query()], service: TheService) -> ClassifyAnswer:
    """Rank the classes for each image.

    An image that cannot be read has an `error` in its own result; where it is the only one, the response has its
    status. Probabilities sum to 1 over the classes that take part.
    """
    snapshot = service.snapshot
    question = Question(
        top_k=query.top_k, scope=query.scope, classes=tuple(query.classes), seen_penalty=query.seen_penalty
    )
    rows = chosen_rows(snapshot, question)
    async with _deadline(service):
        images = await read_images(request, most=service.settings.max_batch_images)
        with service.batcher.admit(len(images)):
            outcomes = await _while_connected(request, _all(service, images))
    if len(outcomes) == 1 and isinstance(outcomes[0], D3GZSLError):
        raise outcomes[0]
    results: list[ImageAnswer | ImageFailure] = []
    for sent, outcome in zip(images, outcomes, strict=True):
        if isinstance(outcome, _Done):
            ranked = rank(service.bundle, snapshot, rows, outcome.answer.embedding, question)
            results.append(
                ImageAnswer(
                    id=sent.id,
                    width=outcome.decoded.width,
                    height=outcome.decoded.height,
                    novelty=image_novelty(service.bundle, outcome.answer.teacher_score),
                    predictions=[
                        Prediction(class_id=r.entry.id, name=r.entry.name, kind=r.entry.kind, probability=r.probability)
                        for r in ranked
                    ],
                )
            )
        else:
            results.append(ImageFailure(id=sent.id, error=_error(outcome)))
    done = [outcome for outcome in outcomes if isinstance(outcome, _Done)]
    return ClassifyAnswer(
        bundle=service.bundle.manifest.bundle_id,
        registry_version=snapshot.registry_version,
        head="exact",
        results=results,
        timing_ms=Timing(
            decode=max((d.decode_ms for d in done), default=0.0),
            queue=max((d.answer.queue_ms for d in done), default=0.0),
            inference=max((d.answer.inference_ms for d in done), default=0.0),
        ),
    )


async def _all(service: Service, images: Sequence[Sent]) -> list[_Done | D3GZSLError]:
    return await asyncio.gather(*(_one(service, image.data) for image in images))


async def _one(service: Service, data: bytes | MalformedBodyError) -> _Done | D3GZSLError:
    """Decode and embed one image; what is wrong with it alone comes back as a value."""
    if isinstance(data, MalformedBodyError):
        return data
    started = time.perf_counter()
    try:
        decoded = await service.decoder(data)
        decode_ms = 1000 * (time.perf_counter() - started)
        return _Done(decoded, decode_ms, await service.batcher.submit(decoded.image))
    except (BadImageError, InferenceError) as error:
        return error


def _error(error: D3GZSLError) -> ImageError:
    kind = kind_of(error)
    return ImageError(type=kind.type, title=kind.title, status=kind.status, detail=detail_of(error))


@asynccontextmanager
async def _deadline(service: Service) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(service.settings.deadline):
            yield
    except TimeoutError:
        raise DeadlineError(f"no answer within {service.settings.deadline:g} seconds") from None


async def _while_connected(request: Request, work: Any) -> list[_Done | D3GZSLError]:
    """The result of `work`, which is dropped when the client goes away."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise DeadlineError("the client has gone")
        result: list[_Done | D3GZSLError] = task.result()
        return result
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.wait({task, watch})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
