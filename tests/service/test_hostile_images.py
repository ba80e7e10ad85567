"""Hostile images, each in bounded time and memory: answered, or refused by a name that says why."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.errors import ImageError
from service.inference.decode_process import DecodeLimits, DecodeProcess
from tests import hostile_images
from tests.hostile_images import ANSWERED, FORMS, Hostile
from tests.model.photos import encode, exif, picture
from tests.service.conftest import Client, Running
from tests.service.tiny import SPEC, png

pytestmark = pytest.mark.anyio
MEMORY = 100_000_000
SECONDS = 5.0  # of computing for one image: a limit of the process, not a measurement
STATUS = {"image-too-large": 413, "unreadable-image": 422, "unsupported-image": 415}
GROUPS = ("bombs", "thin", "empty", "inflating", "foreign", "polyglots", "animated", "coloured", "exif_traps", "broken")


@functools.cache
def corpus() -> list[Hostile]:
    return hostile_images.corpus()


def peak_memory(pid: int | str = "self") -> int:
    """Most bytes that a process has held since it was born, or since this was reset."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


async def test_there_is_no_other_group() -> None:
    assert {file.name.partition(":")[0] for file in corpus()} == set(GROUPS)
    assert max(len(file.data) for file in corpus()) < 2_000_000
    assert len({file.name for file in corpus()}) == len(corpus()) > 190


@pytest.mark.parametrize("group", GROUPS)
async def test_every_file_gets_its_answer(running: Running, group: str) -> None:
    files = [file for file in corpus() if file.name.startswith(f"{group}:")]
    async with running(decode_seconds=30.0) as client:
        await ask(client, png((255, 0, 0)))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_memory()
        wrong = []
        for file in files:
            answer, words = await ask(client, file.data)
            if answer not in file.expected or "broke down" in words or "seconds of computing" in words:
                wrong.append(f"{file.name}: expected {' or '.join(file.expected)}, got {answer} {words}")
        assert wrong == []
        assert peak_memory() - before < 150_000_000
        assert (await ask(client, png((255, 0, 0))))[0] == ANSWERED


async def ask(client: Client, data: bytes) -> tuple[str, str]:
    """Whether an image is answered, or how it is refused."""
    response = await client.post("/classify", content=data, headers={"content-type": "image/x"})
    document = response.json()
    if response.status_code == 200:
        (result,) = document["results"]
        assert result["predictions"]
        return ANSWERED, ""
    kind = document["type"].rpartition(":")[2]
    assert response.status_code == STATUS.get(kind), document
    assert 10 < len(document["detail"]) < 400
    return kind, document["detail"]


async def test_neither_name_nor_type_decide_what_a_file_is(client: Client) -> None:
    for form, name, kind in zip(FORMS, reversed(FORMS), reversed(FORMS), strict=True):
        data = encode(picture(), form)
        answer = await client.post("/classify", files={"images": (f"photo.{name.lower()}", data, f"image/{kind}")})
        assert answer.status_code == 200, (form, answer.text)
        (result,) = answer.json()["results"]
        assert (result["width"], result["height"]) == (53, 37), form


# --- damaged files, in one process after another ---------------------------------------------------------------------


@pytest.fixture
def process() -> Iterator[DecodeProcess]:
    limits = DecodeLimits(max_bytes=10_000_000, max_pixels=1_000_000, memory=MEMORY, seconds=SECONDS)
    found = DecodeProcess(SPEC, limits)
    try:
        yield found
    finally:
        found.close()


def outcome(process: DecodeProcess, data: bytes) -> str:
    """Empty where it is decoded, else what is said of it; the process must outlive it."""
    said = ""
    try:
        shape = process.decode(data, pixels=1_000_000).image.shape
    except ImageError as refusal:
        said, shape = str(refusal), (3, SPEC.size, SPEC.size)
    assert process.alive, said
    assert shape == (3, SPEC.size, SPEC.size)
    return said


FILES: dict[str, Any] = {
    **{form: {"form": form} for form in FORMS},
    "progressive JPEG": {"form": "JPEG", "progressive": True},
    "lossless WebP": {"form": "WEBP", "lossless": True},
    "TIFF with deflate": {"form": "TIFF", "compression": "tiff_adobe_deflate"},
    "JPEG with EXIF": {"form": "JPEG", "exif": exif(6)},
    "HEIF with EXIF": {"form": "HEIF", "exif": exif(6)},
}


@pytest.mark.parametrize("name", FILES)
async def test_a_file_that_is_cut_anywhere_is_refused_by_name(process: DecodeProcess, name: str) -> None:
    data = encode(picture(60, 80), **FILES[name])
    assert outcome(process, data) == ""
    before = peak_memory(process._process.pid)
    cuts = range(0, len(data), 64)
    answered = [cut for cut in cuts if not outcome(process, data[:cut])]
    assert len(cuts) > 20
    assert [cut for cut in answered if cut < len(data) - 64] == []  # only what stands behind the pixels may be missing
    assert peak_memory(process._process.pid) - before < 20_000_000


@pytest.mark.parametrize("name", FILES)
async def test_bytes_that_are_changed_anywhere_break_no_process(process: DecodeProcess, name: str) -> None:
    picked = random.Random(name)
    data = encode(picture(60, 80), **FILES[name])
    said: set[str] = set()
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(picked.choice([1, 2, 8, 64])):
            place = picked.randrange(min(len(damaged), picked.choice([400, 10**9])))
            if picked.random() < 0.8:
                damaged[place] = picked.choice([0, 1, 0x7F, 0x80, 0xFF, picked.randrange(256)])
            else:
                del damaged[place : place + picked.randrange(1, 20)]
        said.add(outcome(process, bytes(damaged)))
    assert len(said) > 1  # some of it was noticed
    assert peak_memory(process._process.pid) < 4 * MEMORY
