"""JSON from strangers: UTF-8, finite numbers, no key twice, bounded in depth and in the number of values."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from model.errors import Problem, pointer_part
from service.errors import MalformedBodyError, NotFiniteError, TooLargeError

MAX_DEPTH = 32
MAX_VALUES = 200_000
_MOST_NAMED = 100
_LARGEST = sys.float_info.max


def loads(data: bytes, *, max_values: int = MAX_VALUES) -> Any:
    """Parse a JSON document.

    Args:
        data: the document.
        max_values: most values in it.

    Raises:
        MalformedBodyError: not JSON as RFC 8259 has it, or beyond what can be stored and answered as text.
        NotFiniteError: numbers that no float can hold; each with its pointer.
        TooLargeError: more than `max_values` values.
    """
    # Each value follows one of these bytes, so counting them bounds the memory before any is spent.
    if sum(map(data.count, (b",", b"[", b"{", b":"))) > max_values:
        raise TooLargeError(f"the JSON document has more than {max_values} values")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
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
    # Only an escape can stand for U+0000 or half a surrogate pair: neither is JSON in UTF-8 as it is.
    _check(value, escapes=b"\\u" in data)
    return value


def _check(document: Any, *, escapes: bool) -> None:
    """Walk the document without recursion; refuse depth, infinite numbers and text that no database can hold."""
    level = [document]
    finite = True
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                following += value.values()
                if escapes:
                    following += value
            elif kind is list:
                following += value
            elif kind is float or kind is int:
                finite = finite and -_LARGEST <= value <= _LARGEST
            elif escapes and kind is str:
                _check_text(value)
        if not following:
            break
        level = following
    else:
        raise MalformedBodyError(f"the JSON document is nested deeper than {MAX_DEPTH} levels")
    if not finite:
        raise NotFiniteError(
            "numbers must be finite",
            [
                Problem(pointer=pointer, detail=f"expected a finite number, got {_shown(value)}")
                for pointer, value in islice(_infinite_numbers(document, ""), _MOST_NAMED)
            ],
        )


def _is_finite(number: float) -> bool:
    return abs(number) <= sys.float_info.max  # false for NaN, and for integers that no float can hold


def _infinite_numbers(value: Any, pointer: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _infinite_numbers(inner, f"{pointer}/{pointer_part(key)}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _infinite_numbers(inner, f"{pointer}/{i}")
    elif isinstance(value, int | float) and not _is_finite(value):
        yield pointer, value


def _shown(number: float) -> str:
    return "NaN" if isinstance(number, float) and math.isnan(number) else "one beyond the largest float"


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
