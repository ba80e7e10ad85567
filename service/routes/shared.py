"""What every route needs: the service, and the problems it may answer with."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from service.problems import KINDS, MEDIA_TYPE
from service.service import Service


def get_service(request: Request) -> Service:
    """The service that the app was made for."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(get_service)]
Responses = dict[int | str, dict[str, Any]]

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
