"""Clients of a running service, for programs and for the commands: one to wait with, one for asyncio.

What an endpoint takes and answers stands once, in `calls.py` and `streams.py`; what is repeated, remembered and read,
in `session.py`. Neither sends anything. `clients.py` does, once with httpx's client and once with its asynchronous one.
"""

from __future__ import annotations

from service.client.clients import AsyncClient, Client
from service.client.errors import (
    ClientError,
    ConflictError,
    KeyRefusedError,
    NotFoundError,
    NotModifiedError,
    PreconditionFailedError,
    RefusedInputError,
    ServiceError,
    ServiceUnavailableError,
    TooMuchError,
    TooOftenError,
    UnexpectedAnswerError,
    UnreachableError,
)
from service.client.images import Images, ImageSource
from service.client.session import Retries
from service.client.streams import FileAnswer

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "ConflictError",
    "FileAnswer",
    "ImageSource",
    "Images",
    "KeyRefusedError",
    "NotFoundError",
    "NotModifiedError",
    "PreconditionFailedError",
    "RefusedInputError",
    "Retries",
    "ServiceError",
    "ServiceUnavailableError",
    "TooMuchError",
    "TooOftenError",
    "UnexpectedAnswerError",
    "UnreachableError",
]
