"""Errors to answers: the one place where an exception meets a status, as RFC 9457 problem documents."""

from __future__ import annotations

import asyncio
import difflib
import logging
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from itertools import islice
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from model import errors as base
from model.errors import D3GZSLError, InvalidInputError, Problem, pointer_part
from model.outside.similar import MAX_GUESSED_NAME
from model.vocabulary import MOST_GUESSED
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
    own.MalformedRequestError: ProblemType(400, "malformed-request", "The request is not as HTTP has it"),
    own.UnauthorizedError: ProblemType(401, "key-needed", "A valid key is needed"),
    own.ForbiddenError: ProblemType(403, "role-needed", "The key's role does not allow this"),
    own.RateError: ProblemType(429, "too-many-requests", "The client asks more often than it may"),
    own.OriginError: ProblemType(403, "other-origin", "Changes from pages of other origins are not allowed"),
    own.SlowRequestError: ProblemType(408, "request-timeout", "The request did not come in time"),
    own.UnknownClassError: ProblemType(404, "no-such-class", "The class does not exist"),
    own.UnknownExampleError: ProblemType(404, "no-such-example", "The class has no such example photo"),
    own.UnknownVersionError: ProblemType(404, "no-such-version", "The registry never had this version"),
    own.BatchConflictError: ProblemType(
        409, "batch-conflict", "Classes of the batch meet others; nothing of it was stored"
    ),
    own.ClassExistsError: ProblemType(409, "class-exists", "The class exists already"),
    own.LastExampleError: ProblemType(409, "last-example", "The class has nothing but this example photo"),
    own.SeenClassError: ProblemType(409, "seen-class", "Seen classes cannot be changed"),
    own.PreconditionError: ProblemType(412, "precondition-failed", "The state is not the expected one"),
    base.ImageTooLargeError: ProblemType(413, "image-too-large", "The image is too large"),
    own.BatchTooLargeError: ProblemType(413, "batch-too-large", "The batch has too many classes"),
    own.TooLargeError: ProblemType(413, "request-too-large", "The request is too large"),
    base.UnsupportedImageError: ProblemType(415, "unsupported-image", "The image has no format that is read here"),
    own.MediaTypeError: ProblemType(415, "unsupported-media-type", "The body has a type that is not taken here"),
    own.ContentEncodingError: ProblemType(
        415, "unsupported-content-encoding", "The body has an encoding that is not taken here"
    ),
    own.HostError: ProblemType(421, "host-not-allowed", "This host name is not allowed"),
    base.AttributesError: ProblemType(422, "invalid-attributes", "The attributes do not fit the vocabulary"),
    base.AttributeCountError: ProblemType(422, "wrong-attribute-count", "The number of attributes is wrong"),
    base.UnknownAttributeError: ProblemType(422, "unknown-attribute", "The vocabulary has no such attribute"),
    base.TextError: ProblemType(422, "invalid-text", "The text of the class cannot be taken"),
    own.InvalidClassIdError: ProblemType(422, "invalid-class-id", "The id of the class is not valid"),
    own.InvalidClassNameError: ProblemType(422, "invalid-class-name", "The name of the class is not valid"),
    own.MetadataTooLargeError: ProblemType(422, "metadata-too-large", "The metadata of the class is too large"),
    own.InvalidExamplesError: ProblemType(422, "invalid-examples", "The example photos cannot be taken"),
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
    own.UnconfirmedChangeError: ProblemType(
        503, "change-unconfirmed", "The registry did not say whether the change was stored", internal=True
    ),
    own.StorageFullError: ProblemType(
        503, "registry-full", "The disk of the registry has no room; nothing changed", internal=True
    ),
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
    431: ProblemType(431, "head-too-large", "The head of the request is too large"),
    501: ProblemType(501, "transfer-encoding-unknown", "The transfer encoding is not known here"),
}
_INTERNAL = PROBLEM_TYPES[D3GZSLError]
OVERLOADED, SLOW_REQUEST = PROBLEM_TYPES[own.OverloadedError], PROBLEM_TYPES[own.SlowRequestError]
HTTP_ERRORS: Mapping[int, ProblemType] = {
    **_BY_STATUS,
    400: PROBLEM_TYPES[own.MalformedRequestError],
}
"""What is answered, by status, where the bytes of a connection are no request."""

MOST_UNKNOWN = 100
"""Most fields that a document does not have of which each is named."""
MOST_NAMED = 1000
"""Most problems in one answer; there may be very many."""
_FEW = 200
"""Problems whose document is made within a millisecond."""
_LONGEST_POINTER, _LONGEST_DETAIL = 200, 500
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 20

Responses = dict[int | str, dict[str, Any]]
_ANY = (431, 500)
_ACCESS = (401, 421, 429)


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
    """OpenAPI entries for statuses answered with a problem document; those of any request and of access are added."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    if 415 in statuses:  # as there is a body
        statuses = (*statuses, 408)
    return {
        status: {"description": _titles(status), "content": {MEDIA_TYPE: schema}}
        for status in sorted({*statuses, *_ANY, *(() if public else _ACCESS)})
    }


def _titles(status: int) -> str:
    kinds = {kind.title for kind in PROBLEM_TYPES.values() if kind.status == status}
    return "; ".join(sorted(kinds)) or _BY_STATUS[status].title


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""
    app.add_exception_handler(D3GZSLError, _own_error)
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
    document = problem_document(kind, detail, problems, request_id=request_id(request))
    if _speaks_v2(request):
        text = "; ".join([document["detail"], *(f"{p['pointer']}: {p['detail']}" for p in document["errors"])])
        return JSONResponse({"error": text}, status_code=kind.status, headers=headers)
    return JSONResponse(document, status_code=kind.status, headers=headers, media_type=MEDIA_TYPE)


def problem_document(
    kind: ProblemType, detail: str, problems: Iterable[Problem] = (), *, request_id: str
) -> dict[str, Any]:
    """A problem as JSON, with no more than :data:`MOST_NAMED` errors, none of them long."""
    return {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": _cut(detail, 2 * _LONGEST_DETAIL),
        "request_id": request_id,
        "errors": [
            {"pointer": _cut(p.pointer, _LONGEST_POINTER), "detail": _cut(p.detail, _LONGEST_DETAIL)}
            for p in shorten(tuple(problems))
        ],
    }


def shorten(problems: Sequence[Problem]) -> Sequence[Problem]:
    """The first problems, with a last one that counts the rest where there are too many for an answer."""
    if len(problems) <= MOST_NAMED:
        return problems
    return [*problems[:MOST_NAMED], Problem(pointer="", detail=f"and {len(problems) - MOST_NAMED} more")]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _speaks_v2(request: Request) -> bool:
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return bool(path == "/v2" or path.startswith("/v2/"))


def request_id(request: Request) -> str:
    """The id that the middleware gave the request."""
    return str(request.scope.get(REQUEST_ID, ""))


def problem_answer(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error of the service's own."""
    kind = problem_type_of(error)
    if kind.internal:
        log.error("request %s: %s", request_id(request), error, exc_info=error)
    headers = {}
    if isinstance(error, own.UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, own.ContentEncodingError):
        headers["accept-encoding"] = "gzip"
    if isinstance(error, own.SlowRequestError | own.MalformedRequestError):
        headers["connection"] = "close"
    if kind.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        retry_after = error.retry_after if isinstance(error, UnavailableError | own.RateError) else None
        headers["retry-after"] = str(retry_after or 1)
    problems = error.problems if isinstance(error, InvalidInputError) else ()
    return response(request, kind, detail_of(error), problems, headers)


async def _own_error(request: Request, error: Exception) -> JSONResponse:
    """Answered here where that is quick, as a way to another thread and back takes longer than most answers."""
    if (on_refusal := getattr(request.state, "on_refusal", None)) is not None:  # it came with a long document
        on_refusal()
    many = isinstance(error, InvalidInputError) and len(error.problems) > _FEW
    if many or problem_type_of(error).internal:
        return await asyncio.to_thread(problem_answer, request, error)
    return problem_answer(request, error)


async def _client_gone(request: Request, _error: Exception) -> JSONResponse:
    return problem_answer(request, own.DeadlineError("the client went away while it sent the body"))


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    kind = PROBLEM_TYPES[InvalidInputError]
    problems = validation_problems(error.errors(), known=_parameters(request))
    return response(request, kind, "some parameters are not valid", problems)


def _parameters(request: Request) -> list[str]:
    """The query parameters of the route."""
    dependant = getattr(request.scope.get("route"), "dependant", None)
    fields = [] if dependant is None else dependant.query_params
    names: list[str] = []
    for field in fields:
        model = field.field_info.annotation
        names += model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else [field.alias]
    return names


@cache
def names_of(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields of a model and of the models in it."""
    inner = [
        name for field in model.model_fields.values() for m in _models_in(field.annotation) for name in names_of(m)
    ]
    return tuple(dict.fromkeys([*model.model_fields, *inner]))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def without_most_unknown(model: type[BaseModel], value: object, *, most: int = MOST_UNKNOWN) -> object:
    """A JSON value without most of the fields that the model does not have, as naming each of very many takes long.

    Args:
        model: of the value, or of each item of a list.
        value: to be validated.
        most: unknown fields that are left in each object.
    """
    if isinstance(value, list):
        return [without_most_unknown(model, item, most=max(1, most // len(value))) for item in value]
    if not isinstance(value, dict):
        return value
    fields = model.model_fields
    few = set(islice((name for name in value if name not in fields), most))
    kept = {name: item for name, item in value.items() if name in fields or name in few}
    for name, field in fields.items():
        for inner in _models_in(field.annotation):
            if name in kept:
                kept[name] = without_most_unknown(inner, kept[name], most=most)
    return kept


def validation_problems(errors: Sequence[Mapping[str, Any]], *, known: Iterable[str] = ()) -> list[Problem]:
    """Pydantic's errors as problems with JSON pointers.

    Args:
        errors: as pydantic gives them; of very many the last ones are counted only.
        known: names of which one may be meant where another one came.
    """
    problems = [
        Problem(
            pointer="".join(f"/{pointer_part(part)}" for part in e["loc"]),
            detail=_what_came(e, known if i < MOST_GUESSED else ()),
        )
        for i, e in enumerate(errors[:MOST_NAMED])
    ]
    if len(errors) > MOST_NAMED:
        problems.append(Problem(pointer="", detail=f"and {len(errors) - MOST_NAMED} more"))
    return problems


def _what_came(error: Mapping[str, Any], known: Iterable[str]) -> str:
    words = str(error["msg"])
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        close = difflib.get_close_matches(name, known, n=3) if len(name) <= MAX_GUESSED_NAME else []
        return f"{words}; did you mean {', '.join(close)}?" if close else words
    if error["type"] == "missing":
        return words
    came = _SHORT.repr(error.get("input"))
    return f"{words}, got {came if len(came) <= 100 else came[:100] + '...'}"


async def _http_error(request: Request, error: Exception) -> JSONResponse:
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
