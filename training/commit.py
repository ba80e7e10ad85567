"""Which code a result comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def code_commit() -> str | None:
    """Commit of the checkout that runs, if it is one and git is there."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
