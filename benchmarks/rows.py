"""Results in rows: kept in a file as they come, so that a benchmark goes on where it was stopped."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def command(script: str) -> str:
    """The command as others would give it, without the paths of this machine."""
    words = [Path(word).name if "/" in word and not word.startswith("benchmarks/") else word for word in sys.argv[1:]]
    return f"python benchmarks/{script} " + shlex.join(words)


def rows_of(file: Path) -> list[Row]:
    """The rows so far; none where there is no file."""
    return json.loads(file.read_text())["rows"] if file.exists() else []


def save(file: Path, rows: list[Row], command: str) -> None:
    """Replace the file at once, so that a kill leaves either the old or the new one."""
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")
    beside.replace(file)
