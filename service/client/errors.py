"""What can go wrong between a program and a service.

ClientError                     (a D3GZSLError)
├── UnreachableError            there is no answer
├── UnexpectedAnswerError       an answer that is not this service's
├── NotModifiedError            the state still has the entity tag of `if_none_match`
└── ServiceError                a problem that the service describes; `name` says which
    ├── RefusedInputError       400, 415, 422: something of the request is wrong
    ├── KeyRefusedError         401, 403, 421: the key, its role or the host name is not accepted
    ├── NotFoundError           404
    ├── ConflictError           409
    ├── PreconditionFailedError 412
    ├── TooMuchError            413
    └── ServiceUnavailableError 503: `retry_after` says when to ask again
        └── TooOftenError       429: likewise
"""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import ValidationError

from model.errors import D3GZSLError
from service.http.schemas import ProblemError

_URN = "urn:d3gzsl:problem:"


class ClientError(D3GZSLError):
    """A request that did not get what it asked for.

    Attributes:
        status: of the answer; None where there was none.
        detail: what the problem says, or the message.
    """

    def __init__(self, message: str, *, status: int | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.status, self.detail = status, detail or message


class UnreachableError(ClientError):
    """There is no answer.

    Attributes:
        sent: whether the request may have been carried out, because it was sent and only its answer is missing.
        again: whether another try may help.
    """

    def __init__(self, message: str, *, sent: bool, again: bool) -> None:
        super().__init__(message)
        self.sent, self.again = sent, again


class UnexpectedAnswerError(ClientError):
    """An answer that is not this service's, or not of a version that this client knows."""


class NotModifiedError(ClientError):
    """What was asked for still has the entity tag of `if_none_match`."""


class ServiceError(ClientError):
    """A problem that the service describes.

    Attributes:
        type: URN of the kind of problem; None on `/v2`, whose errors have no type.
        name: its last part, such as `class-exists`; empty where there is no type.
        title: the same words for every problem of the kind.
        errors: everything that is wrong, each with a JSON pointer.
        request_id: under which the service's log has it.
    """

    def __init__(self, response: httpx.Response, problem: dict[str, Any]) -> None:
        self.type: str | None = problem.get("type")
        self.name = (self.type or "").removeprefix(_URN)
        self.title = str(problem.get("title", response.reason_phrase))
        self.errors = tuple(ProblemError.model_validate(error) for error in problem.get("errors", ()))
        self.request_id = str(problem.get("request_id", response.headers.get("x-request-id", "")))
        detail = str(problem["detail"])
        lines = [f"{self.title}: {detail}", *(f"  {error.pointer}: {error.detail}" for error in self.errors)]
        super().__init__("\n".join(lines), status=response.status_code, detail=detail)


class RefusedInputError(ServiceError):
    """Something of the request is wrong; `errors` names it."""


class KeyRefusedError(ServiceError):
    """The service does not accept the key, its role does not allow this, or the host name is not allowed."""


class NotFoundError(ServiceError):
    """There is no such class, example, version, model or path."""


class ConflictError(ServiceError):
    """The class exists already, or was seen in training."""


class PreconditionFailedError(ServiceError):
    """The state is not the one that `if_match` or `if_none_match` expects."""


class TooMuchError(ServiceError):
    """The request, its image or its batch is too large."""


class ServiceUnavailableError(ServiceError):
    """No answer now; asking again later may help.

    Attributes:
        retry_after: seconds after which to ask again; None where the service does not say.
    """

    def __init__(self, response: httpx.Response, problem: dict[str, Any]) -> None:
        super().__init__(response, problem)
        self.retry_after = retry_after(response)


class TooOftenError(ServiceUnavailableError):
    """The client asks more often than it may; nothing was done."""


_BY_STATUS: dict[int, type[ServiceError]] = {
    **dict.fromkeys((400, 415, 422), RefusedInputError),
    **dict.fromkeys((401, 403, 421), KeyRefusedError),
    404: NotFoundError,
    409: ConflictError,
    412: PreconditionFailedError,
    413: TooMuchError,
    429: TooOftenError,
    503: ServiceUnavailableError,
}


def error_of(response: httpx.Response) -> ClientError:
    """The error that an answer with an error status stands for."""
    kind = _BY_STATUS.get(response.status_code, ServiceError)
    try:
        body = response.json()
        problem = {"detail": body["error"]} if "error" in body else body
        return kind(response, problem)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
        words = f"{response.url} answered {response.status_code} {response.reason_phrase}"
        return UnexpectedAnswerError(words, status=response.status_code)


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of the header Retry-After; None where it is missing or a date, which this service never sends."""
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
