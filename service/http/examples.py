"""Example photos of a class: from what a client sends to what is stored of it, and as they are answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

import numpy as np
from fastapi import Request

from model.bundle import TRUNK
from model.classes import ClassEntry, ExamplePhoto
from model.errors import D3GZSLError, Problem
from model.head import Float32
from service.classes.class_table import KnownClass
from service.classes.leave_one_out import LeftOutPhoto
from service.classes.preview import NO_PHOTOS
from service.errors import InvalidBatchError, InvalidExamplesError
from service.http.access import client_of
from service.http.class_schemas import ExampleAnswer, ExampleList
from service.http.images import SentImage
from service.http.problems import detail_of
from service.http.recognition import EmbeddedImage, embed_all, while_connected
from service.inference.class_rows import TAKES_NONE
from service.registry.arrays import embedding_bytes
from service.service import Service


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenExamples:
    """Photos that came with a request.

    Attributes:
        examples: in the order of their ids, each once.
        embeddings: by id, float32 [Z].
        places: where each came in the request, by id; the first of several that are the same.
    """

    examples: tuple[ExamplePhoto, ...]
    embeddings: dict[str, Float32]
    places: dict[str, int]

    def of(self, entry: ClassEntry) -> ClassEntry:
        """The class with these photos."""
        return replace(entry, examples=self.examples)

    @property
    def stacked(self) -> Float32:
        """The embeddings in the order of the photos, float32 [n, Z]."""
        return np.stack([self.embeddings[example.id] for example in self.examples]) if self.examples else NO_PHOTOS


_NONE = GivenExamples(examples=(), embeddings={}, places={})


async def embed_examples(
    request: Request, service: Service, images: Sequence[SentImage], *, seconds: float, to_be: ClassEntry | None = None
) -> GivenExamples:
    """Decode and embed the photos of a class, which may be none; see :func:`embed_examples_of_many`.

    Args:
        request: see there.
        service: likewise.
        images: the photos.
        seconds: until the deadline.
        to_be: the class that will be stored with them. What it is described by is synthesised meanwhile: the cores
            are not all busy while photos are decoded, nor all the time that the trunk runs.
    """
    if not images or to_be is None:
        (given,) = await embed_examples_of_many(request, service, {"": images}, seconds=seconds)
        return given
    preparing = asyncio.ensure_future(asyncio.to_thread(service.registrar.prepare, to_be))
    try:
        (given,) = await embed_examples_of_many(request, service, {"": images}, seconds=seconds)
        await preparing
    finally:
        preparing.cancel()
    return given


async def embed_examples_of_many(
    request: Request, service: Service, photos: Mapping[str, Sequence[SentImage]], *, seconds: float
) -> list[GivenExamples]:
    """Decode and embed the photos of classes, all together.

    Args:
        request: whose client is asked whether it is still there.
        service: the decoder and the model.
        photos: as they were sent with each class, by its pointer in the request.
        seconds: until the deadline.

    Raises:
        InvalidExamplesError: some cannot be read, or the bundle takes none; names each.
        UnavailableError: there is no place for them.
    """
    images = [image for sent in photos.values() for image in sent]
    if not images:
        return [_NONE for _ in photos]
    if service.bundle.manifest.head.photos is None:
        problems = [Problem(pointer=f"{within}/examples", detail=TAKES_NONE) for within, sent in photos.items() if sent]
        raise InvalidExamplesError("the photos are not taken", problems)
    client = client_of(request)
    with service.batcher.admit(len(images), seconds=seconds, client=client):
        outcomes = iter(await while_connected(request, embed_all(service, images, client=client, examples=True)))
    by_class = {within: list(islice(outcomes, len(sent))) for within, sent in photos.items()}
    problems = [
        Problem(pointer=f"{within}/examples/{i}", detail=detail_of(outcome))
        for within, found in by_class.items()
        for i, outcome in enumerate(found)
        if isinstance(outcome, D3GZSLError)
    ]
    if problems:
        raise InvalidExamplesError(f"{len(problems)} of {len(images)} photos cannot be read", problems)
    now, trunk = datetime.now(UTC).isoformat(timespec="seconds"), service.bundle.manifest.files[TRUNK]
    embedded = [outcome for found in by_class.values() for outcome in found if isinstance(outcome, EmbeddedImage)]
    embeddings = await _evidence(service, embedded)
    made = iter([_made(*pair, now, trunk) for pair in zip(embedded, embeddings, strict=True)])
    return [_given(list(islice(made, len(found)))) for found in by_class.values()]


async def _evidence(service: Service, photos: Sequence[EmbeddedImage]) -> Sequence[Float32]:
    """The embeddings of photos by the trunk in float32, whichever one embeds other images."""
    if service.exact is None or not photos:
        return [photo.answer.embedding for photo in photos]
    return [*await service.changes.run(service.exact.embed, np.stack([photo.decoded.image for photo in photos]))]


async def embed_examples_of_batch(
    request: Request, service: Service, photos: Sequence[Sequence[SentImage]], *, seconds: float
) -> list[GivenExamples]:
    """Decode and embed the photos of each class of a batch; InvalidBatchError for what makes them invalid alone."""
    by_place = {f"/classes/{i}": sent for i, sent in enumerate(photos)}
    try:
        return await embed_examples_of_many(request, service, by_place, seconds=seconds)
    except InvalidExamplesError as error:
        raise InvalidBatchError(error.message, error.problems) from None


def _given(made: Sequence[tuple[ExamplePhoto, Float32]]) -> GivenExamples:
    first: dict[str, int] = {}
    for place, (example, _) in enumerate(made):
        first.setdefault(example.id, place)
    return GivenExamples(
        examples=tuple(made[first[i]][0] for i in sorted(first)),
        embeddings={i: made[place][1] for i, place in first.items()},
        places=first,
    )


def _made(outcome: EmbeddedImage, embedding: Float32, now: str, trunk: str) -> tuple[ExamplePhoto, Float32]:
    decoded = outcome.decoded
    example = ExamplePhoto(
        id=outcome.digest[:32],
        width=decoded.width,
        height=decoded.height,
        added_at=now,
        trunk=trunk,
        digest=hashlib.sha256(embedding_bytes(embedding)).hexdigest(),
    )
    return example, embedding


def warnings_of(left_out: Sequence[LeftOutPhoto], places: Mapping[str, int], *, within: str = "") -> list[str]:
    """A sentence for each photo that looks more like another class than like its own.

    Args:
        left_out: the photos of a class.
        places: where photos came in the request, by their ids.
        within: pointer of the class in the request.
    """
    return [
        f"{f'{within}/examples/{places[p.example.id]}' if p.example.id in places else 'example'} ({p.example.id}): if "
        f"the class did not have this photo, it would be taken for {p.other.name!r} ({p.other.id})"
        for p in left_out
        if not p.recognised
    ]


def example_list(known: KnownClass) -> ExampleList:
    """What is answered about a class's photos."""
    examples = [
        ExampleAnswer(id=e.id, width=e.width, height=e.height, added_at=datetime.fromisoformat(e.added_at))
        for e in known.entry.examples
    ]
    return ExampleList(class_id=known.entry.id, registry_version=known.registry_version, examples=examples)
