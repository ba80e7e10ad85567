"""POST /v2/models/{model}/infer: the same answers as /classify, in the tensors of the Open Inference Protocol v2.

N: images, K: classes in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from model.errors import D3GZSLError, Problem
from model.head import Float32
from service.classes.ranking import RankedClass, RankOptions, chosen_rows, image_novelty, no_scores
from service.errors import InferenceError, InvalidRequestError, TooLargeError
from service.http.access import client_of, may_classify
from service.http.dependencies import Deadline, TheService, TimeoutMs, snapshot_for
from service.http.images import SentImage
from service.http.problems import Responses, detail_of
from service.http.recognition import EmbeddedImage, embed_all, embed_inputs, rank_all, while_connected
from service.http.threads import off_the_loop
from service.http.v2.metadata import ModelName, ModelVersion, check_model, outputs_of, v2_errors
from service.http.v2.schemas import MODEL, AnswerParameters, InferAnswer, InferRequest
from service.http.v2.tensors import ReceivedRequest, answer, image_files, network_inputs, read_request
from service.service import Service

router = APIRouter(prefix="/v2/models/{model}", tags=["open inference protocol"], dependencies=[Depends(may_classify)])

HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_JSON_INPUTS = 8  # images that may come as numbers in JSON, where each number costs many bytes of memory
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"JSON; with {HEADER_LENGTH} the bytes of the input may follow it.",
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_RESPONSES: Responses = {
    200: {
        "description": f"JSON; where outputs are asked for as binary data, their bytes follow it ({HEADER_LENGTH}).",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    **v2_errors(400, 404, 413, 415, 422, 503),
}


@router.post("/infer", summary="Infer", response_model=InferAnswer, responses=_RESPONSES, openapi_extra=_BODY)
async def infer(request: Request, service: TheService, model: ModelName, timeout_ms: TimeoutMs = None) -> Response:
    """Rank the classes for each image; where one cannot be read there is no answer to the others."""
    check_model(service, model)
    return await _infer(request, service, Deadline.from_now(service.settings.deadline, timeout_ms=timeout_ms))


@router.post(
    "/versions/{version}/infer",
    summary="Infer with a version",
    response_model=InferAnswer,
    responses=_RESPONSES,
    openapi_extra=_BODY,
)
async def infer_with_version(
    request: Request, service: TheService, model: ModelName, version: ModelVersion, timeout_ms: TimeoutMs = None
) -> Response:
    """The same, where the version is the one that is served."""
    check_model(service, model, version)
    return await _infer(request, service, Deadline.from_now(service.settings.deadline, timeout_ms=timeout_ms))


async def _infer(request: Request, service: Service, deadline: Deadline) -> Response:
    client = client_of(request)
    async with deadline.kept():
        service.batcher.check(seconds=deadline.left, client=client)
        asked, inputs = await _read_inputs(request, service)
    parameters = asked.parameters
    if parameters.timeout is not None:
        deadline = Deadline.from_now(deadline.left, timeout_ms=max(1, parameters.timeout // 1000))
    snapshot = await snapshot_for(service, parameters.min_registry_version, seconds=deadline.left)
    question = RankOptions(
        top_k=parameters.top_k,
        scope=parameters.scope,
        classes=tuple(parameters.classes),
        seen_penalty=parameters.seen_penalty,
    )
    async with deadline.kept():
        rows = chosen_rows(snapshot, question)
        with service.batcher.admit(len(inputs), seconds=deadline.left, client=client):
            if isinstance(inputs, np.ndarray):
                work = embed_inputs(service, inputs, client=client)
            else:
                work = embed_all(service, inputs, client=client)
            images = _all_answered(await while_connected(request, work))
        ranked = await rank_all(service, snapshot, rows, images, question)
        if not all(ranked):
            raise no_scores()
    return _response(
        service,
        asked,
        AnswerParameters(
            bundle=service.bundle.manifest.bundle_id,
            registry_version=snapshot.registry_version,
            head="exact",
        ),
        images,
        ranked,
    )


async def _read_inputs(request: Request, service: Service) -> tuple[InferRequest, list[SentImage] | Float32]:
    """What is asked for, and the images: files, or what the network takes."""
    body, length = await request.body(), request.headers.get(HEADER_LENGTH)
    size = service.bundle.manifest.preprocess.size
    most = _MOST_JSON_INPUTS * 3 * size * (size + 1) + 10_000  # numbers, and the lists around them

    def read(body: bytes) -> tuple[InferRequest, list[SentImage] | Float32]:
        received = read_request(body, length, max_values=most)
        _check_outputs(service, received.request)
        return received.request, _inputs(service, received)

    return await off_the_loop(read, body)


def _check_outputs(service: Service, asked: InferRequest) -> None:
    known = outputs_of(service)
    problems = [
        Problem(pointer=f"/outputs/{i}/name", detail=f"expected one of {', '.join(known)}, got {output.name!r}")
        for i, output in enumerate(asked.outputs)
        if output.name not in known
    ]
    if problems:
        raise InvalidRequestError("there is no such output", problems)


def _inputs(service: Service, received: ReceivedRequest) -> list[SentImage] | Float32:
    (tensor,) = received.request.inputs
    most = service.settings.max_batch_images
    if tensor.shape and tensor.shape[0] > most:
        raise TooLargeError(f"the request has {tensor.shape[0]} images; at most {most} are allowed")
    if tensor.name == "image_bytes":
        return [SentImage(id=str(i), data=data) for i, data in enumerate(image_files(tensor, received.raw))]
    if tensor.name == "pixels":
        return network_inputs(tensor, received.raw, size=service.bundle.manifest.preprocess.size)
    detail = f"expected image_bytes or pixels, got {tensor.name!r}"
    raise InvalidRequestError("there is no such input", [Problem(pointer="/inputs/0/name", detail=detail)])


def _all_answered(outcomes: Sequence[EmbeddedImage | D3GZSLError]) -> list[EmbeddedImage]:
    """What came from the model; the protocol has no errors of single images, so that one fails them all."""
    failed = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, D3GZSLError)}
    if len(outcomes) == 1 and failed:
        raise failed[0]
    own = {i: error for i, error in failed.items() if isinstance(error, InferenceError)}
    if own:
        raise InferenceError("; ".join(f"/inputs/0/data/{i}: {error}" for i, error in own.items()))
    if failed:
        problems = [Problem(pointer=f"/inputs/0/data/{i}", detail=detail_of(error)) for i, error in failed.items()]
        raise InvalidRequestError("some of the images cannot be read", problems)
    return [outcome for outcome in outcomes if isinstance(outcome, EmbeddedImage)]


def _response(
    service: Service,
    asked: InferRequest,
    parameters: AnswerParameters,
    images: Sequence[EmbeddedImage],
    ranked: Sequence[Sequence[RankedClass]],
) -> Response:
    best = [r for of_image in ranked for r in of_image]
    table = [len(images), len(ranked[0])]
    tensors: dict[str, tuple[list[str] | Float32, list[int]]] = {
        "class_id": ([r.entry.id for r in best], table),
        "label": ([r.entry.name for r in best], table),
        "kind": ([r.entry.kind for r in best], table),
        "probability": (np.array([r.probability for r in best], dtype=np.float32), table),
    }
    if "novelty" in outputs_of(service):
        novelty = [image_novelty(service.bundle, image.answer.teacher_score) for image in images]
        tensors["novelty"] = (np.array(novelty, dtype=np.float32), table[:1])
    wanted = {output.name: output.parameters.binary_data for output in asked.outputs} or dict.fromkeys(tensors)
    made = [
        answer(name, *tensors[name], binary=asked.parameters.binary_data_output if binary is None else binary)
        for name, binary in wanted.items()
    ]
    document = InferAnswer(
        model_name=MODEL,
        model_version=parameters.bundle,
        id=asked.id,
        parameters=parameters,
        outputs=[tensor for tensor, _ in made],
    )
    head = document.model_dump_json(exclude_none=True).encode()
    if not any(tensor.parameters for tensor, _ in made):
        return Response(head, media_type="application/json")
    return Response(
        head + b"".join(raw for _, raw in made),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(head))},
    )
