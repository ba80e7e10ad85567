"""The endpoints of the Open Inference Protocol v2 as calls."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.client.answers import as_model
from service.client.calls import Document
from service.client.steps import Call
from service.http.v2.schemas import MODEL, InferAnswer, ModelMetadata, ModelReady, ServerHealth, ServerMetadata


def _of_model(version: str | None, end: str = "") -> dict[str, Any]:
    """Template and values of a path below the model, or below one of its versions."""
    if version is None:
        return {"template": f"/v2/models/{{model}}{end}", "values": {"model": MODEL}}
    return {
        "template": f"/v2/models/{{model}}/versions/{{version}}{end}",
        "values": {"model": MODEL, "version": version},
    }


def server() -> Call[ServerMetadata]:
    """Name, version and extensions of the server."""
    return Call(method="GET", template="/v2", read=as_model(ServerMetadata), repeat=True)


def server_live() -> Call[ServerHealth]:
    """That the process lives."""
    return Call(method="GET", template="/v2/health/live", read=as_model(ServerHealth), repeat=True)


def server_ready() -> Call[ServerHealth]:
    """That images are answered; ServiceUnavailableError where they are not."""
    return Call(method="GET", template="/v2/health/ready", read=as_model(ServerHealth), repeat=True)


def model_metadata(*, version: str | None = None) -> Call[ModelMetadata]:
    """Inputs and outputs of the model.

    Args:
        version: the bundle's id, where it must be that one.
    """
    return Call(method="GET", read=as_model(ModelMetadata), repeat=True, **_of_model(version))


def model_ready(*, version: str | None = None) -> Call[ModelReady]:
    """That images are answered; ServiceUnavailableError where they are not.

    Args:
        version: the bundle's id, where it must be that one.
    """
    return Call(method="GET", read=as_model(ModelReady), repeat=True, **_of_model(version, "/ready"))


def infer(request: Document, *, version: str | None = None, timeout_ms: int | None = None) -> Call[InferAnswer]:
    """Rank the classes for images, in tensors of JSON.

    Args:
        request: what the protocol has, such as ``{"inputs": [{"name": "image_bytes", ...}]}``.
        version: the bundle's id, where it must be that one.
        timeout_ms: milliseconds after which the answer is no longer wanted.
    """
    document = request.model_dump(exclude_unset=True) if isinstance(request, BaseModel) else dict(request)
    return Call(
        method="POST",
        read=as_model(InferAnswer),
        headers={"d3gzsl-timeout-ms": None if timeout_ms is None else str(timeout_ms)},
        document=document,
        repeat=True,
        at_least="parameters",
        **_of_model(version, "/infer"),
    )
