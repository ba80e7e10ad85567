"""Bodies of type multipart/form-data (RFC 7578), taken apart where they lie in memory.

The libraries at hand take a form that ends before its closing boundary for a whole one, or refuse a preamble, and none
of them reads `filename*`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.utils import collapse_rfc2231_value

from service.errors import MalformedBodyError, MediaTypeError, TooLargeError

_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
_MAX_PARTS = 1000
_MAX_HEAD = 8000  # bytes
_REST = re.compile(rb"(--)|[ \t]*\r\n")
_LONGEST_BOUNDARY = 70  # RFC 2046
Value = str | tuple[str | None, str | None, str]
"""Of a parameter; charset, language and text where it was encoded as RFC 2231 has it."""
Parameters = list[tuple[str, Value]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A field of a form.

    Attributes:
        name: of the field.
        filename: where it is a file, maybe empty; None for a text.
        data: its bytes.
    """

    name: str
    filename: str | None
    data: bytes


def boundary_of(content_type: str) -> bytes:
    """The boundary that a form's type names.

    Raises:
        MediaTypeError: the form is not in UTF-8.
        MalformedBodyError: there is no boundary, or none that is possible.
    """
    given = _parameters("content-type", content_type)
    charset = str(_first(given, "charset") or "utf-8")
    if charset.lower() not in _CHARSETS:
        raise MediaTypeError(f"expected multipart/form-data in UTF-8, got the charset {charset[:40]!r}")
    boundary = _first(given, "boundary")
    if not isinstance(boundary, str) or not boundary:
        raise MalformedBodyError("expected multipart/form-data with a boundary, got none")
    if len(boundary) > _LONGEST_BOUNDARY:
        raise MalformedBodyError(f"expected a boundary of at most {_LONGEST_BOUNDARY} characters, got {len(boundary)}")
    return boundary.encode("latin-1", "replace")


def parts_of(body: bytes, boundary: bytes) -> list[Part]:
    """The fields of a form, in their order.

    What stands before the first boundary and behind the closing one counts for nothing, and so do blanks behind a
    boundary (RFC 2046).

    Raises:
        MalformedBodyError: there is no boundary or no closing one, or a field has no head or no name.
        TooLargeError: too many fields.
    """
    parts = []
    for i, (start, end) in enumerate(_places(body, boundary)):
        if i == _MAX_PARTS:
            raise TooLargeError(f"the form has more than the {_MAX_PARTS} fields allowed")
        parts.append(_part(body, start, end, f"field {i + 1} of the form"))
    return parts


def _places(body: bytes, boundary: bytes) -> Iterator[tuple[int, int]]:
    """Where each field begins, with its head, and ends."""
    shown = boundary.decode("latin-1")
    found = _delimiter(body, boundary, 0)
    if found is None:
        raise MalformedBodyError(f"expected a form with the boundary --{shown}, got none in {len(body)} bytes")
    while found[1][1] is None:
        start = found[1].end()
        # The line's end may begin the next boundary, too, where a field is empty.
        following = _delimiter(body, boundary, start - 2)
        if following is None:
            raise MalformedBodyError(
                f"the form ends before its closing boundary: expected --{shown}-- at its end, got {len(body)} bytes "
                "without it"
            )
        yield start, following[0]
        found = following


def _delimiter(body: bytes, boundary: bytes, start: int) -> tuple[int, re.Match[bytes]] | None:
    """Where the next line with the boundary begins, with its end before it, and the rest of that line."""
    mark = b"--" + boundary
    if start == 0 and body.startswith(mark) and (rest := _REST.match(body, len(mark))) is not None:
        return 0, rest
    mark = b"\r\n" + mark
    place = body.find(mark, start)
    while place >= 0:
        if (rest := _REST.match(body, place + len(mark))) is not None:
            return place, rest
        place = body.find(mark, place + 1)
    return None


def _part(body: bytes, start: int, end: int, where: str) -> Part:
    head_end = body.find(b"\r\n\r\n", start, start + _MAX_HEAD)
    if not start <= head_end <= end - 4:
        raise MalformedBodyError(f"{where}: expected a head with an empty line behind it, got none")
    disposition: Parameters = []
    for line in body[start:head_end].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if line and not colon:
            raise MalformedBodyError(f"{where}: expected headers, got the line {_text(line)[:100]!r}")
        if name.strip().lower() == b"content-disposition":
            disposition = _parameters("content-disposition", _text(value.strip()))
    name_of_field = _first(disposition, "name")
    if name_of_field is None:
        raise MalformedBodyError(f"{where}: expected the header Content-Disposition with a name, got none")
    return Part(name=_value(name_of_field), filename=_filename(disposition), data=body[head_end + 4 : end])


def _filename(disposition: Parameters) -> str | None:
    """The name of a file, from `filename*` where it is there (RFC 6266); None where there is neither."""
    names = [value for name, value in disposition if name.lower() == "filename"]
    encoded = [value for value in names if isinstance(value, tuple)]
    if encoded:
        return _value(encoded[0])
    return _decoded_words(_value(names[0])) if names else None


def _value(value: Value) -> str:
    try:
        text = collapse_rfc2231_value(value)
    except ValueError:  # what should name the charset holds a zero
        text = value[2] if isinstance(value, tuple) else value
    return text.rpartition("\\")[2] if re.match(r"[A-Za-z]:\\|\\\\", text) else text  # a path, as old browsers send it


def _decoded_words(name: str) -> str:
    """A name without the encoding of RFC 2047, which does not belong there and comes all the same."""
    if not (name.startswith("=?") and name.endswith("?=")):
        return name
    try:
        return str(make_header(decode_header(name)))
    except (MessageError, LookupError, ValueError):
        return name


def _parameters(name: str, value: str) -> Parameters:
    """The parameters of a header, such as `filename="a.png"`; MalformedBodyError where they cannot be read."""
    message = Message()
    message[name] = value.replace("\r", " ").replace("\n", " ")
    try:
        return list(message.get_params([], header=name))
    except (LookupError, MessageError, TypeError, ValueError):  # such as a name both with a number and without
        raise MalformedBodyError(f"the parameters of {name} cannot be read: {value[:100]!r}") from None


def _first(parameters: Parameters, name: str) -> Value | None:
    return next((value for found, value in parameters if found.lower() == name), None)


def _text(data: bytes) -> str:
    """Names are UTF-8; what is not is taken as the Latin-1 that old clients send."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")
