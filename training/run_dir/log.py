"""`log.jsonl` of a run: one JSON object a line, which a resumed run continues without a line too few or too many."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.errors import DataError


class RunLog:
    """A log that is cut to where a checkpoint was and goes on from there.

    Args:
        file: `log.jsonl`.
        kept_bytes: how much of it counts; the rest was written after the checkpoint.
        seconds: how long the run has computed until then.

    Raises:
        DataError: the file is shorter than that.
    """

    def __init__(self, file: Path, *, kept_bytes: int = 0, seconds: float = 0.0) -> None:
        self._file = file.open("ab")
        if (found := self._file.seek(0, os.SEEK_END)) < kept_bytes:
            self._file.close()
            raise DataError(f"{file}: expected at least {kept_bytes} bytes, as when the run was left, got {found}")
        self._file.truncate(kept_bytes)
        self._file.seek(kept_bytes)
        self._started = time.monotonic() - seconds
        self.on_line: list[Callable[[dict[str, Any]], None]] = []
        """Told every line that is written."""

    def write(self, **fields: Any) -> None:
        """Write one line; what the run has computed so far, in seconds, is added."""
        line = {"seconds": round(self.seconds, 2), **fields}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        for told in self.on_line:
            told(line)

    @property
    def seconds(self) -> float:
        """How long the run has computed, over all its parts."""
        return time.monotonic() - self._started

    def sync(self) -> int:
        """Bring all lines to the disk; returns the length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
