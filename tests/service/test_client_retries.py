"""What a client repeats, when, and what it does not; and that reads ask for what was written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    ConflictError,
    NotFoundError,
    PreconditionFailedError,
    Retries,
    ServiceUnavailableError,
    UnreachableError,
    clients,
)
from service.http.class_schemas import BatchAnswer, ChangedClass, ExampleList
from service.http.schemas import RegistryAnswer, VersionAnswer
from service.http.v2.schemas import InferAnswer

Scripted = httpx.Response | type[httpx.HTTPError]
CLASS = {"id": "x", "name": "X", "attributes": [1.0]}


def minimal(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that a schema takes."""
    if "$ref" in schema:
        return minimal(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema or "enum" in schema:
        return schema.get("const") or schema["enum"][0]
    if "anyOf" in schema:
        return minimal(schema["anyOf"][-1], definitions)
    if "properties" in schema:
        return {name: minimal(schema["properties"][name], definitions) for name in schema.get("required", ())}
    values = {"string": "x", "integer": 1, "number": 1.0, "boolean": False, "array": [], "object": {}, "null": None}
    return values[schema["type"]]


def answer_of(model: type[BaseModel]) -> Any:
    """An answer that a model reads, with no more than it must have, at version 1."""
    schema = model.model_json_schema()
    return minimal(schema, schema.get("$defs", {}))


CHANGED, REGISTRY = answer_of(ChangedClass), answer_of(RegistryAnswer)
EXAMPLES, BATCH = answer_of(ExampleList), answer_of(BatchAnswer)
LOST, NEVER_SENT = httpx.ReadError, httpx.ConnectError


def problem(status: int, name: str, retry_after: str | None = None) -> httpx.Response:
    document = {"type": f"urn:d3gzsl:problem:{name}", "title": name, "status": status, "detail": "d", "errors": []}
    return httpx.Response(status, json=document, headers={} if retry_after is None else {"retry-after": retry_after})


class Service:
    """Answers in the order of a script, the last of it for ever."""

    def __init__(self, *script: Scripted) -> None:
        self.script, self.asked = list(script), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        found = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(found, httpx.Response):
            return httpx.Response(found.status_code, headers=found.headers, content=found.content)
        raise found("cut")


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[float]]]:
    """`ask(service, method, *arguments)`: the answer, or the error, and how long was waited; of either client."""

    def run(service: Service, method: str, *args: Any, retries: Retries | None = None, **kwargs: Any) -> Any:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr(clients.time, "sleep", waits.append)
        monkeypatch.setattr(clients.asyncio, "sleep", sleep)
        transport = httpx.MockTransport(service)

        async def asynchronously() -> Any:
            async with AsyncClient("http://x", retries=retries, transport=transport) as client:
                return await getattr(client, method)(*args, **kwargs)

        try:
            if request.param == "async":
                return asyncio.run(asynchronously()), waits
            with Client("http://x", retries=retries, transport=transport) as client:
                return getattr(client, method)(*args, **kwargs), waits
        except ClientError as error:
            return error, waits

    return run


Asking = Callable[..., tuple[Any, list[float]]]


def test_waits_grow_and_honour_retry_after(ask: Asking) -> None:
    busy = problem(503, "overloaded")
    service = Service(busy, busy, problem(503, "overloaded", "7"), busy, httpx.Response(200, json=REGISTRY))
    answer, waits = ask(service, "registry", retries=Retries(first_wait=1.0))
    assert answer.registry_version == 1
    assert [
        low <= wait <= high for wait, (low, high) in zip(waits, [(0.5, 1), (1, 2), (9, 11), (4, 8)], strict=True)
    ] == [True] * 4


def test_tries_come_to_an_end(ask: Asking) -> None:
    service = Service(problem(503, "overloaded", "1"))
    error, waits = ask(service, "registry", retries=Retries(times=2))
    assert isinstance(error, ServiceUnavailableError)
    assert error.retry_after == 1
    assert (len(service.asked), len(waits)) == (3, 2)
    error, waits = ask(Service(NEVER_SENT), "registry", retries=Retries(times=0))
    assert isinstance(error, UnreachableError)
    assert (waits, error.sent, str(error)) == ([], False, "http://x cannot be reached: cut")


def test_nobody_waits_longer_than_allowed(ask: Asking) -> None:
    service = Service(problem(503, "overloaded", "61"))
    error, waits = ask(service, "registry")
    assert (error.retry_after, waits, len(service.asked)) == (61, [], 1)


def test_no_wait_is_longer_than_the_longest() -> None:
    retries = Retries(times=2000, first_wait=1.0, most_wait=5.0)
    assert all(2.5 <= (retries.wait(tries, None) or 0) <= 5.0 for tries in (4, 10, 1000))
    for wrong in ({"times": -1}, {"first_wait": 0.0}, {"first_wait": 2.0, "most_wait": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong)) if len(wrong) == 1 else "most_wait"):
            Retries(**wrong)


OK = httpx.Response(200, json=CHANGED, headers={"etag": '"1"'})
GONE = httpx.Response(204)
REPEATED: list[tuple[str, tuple[Any, ...], dict[str, Any], httpx.Response]] = [
    ("registry", (), {}, httpx.Response(200, json=REGISTRY)),
    ("put_class", ("x", CLASS), {}, OK),
    ("put_class", ("x", CLASS), {"if_match": '"1"'}, OK),
    ("describe_class", ("x", {"name": "X"}), {}, httpx.Response(200, json=CHANGED)),
    ("remove_class", ("x",), {"if_match": '"1"'}, GONE),
    ("add_examples", ("x", b"photo"), {}, httpx.Response(200, json={**EXAMPLES, "warnings": []})),
    ("remove_example", ("x", "y"), {}, GONE),
    ("store_batch", ([CLASS],), {"mode": "upsert"}, httpx.Response(200, json=BATCH)),
    ("roll_back", (0,), {"if_match": '"1"'}, httpx.Response(200, json=REGISTRY)),
]
NOT_REPEATED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("add_class", (CLASS,), {}),
    ("add_class", (CLASS,), {"examples": b"photo"}),
    ("store_batch", ([CLASS],), {}),
    ("roll_back", (0,), {}),
]


@pytest.mark.parametrize(("method", "args", "kwargs", "answer"), REPEATED)
def test_what_does_no_harm_is_repeated(
    ask: Asking, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], answer: httpx.Response
) -> None:
    for failure in (LOST, NEVER_SENT, problem(503, "not-ready", "1"), httpx.Response(502, text="proxy")):
        service = Service(failure, answer)
        found, waits = ask(service, method, *args, **kwargs)
        assert not isinstance(found, ClientError), found
        assert len(waits) == 1
        first, second = service.asked
        assert (first.url, first.headers.get("if-match")) == (second.url, second.headers.get("if-match"))
        assert (b"photo" in first.content, b"photo" in second.content) == (b"photo" in args, b"photo" in args)


@pytest.mark.parametrize(("method", "args", "kwargs"), NOT_REPEATED)
def test_what_may_have_been_done_is_not_repeated(
    ask: Asking, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    for failure in (LOST, problem(503, "not-ready", "1"), httpx.Response(502, text="proxy")):
        service = Service(failure)
        error, waits = ask(service, method, *args, **kwargs)
        assert isinstance(error, ClientError)
        assert getattr(error, "sent", True)
        assert (len(service.asked), waits) == (1, [])
    answer = {"add_class": OK, "roll_back": httpx.Response(200, json=REGISTRY)}.get(
        method, httpx.Response(200, json=BATCH)
    )
    for failure in (
        NEVER_SENT,
        problem(503, "overloaded", "1"),
        problem(429, "too-many-requests", "1"),
    ):  # of which nothing was done
        found, waits = ask(Service(failure, answer), method, *args, **kwargs)
        assert not isinstance(found, ClientError), found
        assert len(waits) == 1


@pytest.mark.parametrize(
    "failure",
    [
        *(problem(status, "x") for status in (400, 401, 403, 404, 409, 412, 413, 415, 422, 500)),
        problem(503, "version-not-reached", "1"),
        httpx.ReadTimeout,
        httpx.UnsupportedProtocol,
    ],
)
def test_what_another_try_does_not_mend_is_raised_at_once(ask: Asking, failure: Scripted) -> None:
    service = Service(failure)
    error, waits = ask(service, "registry")
    assert isinstance(error, ClientError)
    assert (len(service.asked), waits) == (1, [])


def test_a_class_that_is_gone_after_a_lost_answer_was_removed(ask: Asking) -> None:
    gone = problem(404, "no-such-class")
    assert ask(Service(LOST, gone), "remove_class", "x")[0] is None
    assert ask(Service(LOST, problem(503, "overloaded"), gone), "remove_example", "x", "y")[0] is None
    assert ask(Service(problem(503, "change-unconfirmed"), gone), "remove_class", "x")[0] is None
    for service in (Service(gone), Service(NEVER_SENT, gone), Service(problem(503, "not-ready"), gone)):
        assert isinstance(ask(service, "remove_class", "x")[0], NotFoundError)
    assert isinstance(ask(Service(LOST, problem(404, "no-such-class")), "show_class", "x")[0], NotFoundError)


def test_a_precondition_that_fails_after_a_lost_answer_says_so(ask: Asking) -> None:
    for failure, noted in ((LOST, True), (NEVER_SENT, False)):
        service = Service(failure, problem(412, "precondition-failed"))
        error, _ = ask(service, "put_class", "x", CLASS, if_match='"1"')
        assert isinstance(error, PreconditionFailedError)
        assert any("may have come through" in note for note in getattr(error, "__notes__", ())) is noted
    error, _ = ask(Service(NEVER_SENT, problem(409, "class-exists")), "add_class", CLASS)
    assert isinstance(error, ConflictError)


# --- services of old ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [{}, {"precision": "int8"}])
def test_services_of_old_do_not_say_their_precision(ask: Asking, said: dict[str, str]) -> None:
    about, inferred = answer_of(VersionAnswer), answer_of(InferAnswer)
    assert "precision" not in {*about, *inferred["parameters"]}
    found, _ = ask(Service(httpx.Response(200, json={**about, **said})), "about")
    assert found.precision == said.get("precision")
    inferred["parameters"] |= said
    found, _ = ask(Service(httpx.Response(200, json=inferred)), "infer", {"inputs": []})
    assert found.parameters.precision == said.get("precision")


# --- versions ---------------------------------------------------------------------------------------------------------


def test_reads_ask_for_the_highest_version_seen() -> None:
    answers: dict[tuple[str, str], httpx.Response] = {
        ("POST", "/classes"): httpx.Response(
            201, json={**CHANGED, "registry_version": 7}, headers={"registry-version": "7"}
        ),
        ("GET", "/registry"): httpx.Response(200, json={**REGISTRY, "registry_version": 5}),
        ("DELETE", "/classes/x"): httpx.Response(204, headers={"registry-version": "9"}),
        ("GET", "/attributes"): httpx.Response(200, json={"attributes": [], "text": None, "max_examples": 0}),
        ("POST", "/v2/models/d3gzsl/infer"): httpx.Response(
            200,
            json={
                "model_name": "m",
                "model_version": "v",
                "outputs": [],
                "parameters": {"bundle": "b", "registry_version": 11, "head": "exact", "precision": "fp32"},
            },
        ),
    }
    asked: list[httpx.Request] = []

    def service(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[request.method, request.url.path]

    def last() -> str | None:
        return asked[-1].url.params.get("min_registry_version")

    with Client("http://x", transport=httpx.MockTransport(service)) as client:
        client.registry()
        assert (last(), client.registry_version) == (None, 5)
        client.add_class(CLASS)
        assert (last(), client.registry_version) == (None, 7)
        client.registry()
        assert (last(), client.registry_version) == ("7", 7)  # an older answer takes nothing back
        client.registry(min_registry_version=3)
        assert last() == "3"
        client.attributes()
        assert last() is None
        client.remove_class("x")
        assert client.registry_version == 9
        client.infer({"inputs": []})
        assert b'"parameters": {"min_registry_version": 9}' in asked[-1].content
        client.infer({"inputs": [], "parameters": {"min_registry_version": 1, "top_k": 2}})
        assert b'"min_registry_version": 1, "top_k": 2' in asked[-1].content
        client.registry()
        assert last() == "11"
        client.registry_version = 0
        client.registry()
        assert last() is None


def test_threads_never_take_a_version_back() -> None:
    versions = iter(range(1, 2001))
    lock = threading.Lock()

    def service(_request: httpx.Request) -> httpx.Response:
        with lock:
            return httpx.Response(200, json={**REGISTRY, "registry_version": next(versions)})

    with Client("http://x", transport=httpx.MockTransport(service)) as client:
        threads = [threading.Thread(target=lambda: [client.registry() for _ in range(250)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.registry_version == 2000
