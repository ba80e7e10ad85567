"""JSON from strangers: UTF-8, finite numbers, no key twice, bounded in depth and in the number of values."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from service.errors import MalformedBodyError, TooLargeError

MAX_DEPTH = 32
MAX_VALUES = 200_000


def loads(data: bytes) -> Any:
    """Parse a JSON document.

    Raises:
        MalformedBodyError: not JSON as RFC 8259 has it, or beyond what can be stored and answered as text.
        TooLargeError: more than `MAX_VALUES` values.
    """
    # Each value follows one of these bytes, so counting them bounds the memory before any is spent.
    if sum(map(data.count, (b",", b"[", b"{", b":"))) > MAX_VALUES:
        raise TooLargeError(f"the JSON document has more than {MAX_VALUES} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_object,
        )
    except UnicodeDecodeError as error:
        raise MalformedBodyError(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedBodyError(
            f"the body is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise MalformedBodyError(f"the JSON document is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise MalformedBodyError(f"the body is not JSON that can be read here: {error}") from None
    _check(value)
    return value


def _check(document: Any) -> None:
    """Walk the document without recursion; refuse depth and text that neither UTF-8 nor a database can hold."""
    level = [document]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                following += [*value, *value.values()]
            elif isinstance(value, list):
                following += value
            elif isinstance(value, str):
                _check_text(value)
        if not following:
            return
        level = following
    raise MalformedBodyError(f"the JSON document is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise MalformedBodyError("the JSON document holds the character U+0000 in a text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedBodyError("the JSON document holds half a surrogate pair in a text") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise MalformedBodyError(f"the JSON document has the key {twice!r} twice in one object")
    return result


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedBodyError(f"the JSON document holds a number that is not finite: {digits[:40]}")
    return number


def _no_constant(name: str) -> NoReturn:
    raise MalformedBodyError(f"{name} is not JSON; numbers must be finite")
