"""JSON of a stranger: bounded in size and depth, with finite numbers and text that can be printed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 64


def read_document(data: bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is no JSON, deeper than `MAX_DEPTH` levels, or holds a number that is not finite or half of a
            surrogate pair.
    """
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError(f"expected at most {MAX_DEPTH} levels of JSON, got far more") from None
    level: Iterable[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return document
    raise ValueError(f"expected at most {MAX_DEPTH} levels of JSON, got more")


def _parts(value: Any) -> Iterable[Any]:
    """What a value is made of, after a look at the value itself."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it holds a number that is not finite (NaN or infinity)")
    if isinstance(value, str) and not value.isascii():
        value.encode()  # UnicodeEncodeError is a ValueError
    return ()
