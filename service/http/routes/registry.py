"""/registry: the version of the class table, those before it, and the way back to one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response

from service.classes.snapshot import Snapshot
from service.http.access import may_read, may_roll_back
from service.http.dependencies import TheService, json_body, json_of, snapshot_for
from service.http.headers import (
    TAGGED,
    UNLESS_CHANGED,
    bad_cursor,
    from_cursor,
    not_modified,
    precondition_parameters,
    set_version,
    tags_of,
    to_cursor,
)
from service.http.images import parse
from service.http.problems import problem_responses
from service.http.schemas import (
    KindCounts,
    ReadQuery,
    RegistryAnswer,
    RollbackDocument,
    VersionPage,
    VersionRecord,
    VersionsQuery,
)
from service.http.threads import answer
from service.service import Service

router = APIRouter(tags=["registry"])
reads = [Depends(may_read)]
changes = [Depends(may_roll_back)]

_VERSION_TAG = re.compile(r'"(\d{1,18})"')


@router.get(
    "/registry",
    summary="The class table's version",
    response_model=RegistryAnswer,
    responses={
        200: {"headers": TAGGED},
        304: {"description": "The class table still has the version of If-None-Match."},
        **problem_responses(422, 503),
    },
    openapi_extra=UNLESS_CHANGED,
    dependencies=reads,
)
async def registry(
    request: Request, response: Response, query: Annotated[ReadQuery, Query()], service: TheService
) -> RegistryAnswer | Response:
    """The current version and how many classes it has; its entity tag is the version."""
    snapshot = await snapshot_for(service, query.min_registry_version)
    etag = _tag(snapshot)
    if (unchanged := not_modified(request, etag, snapshot.registry_version)) is not None:
        return unchanged
    set_version(response, snapshot.registry_version, etag=etag)
    return _registry(service, snapshot)


@router.get(
    "/registry/versions",
    summary="List the versions of the class table",
    response_model=VersionPage,
    responses=problem_responses(422, 503),
    dependencies=reads,
)
async def list_versions(query: Annotated[VersionsQuery, Query()], service: TheService) -> Response:
    """Versions with what made them, a page at a time; version 0 is the bundle alone and not listed."""
    await snapshot_for(service, query.min_registry_version)
    after = None
    if query.cursor is not None:
        place = from_cursor(query.cursor)
        if not place.isdecimal() or len(place) > 18:
            raise bad_cursor(query.cursor)
        after = int(place)
    newest_first = query.order == "newest"
    found = await asyncio.to_thread(
        service.registrar.versions, after=after, limit=query.limit + 1, newest_first=newest_first
    )
    page = found[: query.limit]

    def make() -> VersionPage:
        return VersionPage(
            versions=[
                VersionRecord(
                    registry_version=v.version,
                    time=v.made_at,
                    operation=v.operation,
                    changes=v.changes,
                    class_ids=list(v.class_ids),
                    rolled_back_to=v.source,
                    author=v.author,
                    damaged=v.damaged,
                )
                for v in page
            ],
            next_cursor=to_cursor(str(page[-1].version)) if len(found) > query.limit else None,
        )

    return await answer(make, values=sum(5 + len(v.class_ids) for v in page))


@router.post(
    "/registry:rollback",
    summary="Return to a version",
    responses={200: {"headers": TAGGED}, **problem_responses(400, 403, 404, 412, 413, 415, 422, 503)},
    openapi_extra={
        **json_body("RollbackDocument"),
        **precondition_parameters(if_match="Tags of GET /registry one of which it must have, or *."),
    },
    dependencies=changes,
)
async def roll_back(request: Request, response: Response, service: TheService) -> RegistryAnswer:
    """Make a new version with the classes of a former one; nothing of the history is lost."""
    expected = _expected(request)
    service.changes.check()
    document = await json_of(request, lambda given: parse(RollbackDocument, given, "the rollback is not valid"))
    version = document.version
    snapshot = await service.changes.run(lambda: service.registrar.rollback(version, expected=expected))
    set_version(response, snapshot.registry_version, etag=_tag(snapshot))
    return _registry(service, snapshot)


def _tag(snapshot: Snapshot) -> str:
    return f'"{snapshot.registry_version}"'


def _expected(request: Request) -> Collection[int] | None:
    """The versions that If-Match allows, None for any; tags of anything else match none."""
    tags = tags_of(request, "if-match")
    if not tags or tags == ("*",):
        return None
    return {int(found[1]) for tag in tags if (found := _VERSION_TAG.fullmatch(tag)) is not None}


def _registry(service: Service, snapshot: Snapshot) -> RegistryAnswer:
    seen = int(np.count_nonzero(snapshot.seen))
    return RegistryAnswer(
        bundle=service.bundle.manifest.bundle_id,
        registry_version=snapshot.registry_version,
        classes=KindCounts(seen=seen, unseen=len(snapshot) - seen),
        database=service.log.database.url.get_backend_name(),
    )
