"""What a service holds while it works: memory, open files and computing time of its processes, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True, kw_only=True)
class Held:
    """One look at the processes of a service.

    Attributes:
        at: seconds since the beginning.
        resident_mb: resident memory of the process that answers.
        family_mb: of it and its descendants together; pages that they share count several times.
        files: open file descriptors of the process that answers.
        processes: how many there are.
        rest: whether nobody was sending anything, so that looks can be compared.
    """

    at: float
    resident_mb: float
    family_mb: float
    files: int
    processes: int
    rest: bool


def look(pid: int, *, at: float, rest: bool) -> Held:
    """What the process and its descendants hold now."""
    members = family(pid)
    each = [resident_mb(one) for one in members]
    return Held(
        at=round(at, 1),
        resident_mb=round(each[0], 2),
        family_mb=round(sum(each), 2),
        files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        processes=len(members),
        rest=rest,
    )


def family(pid: int) -> list[int]:
    """A process with its descendants, itself first."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def computed_seconds(pid: int) -> float:
    """Computing time of a process so far, with that of children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """MB of memory that one process holds; 0 where it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_MB
    return 0.0
