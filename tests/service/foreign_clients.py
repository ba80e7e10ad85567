"""Asks a service through the clients of Triton and KServe as they are, in an environment that has these two only.

Arguments: the service's URL, the side of the network's input, a file of FP32 inputs, and files of images. Prints JSON:
for each client and form the outputs as lists.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kserve
import numpy as np
import tritonclient.http as triton
from kserve.protocol.infer_type import RequestedOutput
from tritonclient.utils import InferenceServerException

OUTPUTS = ("class_id", "label", "kind", "probability", "novelty")
MODEL = "d3gzsl"


def lists(read: Callable[[str], Any]) -> dict[str, Any]:
    """Outputs as text and numbers; Triton's client gives bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value.decode() if isinstance(value, bytes) else value

    return {name: plain(np.asarray(read(name)).tolist()) for name in OUTPUTS}


def inputs_of(make: Callable[..., Any], files: list[bytes], pixels: Any) -> dict[str, Any]:
    """The inputs of either client in every form; their constructors and setters have the same arguments."""
    shape = list(pixels.shape)
    forms = {
        "files in JSON": (("image_bytes", [len(files)], "BYTES"), [base64.b64encode(file) for file in files], False),
        "files in bytes": (("image_bytes", [len(files)], "BYTES"), files, True),
        "pixels in JSON": (("pixels", shape, "FP32"), pixels, False),
        "pixels in bytes": (("pixels", shape, "FP32"), pixels, True),
    }
    made = {}
    for form, (arguments, data, binary) in forms.items():
        made[form] = make(*arguments)
        values = np.array(data, dtype=np.object_) if isinstance(data, list) else data
        made[form].set_data_from_numpy(values, binary_data=binary)
    return made


def ask_triton(url: str, files: list[bytes], pixels: Any) -> dict[str, Any]:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    metadata = client.get_model_metadata(MODEL)
    (version,) = metadata["versions"]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, version)
    assert not client.is_model_ready("other")
    assert client.get_model_metadata(MODEL, version) == metadata
    found = {"server": client.get_server_metadata(), "model": metadata}
    for form, tensor in inputs_of(triton.InferInput, files, pixels).items():
        for binary in (False, True, None):
            outputs = None if binary is None else [triton.InferRequestedOutput(n, binary_data=binary) for n in OUTPUTS]
            answer = client.infer(MODEL, [tensor], outputs=outputs, request_id="mine", timeout=30_000_000)
            assert answer.get_response()["id"] == "mine"
            found[f"{form}, {binary}"] = lists(answer.as_numpy)
    answer = client.infer(MODEL, [tensor], model_version=version, parameters={"top_k": 1})
    assert answer.as_numpy("label").shape == (len(files), 1)
    try:
        client.infer(MODEL, [tensor], parameters={"top_k": 0})
    except InferenceServerException as error:
        found["error"] = error.message()
    client.close()
    return found


async def ask_kserve(url: str, files: list[bytes], pixels: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", timeout=60)) as client:
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, MODEL)
        for form, tensor in inputs_of(kserve.InferInput, files, pixels).items():
            for binary in (False, True, None):
                wanted = {"binary_data": binary}
                outputs = None if binary is None else [RequestedOutput(n, parameters=wanted) for n in OUTPUTS]
                request = kserve.InferRequest(
                    model_name=MODEL,
                    infer_inputs=[tensor],
                    request_outputs=outputs or [],
                    parameters={"binary_data_output": True} if binary is None else {},
                )
                answer = await client.infer(url, request, model_name=MODEL)
                by_name = {output.name: output.as_numpy() for output in answer.outputs}
                found[f"{form}, {binary}"] = lists(by_name.__getitem__)
    return found


if __name__ == "__main__":
    service, side, inputs, *images = sys.argv[1:]
    sent = [Path(image).read_bytes() for image in images]
    numbers = np.fromfile(inputs, dtype=np.float32).reshape(len(sent), 3, int(side), int(side))
    answers = {
        "triton": ask_triton(service, sent, numbers),
        "kserve": asyncio.run(ask_kserve(service, sent, numbers)),
    }
    sys.stdout.write(json.dumps(answers))
