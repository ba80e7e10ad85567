"""What is more than one answer: all pages of a list, and any number of files with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Unpack

from model.classes import Kind
from model.errors import DataError
from model.outside.folders import files_under, printable
from service.client import calls
from service.client.errors import ServiceError
from service.client.images import ImageSource, Source
from service.client.options import ClassifyOptions
from service.client.session import Session
from service.client.steps import Flow, Join, Ready, Start, Stream, Work
from service.http.class_schemas import ClassAnswer
from service.http.schemas import ClassifyAnswer, ImageAnswer, ImageFailure, ImageProblem, VersionRecord

_LARGEST_PAGE = 1000
_BATCH_BYTES = 32_000_000
_TOO_MUCH = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
_OF_THE_IMAGE = ("unreadable-image", "inference-failed")
"""Problems of a request with one image that are that image's own, beside those with the statuses 413 and 415."""

Progress = Callable[[int, int | None], object]
"""Told after every batch how many files are done, and of how many, where that is known."""


@dataclass(frozen=True, kw_only=True)
class FileAnswer:
    """What came of one file.

    Attributes:
        id: its path, relative to the folder where a folder was given; or the id that was given.
        result: the ranked classes, or what is wrong. Status 0 stands for a file that could not be opened.
        answer: the answer of the service in which it came; None where there was none.
    """

    id: str
    result: ImageAnswer | ImageFailure
    answer: ClassifyAnswer | None


class StreamOptions(ClassifyOptions, total=False):
    """How files are sent, and parameters of POST /classify.

    `batch` is the number of images of a request (16; fewer where they are large), `in_flight` that of requests at once
    (2), and `progress` is called after every batch.
    """

    batch: int
    in_flight: int
    progress: Progress | None


def classes(session: Session, *, kind: Kind | None = None, name: str | None = None) -> Stream[ClassAnswer]:
    """Every class in the order of their ids, page after page.

    Args:
        session: of the client.
        kind: of the classes.
        name: what their names contain.
    """
    cursor: str | None = None
    while True:
        asked = calls.class_page(kind=kind, name=name, limit=_LARGEST_PAGE, cursor=cursor)
        page = yield from session.exchange(asked)
        yield Ready(page.classes)
        if (cursor := page.next_cursor) is None:
            return


def versions(session: Session) -> Stream[VersionRecord]:
    """Every version of the class table, oldest first, page after page."""
    cursor: str | None = None
    while True:
        page = yield from session.exchange(calls.version_page(limit=_LARGEST_PAGE, cursor=cursor))
        yield Ready(page.versions)
        if (cursor := page.next_cursor) is None:
            return


def classify_folder(session: Session, folder: str | Path, **how: Unpack[StreamOptions]) -> Stream[FileAnswer]:
    """Classify every file of a folder and of those below it; results in the order of the paths.

    Files are read when their turn comes, so memory does not depend on how many there are. What desktops leave behind is
    passed over, as `d3gzsl classify --out` does.

    Args:
        session: of the client.
        folder: with images.
        how: see :class:`StreamOptions`.

    Raises:
        DataError: the folder cannot be read, or has no file.
        ClientError: the service cannot be reached, or refuses for another reason than a single image.
    """
    root = Path(folder).absolute()

    def count() -> int:
        number = sum(1 for _ in files_under(root))
        if number == 0:
            raise DataError(f"{folder}: expected images, found no file")
        return number

    total = yield Work(count)
    named = (Source(id=printable(path), given=root / path) for path in files_under(root))
    yield from _files(session, named, total, **how)


def classify_files(session: Session, images: Iterable[ImageSource], **how: Unpack[StreamOptions]) -> Stream[FileAnswer]:
    """Classify images of any number, which may come from a generator; results in their order.

    Args:
        session: of the client.
        images: paths, bytes, or ids with bytes.
        how: see :class:`StreamOptions`.

    Raises:
        ClientError: the service cannot be reached, or refuses for another reason than a single image.
    """
    total = len(images) if isinstance(images, Sequence) else None
    yield from _files(session, (Source.of(image, i) for i, image in enumerate(images)), total, **how)


def _files(
    session: Session,
    images: Iterator[Source],
    total: int | None,
    *,
    batch: int = 16,
    in_flight: int = 2,
    progress: Progress | None = None,
    **query: Any,
) -> Stream[FileAnswer]:
    if batch < 1 or in_flight < 1:
        raise ValueError(f"expected a batch and requests in flight of at least 1, got {batch} and {in_flight}")
    batches, at_work, done, more = _batches(images, batch), deque[Any](), 0, True
    while more or at_work:
        while more and len(at_work) < in_flight:
            chosen = yield Work(lambda: next(batches, None))
            more = chosen is not None
            if chosen is not None:
                at_work.append((yield Start(_batch(session, chosen, query))))
        if at_work:
            answers = yield Join(at_work.popleft())
            done += len(answers)
            if progress is not None:
                progress(done, total)
            yield Ready(answers)


def _batches(images: Iterator[Source], most: int) -> Iterator[list[Source]]:
    """So many images at a time, or fewer where they have many bytes."""
    batch: list[Source] = []
    room = _BATCH_BYTES
    for image in images:
        size = image.size
        if batch and (len(batch) == most or size > room):
            yield batch
            batch, room = [], _BATCH_BYTES
        batch.append(image)
        room -= size
    if batch:
        yield batch


def _batch(session: Session, images: Sequence[Source], query: dict[str, Any]) -> Flow[list[FileAnswer]]:
    read = yield Work(lambda: [_read(image) for image in images])
    there = [image for image in read if isinstance(image, Source)]
    answered = iter((yield from _ask(session, there, query)) if there else [])
    return [next(answered) if isinstance(image, Source) else image for image in read]


def _read(image: Source) -> Source | FileAnswer:
    """The image with its bytes, or what is wrong with its file."""
    try:
        return Source(id=image.id, given=image.read())
    except OSError as error:
        return _failed(
            image, type_="about:blank", title="The file cannot be read", status=0, detail=str(error.strerror)
        )


def _ask(session: Session, images: Sequence[Source], query: dict[str, Any]) -> Flow[list[FileAnswer]]:
    """The answers to some images: in halves where they are too much for one request."""
    try:
        asked = calls.classify([(image.id, image.read()) for image in images], **query)
        answer = yield from session.exchange(asked)
    except ServiceError as error:
        if len(images) == 1 and _is_of_the_image(error):
            kind = error.type or "about:blank"
            failed = _failed(images[0], type_=kind, title=error.title, status=error.status or 0, detail=error.detail)
            return [failed]
        if len(images) == 1 or error.status != _TOO_MUCH:
            raise
        half = len(images) // 2
        first = yield from _ask(session, images[:half], query)
        return first + (yield from _ask(session, images[half:], query))
    return [
        FileAnswer(id=image.id, result=result, answer=answer)
        for image, result in zip(images, answer.results, strict=True)
    ]


def _is_of_the_image(error: ServiceError) -> bool:
    return error.status in (_TOO_MUCH, HTTPStatus.UNSUPPORTED_MEDIA_TYPE) or error.name in _OF_THE_IMAGE


def _failed(image: Source, *, type_: str, title: str, status: int, detail: str) -> FileAnswer:
    problem = ImageProblem(type=type_, title=title, status=status, detail=detail)
    return FileAnswer(id=image.id, result=ImageFailure(id=image.id, error=problem), answer=None)
