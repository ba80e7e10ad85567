"""The two clients: the same methods, one that waits for each answer and one to be awaited."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from model.outside.proxies import AsyncProxiedTransport, ProxiedTransport, ProxyError
from service.client import calls, inference_protocol, streams
from service.client.errors import ClientError
from service.client.session import Retries, Session
from service.client.steps import Call, Flow, Join, Pause, Ready, Start, Stream, Work

T = TypeVar("T")
P = ParamSpec("P")

TIMEOUT = 120.0
"""Seconds for connecting, for sending, and between two pieces of an answer; the same for the commands."""


class Endpoint(Generic[P, T]):
    """A method of both clients, made of the function that makes its call."""

    def __init__(self, make: Callable[P, Call[T]]) -> None:
        self.make = make
        functools.update_wrapper(self, make)  # type: ignore[arg-type]  # it takes any object

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    def __get__(self, client: Client | AsyncClient | None, owner: type) -> Any:
        if client is None:
            return self

        @functools.wraps(self.make)
        def ask(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client._run(client._session.exchange(self.make(*args, **kwargs)))

        return ask


class StreamEndpoint(Generic[P, T]):
    """A method of both clients that gives one item after the other."""

    def __init__(self, make: Callable[Concatenate[Session, P], Stream[T]]) -> None:
        self.make = make
        functools.update_wrapper(self, make)  # type: ignore[arg-type]  # it takes any object

    @overload
    def __get__(self, client: Client, owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    def __get__(self, client: Client | AsyncClient | None, owner: type) -> Any:
        if client is None:
            return self
        return functools.partial(self._open, client)

    def _open(self, client: Client | AsyncClient, *args: P.args, **kwargs: P.kwargs) -> Any:
        return client._stream(self.make(client._session, *args, **kwargs))


class Endpoints:
    """The methods of both clients; `asyncio` users await them."""

    _session: Session

    classify = Endpoint(calls.classify)
    classify_files = StreamEndpoint(streams.classify_files)
    classify_folder = StreamEndpoint(streams.classify_folder)
    classes = StreamEndpoint(streams.classes)
    class_page = Endpoint(calls.class_page)
    show_class = Endpoint(calls.show_class)
    add_class = Endpoint(calls.add_class)
    put_class = Endpoint(calls.put_class)
    describe_class = Endpoint(calls.describe_class)
    remove_class = Endpoint(calls.remove_class)
    store_batch = Endpoint(calls.store_batch)
    preview_class = Endpoint(calls.preview_class)
    list_examples = Endpoint(calls.list_examples)
    add_examples = Endpoint(calls.add_examples)
    remove_example = Endpoint(calls.remove_example)
    attributes = Endpoint(calls.attributes)
    bundle_examples = Endpoint(calls.bundle_examples)
    bundle_example = Endpoint(calls.bundle_example)
    registry = Endpoint(calls.registry)
    versions = StreamEndpoint(streams.versions)
    version_page = Endpoint(calls.version_page)
    roll_back = Endpoint(calls.roll_back)
    live = Endpoint(calls.live)
    ready = Endpoint(calls.ready)
    about = Endpoint(calls.about)
    metrics = Endpoint(calls.metrics)
    server = Endpoint(inference_protocol.server)
    server_live = Endpoint(inference_protocol.server_live)
    server_ready = Endpoint(inference_protocol.server_ready)
    model_metadata = Endpoint(inference_protocol.model_metadata)
    model_ready = Endpoint(inference_protocol.model_ready)
    infer = Endpoint(inference_protocol.infer)

    @property
    def registry_version(self) -> int:
        """The highest version of the class table that an answer has told of.

        Every read asks for at least this version, so that a program finds what it has written, whichever process
        answers. Set it to 0 where the service was given another registry, whose versions begin anew.
        """
        return self._session.version

    @registry_version.setter
    def registry_version(self, version: int) -> None:
        self._session.version = version


class Client(Endpoints):
    """Talks to a running service.

    >>> import httpx
    >>> from service import Client
    >>> def service(request: httpx.Request) -> httpx.Response:  # stands in for one that runs
    ...     stripes = {"name": "stripes", "min": 0, "max": 1, "mean": 0.2}
    ...     return httpx.Response(200, json={"attributes": [stripes], "text": None, "max_examples": 0})
    >>> with Client("http://127.0.0.1:8000", transport=httpx.MockTransport(service)) as client:
    ...     [attribute.name for attribute in client.attributes().attributes]
    ['stripes']

    Several threads may use one client.

    Args:
        url: its address.
        key: access key, where it needs one.
        timeout: seconds for connecting, for sending, and between two pieces of an answer.
        retries: how often a request is sent again, where that does no harm.
        transport: carries the requests; over the network where it is None, by the proxy that the environment names
            for the address (see :func:`model.outside.proxies.proxy_for`).

    Raises:
        ClientError: the address cannot be read; and, of every method, what went wrong with a request.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        try:
            self._http = httpx.Client(
                base_url=url, headers=_headers(key), timeout=timeout, transport=transport or ProxiedTransport()
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url} is not an address: {error}") from None
        self._session = Session(self._http.build_request, url=url, retries=retries or Retries())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _run(self, flow: Flow[T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            assert not isinstance(step, Start | Join), "only streams begin other flows"
            outcome = self._carry_out(step)

    def _carry_out(self, step: httpx.Request | Pause | Work[Any]) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Work):
            return step.function()
        try:
            return self._http.send(step)
        except (httpx.HTTPError, ProxyError) as error:
            return error

    def _stream(self, stream: Stream[T]) -> Iterator[T]:
        outcome: Any = None
        pool = ThreadPoolExecutor(thread_name_prefix="d3gzsl-client")
        try:
            while True:
                try:
                    step = stream.send(outcome)
                except StopIteration:
                    return
                if isinstance(step, Ready):
                    yield from step.items
                    outcome = None
                elif isinstance(step, Start):
                    outcome = pool.submit(self._run, step.flow)
                elif isinstance(step, Join):
                    future: Future[Any] = step.handle
                    outcome = future.result()
                else:
                    outcome = self._carry_out(step)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class AsyncClient(Endpoints):
    """The same for asyncio: every method of :class:`Client` is awaited, or iterated with `async for`.

    Args:
        url: as for :class:`Client`.
        key: likewise.
        timeout: likewise.
        retries: likewise.
        transport: likewise, but an asynchronous one.

    Raises:
        ClientError: the address cannot be read; and, of every method, what went wrong with a request.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout: float = TIMEOUT,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            self._http = httpx.AsyncClient(
                base_url=url, headers=_headers(key), timeout=timeout, transport=transport or AsyncProxiedTransport()
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{url} is not an address: {error}") from None
        self._session = Session(self._http.build_request, url=url, retries=retries or Retries())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            assert not isinstance(step, Start | Join), "only streams begin other flows"
            outcome = await self._carry_out(step)

    async def _carry_out(self, step: httpx.Request | Pause | Work[Any]) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Work):
            return await asyncio.to_thread(step.function)
        try:
            return await self._http.send(step)
        except (httpx.HTTPError, ProxyError) as error:
            return error

    async def _stream(self, stream: Stream[T]) -> AsyncIterator[T]:
        outcome: Any = None
        tasks: set[asyncio.Task[Any]] = set()
        try:
            while True:
                try:
                    step = stream.send(outcome)
                except StopIteration:
                    return
                if isinstance(step, Ready):
                    for item in step.items:
                        yield item
                    outcome = None
                elif isinstance(step, Start):
                    outcome = asyncio.ensure_future(self._run(step.flow))
                    tasks.add(outcome)
                elif isinstance(step, Join):
                    outcome = await step.handle
                    tasks.discard(step.handle)
                else:
                    outcome = await self._carry_out(step)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}
