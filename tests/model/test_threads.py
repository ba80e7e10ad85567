from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.outside import threads
from model.outside.threads import available_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_affinity", lambda: 8)


def cpus(tmp_path: Path, own: str, files: dict[str, str]) -> int:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_cpus(cgroup_root=tmp_path / "cgroup", own_groups=tmp_path / "own")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1600000 100000", 8),
        ("", 8),
    ],
)
def test_version_2(tmp_path: Path, quota: str, expected: int) -> None:
    assert cpus(tmp_path, "0::/\n", {"cpu.max": quota + "\n"}) == expected


def test_version_2_takes_the_tightest_level(tmp_path: Path) -> None:
    files = {
        "a/cpu.max": "300000 100000",
        "a/b/cpu.max": "max 100000",
        "a/b/c/cpu.max": "500000 100000",
        "other/cpu.max": "100000 100000",
    }
    assert cpus(tmp_path, "0::/a/b/c\n", files) == 3


def test_container_that_sees_only_its_own_group(tmp_path: Path) -> None:
    assert cpus(tmp_path, "0::/docker/0123\n", {"cpu.max": "400000 100000"}) == 4
    assert cpus(tmp_path, "0::/../../other\n", {"cpu.max": "400000 100000"}) == 4


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("300000", 3), ("250000", 3)])
def test_version_1(tmp_path: Path, mount: str, quota: str, expected: int) -> None:
    files = {f"{mount}/box/cpu.cfs_quota_us": quota + "\n", f"{mount}/box/cpu.cfs_period_us": "100000\n"}
    assert cpus(tmp_path, f"5:{mount}:/box\n3:cpuset:/\n0::/\n", files) == expected


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert available_cpus(cgroup_root=tmp_path / "none", own_groups=tmp_path / "none") == 8


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 3, 5})
    assert available_cpus(cgroup_root=tmp_path, own_groups=tmp_path / "none") == 3
