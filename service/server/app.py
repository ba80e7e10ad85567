"""The web application around an opened service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from model import __version__
from service.http import problems
from service.http.bodies.budget import BodyBudget
from service.http.bodies.reading import Bodies
from service.http.dependencies import may_be_answered
from service.http.middleware import HeadAsGet, Observe, RequestId, UnderPath
from service.http.routes import (
    bundle_examples,
    classes,
    classify,
    docs,
    examples,
    page,
    preview,
    registry,
    service_info,
)
from service.http.v2 import infer, metadata
from service.inference.engine import trim_heap
from service.inference.fairness import Debts, FairBudget, Rates
from service.service import Service
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

_SHARE_EVERY = _LOOK_EVERY = 1.0  # seconds
_BACK_UP_EVERY = 5.0  # seconds between looks whether one is due
_TRIM_AFTER = 0.2  # seconds
_HEADERS_IN = ["Authorization", "Content-Type", "D3GZSL-Timeout-Ms", "If-Match", "If-None-Match", "X-Request-Id"]
_HEADERS_OUT = ["ETag", "Location", "Registry-Version", "Retry-After", "X-Request-Id"]


def create_app(service: Service) -> FastAPI:
    """The application; it starts the service with the server and closes it at the end.

    >>> from tempfile import TemporaryDirectory
    >>> from service import Service, Settings, create_app
    >>> with TemporaryDirectory() as folder:
    ...     service = Service.open(Settings(data_dir=folder))  # with the embedded demo bundle
    ...     app = create_app(service)  # for `uvicorn.run(app)`
    ...     service.close()  # as nothing has started it here
    >>> "/classify" in app.openapi()["paths"]
    True

    Args:
        service: opened and not yet started; one service for each application.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        followed = [_share(metrics)] if metrics.shared else []
        if service.settings.keys_file is not None:
            followed.append(_follow(service.follow_keys, every=_LOOK_EVERY))
        if service.settings.backup_dir is not None:
            followed.append(_follow(service.back_up, every=_BACK_UP_EVERY))
        tasks = [asyncio.create_task(following) for following in followed]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await service.stop()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    settings = service.settings
    metrics, tracing = Metrics(service), Tracing.from_settings(service.settings)
    service.batcher.on_batch = metrics.batch
    app = FastAPI(
        title="D3GZSL",
        summary="Recognises image classes, those seen in training and those only described by attributes.",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(may_be_answered)],
        redirect_slashes=False,
    )
    app.state.service, app.state.metrics, app.state.documents = service, metrics, FairBudget(1)
    app.state.debts = Debts()
    app.state.rates = Rates(rate=settings.rate_limit, burst=settings.rate_burst) if settings.rate_limit else None
    problems.install_error_handlers(app)
    app.state.bodies = budget = BodyBudget(settings.bytes_in_flight, emptied=_trim_soon)
    app.add_middleware(Bodies, budget=budget, limit=settings.max_request_bytes, seconds=settings.body_timeout)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Observe, metrics=metrics, tracing=tracing, slow_seconds=settings.slow_request)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=_HEADERS_IN,
            expose_headers=_HEADERS_OUT,
        )
    app.add_middleware(RequestId, shared=bool(settings.cors_origins))
    if settings.root_path:
        app.add_middleware(UnderPath, root_path=settings.root_path)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=list(settings.trusted_proxies))
    for part in (classify, classes, examples, preview, registry, service_info, bundle_examples, metadata, infer):
        app.include_router(part.router)
    docs.install_docs(app)
    page.install_page(app)
    return app


def _trim_soon() -> None:
    """Give the memory of large bodies back to the system, once those who read them have let go of it."""
    loop = asyncio.get_running_loop()
    loop.call_later(_TRIM_AFTER, loop.run_in_executor, None, trim_heap)


async def _share(metrics: Metrics) -> None:
    """Keep up to date what other processes show of this one."""
    while True:
        metrics.refresh()
        await asyncio.sleep(_SHARE_EVERY)


async def _follow(work: Callable[[], None], *, every: float) -> None:
    """Do something again and again, in a thread."""
    while True:
        await asyncio.sleep(every)
        await asyncio.to_thread(work)
