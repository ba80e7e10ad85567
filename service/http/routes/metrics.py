"""GET /metrics: numbers for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from service.http.access import may_classify
from service.http.dependencies import problems
from service.telemetry.metrics import MEDIA_TYPE, Metrics

router = APIRouter(tags=["about"], dependencies=[Depends(may_classify)])


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={**problems(), 200: {"description": "Prometheus's text format.", "content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """Requests, images, batches, the queue and the registry, in Prometheus's text format."""
    numbers: Metrics = request.app.state.metrics
    return Response(numbers.render(), media_type=MEDIA_TYPE)
