"""TensorBoard: losses, U/S/H and gradient shares of a run's log under RUN_DIR/tensorboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import MissingDependencyError

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
            raise MissingDependencyError(
                "--tensorboard needs the package tensorboard: install d3gzsl with the extra `tensorboard`"
            ) from None
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
