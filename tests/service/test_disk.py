"""Disks that are full, refuse writes or turn read-only: images are answered, and no acknowledged change is lost."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.disks import Ext4, fill, make_room, small_disk
from tests.service.nursery import HANG, Nursery
from tests.service.processes import Server, command, serving
from tests.service.promises import IMAGE, Promises, Registering
from tests.service.tiny import VIOLET

MANY = 8 if os.environ.get("CI") else 40
"""Lives of the long run on a disk that is full again and again."""
ENDLESS = resource.RLIM_INFINITY


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", size="24m") as made:
        yield made


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def until_refused(clients: Registering, url: str, name: str) -> None:
    """Wait until changes are refused, and see that images are answered all the same."""
    before = clients.refused[name]
    until(lambda: clients.refused[name] > before + 4 or bool(clients.wrong), f"nothing was {name}: {clients.refused}")
    assert clients.wrong == []
    assert httpx.post(f"{url}/classify", **IMAGE, timeout=HANG).status_code == 200
    assert httpx.get(f"{url}/readyz", timeout=HANG).status_code == 200


def until_taken(clients: Registering) -> None:
    before = clients.confirmed
    until(lambda: clients.confirmed > before + 4 or bool(clients.wrong), f"nothing was taken: {clients.refused}")
    assert clients.wrong == []


def change(service: Server, name: str) -> httpx.Response:
    return service.request("POST", "/classes", json={"id": name, "name": name, "attributes": list(VIOLET)})


@pytest.mark.parametrize("lives", [3, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_every_promise_outlives_a_full_disk(nursery: Nursery, bundle_dir: Path, disk: Path, lives: int) -> None:
    """In each life the disk gets full under the service; it is killed before or after there is room again."""
    flags = ("--bundle", str(bundle_dir), "--data-dir", str(disk / "data"), "--threads", "1")
    choose, promises = random.Random(lives), Promises()
    for life in range(lives + 1):
        with nursery.serving(*flags) as (url, _):
            promises.check(url, f"in life {life}")
            clients = Registering(url, life)
            clients.start()
            time.sleep(choose.uniform(0.05, 0.3))
            if life % 3 != 2:
                fill(disk)
                until_refused(clients, url, "registry-full")
            if life % 3 == 0:
                make_room(disk)
                until_taken(clients)
        clients.join()
        promises.take(clients)
        if life % 3 == 1:  # it starts although its disk is full, as what it needs is there since it was killed
            with nursery.serving(*flags) as (url, _):
                promises.check(url, f"on a full disk after life {life}")
            make_room(disk)
    report = command("registry", "check", *flags[:4], "--json")
    assert report.returncode == 0, report.stdout + report.stderr


def test_every_promise_outlives_a_disk_that_refuses_writes(bundle_dir: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk, as nobody needs to be root for it."""
    promises = Promises()
    with serving(bundle_dir, tmp_path, "--threads", "1") as service:
        for loss in range(3):
            clients = Registering(service.url, loss)
            clients.start()
            until_taken(clients)
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, ENDLESS))
            until_refused(clients, service.url, "registry-unavailable")
            resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (ENDLESS, ENDLESS))
            until_taken(clients)
            clients.end()
            promises.take(clients)
            promises.check(service.url, f"after loss {loss}")
        assert "look whether its disk has room, takes writes and has no errors" in service.log.text


@pytest.mark.slow
def test_a_disk_that_turns_read_only_takes_no_change_and_loses_none(bundle_dir: Path, tmp_path: Path) -> None:
    disk = Ext4(tmp_path / "disk", tmp_path / "image")
    disk.mount()
    data, promises = disk.folder / "data", Promises()
    try:
        with serving(bundle_dir, data, "--threads", "1") as service:
            clients = Registering(service.url, 0)
            clients.start()
            until_taken(clients)
            with clients.paused():  # in that very moment ext4 may say that it has written what it then has not
                disk.fail()
            until_refused(clients, service.url, "registry-unavailable")
            clients.end()
            promises.take(clients)
            assert "look whether its disk has room, takes writes and has no errors" in service.log.text
        disk.repair()
        disk.mount()
        with serving(bundle_dir, data, "--threads", "1") as service:
            promises.check(service.url, "after the repair")
            assert change(service, "violet").status_code == 201
    finally:
        disk.umount()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_start_on_a_disk_that_takes_nothing_says_what_to_do(bundle_dir: Path, tmp_path: Path, state: str) -> None:
    disk = Ext4(tmp_path / "disk", tmp_path / "image")
    disk.mount()
    data = disk.folder / "data"
    serve = ("serve", "--port", "0", "--bundle", bundle_dir, "--data-dir", data)
    try:
        with serving(bundle_dir, data, "--threads", "1") as service:
            assert change(service, "violet").status_code == 201
            service.process.terminate()
            service.process.wait(60)
        if state == "full":
            fill(disk.folder)
        else:
            disk.umount()
            disk.mount(options="ro")
        refused = command(*serve)
        assert refused.returncode == 2, refused.stderr
        assert "has no room on its disk" in refused.stderr or "look whether its disk has room" in refused.stderr
        assert refused.stderr.count("\n") == 1
        if state == "full":
            make_room(disk.folder)
        else:
            disk.umount()
            disk.mount()
        with serving(bundle_dir, data, "--threads", "1") as service:
            assert service.request("GET", "/classes/violet").status_code == 200
    finally:
        disk.umount()


@pytest.mark.slow
def test_back_ups_wait_for_room_and_leave_nothing_by_halves(bundle_dir: Path, tmp_path: Path, disk: Path) -> None:
    folder = disk / "backups"
    flags = ("--backup-dir", str(folder), "--backup-changes", "1", "--threads", "1")
    with serving(bundle_dir, tmp_path / "data", *flags) as service:
        assert change(service, "first").status_code == 201
        until(lambda: (folder / "registry-000000001.jsonl").exists(), "no back-up was made")
        fill(disk)
        assert change(service, "second").status_code == 201  # its own disk has room
        until(lambda: "no back-up of the registry could be made" in service.log.text, "nobody said so")
        assert "No space left on device" in service.log.text
        assert [file.name for file in folder.iterdir()] == ["registry-000000001.jsonl"]
        refused = command("registry", "backup", disk / "mine", "--bundle", bundle_dir, "--data-dir", tmp_path / "data")
        assert refused.returncode == 2
        assert "No space left on device" in refused.stderr
        assert not (disk / "mine").exists()
        make_room(disk)
        until(lambda: (folder / "registry-000000002.jsonl").exists(), "no back-up was made once there was room")
    restore = ("registry", "restore", folder / "registry-000000002.jsonl", "--bundle", bundle_dir)
    assert command(*restore, "--data-dir", tmp_path / "other").returncode == 0
    with serving(bundle_dir, tmp_path / "other", "--threads", "1") as service:
        assert service.request("GET", "/classes/second").status_code == 200


def test_a_back_up_that_finds_no_room_where_it_is_restored_changes_nothing(
    bundle_dir: Path, tmp_path: Path, disk: Path
) -> None:
    data, saved = disk / "data", tmp_path / "saved"
    with serving(bundle_dir, data, "--threads", "1") as service:
        assert change(service, "first").status_code == 201
        assert command("registry", "backup", saved, "--bundle", bundle_dir, "--data-dir", data).returncode == 0
        assert change(service, "second").status_code == 201
        fill(disk)
        restore = ("registry", "restore", saved, "--replace", "--bundle", bundle_dir, "--data-dir", data)
        refused = command(*restore)
        assert refused.returncode == 2
        assert "has no room on its disk" in refused.stderr
        make_room(disk)
        assert service.request("GET", "/classes/second").status_code == 200
        assert command(*restore).returncode == 0
