"""How a question becomes an answer: building, repeating, remembering versions, reading. Nothing is sent here."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from model.errors import D3GZSLError
from model.outside.proxies import ProxyError
from service.client.errors import (
    ClientError,
    NotFoundError,
    NotModifiedError,
    ServiceError,
    UnexpectedAnswerError,
    UnreachableError,
    error_of,
    retry_after,
)
from service.client.steps import Call, Flow, Pause, Work

T = TypeVar("T")

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_NO_USE = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.ReadTimeout, httpx.WriteTimeout)
"""What another try would not mend, or only after as long a time as the caller would wait."""
_NOT_NOW = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_REFUSED_AT_ONCE = ("overloaded", "too-many-requests")
"""Problems of requests of which nothing was done, so that any may be sent again."""
_WAITED_ALREADY = "version-not-reached"
"""The problem of a request for which the service has waited as long as it may."""

_UNCONFIRMED = "change-unconfirmed"
"""The problem of a change that is stored or not, which the service could not find out."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often and after what time a request is sent again.

    The n-th wait is `first_wait` * 2^n seconds, of which a random part of up to half is left out so that clients do not
    come back together. Where the service says `Retry-After`, that comes on top of it.

    Attributes:
        times: most further tries; 0 for none.
        first_wait: seconds, above 0.
        most_wait: longest single wait in seconds; where the service asks for a longer one, its problem is raised.
    """

    times: int = 4
    first_wait: float = 0.1
    most_wait: float = 60.0

    def __post_init__(self) -> None:
        for name, right in (
            ("times", self.times >= 0),
            ("first_wait", self.first_wait > 0),
            ("most_wait", self.most_wait >= self.first_wait),
        ):
            if not right:
                raise ValueError(f"{name}: expected 0 or more times, 0 < first_wait <= most_wait, got {self}")

    def wait(self, tries: int, asked: float | None) -> float | None:
        """Seconds before the next try; None where there is none.

        Args:
            tries: how many there have been.
            asked: seconds of `Retry-After`; None where the service did not say.
        """
        if tries > self.times or (asked or 0.0) > self.most_wait:
            return None
        own = min(self.first_wait * 2.0 ** (tries - 1), self.most_wait) * random.uniform(0.5, 1.0)  # noqa: S311
        return own + (asked or 0.0)


class Session:
    """What a client knows between questions; may be used by several threads.

    Args:
        build: makes a request for an address below the service's, with the key; httpx's `build_request`.
        url: of the service, for messages.
        retries: how often a request is sent again.
    """

    def __init__(self, build: Callable[..., httpx.Request], *, url: str, retries: Retries) -> None:
        self._build, self._url, self._retries = build, url, retries
        self._lock, self._version = threading.Lock(), 0

    @property
    def version(self) -> int:
        """The highest version of the class table that an answer has told of."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        with self._lock:
            self._version = version

    def exchange(self, call: Call[T]) -> Flow[T]:
        """Ask until there is an answer, or no more sense in asking; see :class:`Retries`.

        A request whose answer may be lost is repeated only where doing it twice is the same as once.

        Raises:
            ClientError: says what is wrong.
            DataError: an image file cannot be read.
        """
        files = None
        if (sent := call.files) is not None:
            files = yield Work(lambda: [source.must_read() for _, source in sent])
        tries, uncertain = 0, False
        while True:
            request = self._request(call, files)
            outcome = yield request
            tries += 1
            try:
                return self._answer(call, outcome)
            except ClientError as error:
                if uncertain and call.gone_is_done and isinstance(error, NotFoundError):
                    return call.read(httpx.Response(HTTPStatus.NO_CONTENT, request=request))
                uncertain = uncertain or _may_be_done(error)
                seconds = self._retries.wait(tries, _asked(outcome)) if _may_repeat(call, error) else None
                if seconds is None:
                    if uncertain and isinstance(error, ServiceError):
                        error.add_note("a former try, whose answer was lost, may have come through")
                    raise
            yield Pause(seconds)

    def _request(self, call: Call[Any], files: list[bytes] | None) -> httpx.Request:
        query = {name: _parameter(value) for name, value in call.query.items() if value is not None}
        document = call.document
        if self._version and call.at_least == "query":
            query.setdefault("min_registry_version", str(self._version))
        elif self._version and call.at_least == "parameters":
            parameters = {"min_registry_version": self._version, **(document.get("parameters") or {})}
            document = {**document, "parameters": parameters}
        headers = {name: value for name, value in call.headers.items() if value is not None}
        body: dict[str, Any] = {}
        if files is not None and call.files is not None:
            named = zip(call.files, files, strict=True)
            form: list[tuple[str, Any]] = [(of[0], (str(place), data)) for place, (of, data) in enumerate(named)]
            if document is not None:
                form.insert(0, ("class", (None, to_json(document))))
            body["files"] = form
        elif document is not None:
            headers["content-type"] = "application/json"
            body["content"] = to_json(document)
        values = {name: quote(value, safe="") for name, value in call.values.items()}
        return self._build(call.method, call.template.format_map(values), params=query, headers=headers, **body)

    def _answer(self, call: Call[T], outcome: httpx.Response | Exception) -> T:
        if isinstance(outcome, ProxyError):
            raise ClientError(str(outcome)) from None
        if isinstance(outcome, httpx.HTTPError | httpx.InvalidURL):
            sent = isinstance(outcome, httpx.TransportError) and not isinstance(outcome, _NEVER_SENT)
            reason = str(outcome) or type(outcome).__name__
            raise UnreachableError(
                f"{self._url} cannot be reached: {reason}", sent=sent, again=not isinstance(outcome, _NO_USE)
            ) from None
        if isinstance(outcome, Exception):
            raise outcome
        if outcome.status_code == HTTPStatus.NOT_MODIFIED:
            raise NotModifiedError("the state has not changed", status=outcome.status_code)
        if outcome.is_error:
            raise error_of(outcome)
        try:
            if not outcome.is_success:
                raise ValueError(outcome.status_code)
            result = call.read(outcome)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "/".join(map(str, first["loc"]))
            raise self._unexpected(outcome, f" ({where}: {first['msg']})" if where else "") from None
        except ValueError:
            raise self._unexpected(outcome, "") from None
        self._remember(outcome, result)
        return result

    def _unexpected(self, outcome: httpx.Response, why: str) -> UnexpectedAnswerError:
        words = f"{outcome.url} did not answer as a d3gzsl service does; is it one?{why}"
        return UnexpectedAnswerError(words, status=outcome.status_code)

    def _remember(self, response: httpx.Response, result: object) -> None:
        header = response.headers.get("registry-version", "")
        holders = (result, getattr(result, "parameters", None))
        told = [getattr(holder, "registry_version", None) for holder in holders]
        told += [int(header)] if header.isascii() and header.isdecimal() else []
        with self._lock:
            self._version = max([self._version, *(version for version in told if isinstance(version, int))])


def _may_repeat(call: Call[Any], error: ClientError) -> bool:
    if isinstance(error, UnreachableError):
        return error.again and (call.repeat or not error.sent)
    if error.status not in _NOT_NOW:
        return False
    name = error.name if isinstance(error, ServiceError) else ""
    return name != _WAITED_ALREADY and (call.repeat or name in _REFUSED_AT_ONCE)


def _may_be_done(error: ClientError) -> bool:
    """Whether a request that failed may have changed something."""
    if isinstance(error, ServiceError):
        return error.name == _UNCONFIRMED
    return isinstance(error, UnreachableError) and error.sent


def _asked(outcome: httpx.Response | Exception) -> float | None:
    return retry_after(outcome) if isinstance(outcome, httpx.Response) else None


def _parameter(value: Any) -> str:
    return str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else ",".join(map(str, value))


def to_json(document: Any) -> bytes:
    """A document as JSON; pydantic models without what was not given, arrays as lists.

    Numbers that are not finite are written as Python does, so that the service says where they are.
    """
    return json.dumps(document, default=_plain, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # of NumPy, and of whatever else has arrays
        return value.tolist()
    raise D3GZSLError(f"expected what JSON can hold, got {type(value).__name__}")
