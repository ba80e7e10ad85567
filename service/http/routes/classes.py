"""/classes: what can be recognised, and how one class or many change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from model.classes import CLASS_ID_PATTERN
from model.outside.names import fold_name
from service.classes.class_table import KnownClass
from service.classes.edits import Create, Put
from service.classes.leave_one_out import LeftOutPhoto, Squares, photo_squares
from service.classes.like import ClassesToBeLike
from service.classes.neighbours import Neighbour
from service.classes.registrar import StoredClass
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
from service.http.examples import GivenExamples, embed_examples, embed_examples_of_batch, warnings_of
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
from service.http.images import EXAMPLES_FIELD, SentImage, described_body, parse, read_described_images
from service.http.problems import problem_responses
from service.http.recognition import Client, while_connected
from service.http.schemas import ReadQuery
from service.http.threads import answer, read_in_turn
from service.service import Service

Around = tuple[list[Neighbour], tuple[LeftOutPhoto, ...]]
"""The classes that are almost the same as a changed one, and its photos, each as if the class did not have it."""

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
    openapi_extra=described_body("DescribedDocument", EXAMPLES_FIELD),
    dependencies=with_photos,
)
async def create_class(request: Request, response: Response, service: TheService) -> ChangedClass:
    """Register a class by attributes, by text, by example photos, or by any of them together.

    Answered when it is on disk, and recognised from the next request on.
    """
    described, given = await _read_described(request, service)

    def create() -> StoredClass:
        one = described
        if described.id_made:
            (one,) = with_ids([described], service.registrar.catch_up().get)
        known = service.registrar.create(given.of(one.entry), embeddings=given.embeddings)
        return StoredClass(known=known, created=True)

    stored, around = await _store(service, create, given)
    known = stored.known
    set_location(request, response, known.entry.id)
    set_version(response, known.registry_version, etag=known.etag)
    return _changed(known, described, given, around)


@router.put(
    "/classes/{class_id}",
    summary="Create or replace a class",
    responses={
        200: {"description": "Replaced, or already so.", "headers": TAGGED},
        201: {"description": "Created.", "model": ChangedClass, "headers": {**TAGGED, **LOCATION}},
        **problem_responses(400, 403, 409, 412, 413, 415, 422, 503),
    },
    openapi_extra={**described_body("DescribedDocument", EXAMPLES_FIELD), **PRECONDITIONS},
    dependencies=with_photos,
)
async def put_class(class_id: NewClassId, request: Request, response: Response, service: TheService) -> ChangedClass:
    """Make the class what the body says; doing so twice is the same as once."""
    condition = precondition(request)
    described, given = await _read_described(request, service, class_id=class_id)

    def put() -> StoredClass:
        return service.registrar.put(given.of(described.entry), condition, embeddings=given.embeddings)

    stored, around = await _store(service, put, given)
    known = stored.known
    if stored.created:
        response.status_code = 201
        set_location(request, response, class_id)
    set_version(response, known.registry_version, etag=known.etag)
    return _changed(known, described, given, around)


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
    document, sent = await read_described_images(request, most={EXAMPLES_FIELD: service.settings.max_examples})
    images = sent[EXAMPLES_FIELD]
    if not images and len(await request.body()) > MAX_BODY_BYTES:
        raise TooLargeError(f"the body has more than the {MAX_BODY_BYTES} bytes allowed without photos")
    newest = isinstance(document, Mapping) and "like" in document
    others = ClassesToBeLike(await service.changes.run(service.registrar.catch_up) if newest else service.snapshot)
    described = await asyncio.to_thread(
        read_class,
        document,
        vocabulary,
        scale=service.scale,
        others=others,
        encoder=service.text_encoder,
        class_id=class_id,
        with_photos=bool(images),
    )
    deadline = Deadline.from_now(service.settings.deadline)
    async with deadline.kept():
        given = await embed_examples(request, service, images, seconds=deadline.left, to_be=described.entry)
    return described, given


async def _store(
    service: Service, change: Callable[[], StoredClass], given: GivenExamples
) -> tuple[StoredClass, Around]:
    """Make a change of one class; what its photos are then compared by is computed while it is stored."""

    def around(squares: Squares) -> Around:
        (left_out,) = service.judge_photos(service.snapshot, [stored.known.id], squares=squares)
        return service.near_duplicates(stored.known.entry), left_out

    comparing = asyncio.ensure_future(asyncio.to_thread(photo_squares, service.bundle, given.embeddings))
    try:
        stored = await service.changes.run(change)
        return stored, await asyncio.to_thread(around, await comparing)
    finally:
        comparing.cancel()


def _changed(known: KnownClass, described: DescribedClass, given: GivenExamples, around: Around) -> ChangedClass:
    duplicates, left_out = around
    return ChangedClass(
        **fields_of(known),
        head="exact",
        filled=list(described.filled),
        out_of_range=list(described.out_of_range),
        near_duplicates=near_duplicates(duplicates),
        warnings=[*described.warnings, *warnings_of(left_out, given.places)],
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

    Each may have example photos. Where one of these cannot be read, nothing is stored either.

    Nothing is stored for a client that has gone before its batch was ready to be.
    """
    service.changes.check()
    client, body = Client(), await request.body()

    def store() -> tuple[list[DescribedClass], Snapshot, Snapshot, list[Around]]:
        client.check()
        edit = Create if mode == "create" else Put
        described = with_ids(read, service.registrar.catch_up().get)
        edits = [
            edit(entry=given.of(one.entry), embeddings=given.embeddings)
            for one, given in zip(described, photos, strict=True)
        ]
        before, after = service.registrar.apply_batch(edits, go_on=client.check)
        duplicates = service.neighbours.near_duplicates(after, [(e.entry, after.row(e.class_id)) for e in edits])
        left_out = service.judge_photos(after, [e.class_id for e in edits])
        return described, before, after, list(zip(duplicates, left_out, strict=True))

    with client.there():
        by_like = b'"like"' in body  # which may look through all classes as they are now
        newest = await service.changes.run(service.registrar.catch_up) if by_like else service.snapshot
        if by_like or service.text_encoder is not None:  # texts take long, however short the body is
            reading = asyncio.to_thread(_read_batch, body, service, client, newest)
            mode, read, sent = await while_connected(request, reading)
        else:
            mode, read, sent = await read_in_turn(request, _read_batch, body, service, client, newest)
        deadline = Deadline.from_now(service.settings.deadline)
        async with deadline.kept():
            photos = await embed_examples_of_batch(request, service, sent, seconds=deadline.left)
        described, before, after, around = await while_connected(request, service.changes.run(store))

    def make() -> BatchAnswer:
        items = zip(described, photos, around, strict=True)
        return BatchAnswer(
            registry_version=after.registry_version,
            head="exact",
            classes=[_item(i, *of_one, before, after) for i, of_one in enumerate(items)],
        )

    headers = {VERSION_HEADER: str(after.registry_version)}
    return await answer(make, values=10 * len(described), headers=headers)


def _read_batch(
    body: bytes, service: Service, client: Client, snapshot: Snapshot
) -> tuple[Literal["create", "upsert"], list[DescribedClass], list[list[SentImage]]]:
    """The mode of a batch, its classes, and the photos that came with each."""
    settings, vocabulary = service.settings, service.bundle.manifest.vocabulary
    most, most_photos = settings.max_batch_classes, min(settings.max_batch_examples, settings.queue_size)
    given = loads(body, max_values=MAX_VALUES + 2 * most * len(vocabulary))
    batch = parse(BatchDocument, given, "the batch is not valid")
    if len(batch.classes) > most:
        raise BatchTooLargeError(f"the batch has {len(batch.classes)} classes; at most {most} are allowed")
    photos = [one.get(EXAMPLES_FIELD) for one in batch.classes if isinstance(one, dict)]
    number = sum(len(of_one) for of_one in photos if isinstance(of_one, list))
    if number > most_photos:
        raise TooLargeError(f"the batch has {number} example photos; at most {most_photos} of all classes are allowed")
    read, sent = read_classes(
        batch.classes,
        vocabulary,
        scale=service.scale,
        others=ClassesToBeLike(snapshot),
        most_photos=settings.max_examples,
        encoder=service.text_encoder,
        go_on=client.check,
    )
    return batch.mode, read, sent


def _item(
    place: int, one: DescribedClass, given: GivenExamples, around: Around, before: Snapshot, after: Snapshot
) -> BatchItem:
    near, left_out = around
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
        examples=len(known.entry.examples),
        like=one.entry.like,
        filled=list(one.filled),
        out_of_range=list(one.out_of_range),
        near_duplicates=near_duplicates(near),
        warnings=[*one.warnings, *warnings_of(left_out, given.places, within=f"/classes/{place}")],
    )
