"""Bodies of every form and encoding, and what they may hold."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.errors import MalformedBodyError, NotReadyError, OverloadedError
from service.http import threads
from service.http.bodies.base64_files import decode_base64
from service.http.bodies.budget import SLOW, BodyBudget
from service.http.bodies.forms import Part, boundary_of, parts_of
from service.http.bodies.reading import Turns
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Client, Running
from tests.service.tiny import photo, png

RED, BLUE = png((255, 0, 0)), png((0, 0, 255))
FORM = {"content-type": "multipart/form-data; boundary=XBX"}
PNG = {"content-type": "image/png"}
DISPOSITION = b'Content-Disposition: form-data; name="images"'


def part(data: bytes, parameters: bytes = b'; filename="a.png"', before: bytes = b"") -> bytes:
    return before + b"--XBX\r\n" + DISPOSITION + parameters + b"\r\n\r\n" + data + b"\r\n"


async def send_form(client: Client, body: bytes) -> Any:
    return await client.post("/classify", content=body, headers=FORM)


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        part(RED) + part(BLUE)[:-2],
        part(RED) + part(BLUE),
        part(RED) + b"--XBX\r\n",
        part(RED) + b"--XB",
        b"--XBX\r\n" + DISPOSITION,
    ],
)
async def test_a_form_without_its_closing_boundary_is_refused(client: Client, body: bytes) -> None:
    answer = await send_form(client, body)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:d3gzsl:problem:malformed-body")
    assert "ends before its closing boundary: expected --XBX--" in answer.json()["detail"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "body",
    [
        part(RED, before=b"This is a multi-part message in MIME format.\r\n") + b"--XBX--\r\n",
        part(RED).replace(b"--XBX\r\n", b"--XBX \t\r\n") + b"--XBX--  \r\nepilogue --XBX\r\n",
        part(RED) + b"--XBX--",
        part(RED) + part(b"", b'; filename=""') + b"--XBX--\r\n",
    ],
)
async def test_what_stands_around_a_form_and_an_empty_control_count_for_nothing(client: Client, body: bytes) -> None:
    answer = await send_form(client, body)
    assert answer.status_code == 200, answer.text
    assert [result["id"] for result in answer.json()["results"]] == ["a.png"]


@pytest.mark.anyio
async def test_a_form_with_nothing_but_an_empty_control_has_no_image(client: Client) -> None:
    answer = await send_form(client, part(b"", b'; filename=""') + b"--XBX--\r\n")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/images", "detail": "expected at least one file, got none"}]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (b"; filename*=utf-8''%E7%8C%AB.png", "猫.png"),
        (b"; filename=\"=?utf-8?B?54yrLnBuZw==?=\"; filename*=utf-8''%E7%8C%AB.png", "猫.png"),
        (b"; filename*=utf-8''%E7%8C%AB.png; filename=\"x.png\"", "猫.png"),
        (b'; filename="=?utf-8?B?54yrLnBuZw==?="', "猫.png"),
        ('; filename="猫.png"'.encode(), "猫.png"),
        ("; filename=猫.png".encode(), "猫.png"),
        (b'; filename="caf\xe9.png"', "café.png"),
        (b'; filename="a\\"b.png"', 'a"b.png'),
        (b'; filename="a;b.png"', "a;b.png"),
        (b'; filename="C:\\photos\\a.png"', "a.png"),
        (b"; FileName=a.png", "a.png"),
        ('; filename="=?\xff?q?a.png?="'.encode(), "=?\xff?q?a.png?="),  # no charset has such a name
        (b"; filename*=u\0tf-8''a.png", "a.png"),
        (b'; filename="=?utf-8?b?a?="', "=?utf-8?b?a?="),
    ],
)
def test_every_way_to_write_a_name(parameters: bytes, name: str) -> None:
    assert parts_of(part(b"x", parameters) + b"--XBX--", b"XBX") == [Part(name="images", filename=name, data=b"x")]


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n--XBXY\r\n", b"\n--XBX\n", b"a\r\n--XB", b"\r\n\r\n" * 3])
def test_a_part_keeps_every_byte(data: bytes) -> None:
    twice = parts_of(part(data) + part(data) + b"--XBX--", b"XBX")
    assert [found.data for found in twice] == [data, data]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "expected a form with the boundary --XBX, got none in 0 bytes"),
        (b"no form", "got none in 7 bytes"),
        (b"--XBX\r\n\r\n--XBX--", "field 1 of the form: expected a head"),
        (b"--XBX\r\nX: y\r\n\r\n\r\n--XBX--", "expected the header Content-Disposition with a name"),
        (b"--XBX\r\nContent-Disposition: form-data\r\n\r\n\r\n--XBX--", "with a name, got none"),
        (b"--XBX\r\nnonsense\r\n\r\n\r\n--XBX--", "got the line 'nonsense'"),
        (part(b"", b"; filename*=a; filename*1=b") + b"--XBX--", "parameters of content-disposition cannot be read"),
    ],
)
def test_what_is_no_form_is_said(body: bytes, words: str) -> None:
    with pytest.raises(MalformedBodyError) as error:
        parts_of(body, b"XBX")
    assert words in str(error.value)


@pytest.mark.parametrize("kind", ["multipart/form-data", 'multipart/form-data; boundary=""'])
def test_a_form_needs_a_boundary(kind: str) -> None:
    with pytest.raises(MalformedBodyError, match="with a boundary, got none"):
        boundary_of(kind)


def test_a_type_whose_parameters_cannot_be_read_is_refused() -> None:
    with pytest.raises(MalformedBodyError, match="parameters of content-type cannot be read"):
        boundary_of("multipart/form-data; boundary=b; x*=a; x*1=b")


# --- base64 -----------------------------------------------------------------------------------------------------------

FILE = bytes(range(256)) + b"x"
STANDARD, SAFE = base64.b64encode(FILE).decode(), base64.urlsafe_b64encode(FILE).decode()


@pytest.mark.parametrize(
    "text",
    [
        STANDARD,
        SAFE,
        SAFE.rstrip("="),
        STANDARD.rstrip("="),
        base64.encodebytes(FILE).decode(),
        base64.encodebytes(FILE).decode().replace("\n", "\r\n"),
        f"data:image/png;base64,{STANDARD}",
        f"DATA:;charset=x;BASE64,\n{SAFE}",
    ],
)
def test_base64_is_taken_as_people_write_it(text: str) -> None:
    assert decode_base64(text) == FILE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:image/png,abc", "a data URI without ;base64"),
        ("ab+-", "got both in one text"),
        ("ab!d", "got '!' as character 3"),
        ("abcde", "5 characters without padding"),
        ("ab==cd", "Discontinuous padding|Excess data"),
        ("猫", "got '猫' as character 1"),
    ],
)
def test_what_is_no_base64_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("+", r"\+")):
        decode_base64(text)


@pytest.mark.anyio
async def test_both_protocols_take_the_same_base64(client: Client) -> None:
    data = "data:image/png;base64," + base64.encodebytes(RED).decode()
    plain = await client.post("/classify", json={"images": [{"data": data}]})
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [data]}
    v2 = await client.post("/v2/models/d3gzsl/infer", json={"inputs": [tensor]})
    assert (plain.status_code, v2.status_code) == (200, 200)
    wrong = await client.post("/classify", json={"images": [{"data": "data:image/png," + STANDARD}]})
    assert wrong.json()["errors"][0]["detail"] == "expected base64, got a data URI without ;base64"


# --- content encodings ------------------------------------------------------------------------------------------------

CLASS = {"name": "Grey", "attributes": [0.5, 0.5, 0.5]}
TENSOR = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(RED).decode()]}
BODIES = [
    ("/classify", RED, "image/png"),
    ("/classify", part(RED) + b"--XBX--", FORM["content-type"]),
    ("/classify", json.dumps({"images": [{"data": base64.b64encode(RED).decode()}]}).encode(), "application/json"),
    ("/classes:preview", json.dumps(CLASS).encode(), "application/json"),
    ("/classes", json.dumps(CLASS).encode(), "application/json"),
    ("/classes:batch", json.dumps({"classes": [{**CLASS, "name": "Other"}]}).encode(), "application/json"),
    ("/registry:rollback", b'{"version": 0}', "application/json"),
    ("/v2/models/d3gzsl/infer", json.dumps({"inputs": [TENSOR]}).encode(), "application/json"),
]


@pytest.mark.anyio
async def test_gzip_is_unpacked_and_other_encodings_are_named_everywhere(client: Client) -> None:
    for path, body, kind in BODIES:
        headers = {"content-type": kind, "content-encoding": "gzip"}
        packed = gzip.compress(body[:10]) + gzip.compress(body[10:])  # of two members
        assert (await client.post(path, content=packed, headers=headers)).status_code in (200, 201), path
        plain = await client.post(path, content=body, headers=headers)
        assert (plain.status_code, "gzip" in plain.text) == (415, True), path
        cut = await client.post(path, content=gzip.compress(body)[:-9], headers=headers)
        assert (cut.status_code, "ends too early" in cut.text) == (400, True), path
        for encoding in ("br", "deflate", "gzip, gzip"):
            refused = await client.post(path, content=body, headers={**headers, "content-encoding": encoding})
            assert (refused.status_code, repr(encoding) in refused.text) == (415, True), path
            assert refused.headers["accept-encoding"] == "gzip"


@pytest.mark.anyio
async def test_what_is_unpacked_has_the_limits_of_what_is_not(running: Running) -> None:
    async with running(max_request_bytes=300_000, max_image_bytes=100_000) as client:
        for size, kind, problem in ((200_000, "image/png", "image-too-large"), (10**8, *LARGE)):
            headers = {"content-type": kind, "content-encoding": "gzip"}
            answer = await client.post("/classify", content=gzip.compress(bytes(size)), headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (413, f"urn:d3gzsl:problem:{problem}")


LARGE = ("application/json", "request-too-large")

# --- the room for all -------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_bodies_share_their_room_and_slow_ones_give_way() -> None:
    clock, emptied = Clock(), []
    budget = BodyBudget(100_000_000, clock=clock, emptied=lambda: emptied.append(1))
    with budget.body() as slow, budget.body() as quick:
        budget.add(slow, 70_000_000)
        with pytest.raises(OverloadedError, match="hold 70000000 bytes and 40000000 more would exceed"):
            budget.check(40_000_000, but=quick)
        clock.now += 1
        budget.check(40_000_000, but=quick)
        assert budget.held == 0
        budget.add(quick, 90_000_000)
        budget.whole(quick)
        with pytest.raises(OverloadedError, match="came too slowly"):
            budget.add(slow, 1)
        clock.now += 10_000
        with budget.body() as late, pytest.raises(OverloadedError):
            budget.add(late, 20_000_000)  # a whole body gives way to nobody
        assert emptied == [1]
    assert (budget.held, emptied) == (0, [1, 1])


def test_a_body_is_slow_by_what_came_last() -> None:
    clock = Clock()
    budget = BodyBudget(100_000_000, clock=clock)
    with budget.body() as body:
        budget.add(body, 50_000_000)
        assert not body.slow
        for _ in range(5):  # a byte now and then does not help
            clock.now += 0.6
            budget.add(body, 1)
        assert body.slow
        for _ in range(4):
            clock.now += 0.6
            budget.add(body, SLOW)
        assert not body.slow


def test_small_bodies_have_room_of_their_own() -> None:
    budget = BodyBudget(100_000_000)
    with budget.body() as large, budget.body() as small:
        budget.add(large, 100_000_000)
        budget.add(small, 900_000)
        with pytest.raises(OverloadedError):
            budget.add(small, 200_000)


@pytest.mark.anyio
async def test_a_body_that_finds_no_room_is_refused_before_it_is_read(running: Running) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("nobody should ask for it")
        yield b""

    async with running(max_request_bytes=50_000, max_bytes_in_flight=50_000) as client:
        budget: BodyBudget = client._transport.app.state.bodies  # type: ignore[attr-defined]
        headers = {"content-type": "image/png", "content-length": "40000"}
        with budget.body() as other:
            budget.add(other, 20_000)
            refused = await client.post("/classify", content=never(), headers=headers)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:d3gzsl:problem:overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        image = photo(1)
        answer = await client.post("/classify", content=image, headers=PNG)
        assert answer.status_code == 200
        assert budget.held == 0


def test_unfinished_bodies_are_refused_at_the_end() -> None:
    budget = BodyBudget(100)
    with budget.body() as unfinished, budget.body() as whole:
        budget.whole(whole)
        budget.refuse_unfinished(NotReadyError("the service is stopping"))
        with pytest.raises(NotReadyError):
            budget.add(unfinished, 1)
        budget.add(whole, 1)


def test_the_room_holds_the_largest_body() -> None:
    assert Settings().bytes_in_flight == 100_000_000
    assert Settings(max_request_bytes=200_000_000).bytes_in_flight == 200_000_000
    with pytest.raises(ValueError, match="must be at least max_request_bytes"):
        Settings(max_bytes_in_flight=1000)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/classes", {"name": "x", "attributes": {f"attribut_{i}": 1 for i in range(10_000)}}),
        ("/classes", {"name": "x", "attributes": [1, 0, 0], **{f"field_{i}": 1 for i in range(50_000)}}),
        ("/classes", {"name": "x", "attributes": {"y" * 500_000: 1}}),
        ("/classes:batch", {"classes": [{"name": "", "attributes": {f"a{i}": 1}} for i in range(1000)]}),
        ("/classify", {"images": [{f"x{i}": 1 for i in range(500)} for _ in range(64)]}),
        ("/classify", {"images": [{"x": 1}] * 20_000}),
        ("/v2/models/d3gzsl/infer", {"inputs": [{f"x{i}": 1 for i in range(50_000)}]}),
    ],
)
async def test_answers_to_nonsense_are_short(client: Client, path: str, document: Any) -> None:
    answer = await client.post(path, json=document)
    assert answer.status_code in (413, 422)
    assert len(answer.content) < 250_000


@pytest.mark.anyio
async def test_a_long_document_lets_images_of_others_go_first(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 60.0)
    service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
    long = {"name": "x", "attributes": {f"name_{i}": 1 for i in range(2000)}}
    with service.batcher.admission.admit(1, client="another"):
        assert (await client.post("/classes", json={"name": "x", "attributes": {"nothing": 1}})).status_code == 422
        posted = [asyncio.create_task(client.post("/classes", json=long)) for _ in range(2)]
        await asyncio.wait(posted, timeout=0.2)
        assert not any(one.done() for one in posted)
    for one in posted:
        assert (await asyncio.wait_for(one, 30)).status_code == 422
    with service.batcher.admission.admit(1, client="another"):
        monkeypatch.setattr(threads, "_PATIENCE", 0.01)
        assert (await client.post("/classes", json=long)).status_code == 422


@pytest.mark.anyio
async def test_who_sends_long_documents_that_are_refused_waits(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_DEBT", 1e4)
    long = {"name": "x", "attributes": {f"name_{i}": 1 for i in range(2000)}}
    assert (await client.post("/classes", json=long)).status_code == 422
    again = asyncio.create_task(client.post("/classes", json=long))
    await asyncio.wait([again], timeout=0.3)
    assert not again.done()
    short = {"name": "x", "attributes": {"nothing": 1}}
    assert (await client.post("/classes", json=short)).status_code == 422  # what is short owes nothing
    again.cancel()


@pytest.mark.anyio
async def test_a_hundred_names_are_named_and_the_others_counted(client: Client) -> None:
    names = {f"gren{'n' * (i % 2)}{i}": 1 for i in range(1200)}
    errors = (await client.post("/classes", json={"name": "x", "attributes": {"gren": 1, **names}})).json()["errors"]
    assert len(errors) == 102
    assert errors[0]["detail"] == "no such attribute in the vocabulary; did you mean green?"
    assert errors[-2] == {"pointer": "/attributes", "detail": "3 more names are not in the vocabulary"}
    read = "expected at most 3 names, got 1201; those after the first 103 were not read"
    assert errors[-1] == {"pointer": "/attributes", "detail": read}
    assert sum("did you mean" in error["detail"] for error in errors) <= 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "arguments", "pointer", "meant"),
    [
        (
            "POST",
            "/classify?topk=3",
            {"content": RED, "headers": {"content-type": "image/png"}},
            "/query/topk",
            "top_k",
        ),
        ("GET", "/classes?limits=3", {}, "/query/limits", "limit"),
        ("POST", "/classes", {"json": {**CLASS, "descripton": ""}}, "/descripton", "description"),
        ("PATCH", "/classes/bluish", {"json": {"metdata": {}}}, "/metdata", "metadata"),
        ("POST", "/classify", {"json": {"images": [{"dat": ""}]}}, "/images/0/dat", "data"),
        ("POST", "/classes:batch", {"json": {"mod": "create", "classes": [CLASS]}}, "/mod", "mode"),
    ],
)
async def test_a_name_that_is_nearly_right_gets_the_right_one(
    client: Client, method: str, path: str, arguments: dict[str, Any], pointer: str, meant: str
) -> None:
    answer = await client.request(method, path, **arguments)
    assert answer.status_code == 422
    details = {error["pointer"]: error["detail"] for error in answer.json()["errors"]}
    assert f"did you mean {meant}" in details[pointer]


@pytest.mark.anyio
async def test_so_many_parameters_are_refused_together(client: Client) -> None:
    answer = await client.get("/classes?" + "&".join(f"p{i}=" for i in range(2000)))
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 1)


def test_bodies_that_are_late_together_are_refused_one_after_the_other() -> None:
    turns = Turns(0.5)
    assert [turns.take(now) for now in (10.0, 10.0, 10.25, 12.0, 12.25)] == [0.0, 0.5, 0.75, 0.0, 0.25]
