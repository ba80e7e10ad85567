"""How many CPUs this process may really use: affinity and container quota, not what the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_cpus(*, cgroup_root: Path = _CGROUP_ROOT, own_groups: Path = _OWN_GROUPS) -> int:
    """CPUs this process may use: the least of its affinity mask and every cgroup quota above it, at least 1.

    A quota that is no whole number is rounded up: 1.5 CPUs keep two threads busy.

    Args:
        cgroup_root: where the cgroup file systems are mounted.
        own_groups: the file that lists the groups of this process, in the form of ``/proc/self/cgroup``.
    """
    cpus = float(_affinity())
    for quota in _quotas(cgroup_root, own_groups):
        cpus = min(cpus, quota)
    return max(1, math.ceil(cpus - 1e-9))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path, own_groups: Path) -> list[float]:
    """Every quota that applies, in CPUs: a parent's limit binds its children, so all levels count."""
    quotas = []
    for line in _read(own_groups).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            quotas += [_quota_v2(folder) for folder in _levels(root, group)]
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quotas += [_quota_v1(folder) for folder in _levels(mount, group)]
    return [quota for quota in quotas if quota is not None]


def _levels(mount: Path, group: str) -> list[Path]:
    """The group's folder and all above it up to the mount.

    In a container the mount often shows only the container's own group, so the mount itself always counts.
    """
    folder = mount / group.lstrip("/")
    if ".." in folder.parts:  # a group outside this namespace is written with leading ..
        return [mount]
    return [level for level in (folder, *folder.parents) if level == mount or level.is_relative_to(mount)]


def _quota_v2(folder: Path) -> float | None:
    fields = _read(folder / "cpu.max").split()
    return _cpus(fields[0], fields[1]) if len(fields) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _cpus(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _cpus(quota: str, period: str) -> float | None:
    """Microseconds per period to CPUs; None for `max`, -1 and files that are absent."""
    try:
        microseconds, per = int(quota), int(period)
    except ValueError:
        return None
    return microseconds / per if microseconds > 0 and per > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
