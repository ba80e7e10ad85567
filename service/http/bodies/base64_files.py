"""Files as base64 in JSON: standard or URL-safe, with or without line breaks and padding, and as data URIs."""

from __future__ import annotations

import base64
import binascii
import re

_DATA_URI = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
_BLANKS = str.maketrans("", "", " \t\r\n")
_TO_STANDARD = str.maketrans("-_", "+/")
_OTHER = re.compile(r"[^A-Za-z0-9+/=]")


def decode_base64(text: str) -> bytes:
    """The bytes of a file.

    Args:
        text: base64 (RFC 4648), with the standard alphabet or the URL-safe one; lines may be broken, the padding may be
            left out, and `data:TYPE;base64,` may stand in front.

    Raises:
        ValueError: it is none; says what came instead.
    """
    try:
        return base64.b64decode(text, validate=True)  # what nearly everybody sends
    except ValueError:
        pass
    if (uri := _DATA_URI.match(text)) is not None:
        if not uri[1].lower().rstrip().endswith(";base64"):
            raise ValueError("expected base64, got a data URI without ;base64")
        text = text[uri.end() :]
    text = text.translate(_BLANKS)
    standard, safe = "+" in text or "/" in text, "-" in text or "_" in text
    if standard and safe:
        raise ValueError("expected base64 with the standard alphabet or the URL-safe one, got both in one text")
    text = text.translate(_TO_STANDARD).rstrip("=")
    if (odd := _OTHER.search(text)) is not None:
        raise ValueError(f"expected base64, got {odd[0]!r} as character {odd.start() + 1} without blanks")
    if len(text) % 4 == 1:
        raise ValueError(f"expected base64, got {len(text)} characters without padding, which no number of bytes gives")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64: {error}") from None
