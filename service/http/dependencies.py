"""What routes have in common: the service, the snapshot to read, pieces of answers, the problems they may give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from model.errors import D3GZSLError
from service.classes.class_table import KnownClass
from service.classes.neighbours import NEAR_DUPLICATE, Neighbour
from service.classes.ranking import Ranked, image_novelty
from service.classes.snapshot import Snapshot
from service.errors import TooLargeError
from service.http.class_schemas import NearDuplicate
from service.http.problems import KINDS, MEDIA_TYPE, detail_of, kind_of
from service.http.recognition import Embedded
from service.http.schemas import Explanation, HeadState, ImageAnswer, ImageError, ImageFailure, Prediction
from service.http.strictjson import loads
from service.service import Service


async def get_service(request: Request) -> Service:
    """The service that the app was made for, with the changes that others have committed before this request."""
    service: Service = request.app.state.service
    await service.follower.refresh()
    return service


TheService = Annotated[Service, Depends(get_service)]
Responses = dict[int | str, dict[str, Any]]

TimeoutMs = Annotated[
    int | None,
    Header(
        alias="D3GZSL-Timeout-Ms",
        ge=1,
        description="Milliseconds after which the client no longer wants the answer; at most the service's deadline.",
    ),
]

MAX_BODY_BYTES = 1_000_000
_ACCESS = (401, 403, 500)


def problems(*statuses: int, public: bool = False) -> Responses:
    """OpenAPI entries for statuses answered with a problem document; those of access and failure are added."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        status: {"description": _titles(status), "content": {MEDIA_TYPE: schema}}
        for status in sorted({*statuses, *((500,) if public else _ACCESS)})
    }


def _titles(status: int) -> str:
    return "; ".join(sorted({kind.title for kind in KINDS.values() if kind.status == status}))


def json_body(schema: str) -> dict[str, Any]:
    """OpenAPI entry for a JSON body that the route reads itself."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


def fields_of(known: KnownClass) -> dict[str, Any]:
    """What is answered about a class."""
    return {**known.entry.to_json(), "registry_version": known.registry_version}


def near_duplicates(neighbours: Sequence[Neighbour]) -> list[NearDuplicate]:
    """What is answered about classes that are almost the same."""
    return [
        NearDuplicate(
            class_id=n.known.entry.id,
            name=n.known.entry.name,
            attribute_cosine=n.attribute_cosine,
            row_cosine=n.row_cosine,
            threshold=NEAR_DUPLICATE,
        )
        for n in neighbours
    ]


async def json_of(request: Request) -> object:
    """The JSON of a small body; TooLargeError for one that is not."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"the body has more than the {MAX_BODY_BYTES} bytes allowed")
    return loads(bytes(body))


async def snapshot_for(service: Service, version: int, *, seconds: float | None = None) -> Snapshot:
    """The newest snapshot, once it has reached a version; VersionNotReachedError where that takes too long."""
    if service.snapshot.registry_version >= version:
        return service.snapshot
    return await service.wait_for_version(version, deadline=service.settings.deadline if seconds is None else seconds)


async def head_state(service: Service, version: int, *, wait: bool) -> HeadState:
    """Whether the rows of a version are exact; `wait` gives them until the deadline to become so."""
    deadline = service.settings.deadline
    snapshot = await service.wait_for_exact(version, deadline=deadline) if wait else service.snapshot
    return "exact" if snapshot.exact and snapshot.registry_version >= version else "provisional"


def image_answer(
    service: Service,
    image_id: str,
    outcome: Embedded | D3GZSLError,
    best: Sequence[Ranked],
    explanations: Sequence[Explanation] = (),
) -> ImageAnswer | ImageFailure:
    """What is answered about one image: its classes, of which the first may be explained, or why it has none."""
    if isinstance(outcome, D3GZSLError):
        kind = kind_of(outcome)
        error = ImageError(type=kind.type, title=kind.title, status=kind.status, detail=detail_of(outcome))
        return ImageFailure(id=image_id, error=error)
    predictions = [
        Prediction(class_id=r.entry.id, name=r.entry.name, kind=r.entry.kind, probability=r.probability) for r in best
    ]
    for i, explanation in enumerate(explanations):
        predictions[i] = predictions[i].model_copy(update={"explanation": explanation})
    return ImageAnswer(
        id=image_id,
        width=outcome.decoded.width,
        height=outcome.decoded.height,
        novelty=image_novelty(service.bundle, outcome.answer.teacher_score),
        predictions=predictions,
    )
