"""A bundle as an object of a program: what the service answers, without a server and without a port."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import weakref
from collections.abc import Coroutine
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import httpx

from service.client import Client, ImageSource
from service.client.options import ClassifyOptions
from service.http.schemas import ImageAnswer
from service.inference.sessions import PrecisionChoice, Provider
from service.server.app import create_app
from service.service import Service
from service.settings import Settings

T = TypeVar("T")


class Classifier(Client):
    """A bundle that is asked and taught new classes in this process; made by :meth:`load`.

    >>> from service import Classifier
    >>> with Classifier.load() as classifier:  # the embedded demo bundle
    ...     best = classifier("service/demo_bundle/examples/red-dotted-heart.jpg").predictions[0]
    >>> best.name, best.kind
    ('red dotted heart', 'unseen')

    It has every method of :class:`service.Client`, and gives the answers that a service with this bundle gives, to the
    last bit: the same application is called with the same requests, in a thread of its own. Several threads may use it.
    """

    @classmethod
    def load(
        cls,
        bundle: str | PathLike[str] | None = None,
        *,
        registry: str | PathLike[str] | None = None,
        threads: int = 0,
        provider: Provider = "cpu",
        precision: PrecisionChoice = "auto",
    ) -> Self:
        """A classifier with the classes of a bundle, and with those of a registry.

        Settings of a service in the environment do not count here.

        Args:
            bundle: its directory; the embedded demo bundle where it is None.
            registry: directory in which registered classes are kept; those of former times are there again. Where it is
                None they are forgotten at the end.
            threads: of the model and of decoding; 0 takes every CPU.
            provider: what runs the model.
            precision: which of the bundle's trunks runs; `auto` takes the faster one on this CPU.

        Raises:
            BundleError: the bundle does not fit.
            MissingDependencyError: ONNX Runtime is not installed.
            SettingsError: the provider is not there, or the bundle has no trunk in that precision.
            RegistryError: the registry cannot be used, or belongs to another bundle.
        """
        passing = None if registry is not None else tempfile.mkdtemp(prefix="d3gzsl-")
        try:
            transport = _InProcess(
                _settings(
                    bundle=None if bundle is None else Path(bundle),
                    data_dir=Path(passing or registry or ""),
                    threads=threads,
                    provider=provider,
                    precision=precision,
                    slow_request=0.0,  # whoever waits for an answer needs no warning in the log
                )
            )
        except BaseException:
            if passing is not None:
                shutil.rmtree(passing, ignore_errors=True)
            raise
        classifier = cls("http://localhost", transport=transport)
        if passing is not None:
            transport.at_end = weakref.finalize(classifier, shutil.rmtree, passing, ignore_errors=True)
        return classifier

    def __call__(self, image: ImageSource, **query: Unpack[ClassifyOptions]) -> ImageAnswer:
        """The ranked classes of one image.

        Args:
            image: a path, the bytes of an image file, or an id with bytes.
            query: parameters of POST /classify, such as `top_k`.

        Raises:
            ServiceError: the image cannot be read.
            DataError: its file cannot be opened.
        """
        (result,) = self.classify([image], **query).results
        assert isinstance(result, ImageAnswer), "of a single image what is wrong is raised"
        return result


def _settings(**given: Any) -> Settings:
    """Settings that are given, and defaults for the others; the environment has no say."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    return Settings(**{**defaults, **given})


class _InProcess(httpx.BaseTransport):
    """Carries requests to an application that runs in an event loop of its own.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self.at_end: weakref.finalize[Any, Any] | None = None
        app = create_app(Service.open(settings))
        self._asgi = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self._lifespan = app.router.lifespan_context(app)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="d3gzsl-classifier", daemon=True)
        self._thread.start()
        try:
            self._wait_for(self._lifespan.__aenter__())
        except BaseException:
            self._end_loop()
            raise

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        request.read()
        return self._wait_for(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._asgi.handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

    def close(self) -> None:
        """End the application, and forget classes that were to be forgotten."""
        if self._loop.is_closed():
            return
        self._wait_for(self._lifespan.__aexit__(None, None, None))
        self._end_loop()
        if self.at_end is not None:
            self.at_end()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()
