"""POST /classify: images in, ranked classes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from model.errors import D3GZSLError
from service.classes.ranking import RankedClass, RankOptions, chosen_rows
from service.http.access import client_of, may_classify
from service.http.dependencies import Deadline, TheService, TimeoutMs, snapshot_for
from service.http.images import IMAGES_BODY, read_images
from service.http.problems import problem_responses
from service.http.recognition import EmbeddedImage, embed_all, image_answer, rank_all, while_connected
from service.http.schemas import (
    ClassifyAnswer,
    ClassifyQuery,
    ContributionAnswer,
    Explanation,
    NearestExample,
    PhotoEvidenceAnswer,
    Timing,
)
from service.http.threads import answer
from service.service import Service

router = APIRouter(tags=["classify"], dependencies=[Depends(may_classify)])


@router.post(
    "/classify",
    summary="Recognise what images show",
    response_model=ClassifyAnswer,
    responses=problem_responses(400, 413, 415, 422, 503),
    openapi_extra=IMAGES_BODY,
)
async def classify(
    request: Request,
    query: Annotated[ClassifyQuery, Query()],
    service: TheService,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Rank the classes for each image.

    An image that cannot be read has an `error` in its own result; where it is the only one, the response has its
    status. Probabilities sum to 1 over the classes that take part.
    """
    question = RankOptions(
        top_k=query.top_k, scope=query.scope, classes=tuple(query.classes), seen_penalty=query.seen_penalty
    )
    settings, client = service.settings, client_of(request)
    deadline = Deadline.from_now(settings.deadline, timeout_ms=timeout_ms)
    snapshot = await snapshot_for(service, query.min_registry_version, seconds=deadline.seconds)
    async with deadline.kept():
        rows = chosen_rows(snapshot, question)
        service.batcher.check(seconds=deadline.left, client=client)
        images = await read_images(request, most=settings.max_batch_images, most_bytes=settings.max_image_bytes)
        with service.batcher.admit(len(images), seconds=deadline.left, client=client):
            outcomes = await while_connected(request, embed_all(service, images, client=client))
        if len(outcomes) == 1 and isinstance(outcomes[0], D3GZSLError):
            raise outcomes[0]
        ranked = await rank_all(service, snapshot, rows, outcomes, question)
        explanations: list[list[Explanation]] = [[] for _ in outcomes]
        if query.explain is not None:
            explanations = await while_connected(request, _explanations(service, query, outcomes, ranked))
    done = [outcome for outcome in outcomes if isinstance(outcome, EmbeddedImage)]

    def make() -> ClassifyAnswer:
        return ClassifyAnswer(
            bundle=service.bundle.manifest.bundle_id,
            precision=service.precision,
            registry_version=snapshot.registry_version,
            head="exact",
            results=[
                image_answer(service, sent.id, outcome, best, explained)
                for sent, outcome, best, explained in zip(images, outcomes, ranked, explanations, strict=True)
            ],
            timing_ms=Timing(
                decode=max((d.decode_ms for d in done), default=0.0),
                queue=max((d.answer.queue_ms for d in done), default=0.0),
                inference=max((d.answer.inference_ms for d in done), default=0.0),
            ),
        )

    return await answer(make, values=sum(map(len, ranked)), exclude_unset=True)


async def _explanations(
    service: Service,
    query: ClassifyQuery,
    outcomes: Sequence[EmbeddedImage | D3GZSLError],
    ranked: Sequence[Sequence[RankedClass]],
) -> list[list[Explanation]]:
    """Explanations of the first classes of each image."""

    def explain() -> list[list[Explanation]]:
        return [
            [_explanation(service, r, outcome, query.top_attributes) for r in best[: service.settings.max_explained]]
            if isinstance(outcome, EmbeddedImage)
            else []
            for outcome, best in zip(outcomes, ranked, strict=True)
        ]

    return await service.analyses.run(explain)


def _explanation(service: Service, ranked: RankedClass, image: EmbeddedImage, most: int) -> Explanation:
    supporting, opposing = service.explainer.explain(ranked.entry, image.answer.embedding, most=most)
    evidence = service.explainer.photos(ranked.entry, image.answer.embedding, most=most)
    photos = {}
    if evidence is not None:
        nearest = [NearestExample(id=example_id, cosine=cosine) for example_id, cosine in evidence.nearest]
        photos["photos"] = PhotoEvidenceAnswer(count=evidence.photos, share=evidence.share, nearest=nearest)
    return Explanation(
        supporting=[ContributionAnswer(**asdict(c)) for c in supporting],
        opposing=[ContributionAnswer(**asdict(c)) for c in opposing],
        **photos,
    )
