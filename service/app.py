"""The web application around an opened service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from model import __version__
from service import problems
from service.middleware import BodyLimit, HeadAsGet, RequestId
from service.routes import about, batch, classes, classify, docs, preview, registry
from service.service import Service


def create_app(service: Service) -> FastAPI:
    """The application; it starts the service with the server and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="D3GZSL",
        summary="Recognises image classes, those seen in training and those only described by attributes.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    problems.install(app)
    app.add_middleware(BodyLimit, limit=service.settings.max_request_bytes)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestId)
    for router in (classify.router, classes.router, batch.router, preview.router, registry.router, about.router):
        app.include_router(router)
    docs.install(app)
    return app
