"""The Open Inference Protocol v2: what server and model are, and whether they are ready."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path

from model import __version__
from service.errors import NotReadyError
from service.http.access import may_read
from service.http.dependencies import TheService
from service.http.problems import Responses, problem_responses
from service.http.v2.schemas import MODEL, ModelMetadata, ModelReady, ServerHealth, ServerMetadata, TensorMetadata
from service.service import Service

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
reads = [Depends(may_read)]

OUTPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "class_id": ("BYTES", (-1, -1)),
    "label": ("BYTES", (-1, -1)),
    "kind": ("BYTES", (-1, -1)),
    "probability": ("FP32", (-1, -1)),
    "novelty": ("FP32", (-1,)),
}
"""Datatypes and shapes of what the model gives."""


def outputs_of(service: Service) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Those of the bundle that is served: one without a novelty score gives no `novelty`."""
    has_novelty = service.bundle.novelty_reference is not None
    return {name: made for name, made in OUTPUTS.items() if name != "novelty" or has_novelty}


ModelName = Annotated[str, Path(description=f"Always {MODEL}.")]
ModelVersion = Annotated[str, Path(description="The bundle's id.")]


def v2_errors(*statuses: int, public: bool = False) -> Responses:
    """OpenAPI entries for statuses answered with an error of this protocol; a head too large is answered before any."""
    schema: dict[str, Any] = {"application/json": {"schema": {"$ref": "#/components/schemas/V2Error"}}}
    return {
        status: entry if status == 431 else {**entry, "content": schema}
        for status, entry in problem_responses(*statuses, public=public).items()
    }


def check_model(service: Service, name: str, version: str | None = None) -> None:
    """Answer 404 where there is no such model, or another version of it."""
    if name != MODEL:
        raise HTTPException(404, f"expected the model {MODEL}, got {name!r}")
    bundle = service.bundle.manifest.bundle_id
    if version is not None and version != bundle:
        raise HTTPException(404, f"expected the version {bundle} of the model, got {version!r}")


@router.get("", summary="The server", responses=v2_errors(), dependencies=reads)
async def server() -> ServerMetadata:
    """Name, version and what it can do beyond the protocol."""
    return ServerMetadata(name=MODEL, version=__version__, extensions=["binary_tensor_data"])


@router.get("/health/live", summary="Whether the server lives", responses=v2_errors(public=True))
async def live(service: TheService) -> ServerHealth:
    """Answers as long as the process does."""
    return ServerHealth(live=True, ready=_is_ready(service))


@router.get("/health/ready", summary="Whether the server is ready", responses=v2_errors(503, public=True))
async def ready(service: TheService) -> ServerHealth:
    """503 where images would not be answered."""
    service.check_ready()
    return ServerHealth(live=True, ready=True)


@router.get("/models/{model}", summary="The model", responses=v2_errors(404, 422), dependencies=reads)
async def model_metadata(service: TheService, model: ModelName) -> ModelMetadata:
    """The tensors that the model takes, one of them in each request, and those that it gives."""
    check_model(service, model)
    manifest = service.bundle.manifest
    size = manifest.preprocess.size
    return ModelMetadata(
        name=MODEL,
        versions=[manifest.bundle_id],
        platform="onnxruntime",
        inputs=[
            TensorMetadata(name="image_bytes", datatype="BYTES", shape=[-1]),
            TensorMetadata(name="pixels", datatype="FP32", shape=[-1, 3, size, size]),
        ],
        outputs=[
            TensorMetadata(name=name, datatype=kind, shape=list(shape))
            for name, (kind, shape) in outputs_of(service).items()
        ],
    )


@router.get(
    "/models/{model}/versions/{version}", summary="A version", responses=v2_errors(404, 422), dependencies=reads
)
async def version_metadata(service: TheService, model: ModelName, version: ModelVersion) -> ModelMetadata:
    """The same, where the version is the one that is served."""
    check_model(service, model, version)
    return await model_metadata(service, model)


@router.get(
    "/models/{model}/ready",
    summary="Whether the model is ready",
    responses=v2_errors(404, 422, 503),
    dependencies=reads,
)
async def model_ready(service: TheService, model: ModelName) -> ModelReady:
    """503 where images would not be answered."""
    check_model(service, model)
    service.check_ready()
    return ModelReady(name=MODEL, ready=True)


@router.get(
    "/models/{model}/versions/{version}/ready",
    summary="Whether a version is ready",
    responses=v2_errors(404, 422, 503),
    dependencies=reads,
)
async def version_ready(service: TheService, model: ModelName, version: ModelVersion) -> ModelReady:
    """The same, where the version is the one that is served."""
    check_model(service, model, version)
    return await model_ready(service, model)


def _is_ready(service: Service) -> bool:
    try:
        service.check_ready()
    except NotReadyError:
        return False
    return True
