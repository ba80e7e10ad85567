"""A batch of classes as a client sends it: read with everything that is wrong named, and its photos embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fastapi import Request

from model.errors import InvalidInputError, Problem
from model.vocabulary import MOST_GUESSED, Vocabulary
from service.errors import BatchTooLargeError, InvalidBatchError, InvalidExamplesError, TooLargeError
from service.http.bodies.strictjson import MAX_VALUES, loads
from service.http.class_documents import DescribedClass, read_class, with_ids
from service.http.class_schemas import BatchDocument
from service.http.examples import GivenExamples, embed_examples_of_many
from service.http.images import EXAMPLES_FIELD, SentImage, parse, split_images
from service.service import Service
from service.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DescribedBatch:
    """The classes of a batch, each with the photos that came with it.

    Attributes:
        mode: whether a class that exists is refused or replaced.
        classes: no two with one id.
        photos: of each class.
    """

    mode: Literal["create", "upsert"]
    classes: list[DescribedClass]
    photos: list[list[SentImage]]


def read_batch(body: bytes, vocabulary: Vocabulary, settings: Settings) -> DescribedBatch:
    """The batch of a body.

    Raises:
        InvalidRequestError: it is none.
        InvalidBatchError: names everything that is wrong with each class.
        BatchTooLargeError: too many classes.
        TooLargeError: too many photos of all classes together.
    """
    most = settings.max_batch_classes
    given = loads(body, max_values=MAX_VALUES + 2 * most * len(vocabulary))
    batch = parse(BatchDocument, given, "the batch is not valid")
    if len(batch.classes) > most:
        raise BatchTooLargeError(f"the batch has {len(batch.classes)} classes; at most {most} are allowed")
    _check_photos(batch.classes, min(settings.max_batch_examples, settings.queue_size))
    return _read_classes(batch, vocabulary, settings.max_examples)


async def embed_batch(
    request: Request, service: Service, batch: DescribedBatch, *, seconds: float
) -> list[GivenExamples]:
    """Decode and embed the photos of all classes together.

    Args:
        request: whose client is asked whether it is still there.
        service: the decoder and the model.
        batch: the classes with their photos.
        seconds: until the deadline.

    Raises:
        InvalidBatchError: photos cannot be read, or the bundle takes none; names each.
        UnavailableError: there is no place for them.
    """
    try:
        photos = {f"/classes/{i}": sent for i, sent in enumerate(batch.photos)}
        return await embed_examples_of_many(request, service, photos, seconds=seconds)
    except InvalidExamplesError as error:
        raise InvalidBatchError(error.message, error.problems) from None


def _check_photos(classes: Sequence[object], most: int) -> None:
    lists = [one.get(EXAMPLES_FIELD) for one in classes if isinstance(one, dict)]
    number = sum(len(photos) for photos in lists if isinstance(photos, list))
    if number > most:
        raise TooLargeError(f"the batch has {number} example photos; at most {most} of all classes are allowed")


def _read_classes(batch: BatchDocument, vocabulary: Vocabulary, most_photos: int) -> DescribedBatch:
    described: dict[int, DescribedClass] = {}
    photos: dict[int, list[SentImage]] = {}
    problems: dict[int, list[Problem]] = {}
    for i, item in enumerate(batch.classes):
        wrong: list[Problem] = []
        document, photos[i], wrong_photos = _split(item, most_photos, f"/classes/{i}")
        try:
            guesses = max(0, MOST_GUESSED - len(problems))
            described[i] = read_class(
                document, vocabulary, with_photos=bool(photos[i] or wrong_photos), guesses=guesses
            )
        except InvalidInputError as error:
            wrong += error.problems
        wrong += wrong_photos
        if wrong:
            problems[i] = [replace(p, pointer=f"/classes/{i}{p.pointer}") for p in wrong]
    places: dict[str, int] = {}
    for i, one in zip(described, with_ids([*described.values()], lambda _id: None), strict=True):
        first = places.setdefault(one.entry.id, i)
        if first != i:
            detail = f"expected an id of its own, got {one.entry.id!r}, which /classes/{first} has too"
            problems.setdefault(i, []).append(Problem(pointer=f"/classes/{i}/id", detail=detail))
    if problems:
        named = [problem for i in sorted(problems) for problem in problems[i]]
        raise InvalidBatchError(f"{len(problems)} of {len(batch.classes)} classes are not valid", named)
    return DescribedBatch(mode=batch.mode, classes=[*described.values()], photos=[*photos.values()])


def _split(item: object, most: int, within: str) -> tuple[object, list[SentImage], tuple[Problem, ...]]:
    """A class's document, its photos, and what is wrong with these."""
    if not isinstance(item, dict) or EXAMPLES_FIELD not in item:
        return item, [], ()
    document = {name: value for name, value in item.items() if name != EXAMPLES_FIELD}
    photos = item[EXAMPLES_FIELD]
    if isinstance(photos, list) and len(photos) > most:
        detail = f"expected at most {most} of a class, got {len(photos)}"
        return document, [], (Problem(pointer=f"/{EXAMPLES_FIELD}", detail=detail),)
    try:
        _, sent = split_images({EXAMPLES_FIELD: photos}, {EXAMPLES_FIELD: most}, within=within)
    except InvalidInputError as error:
        return document, [], error.problems
    return document, sent[EXAMPLES_FIELD], ()
