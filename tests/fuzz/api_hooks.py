"""What schemathesis is told beyond the OpenAPI document: photos, ids that exist, which 503 was asked for."""

from __future__ import annotations

import json
import random
from typing import Any
from zlib import crc32

import hypothesis
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase

from service.service import load_bundle
from tests.fuzz.seeds import files_of, image_in_base64, images

_BUNDLE = load_bundle(None).manifest
_CLASSES = [entry.id for entry in _BUNDLE.classes]
_REAL: dict[str, list[str]] = {
    "class_id": [*_CLASSES[:8], *(entry.id for entry in _BUNDLE.classes if entry.kind == "unseen"), "new-1", "new-2"],
    "name": [example.file.removeprefix("examples/") for example in _BUNDLE.examples],
    "model": ["d3gzsl"],
    "version": [_BUNDLE.bundle_id],
}
"""Values of parameters in paths that lead somewhere, which the document cannot know."""
VERSIONS = 200
"""Versions that the registry has before the first request."""
_WAITED_FOR = range(VERSIONS + 1, 1_000_000)
"""Versions that may be so near that the service would wait for them until its deadline; those beyond are refused."""
_SHARE = 0.7
"""How often what would hardly be guessed is replaced by what exists."""
_ASKED_FOR = {
    "expected version": ("min_registry_version",),
    "no answer within": ("D3GZSL-Timeout-Ms", "timeout"),
}
"""Words of an answer 503, with the parameters by which a client asks for it."""

# Hypothesis would climb towards requests that are accepted, and draw thousands for each that is sent.
hypothesis.target = lambda *_arguments, **_options: None

for _type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(_type, st.sampled_from(images()) | st.binary(max_size=200))


@schemathesis.hook
def map_case(_context: HookContext, case: Case) -> Case:
    """Replace ids and images of a request that is meant to be valid by ones that exist, most of the time.

    Versions that would be waited for are replaced in all requests.
    """
    _with_versions(case.query)
    if isinstance(case.body, dict):
        _with_versions(case.body.get("parameters"))
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return case
    chance = random.Random(crc32(repr((case.path_parameters, case.query, str(case.body)[:2000])).encode()))
    if case.meta.phase.name is not TestPhase.STATEFUL:  # there, ids come from the answers before
        for name in case.path_parameters or {}:
            if name in _REAL and chance.random() < _SHARE:
                case.path_parameters[name] = chance.choice(_REAL[name])
    if isinstance(case.body, dict):
        _with_images(case.body, chance, form=(case.media_type or "").startswith("multipart/"))
    return case


def _with_versions(parameters: Any) -> None:
    name = "min_registry_version"
    if isinstance(parameters, dict):
        asked = parameters.get(name)
        number = int(asked) if isinstance(asked, str) and asked.isdecimal() and len(asked) < 20 else asked
        if isinstance(number, int | float) and number in _WAITED_FOR:
            parameters[name] = int(number) % VERSIONS


def _with_images(document: Any, chance: random.Random, *, form: bool) -> None:
    for field in ("images", "examples"):
        listed = document.get(field)
        for i, image in enumerate(listed if isinstance(listed, list) else []):
            if chance.random() >= _SHARE:
                continue
            if form:
                listed[i] = chance.choice(images())
            elif isinstance(image, dict) and isinstance(image.get("data"), str):
                image["data"] = image_in_base64(chance)
    for one in document.get("classes", []) if isinstance(document.get("classes"), list) else []:
        if isinstance(one, dict):
            _with_images(one, chance, form=form)
    for tensor in document.get("inputs", []) if isinstance(document.get("inputs"), list) else []:
        if isinstance(tensor, dict) and chance.random() < _SHARE:
            number = chance.randint(1, 3)
            tensor |= {"name": "image_bytes", "datatype": "BYTES", "shape": [number], "data": files_of(chance, number)}
            tensor.pop("parameters", None)


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Pass over an answer 503 that the client asked for: a version that is not there, or too short a time.

    A head that is too large is refused before anybody reads what else is wrong with the request.
    """
    if response.status_code == 431:
        return not isinstance(failure, AcceptedNegativeData)
    return response.status_code != 503 or not _asked_for(case, response)


def _asked_for(case: Case, response: Response) -> bool:
    document = json.loads(response.content)
    words = document.get("error") or document["detail"]
    asked = json.dumps([dict(case.query or {}), dict(case.headers or {}), case.body], default=repr)
    return any(
        meaning in words and any(parameter in asked for parameter in parameters)
        for meaning, parameters in _ASKED_FOR.items()
    )
