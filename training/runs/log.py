"""`log.jsonl` of a run, one JSON object a line, which a resumed run continues exactly; and TensorBoard's events."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.errors import DataError, MissingDependencyError


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


BOARD = "tensorboard"


class Board:
    """Writes the lines of a log as TensorBoard's events, each fold and the final training as a run of its own.

    Args:
        run_dir: what was written there before is replaced by the lines of its log.
        log: `log.jsonl`.

    Raises:
        MissingDependencyError: the package tensorboard is not installed.
    """

    def __init__(self, run_dir: Path, log: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingDependencyError("--tensorboard needs the package tensorboard", "tensorboard") from None
        self._folder = run_dir / BOARD
        self._new, self._writers = SummaryWriter, dict[str, SummaryWriter]()
        shutil.rmtree(self._folder, ignore_errors=True)
        for line in log.read_text(encoding="utf-8").splitlines():
            self.add(json.loads(line))

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line of the log; a line without an epoch says nothing here."""
        if "epoch" not in line:
            return
        name = f"fold-{line['fold'] + 1}" if "fold" in line else line["stage"]
        if name not in self._writers:
            self._writers[name] = self._new(str(self._folder / name))
        for tag, value in _scalars(line):
            self._writers[name].add_scalar(tag, value, line["epoch"])

    def close(self) -> None:
        """Write out what is left."""
        for writer in self._writers.values():
            writer.close()


def _scalars(line: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Tags and values, e.g. `losses/cls`, `validation/H`, `test/student/H`."""
    found: list[tuple[str, float]] = []

    def walk(prefix: str, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            if isinstance(value, Mapping):
                walk(f"{prefix}{name}/", value)
            else:
                found.append((prefix + name, float(value)))

    walk("", {name: value for name, value in line.items() if isinstance(value, Mapping)})
    return found
