"""The log on standard error, as lines of text or of JSON; each line of a request has its id."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

REQUEST: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request at work."""

_FIELDS = "fields"
_BEGINNING = 40  # characters by which lines from one place in the code are told apart
_MOST_KINDS = 1000


def configure(*, form: Format, level: str) -> None:
    """Send every line of this process, uvicorn's too, to standard error in one form.

    Args:
        form: text or json.
        level: of the least severe lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(FewOfAKind())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("alembic", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` of a line with fields of its own."""
    return {_FIELDS: values}


class FewOfAKind(logging.Filter):
    """Lets through so many warnings and errors of one kind in a time, and counts the others.

    A kind is the place in the code that a line comes from, with the beginning of its words. The last line of a kind
    that goes through says that others are left out; the first one afterwards says how many were, as `left_out`.

    Args:
        most: lines of a kind in a time.
        seconds: that the time lasts.
        clock: seconds.
    """

    def __init__(self, *, most: int = 20, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._seconds, self._clock = most, seconds, clock
        self._kinds: dict[tuple[Any, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, record.pathname, record.lineno, str(record.msg)[:_BEGINNING])
        now = self._clock()
        since, number = self._kinds.get(kind, (now, 0))
        if now - since >= self._seconds:
            left_out, since, number = max(0, number - self._most), now, 0
            if left_out:
                setattr(record, _FIELDS, {**_fields_of(record), "left_out": left_out})
        number += 1
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (since, number)
        if number == self._most:
            more = f"lines like this are left out for {self._seconds:g} seconds"
            setattr(record, _FIELDS, {**_fields_of(record), "more": more})
        return number <= self._most


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the request's id, the line's own fields, the exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := REQUEST.get()) is not None:
            document["request_id"] = request
        document |= _fields_of(record)
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """Time, level, logger, message; behind them the line's own fields and the request's id."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        """See `logging.Formatter`."""
        values = dict(_fields_of(record))
        if (request := REQUEST.get()) is not None:
            values["request_id"] = request
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in values.items())])


def _fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(record, _FIELDS, {})
    return found
