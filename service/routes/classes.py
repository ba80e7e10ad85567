"""/classes: what can be recognised, and how that changes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response

from model.classes import ClassEntry, slug
from model.errors import Problem
from service.access import may_change, may_classify
from service.errors import InvalidRequestError, TooLargeError, UnknownClassError
from service.images import parse
from service.registrar import Precondition
from service.routes.shared import TheService, json_body, problems
from service.schemas import ChangedClass, ClassAnswer, ClassDocument, ClassPage, ClassWords, ListQuery
from service.service import Service
from service.snapshot import KnownClass
from service.strictjson import loads

router = APIRouter(tags=["classes"])
reads = [Depends(may_classify)]
changes = [Depends(may_change)]

MAX_BODY_BYTES = 1_000_000
VERSION_HEADER = "registry-version"
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_HEADERS = {
    "ETag": {"description": "Changes whenever the class changes.", "schema": {"type": "string"}},
    "Registry-Version": {"description": "Version of the class table.", "schema": {"type": "integer"}},
}
_LOCATION = {"Location": {"description": "Path of the class.", "schema": {"type": "string"}}}
_PRECONDITIONS = {
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}
        for name, description in (
            ("If-Match", "Entity tags one of which the class must have, or *."),
            ("If-None-Match", "Entity tags the class must not have; * for create only."),
        )
    ]
}


@router.get(
    "/classes",
    summary="List classes",
    response_model=ClassPage,
    responses={
        200: {"headers": _HEADERS},
        304: {"description": "The page still has the tag of If-None-Match."},
        **problems(422),
    },
    dependencies=reads,
)
async def list_classes(
    request: Request, response: Response, query: Annotated[ListQuery, Query()], service: TheService
) -> ClassPage | Response:
    """Classes in the order of their ids, a page at a time; changes between pages neither repeat nor hide others."""
    snapshot = service.snapshot
    after = "" if query.cursor is None else _from_cursor(query.cursor)
    wanted = "" if query.name is None else query.name.casefold()
    matching = (
        known
        for known in snapshot.by_id
        if known.entry.id > after and query.kind in (None, known.entry.kind) and wanted in known.entry.name.casefold()
    )
    page = list(islice(matching, query.limit + 1))
    more = len(page) > query.limit
    page = page[: query.limit]
    etag = _page_tag(page, more)
    if _unchanged(request, etag):
        return Response(status_code=304, headers={"etag": etag})
    response.headers["etag"] = etag
    response.headers[VERSION_HEADER] = str(snapshot.registry_version)
    return ClassPage(
        classes=[ClassAnswer(**_fields(known)) for known in page],
        next_cursor=_to_cursor(page[-1].entry.id) if more else None,
    )


@router.get(
    "/classes/{class_id}",
    summary="Show a class",
    response_model=ClassAnswer,
    responses={
        200: {"headers": _HEADERS},
        304: {"description": "The class still has the tag of If-None-Match."},
        **problems(404, 422),
    },
    dependencies=reads,
)
async def show_class(
    class_id: str, request: Request, response: Response, service: TheService
) -> ClassAnswer | Response:
    """One class, with its entity tag."""
    snapshot = service.snapshot
    known = snapshot.get(class_id)
    if known is None:
        raise UnknownClassError(f"no class has the id {class_id!r}")
    if _unchanged(request, known.etag):
        return Response(status_code=304, headers={"etag": known.etag})
    _describe(response, known, snapshot.registry_version)
    return ClassAnswer(**_fields(known))


@router.post(
    "/classes",
    status_code=201,
    summary="Register a class",
    responses={201: {"headers": {**_HEADERS, **_LOCATION}}, **problems(400, 409, 413, 415, 421, 422, 503)},
    openapi_extra=json_body("ClassDocument"),
    dependencies=changes,
)
async def create_class(request: Request, response: Response, service: TheService) -> ChangedClass:
    """Register a class by its attributes; answered when it is on disk, and recognised from the next request on."""
    document = parse(ClassDocument, await _body(request), "the class is not valid")
    class_id = document.id or slug(document.name)
    if not class_id:
        raise InvalidRequestError(
            "the class needs an id",
            [Problem(pointer="/id", detail=f"expected an id, as none can be made from {document.name!r}")],
        )
    entry, filled, beyond = _entry(service, class_id, document)
    known = await service.changes.run(service.registrar.create, entry)
    response.headers["location"] = f"{request.scope.get('root_path', '')}/classes/{class_id}"
    _describe(response, known, known.registry_version)
    return ChangedClass(**_fields(known), filled=filled, out_of_range=beyond)


@router.put(
    "/classes/{class_id}",
    summary="Create or replace a class",
    responses={
        200: {"description": "Replaced, or already so.", "headers": _HEADERS},
        201: {"description": "Created.", "model": ChangedClass, "headers": {**_HEADERS, **_LOCATION}},
        **problems(400, 409, 412, 413, 415, 421, 422, 503),
    },
    openapi_extra={**json_body("ClassDocument"), **_PRECONDITIONS},
    dependencies=changes,
)
async def put_class(class_id: str, request: Request, response: Response, service: TheService) -> ChangedClass:
    """Make the class what the body says; doing so twice is the same as once."""
    condition = _precondition(request)
    document = parse(ClassDocument, await _body(request), "the class is not valid")
    if document.id not in (None, class_id):
        raise InvalidRequestError(
            "the ids differ", [Problem(pointer="/id", detail=f"expected {class_id!r} as in the path or nothing")]
        )
    entry, filled, beyond = _entry(service, class_id, document)
    stored = await service.changes.run(service.registrar.put, entry, condition)
    if stored.created:
        response.status_code = 201
        response.headers["location"] = f"{request.scope.get('root_path', '')}/classes/{class_id}"
    _describe(response, stored.known, stored.known.registry_version)
    return ChangedClass(**_fields(stored.known), filled=filled, out_of_range=beyond)


@router.patch(
    "/classes/{class_id}",
    summary="Change a class's words",
    responses={200: {"headers": _HEADERS}, **problems(400, 404, 409, 412, 413, 415, 421, 422, 503)},
    openapi_extra={**json_body("ClassWords"), **_PRECONDITIONS},
    dependencies=changes,
)
async def describe_class(class_id: str, request: Request, response: Response, service: TheService) -> ClassAnswer:
    """Replace name, description or metadata; fields that are not given stay."""
    condition = _precondition(request)
    words = parse(ClassWords, await _body(request), "the change is not valid").model_dump(exclude_unset=True)
    if not words:
        raise InvalidRequestError(
            "nothing to change", [Problem(pointer="", detail="expected name, description or metadata, got none")]
        )
    known = await service.changes.run(service.registrar.describe, class_id, words, condition)
    _describe(response, known, known.registry_version)
    return ClassAnswer(**_fields(known))


@router.delete(
    "/classes/{class_id}",
    status_code=204,
    summary="Remove a class",
    responses={
        204: {"headers": {"Registry-Version": _HEADERS["Registry-Version"]}},
        **problems(404, 409, 412, 421, 422, 503),
    },
    openapi_extra=_PRECONDITIONS,
    dependencies=changes,
)
async def remove_class(class_id: str, request: Request, service: TheService) -> Response:
    """Forget a class; seen classes cannot be removed."""
    version = await service.changes.run(service.registrar.remove, class_id, _precondition(request))
    return Response(status_code=204, headers={VERSION_HEADER: str(version)})


async def _body(request: Request) -> object:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLargeError(f"the body has more than the {MAX_BODY_BYTES} bytes allowed")
    return loads(bytes(body))


def _entry(service: Service, class_id: str, document: ClassDocument) -> tuple[ClassEntry, list[str], list[str]]:
    """The class of a document, the attributes that were filled, and those beyond the training classes' range."""
    vocabulary = service.bundle.manifest.vocabulary
    values, filled = vocabulary.resolve(document.attributes)
    entry = ClassEntry(
        id=class_id,
        name=document.name,
        kind="unseen",
        attributes=tuple(values.tolist()),
        description=document.description,
        metadata=document.metadata,
    )
    return entry, list(filled), list(vocabulary.out_of_range(np.asarray(values)))


def _fields(known: KnownClass) -> dict[str, Any]:
    return {**known.entry.to_json(), "registry_version": known.registry_version}


def _describe(response: Response, known: KnownClass, version: int) -> None:
    response.headers["etag"] = known.etag
    response.headers[VERSION_HEADER] = str(version)


def _precondition(request: Request) -> Precondition:
    return Precondition(match=_tags(request, "if-match"), none_match=_tags(request, "if-none-match", weak=True))


def _unchanged(request: Request, etag: str) -> bool:
    tags = _tags(request, "if-none-match", weak=True)
    return "*" in tags or etag in tags


def _page_tag(page: Sequence[KnownClass], more: bool) -> str:
    return f'"{hashlib.sha256(repr((more, [known.etag for known in page])).encode()).hexdigest()[:16]}"'


def _tags(request: Request, header: str, *, weak: bool = False) -> tuple[str, ...]:
    """Entity tags of a header, empty where it was not sent; weak ones never match where strong ones are needed."""
    values = request.headers.getlist(header)
    if not values:
        return ()
    joined = ",".join(values).strip()
    if joined == "*":
        return ("*",)
    matches = [_TAG.fullmatch(part.strip()) for part in joined.split(",")]
    if not all(matches):
        raise InvalidRequestError(
            "a precondition cannot be read",
            [Problem(pointer=f"/header/{header}", detail=f'expected * or tags like "12-abc", got {joined[:100]!r}')],
        )
    return tuple(_strong(m[1], m[2], weak) for m in matches if m)


def _strong(prefix: str | None, tag: str, weak: bool) -> str:
    return f'"{tag}"' if weak or prefix is None else f'W/"{tag}"'


def _to_cursor(class_id: str) -> str:
    return base64.urlsafe_b64encode(class_id.encode()).decode().rstrip("=")


def _from_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequestError(
            "the cursor cannot be read",
            [Problem(pointer="/query/cursor", detail=f"expected a next_cursor, got {cursor[:100]!r}")],
        ) from None
