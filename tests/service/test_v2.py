"""The Open Inference Protocol v2: the answers of /classify as tensors, in JSON and in bytes."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from model.preprocess import preprocess
from service.keys import digest, new_key
from tests.service.conftest import Client, Running
from tests.service.tiny import SPEC, S, photo, png

pytestmark = pytest.mark.anyio

INFER = "/v2/models/d3gzsl/infer"
FILES = [photo(1), photo(2, side=30), png((250, 10, 0))]
LENGTH = "inference-header-content-length"
TABLE = ("class_id", "label", "kind", "probability")


def base64_input(files: list[bytes]) -> dict[str, Any]:
    data = [base64.b64encode(file).decode() for file in files]
    return {"name": "image_bytes", "datatype": "BYTES", "shape": [len(files)], "data": data}


def elements(files: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def binary(raw: bytes, shape: list[int], **more: Any) -> dict[str, Any]:
    """Arguments of a POST with one binary tensor: FP32 pixels for four axes, otherwise files."""
    name, datatype = ("pixels", "FP32") if len(shape) == 4 else ("image_bytes", "BYTES")
    parameters = {"binary_data_size": len(raw)}
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
    head = json.dumps({"inputs": [tensor], **more}).encode()
    return {"content": head + raw, "headers": {LENGTH: str(len(head)), "content-type": "application/octet-stream"}}


def tensors(answer: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer as lists, wherever they stand; a plain second reading of the protocol."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    place, found = length, {}
    for output in json.loads(answer.content[:length])["outputs"]:
        if "data" in output:
            flat = output["data"]
        else:
            end = place + output["parameters"]["binary_data_size"]
            if output["datatype"] == "FP32":
                flat = list(struct.unpack(f"<{(end - place) // 4}f", answer.content[place:end]))
            else:
                flat, at = [], place
                while at < end:
                    (size,) = struct.unpack_from("<I", answer.content, at)
                    flat.append(answer.content[at + 4 : at + 4 + size].decode())
                    at += 4 + size
            place = end
        dtype = object if output["datatype"] == "BYTES" else float
        found[output["name"]] = np.array(flat, dtype=dtype).reshape(output["shape"]).tolist()
    assert place == len(answer.content)
    return found


async def classified(client: Client, query: str = "") -> dict[str, Any]:
    """What /classify says about the files, in the form of the tensors."""
    images = [{"data": base64.b64encode(file).decode()} for file in FILES]
    answer = await client.post(f"/classify{query}", json={"images": images})
    results = answer.json()["results"]
    fields = {"label": "name"}
    found = {name: [[p[fields.get(name, name)] for p in r["predictions"]] for r in results] for name in TABLE}
    return {**found, "novelty": [r["novelty"] for r in results]}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name in found:
        if name in ("probability", "novelty"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
        else:
            assert found[name] == expected[name]


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("form", ["json", "bytes", "column", "pixels", "nested", "flat"])
async def test_every_form_gives_the_answers_of_classify(client: Client, form: str, output: bool) -> None:
    parameters = {"binary_data_output": output}
    pixels = np.stack([preprocess(file, SPEC) for file in FILES])
    arguments = {
        "json": {"json": {"inputs": [base64_input(FILES)], "parameters": parameters}},
        "bytes": binary(elements(FILES), [3], parameters=parameters),
        "column": binary(elements(FILES), [3, 1], parameters=parameters),
        "pixels": binary(pixels.astype("<f4").tobytes(), [3, 3, S, S], parameters=parameters),
    }
    for name, data in (("nested", pixels.tolist()), ("flat", pixels.ravel().tolist())):
        tensor = {"name": "pixels", "datatype": "FP32", "shape": [3, 3, S, S], "data": data}
        arguments[name] = {"json": {"inputs": [tensor], "parameters": parameters}}
    answer = await client.post(INFER, **arguments[form])
    assert (LENGTH in answer.headers) is output
    assert_same(tensors(answer), await classified(client))


async def test_parameters_mean_what_they_mean_for_classify(client: Client) -> None:
    await client.post("/classes", json={"name": "violet", "attributes": [0.9, 0, 0.9]})
    asked = {"top_k": 2, "classes": "bluish,violet,reddish", "seen_penalty": 1.5, "min_registry_version": 1}
    answer = await client.post(INFER, json={"id": "mine", "inputs": [base64_input(FILES)], "parameters": asked})
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    assert_same(tensors(answer), await classified(client, f"?{query}"))
    body = answer.json()
    assert (body["id"], body["model_name"]) == ("mine", "d3gzsl")
    assert body["parameters"] == {
        "bundle": body["model_version"],
        "precision": "fp32",
        "registry_version": 1,
        "head": "exact",
    }
    assert [output["shape"] for output in body["outputs"]] == [[3, 2]] * 4 + [[3]]


async def test_outputs_that_are_named_come_in_their_order_and_form(client: Client) -> None:
    outputs = [{"name": "probability", "parameters": {"binary_data": True}}, {"name": "label"}]
    answer = await client.post(INFER, json={"inputs": [base64_input(FILES)], "outputs": outputs})
    expected = await classified(client)
    assert_same(tensors(answer), {name: expected[name] for name in ("probability", "label")})
    head = json.loads(answer.content[: int(answer.headers[LENGTH])])
    assert [sorted(output) for output in head["outputs"]] == [
        ["datatype", "name", "parameters", "shape"],
        ["data", "datatype", "name", "shape"],
    ]


async def test_metadata_names_what_infer_takes_and_gives(client: Client) -> None:
    server = (await client.get("/v2")).json()
    assert (server["name"], server["extensions"]) == ("d3gzsl", ["binary_tensor_data"])
    model = (await client.get("/v2/models/d3gzsl")).json()
    assert [(i["name"], i["shape"]) for i in model["inputs"]] == [("image_bytes", [-1]), ("pixels", [-1, 3, S, S])]
    answer = (await client.post(INFER, json={"inputs": [base64_input(FILES)]})).json()
    assert [(o["name"], o["datatype"], len(o["shape"])) for o in answer["outputs"]] == [
        (o["name"], o["datatype"], len(o["shape"])) for o in model["outputs"]
    ]
    version = f"/v2/models/d3gzsl/versions/{model['versions'][0]}"
    assert (await client.get(version)).json() == model
    assert (await client.get(f"{version}/ready")).json() == {"name": "d3gzsl", "ready": True}
    assert (await client.get("/v2/models/d3gzsl/ready")).json() == {"name": "d3gzsl", "ready": True}
    same = await client.post(f"{version}/infer", json={"inputs": [base64_input(FILES)]})
    assert same.json()["outputs"] == answer["outputs"]


async def test_health_says_both_and_follows_the_worker(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as client:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).json() == {"live": True, "ready": True}
        monkeypatch.setattr("service.inference.batcher.Batcher.alive", False)
        assert (await client.get("/v2/health/live")).json() == {"live": True, "ready": False}
        for path in ("/v2/health/ready", "/v2/models/d3gzsl/ready"):
            answer = await client.get(path)
            assert (answer.status_code, list(answer.json())) == (503, ["error"])
            assert answer.headers["retry-after"]


PIXELS = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, S, S]}
ONE = base64_input(FILES[:1])
WRONG: list[tuple[int, str, dict[str, Any]]] = [
    (400, "not JSON", {"content": b"{"}),
    (422, "/inputs", {"json": {"inputs": []}}),
    (422, "/inputs", {"json": {"inputs": [ONE, ONE]}}),
    (422, "image_bytes or pixels", {"json": {"inputs": [{**ONE, "name": "images"}]}}),
    (422, "expected BYTES", {"json": {"inputs": [{**ONE, "datatype": "UINT8"}]}}),
    (422, "expected FP32", {"json": {"inputs": [{**PIXELS, "datatype": "FP64", "data": [0]}]}}),
    (422, "expected 2 elements, got 1", {"json": {"inputs": [{**ONE, "shape": [2]}]}}),
    (422, "/inputs/0/shape", {"json": {"inputs": [{**ONE, "shape": [1, 2]}]}}),
    (422, "/inputs/0/shape", {"json": {"inputs": [{**ONE, "shape": [0], "data": []}]}}),
    (422, "/inputs/0/shape", {"json": {"inputs": [{**ONE, "shape": [-1]}]}}),
    (422, "/inputs/0/shape", {"json": {"inputs": [{**ONE, "shape": []}]}}),
    (422, "/inputs/0/data/0", {"json": {"inputs": [{**ONE, "data": ["?"]}]}}),
    (422, "/inputs/0/data/0", {"json": {"inputs": [{**ONE, "data": [3]}]}}),
    (422, "either data or", {"json": {"inputs": [{k: v for k, v in ONE.items() if k != "data"}]}}),
    (422, "/inputs/0/shape", {"json": {"inputs": [{**PIXELS, "shape": [1, 3, S, S + 1], "data": [0]}]}}),
    (422, "numbers, got 1", {"json": {"inputs": [{**PIXELS, "data": [0]}]}}),
    (422, "numbers only", {"json": {"inputs": [{**PIXELS, "data": ["1"]}]}}),
    (422, "numbers only", {"json": {"inputs": [{**PIXELS, "data": [None, True]}]}}),
    (422, "equal lengths", {"json": {"inputs": [{**PIXELS, "data": [[1], [1, 2]]}]}}),
    (422, "finite", {"json": {"inputs": [{**PIXELS, "data": [1e39] * (3 * S * S)}]}}),
    (422, "/parameters/top_k", {"json": {"inputs": [ONE], "parameters": {"top_k": 0}}}),
    (422, "/parameters/priority", {"json": {"inputs": [ONE], "parameters": {"priority": 1}}}),
    (422, "/parameters/classes", {"json": {"inputs": [ONE], "parameters": {"classes": 5}}}),
    (422, "'nobody'", {"json": {"inputs": [ONE], "parameters": {"classes": "nobody"}}}),
    (422, "/outputs/0/name", {"json": {"inputs": [ONE], "outputs": [{"name": "scores"}]}}),
    (413, "at most 64", {"json": {"inputs": [{**ONE, "shape": [65]}]}}),
    (400, "behind the JSON", {"content": json.dumps({"inputs": [ONE]}) + "x", "headers": {LENGTH: "1"}}),
    (415, "compressed", {"json": {"inputs": [ONE]}, "headers": {"content-encoding": "gzip"}}),
    (415, "", {"json": {"inputs": [base64_input([b"no image"])]}}),
    (422, "/inputs/0/data/1", {"json": {"inputs": [base64_input([FILES[0], b"no image"])]}}),
]


@pytest.mark.parametrize(("status", "words", "arguments"), WRONG)
async def test_what_is_wrong_is_said_as_the_protocol_has_it(
    client: Client, status: int, words: str, arguments: dict[str, Any]
) -> None:
    if arguments.get("headers", {}).get(LENGTH) == "1":  # all but the last byte is JSON
        arguments = {**arguments, "headers": {LENGTH: str(len(arguments["content"]) - 1)}}
    answer = await client.post(INFER, **arguments)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


@pytest.mark.parametrize("length", ["x", "-1", "999999", "²", "", 5000 * "1"])
async def test_lengths_that_cannot_be_are_refused(client: Client, length: str) -> None:
    arguments = binary(elements(FILES), [3])
    headers = [(LENGTH.encode(), length.encode("utf-8"))]
    answer = await client.post(INFER, content=arguments["content"], headers=headers)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


async def test_binary_tensors_that_end_too_early_are_refused(client: Client) -> None:
    whole = elements(FILES)
    for raw in (whole[:-1], whole[:2], whole + b"\1\0", b"\xff\xff\xff\xff" + whole[4:]):
        answer = await client.post(INFER, **binary(raw, [3]))
        assert (answer.status_code, "the bytes end" in answer.json()["error"]) == (422, True), raw[:9]
    answer = await client.post(INFER, **binary(bytes(4 * 3 * S * S - 1), [1, 3, S, S]))
    assert (answer.status_code, "multiple of 4" in answer.json()["error"]) == (422, True)
    short = binary(whole, [3])
    answer = await client.post(INFER, **{**short, "content": short["content"][:-5]})
    assert (answer.status_code, "binary_data_size" in answer.json()["error"]) == (400, True)
    nan = struct.pack("<f", float("nan")) * (3 * S * S)
    assert (await client.post(INFER, **binary(nan, [1, 3, S, S]))).status_code == 422


async def test_other_models_versions_and_paths_are_not_there(client: Client) -> None:
    for path in ("/v2/models/other", "/v2/models/d3gzsl/versions/1", "/v2/models/d3gzsl/versions/1/ready", "/v2/nope"):
        answer = await client.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"]), path
    assert (await client.post("/v2/models/other/infer", json={"inputs": [ONE]})).status_code == 404
    answer = await client.get(INFER)
    assert (answer.status_code, list(answer.json()), answer.headers["allow"]) == (405, ["error"], "POST")


async def test_keys_apply_as_for_classify(running: Running) -> None:
    key = new_key()
    async with running(keys=(f"classify:{digest(key)}",)) as client:
        for path in ("/v2", "/v2/models/d3gzsl", "/v2/models/d3gzsl/ready", "/metrics"):
            assert (await client.get(path)).status_code == 401, path
        assert (await client.get("/v2/health/ready")).status_code == 200
        refused = await client.post(INFER, json={"inputs": [ONE]})
        assert (refused.status_code, list(refused.json())) == (401, ["error"])
        headers = {"authorization": f"Bearer {key}"}
        assert (await client.post(INFER, json={"inputs": [ONE]}, headers=headers)).status_code == 200
        assert (await client.get("/metrics", headers=headers)).status_code == 200
