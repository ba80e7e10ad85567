"""Images that cost much, or fail in odd ways, through the application: each fails alone and by name."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import simplejpeg
from PIL import Image
from starlette.requests import Request

from model.images.reading import NO_END
from service.http.access import client_of
from service.inference.decoder import Decoder
from service.keys import digest
from tests.model.photos import encode, picture
from tests.model.test_image_cost import scans
from tests.service.conftest import Client, Running
from tests.service.tiny import S, photo, png

pytestmark = pytest.mark.anyio
RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
TOO_LARGE = (413, "urn:d3gzsl:problem:image-too-large")


def body(*images: bytes) -> dict[str, Any]:
    return {"images": [{"data": base64.b64encode(image).decode()} for image in images]}


async def results(client: Client, *images: bytes) -> list[dict[str, Any]]:
    answer = await client.post("/classify", json=body(*images))
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def kind(result: dict[str, Any]) -> tuple[int, str]:
    return result["error"]["status"], result["error"]["type"]


async def test_one_request_has_a_budget_of_pixels(running: Running) -> None:
    images = [encode(picture(seed=i), "PNG") for i in range(3)]
    async with running(max_image_pixels=2000, max_request_pixels=5000) as client:
        outcomes = await results(client, *images, *images)
        assert len([outcome for outcome in outcomes if "error" in outcome]) == 2  # one of the three, sent twice
        (failed,) = {kind(outcome) for outcome in outcomes if "error" in outcome}
        assert failed == TOO_LARGE
        assert "error" not in (await results(client, images[0]))[0]  # the next request has its own


async def test_identical_images_are_decoded_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    decode = Decoder.__call__

    async def counted(self: Decoder, data: bytes, **more: Any) -> Any:
        decoded.append(data)
        return await decode(self, data, **more)

    monkeypatch.setattr(Decoder, "__call__", counted)
    same, other, bad = photo(1), photo(2), b"no image"
    found = await results(client, same, other, same, bad, bytes(bytearray(same)), bad)
    assert sorted(decoded) == sorted([same, other, bad])
    assert [result["id"] for result in found] == list("012345")
    assert found[0]["predictions"] == found[2]["predictions"] == found[4]["predictions"] != found[1]["predictions"]
    assert kind(found[3]) == kind(found[5]) == (415, "urn:d3gzsl:problem:unsupported-image")


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        (scans(20_000), "20000 scans; at most 100"),
        (encode(Image.new("RGB", (7000, 7000)), "WEBP", lossless=True), "bytes of memory; at most 256000000"),
        (encode(Image.new("L", (8000, 7000)), "PNG"), "8000 x 7000 pixels; at most 50000000"),
    ],
    ids=["scans", "memory", "pixels"],
)
async def test_a_bomb_fails_alone_and_says_by_what(client: Client, bomb: bytes, words: str) -> None:
    good, bad, also = await results(client, RED, bomb, BLUE)
    assert kind(bad) == TOO_LARGE
    assert words in bad["error"]["detail"]
    assert [result["predictions"][0]["class_id"] for result in (good, also)] == ["reddish", "bluish"]
    alone = await client.post("/classify", content=bomb, headers={"content-type": "image/x"})
    assert (alone.status_code, alone.json()["type"]) == TOO_LARGE
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [2]}
    data = [base64.b64encode(image).decode() for image in (RED, bomb)]
    infer = await client.post("/v2/models/d3gzsl/infer", json={"inputs": [{**tensor, "data": data}]})
    assert infer.status_code == 422
    assert f"/inputs/0/data/1: {alone.json()['detail']}" in infer.json()["error"]


async def test_large_images_are_answered(client: Client) -> None:
    large = encode(Image.new("L", (6000, 5000), 255), "PNG")
    sixteen = encode(Image.new("I;16", (3000, 2000), 65535), "PNG")
    white = (await results(client, png((255, 255, 255))))[0]["predictions"]
    found = await results(client, large, sixteen)
    assert [(result["width"], result["height"]) for result in found] == [(6000, 5000), (3000, 2000)]
    assert [result["predictions"] for result in found] == [white, white]


async def test_memory_that_runs_out_costs_one_image(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, hungry = simplejpeg.decode_jpeg, photo(3, form="JPEG")

    def decode_jpeg(data: bytes, **more: Any) -> Any:
        if data == hungry:
            raise MemoryError
        return decode(data, **more)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    good, bad, also = await results(client, RED, hungry, photo(4, form="JPEG"))
    assert kind(bad) == TOO_LARGE
    assert "not enough memory" in bad["error"]["detail"]
    assert "predictions" in good
    assert "predictions" in also


async def test_a_warning_stands_in_the_result_of_its_image(client: Client) -> None:
    data = encode(picture(), "JPEG")
    whole, cut = await results(client, data, data[:-2])
    assert "warnings" not in whole
    assert cut["warnings"] == [NO_END]
    assert cut["predictions"] == whole["predictions"]


@pytest.mark.parametrize("headers", [{}, {"content-type": ""}, {"content-type": "application/octet-stream"}], ids=str)
async def test_a_body_without_a_type_is_known_by_its_bytes(client: Client, headers: dict[str, str]) -> None:
    for data in (RED, encode(Image.new("RGB", (9, 9), "red"), "JPEG")):
        answer = await client.post("/classify", content=data, headers=headers)
        assert answer.status_code == 200
        assert answer.json()["results"][0]["predictions"][0]["class_id"] == "reddish"
    other = await client.post("/classify", content=b'{"images": []}', headers=headers)
    assert (other.status_code, other.json()["type"]) == (415, "urn:d3gzsl:problem:unsupported-image")
    assert "application/json" in other.json()["detail"]


@pytest.mark.parametrize("number", [1e38, -1e38])
async def test_pixels_that_the_model_cannot_bear_are_named(client: Client, number: float) -> None:
    def tensor(*images: list[float]) -> dict[str, Any]:
        flat = [value for image in images for value in image]
        return {"name": "pixels", "datatype": "FP32", "shape": [len(images), 3, S, S], "data": flat}

    good, bad = [0.5] * (3 * S * S), [number] * (3 * S * S)
    for images, words in (((bad,), "no finite numbers"), ((good, bad, good), "/inputs/0/data/1: the model gives no")):
        answer = await client.post("/v2/models/d3gzsl/infer", json={"inputs": [tensor(*images)]})
        assert answer.status_code == 422
        assert words in answer.json()["error"]
        assert "1e+38" in answer.json()["error"]
    assert (await client.post("/v2/models/d3gzsl/infer", json={"inputs": [tensor(good)]})).status_code == 200


def request_from(client: Client, address: str, **headers: str) -> Request:
    app = client._transport.app  # type: ignore[attr-defined]
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (address, 5), "app": app})


async def test_a_client_is_an_address_or_a_key(running: Running) -> None:
    async with running() as client:
        name = {address: client_of(request_from(client, address)) for address in ("10.0.0.1", "10.0.0.2")}
        assert len(set(name.values())) == 2
        near, far = (client_of(request_from(client, f"2001:db8:{i}::{j}")) for i, j in ((1, 1), (2, 1)))
        assert near == client_of(request_from(client, "2001:db8:1::ffff")) != far
        assert client_of(request_from(client, "10.0.0.1", authorization="Bearer x")) == name["10.0.0.1"]
    async with running(keys=tuple(f"classify:{digest(key)}" for key in "ab")) as client:
        first, second = (client_of(request_from(client, "10.0.0.1", authorization=f"Bearer {i}")) for i in "ab")
        assert first != second == client_of(request_from(client, "10.0.0.2", authorization="Bearer b"))
        assert client_of(request_from(client, "10.0.0.1", authorization="Bearer c")) == name["10.0.0.1"]
