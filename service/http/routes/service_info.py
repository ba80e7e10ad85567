"""What the service is and how it does: vocabulary, health, build, metrics."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Depends, Request, Response

from model import __version__
from model.images.reading import readable_types
from model.text.description import MAX_SENTENCE_LENGTH, MAX_SENTENCES
from service.http.access import may_read
from service.http.dependencies import TheService
from service.http.problems import problem_responses
from service.http.schemas import (
    AttributeAnswer,
    AttributeList,
    Health,
    TextTaken,
    VersionAnswer,
)
from service.telemetry.metrics import MEDIA_TYPE, Metrics

router = APIRouter(tags=["about"])
reads = [Depends(may_read)]


@router.get(
    "/attributes",
    summary="The attribute vocabulary",
    response_model_exclude_unset=True,
    responses=problem_responses(),
    dependencies=reads,
)
async def attributes(service: TheService) -> AttributeList:
    """The attributes that describe a class, in order, with range and mean over the training classes, and text.

    Each has a description and a unit where the bundle has them.
    """
    manifest = service.bundle.manifest
    encoder = manifest.text_encoder
    return AttributeList(
        attributes=[
            AttributeAnswer(name=a.name, min=a.min, max=a.max, mean=a.mean, **a.words.to_json())
            for a in manifest.vocabulary.attributes
        ],
        text=None
        if encoder is None
        else TextTaken(max_tokens=encoder.max_tokens, max_texts=MAX_SENTENCES, max_length=MAX_SENTENCE_LENGTH),
        max_examples=0 if manifest.head.photos is None else service.settings.max_examples,
    )


@router.get("/healthz", summary="Whether the process lives", responses=problem_responses(public=True))
async def healthz() -> Health:
    """Answers as long as the process does."""
    return Health(status="live")


@router.get("/readyz", summary="Whether images are answered", responses=problem_responses(503, public=True))
async def readyz(service: TheService) -> Health:
    """503 where the model's worker does not run."""
    service.check_ready()
    return Health(status="ready")


@router.get("/version", summary="Build and bundle", responses=problem_responses(421, public=True))
async def about(service: TheService) -> VersionAnswer:
    """What runs here."""
    manifest = service.bundle.manifest
    return VersionAnswer(
        version=__version__,
        bundle=manifest.bundle_id,
        bundle_code_version=manifest.code_version,
        backbone=manifest.backbone.name,
        head=manifest.head.kind,
        onnxruntime=_runtime_version(),
        provider=service.settings.provider,
        precision=service.precision,
        image_types=list(readable_types()),
    )


def _runtime_version() -> str:
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "none"


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={**problem_responses(), 200: {"description": "Prometheus's text format.", "content": {"text/plain": {}}}},
    dependencies=reads,
)
async def metrics(request: Request) -> Response:
    """Requests, images, batches, the queue and the registry, in Prometheus's text format."""
    numbers: Metrics = request.app.state.metrics
    return Response(numbers.render(), media_type=MEDIA_TYPE)
