"""/classes/{id}/examples: the photos that a class was given as evidence."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from service.classes.class_table import KnownClass
from service.classes.edits import AddExamples, RemoveExample
from service.classes.leave_one_out import LeftOutPhoto
from service.http.access import may_change, may_preview, may_read
from service.http.class_schemas import ChangedExamples, ExampleList
from service.http.dependencies import Deadline, TheService, no_parameters, snapshot_for
from service.http.examples import embed_examples, example_list, warnings_of
from service.http.headers import PRECONDITIONS, TAGGED, VERSION, VERSION_HEADER, precondition, set_version
from service.http.images import IMAGES_BODY, read_images
from service.http.problems import problem_responses
from service.http.schemas import ReadQuery

router = APIRouter(tags=["classes"])


@router.get(
    "/classes/{class_id}/examples",
    summary="List a class's example photos",
    responses={200: {"headers": TAGGED}, **problem_responses(404, 422, 503)},
    dependencies=[Depends(may_read)],
)
async def list_examples(
    class_id: str, response: Response, query: Annotated[ReadQuery, Query()], service: TheService
) -> ExampleList:
    """Which photos the class was given; their pixels are not kept."""
    snapshot = await snapshot_for(service, query.min_registry_version)
    known = snapshot.there(class_id)
    set_version(response, snapshot.registry_version, etag=known.etag)
    return example_list(known)


@router.post(
    "/classes/{class_id}/examples",
    summary="Give a class example photos",
    responses={200: {"headers": TAGGED}, **problem_responses(400, 403, 404, 409, 412, 413, 415, 422, 503)},
    openapi_extra={**IMAGES_BODY, **PRECONDITIONS},
    dependencies=[Depends(no_parameters), Depends(may_preview)],
)
async def add_examples(class_id: str, request: Request, response: Response, service: TheService) -> ChangedExamples:
    """Add photos to those the class has. The same photo counts once; one that cannot be read refuses all of them.

    Photos that look more like another class than like this one are named in `warnings`.
    """
    condition, settings = precondition(request), service.settings
    service.changes.check()
    images = await read_images(request, most=settings.max_examples, most_bytes=settings.max_image_bytes)
    deadline = Deadline.from_now(settings.deadline)
    before = service.snapshot.get(class_id)
    to_be = None if before is None or before.entry.kind == "seen" else before.entry
    async with deadline.kept():
        given = await embed_examples(request, service, images, seconds=deadline.left, to_be=to_be)
    edit = AddExamples(
        class_id=class_id,
        examples=given.examples,
        embeddings=given.embeddings,
        most=settings.max_examples,
        condition=condition,
    )

    def change() -> tuple[KnownClass, tuple[LeftOutPhoto, ...]]:
        known = service.registrar.change(edit)
        (left_out,) = service.judge_photos(service.snapshot, [class_id])
        return known, left_out

    known, left_out = await service.changes.run(change)
    set_version(response, known.registry_version, etag=known.etag)
    return ChangedExamples(**dict(example_list(known)), warnings=warnings_of(left_out, given.places))


@router.delete(
    "/classes/{class_id}/examples/{example_id}",
    status_code=204,
    summary="Take an example photo back",
    responses={204: {"headers": VERSION}, **problem_responses(403, 404, 409, 412, 422, 503)},
    openapi_extra=PRECONDITIONS,
    dependencies=[Depends(no_parameters), Depends(may_change)],
)
async def remove_example(class_id: str, example_id: str, request: Request, service: TheService) -> Response:
    """The class is then what it would be had it never had this photo."""
    edit = RemoveExample(class_id=class_id, example_id=example_id, condition=precondition(request))
    known = await service.changes.run(service.registrar.change, edit)
    return Response(status_code=204, headers={VERSION_HEADER: str(known.registry_version)})
