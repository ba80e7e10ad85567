"""POST /classes:preview: what registering a class would do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from model.errors import D3GZSLError
from service.classes.leave_one_out import LeftOutPhoto
from service.classes.like import ClassesToBeLike
from service.classes.neighbours import Neighbour
from service.classes.preview import Preview
from service.http.access import client_of, may_preview
from service.http.class_documents import near_duplicates, read_class, with_ids
from service.http.class_schemas import (
    Confusion,
    LeftOutAnswer,
    LossAnswer,
    NeighbourAnswer,
    PreviewAnswer,
    PreviewedImage,
    PreviewQuery,
    ShareAnswer,
)
from service.http.dependencies import Deadline, TheService, snapshot_for
from service.http.examples import embed_examples, warnings_of
from service.http.headers import VERSION, VERSION_HEADER
from service.http.images import EXAMPLES_FIELD, MULTIPART_FIELD, described_body, read_described_images
from service.http.problems import problem_responses
from service.http.recognition import EmbeddedImage, embed_all, image_answer, while_connected
from service.http.schemas import ImageAnswer, ImageFailure
from service.service import Service

router = APIRouter(tags=["classes"], dependencies=[Depends(may_preview)])


@router.post(
    "/classes:preview",
    summary="Try a class out",
    response_model_exclude_unset=True,
    responses={200: {"headers": VERSION}, **problem_responses(400, 403, 409, 413, 415, 422, 503)},
    openapi_extra=described_body("PreviewDocument", EXAMPLES_FIELD, MULTIPART_FIELD),
)
async def preview_class(
    request: Request, response: Response, query: Annotated[PreviewQuery, Query()], service: TheService
) -> PreviewAnswer:
    """Say what a class would be near to, confused with, and how it would change answers; nothing is stored.

    Of each example photo it says whether the class would be recognised on it without having it.
    """
    deadline = Deadline.from_now(service.settings.deadline)
    snapshot = await snapshot_for(service, query.min_registry_version, seconds=deadline.seconds)
    async with deadline.kept():
        service.analyses.check()
        most = {EXAMPLES_FIELD: service.settings.max_examples, MULTIPART_FIELD: service.settings.max_batch_images}
        document, sent_by_field = await read_described_images(request, most=most)
        examples, images = sent_by_field[EXAMPLES_FIELD], sent_by_field[MULTIPART_FIELD]
        vocabulary = service.bundle.manifest.vocabulary
        read = await asyncio.to_thread(
            read_class,
            document,
            vocabulary,
            scale=service.scale,
            others=ClassesToBeLike(snapshot),
            encoder=service.text_encoder,
            with_photos=bool(examples),
        )
        (described,) = with_ids([read], snapshot.get)
        given = await embed_examples(request, service, examples, seconds=deadline.left)
        outcomes: Sequence[EmbeddedImage | D3GZSLError] = ()
        if images:
            client = client_of(request)
            with service.batcher.admit(len(images), seconds=deadline.left, client=client):
                outcomes = await while_connected(request, embed_all(service, images, client=client))

        def analyse() -> tuple[Preview, list[Neighbour], list[PreviewedImage | ImageFailure]]:
            entry = given.of(described.entry)
            preview = service.previewer.preview(snapshot, entry, given.stacked, neighbours=query.neighbours)
            (duplicates,) = service.neighbours.near_duplicates(snapshot, [(preview.entry, preview.row)])
            results = [
                _result(service, sent.id, outcome, preview, query.top_k)
                for sent, outcome in zip(images, outcomes, strict=True)
            ]
            return preview, duplicates, results

        preview, duplicates, results = await service.analyses.run(analyse)
    around = preview.neighbourhood
    response.headers[VERSION_HEADER] = str(snapshot.registry_version)
    return PreviewAnswer(
        id=described.entry.id,
        name=described.entry.name,
        exists=snapshot.get(described.entry.id) is not None,
        registry_version=snapshot.registry_version,
        attributes=None if (attributes := described.entry.attributes) is None else list(attributes),
        text=[] if described.entry.text is None else list(described.entry.text.sentences),
        like=described.entry.like,
        filled=list(described.filled),
        out_of_range=list(described.out_of_range),
        near_duplicates=near_duplicates(duplicates),
        warnings=[*described.warnings, *warnings_of(preview.left_out, given.places)],
        nearest_by_attributes=[_neighbour(n) for n in around.nearest_by_attributes(query.neighbours)],
        nearest_by_row=[_neighbour(n) for n in around.nearest_by_row(query.neighbours)],
        confusion=_confusion(service, preview),
        examples=sorted((_left_out(p, given.places) for p in preview.left_out), key=lambda answer: answer.place),
        results=results,
    )


def _result(
    service: Service, image_id: str, outcome: EmbeddedImage | D3GZSLError, preview: Preview, top_k: int
) -> PreviewedImage | ImageFailure:
    if not isinstance(outcome, EmbeddedImage):
        failure = image_answer(service, image_id, outcome, ())
        assert isinstance(failure, ImageFailure)
        return failure
    z = outcome.answer.embedding
    after = image_answer(service, image_id, outcome, service.previewer.rank(preview, z, top_k=top_k))
    if isinstance(after, ImageFailure):
        return after
    before = image_answer(service, image_id, outcome, service.previewer.rank_today(preview, z, top_k=top_k))
    today = before.predictions if isinstance(before, ImageAnswer) else []
    return PreviewedImage(**after.model_dump(exclude_unset=True), before=today)


def _left_out(photo: LeftOutPhoto, places: Mapping[str, int]) -> LeftOutAnswer:
    return LeftOutAnswer(
        id=photo.example.id,
        place=places[photo.example.id],
        recognised=photo.recognised,
        log_odds=photo.log_odds,
        class_id=photo.other.id,
        name=photo.other.name,
    )


def _neighbour(neighbour: Neighbour) -> NeighbourAnswer:
    entry = neighbour.known.entry
    return NeighbourAnswer(
        class_id=entry.id,
        name=entry.name,
        kind=entry.kind,
        attribute_cosine=neighbour.attribute_cosine,
        row_cosine=neighbour.row_cosine,
    )


def _confusion(service: Service, preview: Preview) -> Confusion:
    return Confusion(
        samples=service.bundle.manifest.head.samples,
        won=[ShareAnswer(class_id=s.entry.id, name=s.entry.name, share=s.share) for s in preview.won],
        taken=[
            LossAnswer(class_id=t.entry.id, name=t.entry.name, before=t.before, after=t.after, taken=t.taken)
            for t in preview.taken
        ],
    )
