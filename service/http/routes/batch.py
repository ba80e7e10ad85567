"""POST /classes:batch: many classes as one version, all or none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

from service.classes.edits import Create, Put
from service.classes.neighbours import Neighbour
from service.classes.snapshot import Snapshot
from service.errors import BatchTooLargeError
from service.http.access import may_change
from service.http.class_documents import Described, read_classes
from service.http.class_schemas import BatchAnswer, BatchDocument, BatchItem, ChangeQuery
from service.http.dependencies import TheService, head_state, json_body, near_duplicates, problems
from service.http.headers import VERSION, VERSION_HEADER
from service.http.images import parse
from service.http.strictjson import MAX_VALUES, loads
from service.service import Service

router = APIRouter(tags=["classes"], dependencies=[Depends(may_change)])


@router.post(
    "/classes:batch",
    summary="Register many classes",
    responses={200: {"headers": VERSION}, **problems(400, 409, 413, 415, 421, 422, 503)},
    openapi_extra=json_body("BatchDocument"),
)
async def store_batch(
    request: Request, response: Response, query: Annotated[ChangeQuery, Query()], service: TheService
) -> BatchAnswer:
    """Create or replace many classes as one version of the table; where one of them is refused, none is stored."""
    mode, described = await asyncio.to_thread(_read, await request.body(), service)

    def store() -> tuple[Snapshot, Snapshot, list[list[Neighbour]]]:
        edit = Create if mode == "create" else Put
        before, after = service.registrar.apply_batch([edit(entry=one.entry) for one in described])
        rows = [(one.entry, after.row(one.entry.id)) for one in described]
        return before, after, service.neighbours.near_duplicates(after, rows)

    before, after, duplicates = await service.changes.run(store)
    response.headers[VERSION_HEADER] = str(after.registry_version)
    return BatchAnswer(
        registry_version=after.registry_version,
        head=await head_state(service, after.registry_version, wait=query.wait == "exact"),
        classes=[_item(one, before, after, near) for one, near in zip(described, duplicates, strict=True)],
    )


def _read(body: bytes, service: Service) -> tuple[Literal["create", "upsert"], list[Described]]:
    most, vocabulary = service.settings.max_batch_classes, service.bundle.manifest.vocabulary
    given = loads(body, max_values=MAX_VALUES + 2 * most * len(vocabulary))
    batch = parse(BatchDocument, given, "the batch is not valid")
    if len(batch.classes) > most:
        raise BatchTooLargeError(f"the batch has {len(batch.classes)} classes; at most {most} are allowed")
    return batch.mode, read_classes(batch.classes, vocabulary)


def _item(one: Described, before: Snapshot, after: Snapshot, near: Sequence[Neighbour]) -> BatchItem:
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
        filled=list(one.filled),
        out_of_range=list(one.out_of_range),
        near_duplicates=near_duplicates(near),
    )
