"""/bundle/examples: the images that come with the bundle, to try it with."""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException

from service.http.access import may_read
from service.http.dependencies import TheService, no_parameters, snapshot_for
from service.http.headers import UNLESS_CHANGED, tags_of
from service.http.problems import problem_responses
from service.http.schemas import BundleExample, BundleExampleList, ReadQuery

router = APIRouter(tags=["about"], dependencies=[Depends(may_read)])

_MEDIA_TYPES = {
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
"""What browsers show. Nothing that may hold a script is among them, as bundles come from others."""


@router.get("/bundle/examples", summary="The bundle's example images", responses=problem_responses(422, 503))
async def list_bundle_examples(query: Annotated[ReadQuery, Query()], service: TheService) -> BundleExampleList:
    """Images to try the service with, and what they show. The bundle may have none."""
    snapshot = await snapshot_for(service, query.min_registry_version)
    return BundleExampleList(
        examples=[
            BundleExample(
                name=PurePosixPath(example.file).name,
                class_id=example.class_id,
                class_name=example.name,
                known=snapshot.get(example.class_id) is not None,
                attributes=None if example.attributes is None else list(example.attributes),
            )
            for example in service.bundle.manifest.examples
        ]
    )


@router.get(
    "/bundle/examples/{name}",
    summary="An example image of the bundle",
    response_class=Response,
    responses={
        200: {"description": "The file as it is.", "content": {"image/*": {"schema": {"type": "string"}}}},
        304: {"description": "The image still has the tag of If-None-Match."},
        **problem_responses(404, 422),
    },
    openapi_extra=UNLESS_CHANGED,
    dependencies=[Depends(no_parameters)],
)
async def show_bundle_example(name: str, request: Request, service: TheService) -> Response:
    """The image file itself; its entity tag is its hash."""
    manifest = service.bundle.manifest
    files = {PurePosixPath(example.file).name: example.file for example in manifest.examples}
    if name not in files:
        raise HTTPException(404, f"the bundle has no example image {name[:100]!r}")
    etag = f'"{manifest.files[files[name]]}"'
    headers = {
        "etag": etag,
        "cache-control": "private, no-cache",
        "content-security-policy": "default-src 'none'; sandbox",
        "cross-origin-resource-policy": "same-origin",
    }
    tags = tags_of(request, "if-none-match", weak=True)
    if "*" in tags or etag in tags:
        return Response(status_code=304, headers=headers)
    content = await asyncio.to_thread((service.bundle.path / files[name]).read_bytes)
    kind = _MEDIA_TYPES.get(PurePosixPath(name).suffix.lower(), "application/octet-stream")
    return Response(content, media_type=kind, headers=headers)
