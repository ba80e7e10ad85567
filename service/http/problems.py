"""Errors to answers: the one place where an exception meets a status, as RFC 9457 problem documents."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from model import errors as base
from model.errors import D3GZSLError, InvalidInputError, Problem, pointer_part
from service import errors as own
from service.errors import UnavailableError
from service.telemetry.request_stats import current_stats

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "x-request-id"
_URN = "urn:d3gzsl:problem:"


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem.

    Attributes:
        status: HTTP status.
        name: end of the problem's type.
        title: the same words for every problem of this kind.
        internal: the error's own words are for the log, not for the client.
    """

    status: int
    name: str
    title: str
    internal: bool = False

    @property
    def type(self) -> str:
        """The problem's type, a URN."""
        return _URN + self.name


PROBLEM_TYPES: Mapping[type[Exception], ProblemType] = {
    own.MalformedBodyError: ProblemType(400, "malformed-body", "The body cannot be read"),
    own.NotFiniteError: ProblemType(400, "number-not-finite", "A number is not finite"),
    own.UnauthorizedError: ProblemType(401, "key-needed", "A valid key is needed"),
    own.ForbiddenError: ProblemType(403, "role-needed", "The key's role does not allow this"),
    own.OriginError: ProblemType(403, "other-origin", "Changes from pages of other origins are not allowed"),
    own.UnknownClassError: ProblemType(404, "no-such-class", "The class does not exist"),
    own.UnknownVersionError: ProblemType(404, "no-such-version", "The registry never had this version"),
    own.BatchConflictError: ProblemType(
        409, "batch-conflict", "Classes of the batch meet others; nothing of it was stored"
    ),
    own.ClassExistsError: ProblemType(409, "class-exists", "The class exists already"),
    own.SeenClassError: ProblemType(409, "seen-class", "Seen classes cannot be changed"),
    own.PreconditionError: ProblemType(412, "precondition-failed", "The state is not the expected one"),
    base.ImageTooLargeError: ProblemType(413, "image-too-large", "The image is too large"),
    own.BatchTooLargeError: ProblemType(413, "batch-too-large", "The batch has too many classes"),
    own.TooLargeError: ProblemType(413, "request-too-large", "The request is too large"),
    base.UnsupportedImageError: ProblemType(415, "unsupported-image", "The image has no format that is read here"),
    own.MediaTypeError: ProblemType(415, "unsupported-media-type", "The body has a type that is not taken here"),
    own.HostError: ProblemType(421, "host-not-allowed", "Changes under this host name are not allowed"),
    base.AttributesError: ProblemType(422, "invalid-attributes", "The attributes do not fit the vocabulary"),
    base.AttributeCountError: ProblemType(422, "wrong-attribute-count", "The number of attributes is wrong"),
    base.UnknownAttributeError: ProblemType(422, "unknown-attribute", "The vocabulary has no such attribute"),
    own.InvalidClassIdError: ProblemType(422, "invalid-class-id", "The id of the class is not valid"),
    own.InvalidClassNameError: ProblemType(422, "invalid-class-name", "The name of the class is not valid"),
    own.MetadataTooLargeError: ProblemType(422, "metadata-too-large", "The metadata of the class is too large"),
    own.InvalidBatchError: ProblemType(
        422, "invalid-batch", "The batch has classes that are not valid; nothing was stored"
    ),
    base.InvalidInputError: ProblemType(422, "invalid-request", "The request is not valid"),
    base.UnreadableImageError: ProblemType(422, "unreadable-image", "The image is damaged"),
    own.InferenceError: ProblemType(500, "inference-failed", "The model failed on this image"),
    own.OverloadedError: ProblemType(503, "overloaded", "Too much is waiting"),
    own.DeadlineError: ProblemType(503, "deadline-exceeded", "The answer was not ready in time"),
    own.VersionNotReachedError: ProblemType(
        503, "version-not-reached", "The registry has not reached this version yet"
    ),
    own.NotReadyError: ProblemType(503, "not-ready", "The service is not ready"),
    own.RegistryError: ProblemType(
        503, "registry-unavailable", "The registry cannot be used; nothing changed", internal=True
    ),
    D3GZSLError: ProblemType(500, "internal-error", "The service failed", internal=True),
}
"""What each error is to a client; an error that is not listed is what its nearest base is."""

_BY_STATUS = {
    400: ProblemType(400, "malformed-body", "The body cannot be read"),
    404: ProblemType(404, "not-found", "There is nothing under this path"),
    405: ProblemType(405, "method-not-allowed", "The method is not allowed here"),
}
_INTERNAL = PROBLEM_TYPES[D3GZSLError]

Responses = dict[int | str, dict[str, Any]]
_ACCESS = (401, 403, 500)


class ProblemError(BaseModel):
    """One thing that is wrong."""

    pointer: str = Field(
        description="JSON pointer into the body; /query/..., /path/... and /header/... for the rest of the request."
    )
    detail: str = Field(description="What was expected and what came.")


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(description="URN of the kind of problem; stable.")
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemError]


def problem_type_of(error: Exception) -> ProblemType:
    """The kind of an error; the service's own fault where nothing better is known."""
    return next((PROBLEM_TYPES[cls] for cls in type(error).__mro__ if cls in PROBLEM_TYPES), _INTERNAL)


def detail_of(error: Exception) -> str:
    """What a client is told beside the title."""
    kind = problem_type_of(error)
    if kind.internal:
        return kind.title
    return error.message if isinstance(error, InvalidInputError) else str(error)


def problem_responses(*statuses: int, public: bool = False) -> Responses:
    """OpenAPI entries for statuses answered with a problem document; those of access and failure are added."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        status: {"description": _titles(status), "content": {MEDIA_TYPE: schema}}
        for status in sorted({*statuses, *((500,) if public else _ACCESS)})
    }


def _titles(status: int) -> str:
    return "; ".join(sorted({kind.title for kind in PROBLEM_TYPES.values() if kind.status == status}))


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""
    app.add_exception_handler(D3GZSLError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _unexpected_error)


def response(
    request: Request,
    kind: ProblemType,
    detail: str,
    problems: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem document; for clients of the Open Inference Protocol an error as that has it."""
    current_stats().problem = kind.name
    if _speaks_v2(request):
        text = "; ".join([detail, *(f"{p.pointer}: {p.detail}" for p in problems)])
        return JSONResponse({"error": text}, status_code=kind.status, headers=headers)
    return JSONResponse(
        {
            "type": kind.type,
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            "request_id": request_id(request),
            "errors": [{"pointer": p.pointer, "detail": p.detail} for p in problems],
        },
        status_code=kind.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def _speaks_v2(request: Request) -> bool:
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return bool(path == "/v2" or path.startswith("/v2/"))


def request_id(request: Request) -> str:
    """The id that the middleware gave the request."""
    return str(request.scope.get(REQUEST_ID, ""))


def _domain_error(request: Request, error: Exception) -> JSONResponse:
    kind = problem_type_of(error)
    if kind.internal:
        log.error("request %s: %s", request_id(request), error, exc_info=error)
    headers = {}
    if isinstance(error, own.UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    if kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = error.retry_after if isinstance(error, UnavailableError) else None
        headers["retry-after"] = str(retry_after or 1)
    problems = error.problems if isinstance(error, InvalidInputError) else ()
    return response(request, kind, detail_of(error), problems, headers)


def _client_gone(request: Request, _error: Exception) -> JSONResponse:
    return _domain_error(request, own.DeadlineError("the client went away while it sent the body"))


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    kind = PROBLEM_TYPES[InvalidInputError]
    return response(request, kind, "some parameters are not valid", validation_problems(error.errors()))


def validation_problems(errors: Iterable[Mapping[str, Any]], *, prefix: str = "") -> list[Problem]:
    """Pydantic's errors as problems with JSON pointers."""
    return [
        Problem(pointer=prefix + "".join(f"/{pointer_part(part)}" for part in e["loc"]), detail=_what_came(e))
        for e in errors
    ]


def _what_came(error: Mapping[str, Any]) -> str:
    words = str(error["msg"])
    if error["type"] in ("missing", "extra_forbidden"):
        return words
    came = repr(error.get("input"))
    return f"{words}, got {came if len(came) <= 100 else came[:100] + '...'}"


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    kind = _BY_STATUS.get(error.status_code) or ProblemType(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    detail = f"{request.method} {request.url.path}" if error.detail == phrase else str(error.detail)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_allowed_methods(request))
    return response(request, kind, detail, headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Every method of a path; the router knows only those of the first route that has it."""

    def taken(method: str) -> bool:
        # A mount has taken its own path for the root.
        root = request.scope.get("app_root_path", request.scope.get("root_path", ""))
        scope = {**request.scope, "method": method, "root_path": root}
        # It takes every method, and then answers those that files have.
        routes = [r for r in request.app.routes if method == "GET" or not isinstance(r, Mount)]
        return any(route.matches(scope)[0] is Match.FULL for route in routes)

    allowed = [method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if taken(method)]
    return [*(["HEAD"] if "GET" in allowed else []), *allowed]


def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    # Beyond the middleware that names requests in their headers, and logged by whoever runs the app.
    log.error("request %s failed", request_id(request), exc_info=error)
    return response(request, _INTERNAL, _INTERNAL.title, headers={REQUEST_ID: request_id(request)})
