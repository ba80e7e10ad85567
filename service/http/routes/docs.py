"""/docs from assets that come with the installation, and the OpenAPI document with every body and problem."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.staticfiles import StaticFiles

from service.http.class_schemas import BatchDocument, ClassDocument, ClassWords, PreviewDocument
from service.http.images import JsonImages
from service.http.problems import ProblemDocument
from service.http.schemas import RollbackDocument
from service.http.v2.schemas import InferRequest, V2Error

_READ_BY_ROUTES: tuple[type[BaseModel], ...] = (
    ProblemDocument,
    JsonImages,
    ClassDocument,
    ClassWords,
    BatchDocument,
    PreviewDocument,
    RollbackDocument,
    InferRequest,
    V2Error,
)


def install_docs(app: FastAPI) -> None:
    """Serve /, /docs and its assets, and complete the OpenAPI document."""
    app.mount("/docs/assets", StaticFiles(directory=_assets()), name="docs-assets")

    # Relative addresses, so that it also works under a path prefix.
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="data:,",
        )

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("docs")

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
        )
        _, extra = models_json_schema(
            [(model, "validation") for model in _READ_BY_ROUTES], ref_template="#/components/schemas/{model}"
        )
        document["components"]["schemas"].update(extra["$defs"])
        app.openapi_schema = document
    return app.openapi_schema


def _assets() -> Path:
    """Swagger UI's files inside the package that ships them, found without importing it."""
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
