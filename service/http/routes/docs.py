"""/docs from assets that come with the installation, and the OpenAPI document with every body and problem."""

from __future__ import annotations

import base64
import copy
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.staticfiles import StaticFiles

from service.http.class_schemas import BatchDocument, ClassDocument, ClassWords, DescribedDocument, PreviewDocument
from service.http.schemas import JsonImages, ProblemDocument, RollbackDocument
from service.http.v2.schemas import InferRequest, V2Error
from service.service import Service

_READ_BY_ROUTES: tuple[type[BaseModel], ...] = (
    ProblemDocument,
    JsonImages,
    ClassDocument,
    ClassWords,
    DescribedDocument,
    BatchDocument,
    PreviewDocument,
    RollbackDocument,
    InferRequest,
    V2Error,
)
_CONTENT_ENCODING = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^([Ii][Dd][Ee][Nn][Tt][Ii][Tt][Yy]|([Xx]-)?[Gg][Zz][Ii][Pp])?$"},
    "description": "How the body is compressed: gzip, or identity for not at all.",
}


def install_docs(app: FastAPI) -> None:
    """Serve /docs and its assets, and complete the OpenAPI document."""
    app.mount("/docs/assets", StaticFiles(directory=_assets()), name="docs-assets")

    # Relative addresses, so that it also works under a path prefix.
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="data:,",
        )
        scripts = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
        hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s).digest()).decode()}'" for s in scripts)
        page.headers["content-security-policy"] = (
            f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
            "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
        )
        return page

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, as it holds for the keys and the vocabulary of the service at present."""
    service: Service = app.state.service
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
        )
        if service.settings.root_path:
            document["servers"] = [{"url": service.settings.root_path}]
        _, extra = models_json_schema(
            [(model, "validation") for model in _READ_BY_ROUTES], ref_template="#/components/schemas/{model}"
        )
        schemas = document["components"]["schemas"]
        schemas.update(extra["$defs"])
        names = service.bundle.manifest.vocabulary.names
        for name in ("ClassDocument", "DescribedDocument", "PreviewDocument"):
            _describe_by(schemas[name], names, text=service.text_encoder is not None)
        for operation in _operations(document):
            if "requestBody" in operation:
                operation.setdefault("parameters", []).append(_CONTENT_ENCODING)
        app.openapi_schema = document
    document = app.openapi_schema if service.keys else _without_keys(app.openapi_schema)
    return document if service.settings.rate_limit else _without_rates(document)


def _describe_by(schema: dict[str, Any], names: Sequence[str], *, text: bool) -> None:
    """Make the schema of a class say what the bundle's classes are described by."""
    attributes = schema["properties"]["attributes"]
    numbers, named = attributes["anyOf"]
    numbers |= {"minItems": len(names), "maxItems": len(names)}
    named |= {"propertyNames": {"enum": list(names)}}
    if not text:
        del schema["properties"]["text"]
    if not names:
        attributes["anyOf"] = [numbers]
    if "examples" in schema["properties"]:
        schema["anyOf"] = [
            *({"required": [way]} for way in ("attributes", "like", "text") if way in schema["properties"]),
            {"required": ["examples"], "properties": {"examples": {"minItems": 1}}},
        ]


def _without_keys(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a service that asks for no key: nobody is refused for want of one."""
    document = copy.deepcopy(document)
    document["components"].pop("securitySchemes", None)
    for operation in _operations(document):
        operation.pop("security", None)
        operation["responses"].pop("401", None)
    return document


def _without_rates(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a service that takes any number of requests."""
    document = copy.deepcopy(document)
    for operation in _operations(document):
        operation["responses"].pop("429", None)
    return document


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for operations in document["paths"].values() for operation in operations.values()]


def _assets() -> Path:
    """Swagger UI's files inside the package that ships them, found without importing it."""
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
