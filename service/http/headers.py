"""Entity tags, preconditions and the table's version in headers, and cursors in queries."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response

from model.errors import Problem
from service.classes.class_table import KnownClass
from service.classes.edits import Precondition
from service.errors import InvalidRequestError

VERSION_HEADER = "registry-version"
VERSION = {"Registry-Version": {"description": "Version of the class table.", "schema": {"type": "integer"}}}
TAGGED = {"ETag": {"description": "Changes whenever the class changes.", "schema": {"type": "string"}}, **VERSION}
LOCATION = {"Location": {"description": "Path of the class.", "schema": {"type": "string"}}}
_TAG = re.compile(r'(W/)?"([\x21\x23-\x2b\x2d-\x7e\x80-\xff]*)"')
_TAGS = rf"^(\*|{_TAG.pattern}([ \t]*,[ \t]*{_TAG.pattern})*)$"


def precondition_parameters(**descriptions: str) -> dict[str, Any]:
    """OpenAPI entry for precondition headers: `if_match` and `if_none_match` with what they do."""
    return {
        "parameters": [
            {
                "name": name.replace("_", "-").title(),
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": _TAGS},
                "description": description,
            }
            for name, description in descriptions.items()
        ]
    }


UNLESS_CHANGED = precondition_parameters(if_none_match="Entity tags of what the client has already, or *.")
PRECONDITIONS = precondition_parameters(
    if_match="Entity tags one of which the class must have, or *.",
    if_none_match="Entity tags the class must not have; * for create only.",
)


def precondition(request: Request) -> Precondition:
    """What the request expects of the class; InvalidRequestError where a header cannot be read."""
    return Precondition(match=tags_of(request, "if-match"), none_match=tags_of(request, "if-none-match", weak=True))


def not_modified(request: Request, etag: str, version: int) -> Response | None:
    """The answer to a reader that has this state already, or None."""
    tags = tags_of(request, "if-none-match", weak=True)
    if "*" in tags or etag in tags:
        return Response(status_code=304, headers={"etag": etag, VERSION_HEADER: str(version)})
    return None


def set_version(response: Response, version: int, *, etag: str) -> None:
    """Put the tag of what is answered and the version of the class table into the headers."""
    response.headers["etag"] = etag
    response.headers[VERSION_HEADER] = str(version)


def set_location(request: Request, response: Response, class_id: str) -> None:
    """Put the path of a new class into the headers."""
    response.headers["location"] = f"{request.scope.get('root_path', '')}/classes/{class_id}"


def page_tag(page: Iterable[KnownClass], more: bool) -> str:
    """Entity tag of a page of the list."""
    return f'"{hashlib.sha256(repr((more, [known.etag for known in page])).encode()).hexdigest()[:16]}"'


def to_cursor(place: str) -> str:
    """A place in a list, as clients hand it back."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> str:
    """The place of a cursor; InvalidRequestError where it is none."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise bad_cursor(cursor) from None


def bad_cursor(cursor: str) -> InvalidRequestError:
    """The error for a cursor that no answer has given."""
    return InvalidRequestError(
        "the cursor cannot be read",
        [Problem(pointer="/query/cursor", detail=f"expected a next_cursor, got {cursor[:100]!r}")],
    )


def tags_of(request: Request, header: str, *, weak: bool = False) -> tuple[str, ...]:
    """Entity tags of a header, empty where it was not sent; weak ones never match where strong ones are needed."""
    values = request.headers.getlist(header)
    if not values:
        return ()
    joined = ",".join(values).strip()
    if joined == "*":
        return ("*",)
    matches = [_TAG.fullmatch(part.strip()) for part in joined.split(",")]
    if not all(matches):
        raise InvalidRequestError(
            "a precondition cannot be read",
            [Problem(pointer=f"/header/{header}", detail=f'expected * or tags like "12-abc", got {joined[:100]!r}')],
        )
    return tuple(_strong(m[1], m[2], weak) for m in matches if m)


def _strong(prefix: str | None, tag: str, weak: bool) -> str:
    return f'"{tag}"' if weak or prefix is None else f'W/"{tag}"'
