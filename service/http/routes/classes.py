"""/classes: what can be recognised, and how one class or many change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from model.classes import CLASS_ID_PATTERN
from model.outside.names import fold_name
from service.classes.class_table import KnownClass
from service.classes.edits import Create, Put
from service.classes.like import ClassesToBeLike
from service.classes.neighbours import Neighbour
from service.classes.snapshot import Snapshot
from service.errors import BatchTooLargeError, TooLargeError
from service.http.access import may_change, may_preview, may_read
from service.http.bodies.strictjson import MAX_VALUES, loads
from service.http.class_documents import (
    DescribedClass,
    fields_of,
    near_duplicates,
    read_class,
    read_classes,
    read_words,
    with_ids,
)
from service.http.class_schemas import (
    BatchAnswer,
    BatchDocument,
    BatchItem,
    ChangedClass,
    ClassAnswer,
    ClassPage,
    ListQuery,
)
from service.http.dependencies import (
    MAX_BODY_BYTES,
    Deadline,
    TheService,
    json_body,
    json_of,
    no_parameters,
    snapshot_for,
)
from service.http.examples import GivenExamples, embed_examples
from service.http.headers import (
    LOCATION,
    PRECONDITIONS,
    TAGGED,
    UNLESS_CHANGED,
    VERSION,
    VERSION_HEADER,
    from_cursor,
    not_modified,
    page_tag,
    precondition,
    set_location,
    set_version,
    to_cursor,
)
from service.http.images import EXAMPLES_FIELD, described_body, parse, read_described_images
from service.http.problems import problem_responses
from service.http.recognition import Client, while_connected
from service.http.schemas import ReadQuery
from service.http.threads import answer, off_the_loop
from service.service import Service

NewClassId = Annotated[str, Path(json_schema_extra={"pattern": CLASS_ID_PATTERN})]

router = APIRouter(tags=["classes"])
reads = [Depends(may_read)]
changes = [Depends(may_change)]
_MANY_CLASSES = 1000  # are looked through in about a millisecond
stores = [*changes, Depends(no_parameters)]
with_photos = [Depends(may_preview), Depends(no_parameters)]


@router.get(
    "/classes",
    summary="List classes",
    response_model=ClassPage,
    responses={
        200: {"headers": TAGGED},
        304: {"description": "The page still has the tag of If-None-Match."},
        **problem_responses(422, 503),
    },
    openapi_extra=UNLESS_CHANGED,
    dependencies=reads,
)
async def list_classes(request: Request, query: Annotated[ListQuery, Query()], service: TheService) -> Response:
    """Classes in the order of their ids, a page at a time; changes between pages neither repeat nor hide others."""
    snapshot = await snapshot_for(service, query.min_registry_version)
    after = "" if query.cursor is None else from_cursor(query.cursor)
    wanted = "" if query.name is None else fold_name(query.name)

    def find() -> tuple[list[KnownClass], bool, str]:
        matching = (
            known
            for known in snapshot.after(after)
            if query.kind in (None, known.entry.kind) and wanted in known.folded_name
        )
        page = list(islice(matching, query.limit + 1))
        more = len(page) > query.limit
        page = page[: query.limit]
        return page, more, page_tag(page, more)

    page, more, etag = await asyncio.to_thread(find) if len(snapshot) > _MANY_CLASSES else find()
    if (unchanged := not_modified(request, etag, snapshot.registry_version)) is not None:
        return unchanged

    def make() -> ClassPage:
        return ClassPage(
            classes=[ClassAnswer(**fields_of(known)) for known in page],
            next_cursor=to_cursor(page[-1].entry.id) if more else None,
        )

    headers = {"etag": etag, VERSION_HEADER: str(snapshot.registry_version)}
    return await answer(make, values=len(page) * len(service.bundle.manifest.vocabulary), headers=headers)


@router.get(
    "/classes/{class_id}",
    summary="Show a class",
    response_model=ClassAnswer,
    responses={
        200: {"headers": TAGGED},
        304: {"description": "The class still has the tag of If-None-Match."},
        **problem_responses(404, 422, 503),
    },
    openapi_extra=UNLESS_CHANGED,
    dependencies=reads,
)
async def show_class(
    class_id: str, request: Request, response: Response, query: Annotated[ReadQuery, Query()], service: TheService
) -> ClassAnswer | Response:
    """One class, with its entity tag."""
    snapshot = await snapshot_for(service, query.min_registry_version)
    known = snapshot.there(class_id)
    if (unchanged := not_modified(request, known.etag, snapshot.registry_version)) is not None:
        return unchanged
    set_version(response, snapshot.registry_version, etag=known.etag)
    return ClassAnswer(**fields_of(known))


@router.post(
    "/classes",
    status_code=201,
    summary="Register a class",
    responses={201: {"headers": {**TAGGED, **LOCATION}}, **problem_responses(400, 403, 409, 413, 415, 422, 503)},
    openapi_extra=described_body("DescribedDocument", field=EXAMPLES_FIELD),
    dependencies=with_photos,
)
async def create_class(request: Request, response: Response, service: TheService) -> ChangedClass:
    """Register a class by its attributes, and by example photos beside them.

    Answered when it is on disk, and recognised from the next request on.
    """
    described, given = await _read_described(request, service)

    def create() -> tuple[KnownClass, list[Neighbour]]:
        (one,) = with_ids([described], service.registrar.catch_up().get)
        known = service.registrar.create(given.of(one.entry), embeddings=given.embeddings)
        return known, service.near_duplicates(known.entry)

    known, duplicates = await service.changes.run(create)
    set_location(request, response, known.entry.id)
    set_version(response, known.registry_version, etag=known.etag)
    return _changed(known, described, duplicates)


@router.put(
    "/classes/{class_id}",
    summary="Create or replace a class",
    responses={
        200: {"description": "Replaced, or already so.", "headers": TAGGED},
        201: {"description": "Created.", "model": ChangedClass, "headers": {**TAGGED, **LOCATION}},
        **problem_responses(400, 403, 409, 412, 413, 415, 422, 503),
    },
    openapi_extra={**described_body("DescribedDocument", field=EXAMPLES_FIELD), **PRECONDITIONS},
    dependencies=with_photos,
)
async def put_class(class_id: NewClassId, request: Request, response: Response, service: TheService) -> ChangedClass:
    """Make the class what the body says; doing so twice is the same as once."""
    condition = precondition(request)
    described, given = await _read_described(request, service, class_id=class_id)

    def put() -> tuple[KnownClass, bool, list[Neighbour]]:
        stored = service.registrar.put(given.of(described.entry), condition, embeddings=given.embeddings)
        return stored.known, stored.created, service.near_duplicates(stored.known.entry)

    known, created, duplicates = await service.changes.run(put)
    if created:
        response.status_code = 201
        set_location(request, response, class_id)
    set_version(response, known.registry_version, etag=known.etag)
    return _changed(known, described, duplicates)


@router.patch(
    "/classes/{class_id}",
    summary="Change a class's words",
    responses={200: {"headers": TAGGED}, **problem_responses(400, 403, 404, 409, 412, 413, 415, 422, 503)},
    openapi_extra={**json_body("ClassWords"), **PRECONDITIONS},
    dependencies=changes,
)
async def describe_class(class_id: str, request: Request, response: Response, service: TheService) -> ClassAnswer:
    """Replace name, description or metadata; fields that are not given stay."""
    condition = precondition(request)
    service.changes.check()
    words = await json_of(request, read_words)
    known = await service.changes.run(service.registrar.describe, class_id, words, condition)
    set_version(response, known.registry_version, etag=known.etag)
    return ClassAnswer(**fields_of(known))


@router.delete(
    "/classes/{class_id}",
    status_code=204,
    summary="Remove a class",
    responses={204: {"headers": VERSION}, **problem_responses(403, 404, 409, 412, 422, 503)},
    openapi_extra=PRECONDITIONS,
    dependencies=changes,
)
async def remove_class(class_id: str, request: Request, service: TheService) -> Response:
    """Forget a class; seen classes cannot be removed."""
    version = await service.changes.run(service.registrar.remove, class_id, precondition(request))
    return Response(status_code=204, headers={VERSION_HEADER: str(version)})


async def _read_described(
    request: Request, service: Service, *, class_id: str | None = None
) -> tuple[DescribedClass, GivenExamples]:
    """The class that a request describes, and the photos that came with it."""
    vocabulary = service.bundle.manifest.vocabulary
    service.changes.check()
    document, images = await read_described_images(request, most=service.settings.max_examples, field=EXAMPLES_FIELD)
    if not images and len(await request.body()) > MAX_BODY_BYTES:
        raise TooLargeError(f"the body has more than the {MAX_BODY_BYTES} bytes allowed without photos")
    newest = isinstance(document, Mapping) and "like" in document
    others = ClassesToBeLike(await service.changes.run(service.registrar.catch_up) if newest else service.snapshot)
    described = await asyncio.to_thread(
        read_class, document, vocabulary, scale=service.scale, others=others, class_id=class_id
    )
    deadline = Deadline.from_now(service.settings.deadline)
    async with deadline.kept():
        return described, await embed_examples(request, service, images, seconds=deadline.left)


def _changed(known: KnownClass, described: DescribedClass, duplicates: Sequence[Neighbour]) -> ChangedClass:
    return ChangedClass(
        **fields_of(known),
        head="exact",
        filled=list(described.filled),
        out_of_range=list(described.out_of_range),
        warnings=list(described.warnings),
        near_duplicates=near_duplicates(duplicates),
    )


@router.post(
    "/classes:batch",
    summary="Register many classes",
    response_model=BatchAnswer,
    responses={200: {"headers": VERSION}, **problem_responses(400, 403, 409, 413, 415, 422, 503)},
    openapi_extra=json_body("BatchDocument"),
    dependencies=stores,
)
async def store_batch(request: Request, service: TheService) -> Response:
    """Create or replace many classes as one version of the table; where one of them is refused, none is stored.

    Nothing is stored for a client that has gone before its batch was ready to be.
    """
    service.changes.check()
    body = await request.body()
    if b'"like"' in body:  # which may look through all classes as they are now
        newest = await service.changes.run(service.registrar.catch_up)
        mode, read = await asyncio.to_thread(_read_batch, body, service, newest)
    else:
        mode, read = await off_the_loop(_read_batch, body, service, service.snapshot)
    client = Client()

    def store() -> tuple[list[DescribedClass], Snapshot, Snapshot, list[list[Neighbour]]]:
        client.check()
        edit = Create if mode == "create" else Put
        described = with_ids(read, service.registrar.catch_up().get)
        before, after = service.registrar.apply_batch([edit(entry=one.entry) for one in described], go_on=client.check)
        rows = [(one.entry, after.row(one.entry.id)) for one in described]
        return described, before, after, service.neighbours.near_duplicates(after, rows)

    with client.there():
        described, before, after, duplicates = await while_connected(request, service.changes.run(store))

    def make() -> BatchAnswer:
        return BatchAnswer(
            registry_version=after.registry_version,
            head="exact",
            classes=[_item(one, before, after, near) for one, near in zip(described, duplicates, strict=True)],
        )

    headers = {VERSION_HEADER: str(after.registry_version)}
    return await answer(make, values=10 * len(described), headers=headers)


def _read_batch(
    body: bytes, service: Service, snapshot: Snapshot
) -> tuple[Literal["create", "upsert"], list[DescribedClass]]:
    most, vocabulary = service.settings.max_batch_classes, service.bundle.manifest.vocabulary
    given = loads(body, max_values=MAX_VALUES + 2 * most * len(vocabulary))
    batch = parse(BatchDocument, given, "the batch is not valid")
    if len(batch.classes) > most:
        raise BatchTooLargeError(f"the batch has {len(batch.classes)} classes; at most {most} are allowed")
    return batch.mode, read_classes(batch.classes, vocabulary, scale=service.scale, others=ClassesToBeLike(snapshot))


def _item(one: DescribedClass, before: Snapshot, after: Snapshot, near: Sequence[Neighbour]) -> BatchItem:
    former, known = before.get(one.entry.id), after.get(one.entry.id)
    assert known is not None
    status: Literal["created", "replaced", "unchanged"] = "created"
    if former is not None:
        status = "unchanged" if former.registry_version == known.registry_version else "replaced"
    return BatchItem(
        id=one.entry.id,
        status=status,
        registry_version=known.registry_version,
        etag=known.etag,
        like=one.entry.like,
        filled=list(one.filled),
        out_of_range=list(one.out_of_range),
        warnings=list(one.warnings),
        near_duplicates=near_duplicates(near),
    )
