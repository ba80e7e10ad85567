"""The log on standard error, as lines of text or of JSON; each line of a request has its id."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

REQUEST: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request at work."""

_FIELDS = "fields"


def configure(*, form: Format, level: str) -> None:
    """Send every line of this process, uvicorn's too, to standard error in one form.

    Args:
        form: text or json.
        level: of the least severe lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("alembic", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def fields(**values: Any) -> dict[str, dict[str, Any]]:
    """The `extra` of a line with fields of its own."""
    return {_FIELDS: values}


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
