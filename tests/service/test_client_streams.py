"""Files of any number as a stream: order, bounded memory, progress, files that fail, streams that are left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.errors import DataError
from service.client import AsyncClient, Client, FileAnswer, KeyRefusedError, Retries, UnreachableError
from service.http.schemas import ImageAnswer, ImageFailure
from service.library import Classifier
from tests.service.tiny import png

Handler = Callable[[list[bytes]], httpx.Response]


def images_of(request: httpx.Request) -> list[bytes]:
    """The files of a form."""
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts: Any = BytesParser().parsebytes(head + request.content).get_payload()
    return [part.get_payload(decode=True) for part in parts]


def answered(images: list[bytes]) -> httpx.Response:
    """Every image is as wide as it has bytes."""
    results = [{"id": "?", "width": len(i), "height": 1, "novelty": 0.5, "predictions": []} for i in images]
    timing = {"decode": 0, "queue": 0, "inference": 0}
    body = {"bundle": "b", "registry_version": 3, "head": "exact", "results": results, "timing_ms": timing}
    return httpx.Response(200, json=body)


def problem(status: int, name: str) -> httpx.Response:
    document = {"type": f"urn:d3gzsl:problem:{name}", "title": "T", "detail": f"it is {name}", "errors": []}
    return httpx.Response(status, json=document)


class Service:
    """Takes forms of images, and says how many came at a time."""

    def __init__(self, handle: Handler = answered) -> None:
        self.handle, self.sizes, self.lock = handle, list[int](), threading.Lock()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        images = images_of(request)
        with self.lock:
            self.sizes.append(len(images))
        return self.handle(images)


@pytest.fixture(params=["sync", "async"])
def stream(request: pytest.FixtureRequest) -> Callable[..., list[FileAnswer]]:
    """`stream(service, method, *arguments)`: everything that a method of either client gives."""

    def run(service: Service, method: str, *args: Any, **how: Any) -> list[FileAnswer]:
        once, transport = Retries(times=0), httpx.MockTransport(service)

        async def asynchronously() -> list[FileAnswer]:
            async with AsyncClient("http://x", retries=once, transport=transport) as client:
                return [answer async for answer in getattr(client, method)(*args, **how)]

        if request.param == "async":
            return asyncio.run(asynchronously())
        with Client("http://x", retries=once, transport=transport) as client:
            return list(getattr(client, method)(*args, **how))

    return run


Streaming = Callable[..., list[FileAnswer]]


def widths(answers: list[FileAnswer]) -> list[int | str]:
    return [a.result.width if isinstance(a.result, ImageAnswer) else a.result.error.detail for a in answers]


def test_results_come_in_order_with_progress(stream: Streaming) -> None:
    told: list[tuple[int, int | None]] = []
    service = Service()
    images = [(f"{i}", b"x" * i) for i in range(1, 11)]
    answers = stream(service, "classify_files", images, batch=4, in_flight=3, progress=lambda *n: told.append(n))
    assert [a.id for a in answers] == [i for i, _ in images]
    assert widths(answers) == [*range(1, 11)]
    assert sorted(service.sizes) == [2, 4, 4]
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert answers[0].answer is not None
    assert answers[0].answer.registry_version == 3
    assert stream(service, "classify_files", iter([]), progress=lambda *n: told.append(n)) == []
    stream(service, "classify_files", iter([b"x"]), progress=lambda *n: told.append(n))
    assert told[3:] == [(1, None)]


def test_a_folder_is_walked_as_the_bulk_command_does(stream: Streaming, tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("z.png", "b/1.png", "b/c/2.png", ".hidden.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    told: list[tuple[int, int | None]] = []
    answers = stream(Service(), "classify_folder", tmp_path, progress=lambda *n: told.append(n))
    assert [a.id for a in answers] == ["gone.png", "z.png", "b/1.png", "b/c/2.png"]
    assert widths(answers) == ["No such file or directory", 1, 1, 1]
    failed = answers[0].result
    assert isinstance(failed, ImageFailure)
    assert (failed.id, failed.error.status, answers[0].answer) == ("gone.png", 0, None)
    assert told == [(4, 4)]
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "found no file"), (tmp_path / "nowhere", "cannot be read")):
        with pytest.raises(DataError, match=words):
            stream(Service(), "classify_folder", folder)


def test_images_that_are_too_much_for_one_request_are_sent_in_several(stream: Streaming) -> None:
    def small(images: list[bytes]) -> httpx.Response:
        """A service that takes two images at once, none of them larger than three bytes."""
        if len(images) > 2:
            return problem(413, "request-too-large")
        return problem(413, "image-too-large") if max(map(len, images)) > 3 else answered(images)

    service = Service(small)
    answers = stream(service, "classify_files", [b"x" * (9 if i == 4 else 1) for i in range(5)])
    assert widths(answers) == [1, 1, 1, 1, "it is image-too-large"]
    assert [a.id for a in answers] == ["0", "1", "2", "3", "4"]
    assert service.sizes == [5, 2, 3, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("status", "name", "of_the_image"),
    [
        (415, "unsupported-image", True),
        (422, "unreadable-image", True),
        (500, "inference-failed", True),
        (422, "invalid-request", False),
        (401, "key-needed", False),
    ],
)
def test_only_what_is_wrong_with_the_image_is_a_result(
    stream: Streaming, status: int, name: str, of_the_image: bool
) -> None:
    service = Service(lambda _images: problem(status, name))
    if of_the_image:
        assert widths(stream(service, "classify_files", [b"x"])) == [f"it is {name}"]
    else:
        with pytest.raises(Exception, match=f"it is {name}"):
            stream(service, "classify_files", [b"x"])


def test_large_files_are_sent_in_smaller_batches(stream: Streaming) -> None:
    service = Service()
    stream(
        service, "classify_files", [b"x" * 20_000_000, b"y", b"x" * 20_000_000, b"x" * 40_000_000, b"z"], in_flight=1
    )
    assert service.sizes == [2, 1, 1, 1]


def test_memory_does_not_grow_with_the_files() -> None:
    read, most = 0, 0

    def images(number: int) -> Iterator[bytes]:
        nonlocal read
        for _ in range(number):
            read += 1
            yield b"x"

    with Client("http://x", transport=httpx.MockTransport(Service())) as client:
        for done, _answer in enumerate(client.classify_files(images(500), batch=5, in_flight=3), start=1):
            most = max(most, read - done)
    assert done == 500
    # Three batches at work, one whose results are being read, and the first image of the next batch.
    assert most <= 5 * 4 + 1


@pytest.mark.anyio
async def test_memory_does_not_grow_with_the_files_of_asyncio_either() -> None:
    read, most, done = 0, 0, 0

    def images(number: int) -> Iterator[bytes]:
        nonlocal read
        for _ in range(number):
            read += 1
            yield b"x"

    async with AsyncClient("http://x", transport=httpx.MockTransport(Service())) as client:
        async for _answer in client.classify_files(images(200), batch=5, in_flight=3):
            done += 1
            most = max(most, read - done)
    assert done == 200
    assert most <= 5 * 4 + 1


def test_requests_overlap() -> None:
    """Two batches are with the service at once: each waits for the other."""
    meeting = threading.Barrier(2, timeout=60)

    def handle(images: list[bytes]) -> httpx.Response:
        meeting.wait()
        return answered(images)

    with Client("http://x", transport=httpx.MockTransport(Service(handle))) as client:
        assert len(list(client.classify_files([b"x"] * 8, batch=2, in_flight=2))) == 8


def test_a_stream_that_is_left_stops_asking() -> None:
    service = Service()
    with Client("http://x", transport=httpx.MockTransport(service)) as client:
        answers = client.classify_files([b"x"] * 100, batch=1, in_flight=2)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
        assert len(service.sizes) <= 3
        assert [t.name for t in threading.enumerate() if t.name.startswith("d3gzsl-client")] == []


@pytest.mark.anyio
async def test_an_asynchronous_stream_that_is_left_cancels_what_it_began() -> None:
    begun, cancelled = 0, 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal begun, cancelled
        begun += 1
        if begun == 1:
            return answered(images_of(request))
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        raise AssertionError

    async with AsyncClient("http://x", transport=httpx.MockTransport(handle)) as client:
        answers: AsyncIterator[FileAnswer] = client.classify_files([b"x"] * 100, batch=1, in_flight=4)
        await anext(answers)
        await asyncio.sleep(0.05)
        await answers.aclose()  # type: ignore[attr-defined]
    assert begun == cancelled + 1 > 1


def test_an_error_ends_the_stream(stream: Streaming) -> None:
    with pytest.raises(KeyRefusedError):
        stream(
            Service(lambda _images: problem(401, "key-needed")), "classify_files", [b"x"] * 100, in_flight=4, batch=1
        )

    def cut(_images: list[bytes]) -> httpx.Response:
        raise httpx.ReadError("cut")

    with pytest.raises(UnreachableError):
        stream(Service(cut), "classify_files", [b"x"] * 100, batch=1)
    for wrong in ({"batch": 0}, {"in_flight": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            stream(Service(), "classify_files", [b"x"], **wrong)


def test_the_real_service_answers_a_folder(bundle_dir: Path, tmp_path: Path) -> None:
    colours = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
    for name, colour in colours.items():
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    (tmp_path / "text.png").write_text("no image")
    with Classifier.load(bundle_dir, threads=1) as classifier:
        answers = list(classifier.classify_folder(tmp_path, batch=2, top_k=1))
    best = [a.result.predictions[0].class_id if isinstance(a.result, ImageAnswer) else None for a in answers]
    assert [a.id for a in answers] == ["blue.png", "green.png", "red.png", "text.png"]
    assert best == ["bluish", "greenish", "reddish", None]
