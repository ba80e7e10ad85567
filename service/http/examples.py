"""Example photos of a class: from what a client sends to what is stored of it, and as they are answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fastapi import Request

from model.bundle import TRUNK
from model.classes import ClassEntry, ExamplePhoto
from model.errors import D3GZSLError, Problem
from model.head import Float32
from service.classes.class_table import KnownClass
from service.errors import InvalidExamplesError
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
    """

    examples: tuple[ExamplePhoto, ...]
    embeddings: dict[str, Float32]

    def of(self, entry: ClassEntry) -> ClassEntry:
        """The class with these photos."""
        return replace(entry, examples=self.examples)


async def embed_examples(
    request: Request, service: Service, images: Sequence[SentImage], *, seconds: float
) -> GivenExamples:
    """Decode and embed photos.

    Args:
        request: whose client is asked whether it is still there.
        service: the decoder and the model.
        images: as they were sent, not more than a class may have; may be none.
        seconds: until the deadline.

    Raises:
        InvalidExamplesError: one cannot be read, or the bundle takes none; names each.
        UnavailableError: there is no place for them.
    """
    if not images:
        return GivenExamples(examples=(), embeddings={})
    if service.bundle.manifest.head.photos is None:
        raise InvalidExamplesError("the photos are not taken", [Problem(pointer="/examples", detail=TAKES_NONE)])
    client = client_of(request)
    with service.batcher.admit(len(images), seconds=seconds, client=client):
        outcomes = await while_connected(request, embed_all(service, images, client=client))
    problems = [
        Problem(pointer=f"/examples/{i}", detail=detail_of(outcome))
        for i, outcome in enumerate(outcomes)
        if isinstance(outcome, D3GZSLError)
    ]
    if problems:
        raise InvalidExamplesError(f"{len(problems)} of {len(images)} photos cannot be read", problems)
    now, trunk = datetime.now(UTC).isoformat(timespec="seconds"), service.bundle.manifest.files[TRUNK]
    made = [_made(outcome, now, trunk) for outcome in outcomes if isinstance(outcome, EmbeddedImage)]
    by_id = {example.id: (example, embedding) for example, embedding in made}
    return GivenExamples(
        examples=tuple(by_id[i][0] for i in sorted(by_id)), embeddings={i: found[1] for i, found in by_id.items()}
    )


def _made(outcome: EmbeddedImage, now: str, trunk: str) -> tuple[ExamplePhoto, Float32]:
    decoded, embedding = outcome.decoded, outcome.answer.embedding
    example = ExamplePhoto(
        id=hashlib.sha256(decoded.image.tobytes()).hexdigest()[:32],
        width=decoded.width,
        height=decoded.height,
        added_at=now,
        trunk=trunk,
        digest=hashlib.sha256(embedding_bytes(embedding)).hexdigest(),
    )
    return example, embedding


def example_list(known: KnownClass) -> ExampleList:
    """What is answered about a class's photos."""
    examples = [
        ExampleAnswer(id=e.id, width=e.width, height=e.height, added_at=datetime.fromisoformat(e.added_at))
        for e in known.entry.examples
    ]
    return ExampleList(class_id=known.entry.id, registry_version=known.registry_version, examples=examples)
