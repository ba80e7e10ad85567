"""JSON from strangers: UTF-8, finite numbers, no key twice, bounded in depth and in the number of values."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from pydantic_core import from_json

from model.errors import Problem, pointer_part
from service.errors import MalformedBodyError, NotFiniteError, TooLargeError

MAX_DEPTH = 32
MAX_VALUES = 200_000
_MOST_NAMED = 100
_NUMBERS = {int, float}


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
    # Only an escape can stand for U+0000 or half a surrogate pair: neither is JSON in UTF-8 as it is.
    escapes = b"\\u" in data
    try:
        value = from_json(data, cache_strings="none")
    except ValueError:
        value = _slowly(data)
    colons = _check(value, escapes=escapes)
    if colons != data.count(b":") or (escapes and (b"\\u003a" in data or b"\\u003A" in data)):
        value = _slowly(data)
    return value


def _slowly(data: bytes) -> Any:
    """The same document by the standard library's parser, which takes three times as long and says what is wrong."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object)
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


def _check(document: Any, *, escapes: bool) -> int:
    """Walk the document without recursion; refuse depth, infinite numbers and text that no database can hold.

    Returns:
        How many colons the document was written with, if no object had a key twice and no colon was escaped: one after
        each key, and those in texts.
    """
    level: list[Any] = [[document]]
    finite = True
    colons = 0
    for _ in range(MAX_DEPTH + 1):
        following: list[Any] = []
        for container in level:
            values = container
            if type(container) is dict:
                values = container.values()
                keys = "".join(container)
                colons += len(container) + keys.count(":")
                if escapes:
                    _check_text(keys)
            kinds = set(map(type, values))
            if str in kinds:
                texts = [value for value in values if type(value) is str]
                colons += sum(text.count(":") for text in texts)
                if escapes:
                    for text in texts:
                        _check_text(text)
            if int in kinds or float in kinds:
                numbers = values if kinds <= _NUMBERS else [value for value in values if type(value) in _NUMBERS]
                finite = finite and _are_finite(numbers)
            if dict in kinds or list in kinds:
                following += [value for value in values if type(value) in (dict, list)]
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
    return colons


def _are_finite(numbers: Iterable[float]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except OverflowError:  # an integer that no float can hold
        return False


def _infinite_numbers(value: Any, pointer: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _infinite_numbers(inner, f"{pointer}/{pointer_part(key)}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _infinite_numbers(inner, f"{pointer}/{i}")
    elif isinstance(value, int | float) and not _are_finite([value]):
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
