"""Decoding for many requests: threads for what is quick, processes that can be ended for all else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from model.images import cost
from model.preprocess import preprocess
from service.errors import NotReadyError
from service.inference import decode_process
from service.inference import decoder as decoding
from service.inference.decode_process import DecodeLimits
from service.inference.decoder import Decoder
from service.inference.decoding import PixelBudget
from tests.model.photos import encode, exif, picture
from tests.model.test_image_cost import scans
from tests.service import waiting
from tests.service.tiny import SPEC

pytestmark = pytest.mark.anyio
LIMITS = DecodeLimits(max_bytes=20_000_000, max_pixels=50_000_000, memory=256_000_000, seconds=10)
LONG = scans(95, side=5000)  # half a minute of computing


@asynccontextmanager
async def decoder(threads: int = 2, **limits: float) -> AsyncIterator[Decoder]:
    made = Decoder(SPEC, limits=DecodeLimits(**{**LIMITS.__dict__, **limits}), threads=threads)
    try:
        yield made
    finally:
        made.close()
        assert children() == []


def children() -> list[int]:
    """Processes that decode."""
    own = Path("/proc/self/task").glob("*/children")
    pids = [int(word) for file in own for word in file.read_text().split()]
    return [pid for pid in pids if b"decode_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]


until = partial(waiting.until, seconds=30, step=0.01)


@pytest.fixture
def nothing_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MOST_QUICK_PIXELS", "_MOST_QUICK_OTHER_PIXELS", "_MOST_QUICK_OTHER_BYTES"):
        monkeypatch.setattr(cost, name, 0)


@pytest.mark.usefixtures("nothing_is_quick")
async def test_a_process_gives_the_pixels_and_errors_of_a_thread() -> None:
    turned = encode(picture(), "JPEG", exif=exif(6))
    async with decoder(threads=1) as decode:
        for data in (turned, encode(picture(), "PNG"), encode(picture(), "WEBP"), encode(picture(), "TIFF")):
            found = await decode(data)
            np.testing.assert_array_equal(found.image, preprocess(data, SPEC))
            assert found.warnings == ()
        assert len(children()) == 1
        found = await decode(turned[:-2])
        assert (found.width, found.height, len(found.warnings)) == (37, 53, 1)
        with pytest.raises(UnsupportedImageError, match="JPEG, PNG"):
            await decode(b"no image")
        with pytest.raises(UnreadableImageError, match="damaged"):
            await decode(encode(picture(), "PNG")[:-500])
        assert len(children()) == 1


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
async def test_what_phones_send_is_decoded_in_a_process_with_its_budgets(form: str) -> None:
    """What is coded may be larger than what is announced, so that even a small one is not for a thread."""
    data = encode(picture(320, 448), form)
    async with decoder(threads=1) as decode:
        budget = PixelBudget(200_000)
        found = await decode(data, pixels=budget)
        np.testing.assert_array_equal(found.image, preprocess(data, SPEC))
        assert (found.width, found.height) == (448, 320)
        assert len(children()) == 1
        with pytest.raises(ImageTooLargeError, match=r"has 143360 pixels, and those before it .* left 56640 of"):
            await decode(data, pixels=budget)
        place = data.index(b"mdat") + 8
        with pytest.raises(UnreadableImageError, match="damaged"):
            await decode(data[:place] + bytes(len(data) - place))
    async with decoder(memory=20_000_000) as decode:
        with pytest.raises(ImageTooLargeError, match=r"would take about [0-9]+ bytes of memory; at most 20000000"):
            await decode(data)


async def test_the_memory_of_what_phones_send_has_a_limit_whatever_is_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lie = "from service.inference.decode_process import DecodeLimits as L; L.check_memory = lambda *_: None\nmain("
    monkeypatch.setattr(decode_process, "_PROGRAM", decode_process._PROGRAM.replace("main(", lie))
    monkeypatch.setattr(DecodeLimits, "check_memory", lambda *_: None)
    data = encode(Image.new("RGB", (6000, 5000), "red"), "AVIF", speed=10)
    async with decoder(memory=30_000_000) as decode:
        with pytest.raises(ImageTooLargeError, match="not enough memory"):
            await decode(data)


async def test_ordinary_images_need_no_process() -> None:
    async with decoder() as decode:
        images = [encode(picture(seed=i), form) for i in range(5) for form in ("JPEG", "PNG", "WEBP")]
        await asyncio.gather(*(decode(data, client=str(i)) for i, data in enumerate(images)))
        assert children() == []


async def test_computing_has_a_limit_and_the_next_image_is_decoded() -> None:
    async with decoder(threads=1, seconds=0.5) as decode:
        with pytest.raises(ImageTooLargeError, match=r"more than the 0\.5 seconds of computing"):
            await decode(LONG)
        assert children() == []
        large = encode(Image.new("RGB", (2500, 2500), "red"), "PNG")
        assert (await decode(large)).width == 2500


async def test_what_nobody_waits_for_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_IDLE", 0.1)  # for the case that it had only just started
    async with decoder(threads=1) as decode:
        task = asyncio.create_task(decode(LONG))
        await until(children)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not children())


async def test_closing_ends_what_is_decoded() -> None:
    async with decoder(threads=1) as decode:
        task = asyncio.create_task(decode(LONG))
        await until(children)
        await asyncio.to_thread(decode.close)
        with pytest.raises((UnreadableImageError, NotReadyError)):  # the latter where it had only just started
            await task


async def test_a_decoder_that_breaks_down_costs_one_image_only() -> None:
    large = encode(Image.new("RGB", (2500, 2500), "red"), "PNG")
    async with decoder(threads=1) as decode:
        task = asyncio.create_task(decode(LONG))
        await until(children)
        os.kill(children()[0], signal.SIGSEGV)
        with pytest.raises(UnreadableImageError, match="broke down"):
            await task
        assert (await decode(large)).width == 2500
        os.kill(children()[0], signal.SIGKILL)  # while it is idle
        await until(lambda: not decode._processes._idle or not next(iter(decode._processes._idle)).alive)
        assert (await decode(large)).width == 2500


async def test_a_process_that_nobody_needs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_IDLE", 0.05)
    async with decoder(threads=1) as decode:
        await decode(encode(Image.new("RGB", (2500, 2500), "red"), "PNG"))
        await until(lambda: not children())


@pytest.mark.parametrize("kind", [("WEBP", "RGB"), ("TIFF", "F")], ids=str)
async def test_memory_is_refused_by_the_header(kind: tuple[str, str]) -> None:
    form, mode = kind
    packed = {"compression": "tiff_adobe_deflate"} if form == "TIFF" else {"lossless": True}
    data = encode(Image.new(mode, (7000, 7000)), form, **packed)
    async with decoder() as decode:
        with pytest.raises(ImageTooLargeError, match=r"would take about [0-9]+ bytes of memory; at most 256000000"):
            await decode(data)


async def test_memory_beyond_the_limit_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate may be wrong; the limit of the process holds all the same."""
    lie = "from service.inference.decode_process import DecodeLimits as L; L.check_memory = lambda *_: None\nmain("
    monkeypatch.setattr(decode_process, "_PROGRAM", decode_process._PROGRAM.replace("main(", lie))
    monkeypatch.setattr(cost, "_MOST_QUICK_OTHER_BYTES", 0)  # so that nothing is estimated here
    data = encode(Image.new("F", (7000, 7000)), "TIFF", compression="tiff_adobe_deflate")
    async with decoder(memory=100_000_000) as decode:
        with pytest.raises(ImageTooLargeError, match="not enough memory"):
            await decode(data)


async def test_the_images_of_a_request_share_a_budget_of_pixels() -> None:
    async with decoder() as decode:
        budget = PixelBudget(5000)
        for _ in range(2):
            await decode(encode(picture(), "PNG"), pixels=budget)
        with pytest.raises(
            ImageTooLargeError, match="has 1961 pixels, and those before it in the request left 1078 of"
        ):
            await decode(encode(picture(), "PNG"), pixels=budget)
        await decode(encode(picture(20, 20), "PNG"), pixels=budget)


async def test_a_file_that_only_a_process_opens_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_MOST_QUICK_OTHER_BYTES", 0)
    async with decoder(threads=1) as decode:
        budget = PixelBudget(3000)
        await decode(encode(picture(), "PNG"), pixels=budget)
        assert budget.left == 3000 - 37 * 53
        with pytest.raises(ImageTooLargeError, match="left 1039 of"):
            await decode(encode(picture(), "PNG"), pixels=budget)


async def test_large_images_of_one_client_do_not_keep_another_waiting() -> None:
    async with decoder(threads=1) as decode:
        flood = [asyncio.create_task(decode(LONG, client="a")) for _ in range(3)]
        await until(children)
        async with asyncio.timeout(5):
            await decode(encode(picture(), "JPEG"), client="b")
        assert not any(task.done() for task in flood)
        for task in flood:
            task.cancel()
        await asyncio.wait(flood)
