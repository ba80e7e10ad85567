"""The two clients: a method for every endpoint and parameter of the real app, with typed answers and errors."""

from __future__ import annotations

import base64
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import numpy as np
import pytest
from pydantic import BaseModel

from model.errors import D3GZSLError, DataError
from model.photos import PhotoPrior
from service.client import (
    AsyncClient,
    Client,
    ClientError,
    ConflictError,
    KeyRefusedError,
    NotFoundError,
    NotModifiedError,
    PreconditionFailedError,
    RefusedInputError,
    ServiceError,
    ServiceUnavailableError,
    TooMuchError,
    UnexpectedAnswerError,
    options,
)
from service.client.clients import Endpoint
from service.client.errors import error_of
from service.client.steps import Call
from service.http import class_schemas, schemas
from service.http.problems import PROBLEM_TYPES
from service.keys import digest
from service.library import Classifier
from service.server.app import create_app
from service.service import Service
from service.settings import Settings
from tests.service.conftest import Running
from tests.service.tiny import HEAD, VIOLET, png, tiny_bundle

VIOLET_CLASS = {"id": "violet", "name": "Violet", "attributes": VIOLET}
RED = png((255, 0, 0))
INFER = {
    "inputs": [
        {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]},
    ]
}


@pytest.fixture(scope="module")
def with_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prior = PhotoPrior(described=2.0, undescribed=1.0, fade=3.0)
    return tiny_bundle(tmp_path_factory.mktemp("photos") / "tiny", spec=replace(HEAD, photos=prior))


@pytest.fixture(scope="module")
def local(with_photos: Path) -> Iterator[Client]:
    """The synchronous client on the real app."""
    with Classifier.load(with_photos, threads=1) as classifier:
        yield classifier


@pytest.fixture
async def asynchronous(running: Running, with_photos: Path) -> AsyncIterator[AsyncClient]:
    """The asynchronous client on the real app."""
    async with (
        running(bundle=with_photos) as client,
        AsyncClient("http://localhost", transport=client._transport) as asynchronous,
    ):
        yield asynchronous


# --- every endpoint ---------------------------------------------------------------------------------------------------

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def samples(bundle_id: str) -> list[tuple[str, Arguments]]:
    """Arguments with which every method has an answer, in an order that works on a fresh registry."""
    of_version = {"version": bundle_id}
    return [
        ("classify", ((RED,), {"top_k": 1})),
        ("class_page", ((), {"kind": "seen"})),
        ("attributes", ((), {})),
        ("bundle_examples", ((), {})),
        ("bundle_example", (("red.png",), {})),
        ("preview_class", ((VIOLET_CLASS,), {"images": [RED], "examples": [RED], "neighbours": 1})),
        ("preview_class", ((VIOLET_CLASS,), {})),
        ("add_class", ((VIOLET_CLASS,), {})),
        ("add_class", (({"name": "Dark violet", "attributes": VIOLET},), {"examples": [png((40, 0, 40))]})),
        ("show_class", (("violet",), {})),
        ("put_class", (("violet", VIOLET_CLASS), {"examples": [png((200, 0, 200))]})),
        ("describe_class", (("violet", {"description": "between red and blue"}), {})),
        ("add_examples", (("violet", [png((210, 0, 210))]), {})),
        ("list_examples", (("violet",), {})),
        ("store_batch", (([{"name": "Grey", "attributes": np.full(3, 0.5)}],), {})),
        ("registry", ((), {})),
        ("version_page", ((), {"limit": 2})),
        ("roll_back", ((1,), {})),
        ("remove_class", (("violet",), {})),
        *((name, ((), {})) for name in ("live", "ready", "about", "metrics", "server", "server_live", "server_ready")),
        *((name, ((), {})) for name in ("model_metadata", "model_ready")),
        *((name, ((), of_version)) for name in ("model_metadata", "model_ready")),
        ("infer", ((INFER,), {})),
        ("infer", ((INFER,), of_version)),
    ]


def endpoints() -> dict[str, Endpoint[..., Any]]:
    return {name: found for name in dir(Client) if isinstance(found := inspect.getattr_static(Client, name), Endpoint)}


def operation(call: Call[Any]) -> tuple[str, str]:
    return call.method, call.template


def openapi(bundle: Path, folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    service = Service.open(Settings(bundle=bundle, data_dir=folder, threads=1))
    try:
        paths = create_app(service).openapi()["paths"]
    finally:
        service.close()
    return {(method.upper(), path): item for path, methods in paths.items() for method, item in methods.items()}


def called(bundle_id: str = "x") -> dict[tuple[str, str], list[tuple[str, Arguments]]]:
    """The methods that ask for each operation, with arguments."""
    found: dict[tuple[str, str], list[tuple[str, Arguments]]] = {}
    by_name = endpoints()
    for name, (args, kwargs) in [*samples(bundle_id), ("remove_example", (("violet", "x"), {}))]:
        call = by_name[name].make(*args, **kwargs)
        found.setdefault(operation(call), []).append((name, (args, kwargs)))
    return found


def test_every_operation_of_the_app_has_a_method(with_photos: Path, tmp_path: Path) -> None:
    there = openapi(with_photos, tmp_path)
    assert len(there) >= 29
    assert sorted(set(there) - set(called())) == []
    assert sorted(set(called()) - set(there)) == []
    assert sorted(set(endpoints()) - {name for found in called().values() for name, _ in found}) == []


def test_every_parameter_of_an_operation_has_an_argument(with_photos: Path, tmp_path: Path) -> None:
    methods = endpoints()
    missing = []
    for key, item in openapi(with_photos, tmp_path).items():
        name, (args, kwargs) = called()[key][0]
        for parameter in item.get("parameters", ()):
            argument = parameter["name"].lower().replace("-", "_").removeprefix("d3gzsl_")
            if parameter["in"] == "path" or argument == "content_encoding":  # this client compresses nothing
                continue
            value: Any = 1 if argument == "timeout_ms" else "w"
            call = methods[name].make(*args, **{**kwargs, argument: value})
            sent = (
                call.query.get(argument) if parameter["in"] == "query" else call.headers.get(parameter["name"].lower())
            )
            known = {*inspect.signature(methods[name].make).parameters, *named_options(methods[name].make)}
            if sent != (str(value) if parameter["in"] == "header" else value) or argument not in known:
                missing.append((*key, parameter["name"]))
    assert missing == []


def named_options(make: Callable[..., Any]) -> set[str]:
    """Names in the type of `**query`."""
    unpacked = get_type_hints(make, include_extras=True).get("query")
    return set() if unpacked is None else set(unpacked.__args__[0].__annotations__) | inherited(unpacked.__args__[0])


def inherited(options_type: Any) -> set[str]:
    return set(get_type_hints(options_type))


@pytest.mark.parametrize(
    ("known", "model"),
    [
        (options.ReadOptions, schemas.ReadQuery),
        (options.RankOptions, schemas.RankQuery),
        (options.ClassifyOptions, schemas.ClassifyQuery),
        (options.ListOptions, class_schemas.ListQuery),
        (options.PreviewOptions, class_schemas.PreviewQuery),
        (options.VersionsOptions, schemas.VersionsQuery),
    ],
)
def test_options_are_the_parameters_of_the_service(known: Any, model: type[BaseModel]) -> None:
    assert set(get_type_hints(known)) == set(model.model_fields)


def test_both_clients_have_the_same_methods_with_words() -> None:
    for name in endpoints():
        assert inspect.signature(getattr(Client("http://x"), name)) == inspect.signature(endpoints()[name].make)
        assert inspect.getdoc(getattr(AsyncClient("http://x"), name)) == inspect.getdoc(endpoints()[name].make)
        assert inspect.getdoc(endpoints()[name].make)


def test_every_method_has_a_typed_answer(local: Client) -> None:
    for name, (args, kwargs) in samples(local.about().bundle):
        answer = getattr(local, name)(*args, **kwargs)
        kind = {"metrics": str, "bundle_example": bytes, "remove_class": type(None)}.get(name, BaseModel)
        assert isinstance(answer, kind), name
    local.add_class(VIOLET_CLASS, examples=[png((200, 0, 200))])
    (photo,) = local.list_examples("violet").examples
    assert local.remove_example("violet", photo.id) is None
    assert local.list_examples("violet").examples == []
    assert [v.operation for v in local.versions()][:3] == ["put", "put", "put"]
    assert [c.id for c in local.classes(name="violet")] == ["violet"]
    local.roll_back(0)


@pytest.mark.anyio
async def test_every_method_can_be_awaited(asynchronous: AsyncClient) -> None:
    for name, (args, kwargs) in samples((await asynchronous.about()).bundle):
        answer = await getattr(asynchronous, name)(*args, **kwargs)
        kind = {"metrics": str, "bundle_example": bytes, "remove_class": type(None)}.get(name, BaseModel)
        assert isinstance(answer, kind), name
    assert [c.id async for c in asynchronous.classes(kind="unseen")] == ["bluish"]
    assert [v.registry_version async for v in asynchronous.versions()] == [*range(1, asynchronous.registry_version + 1)]


def test_answers_are_the_models_of_the_service(local: Client) -> None:
    answer = local.classify([RED], explain="attributes", top_attributes=1, classes=["reddish", "bluish"])
    assert type(answer) is schemas.ClassifyAnswer
    (result,) = answer.results
    assert isinstance(result, schemas.ImageAnswer)
    assert [p.class_id for p in result.predictions] == ["reddish", "bluish"]
    assert result.predictions[0].explanation is not None
    assert len(result.predictions[0].explanation.supporting) <= 1
    assert local.infer(INFER).outputs[0].name == "class_id"


# --- images -----------------------------------------------------------------------------------------------------------


def test_images_are_paths_bytes_or_bytes_with_an_id(local: Client, tmp_path: Path) -> None:
    file = tmp_path / 'r\u00e9d\n"x".png'
    file.write_bytes(RED)
    odd = 'a"b\r\n;ä' * 100
    given = [file, str(file), RED, (odd, RED)]
    ids = [str(file), str(file), "2", odd]
    assert [r.id for r in local.classify(given).results] == ids
    assert [r.id for r in local.preview_class(VIOLET_CLASS, images=given).results] == ids
    for one, name in zip(given, [*ids[:2], "0", odd], strict=True):
        assert [r.id for r in local.classify(one).results] == [name]
    assert [r.id for r in local.classify((RED, RED)).results] == ["0", "1"]
    assert [r.id for r in local.classify(image for image in given).results] == ids
    assert [r.id for r in local.preview_class(VIOLET_CLASS, images=iter(given)).results] == ids
    for none in (lambda: local.classify([]), lambda: local.add_examples("bluish", [])):
        with pytest.raises(ValueError, match="at least one image"):
            none()
    with pytest.raises(TypeError, match="expected a path, bytes"):
        local.classify([3])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"nowhere\.png: No such file"):
        local.classify(tmp_path / "nowhere.png")


def test_one_bad_image_is_raised_and_one_of_several_is_named(local: Client) -> None:
    with pytest.raises(RefusedInputError) as caught:
        local.classify(b"nothing")
    assert (caught.value.status, caught.value.name) == (415, "unsupported-image")
    good, bad = local.classify([RED, ("bad", b"nothing")]).results
    assert isinstance(good, schemas.ImageAnswer)
    assert isinstance(bad, schemas.ImageFailure)
    assert (bad.id, bad.error.type) == ("bad", "urn:d3gzsl:problem:unsupported-image")


# --- documents, tags and problems -------------------------------------------------------------------------------------


def test_documents_are_mappings_or_models(local: Client) -> None:
    model = class_schemas.ClassDocument(id="m", name="M", attributes=np.array(VIOLET))
    assert local.add_class(model).attributes == list(VIOLET)
    stored = local.store_batch([model, {"name": "N", "attributes": {"red": 1}}], mode="upsert")
    assert [item.status for item in stored.classes] == ["unchanged", "created"]
    with pytest.raises(RefusedInputError) as caught:
        local.add_class({"name": "O", "attributes": [np.nan, 0, 0]})
    assert caught.value.name == "number-not-finite"
    with pytest.raises(D3GZSLError, match="expected what JSON can hold, got object"):
        local.add_class({"name": "O", "attributes": object()})
    local.roll_back(0)


def test_tags_hold_changes_and_spare_answers(local: Client) -> None:
    made = local.add_class(VIOLET_CLASS)
    assert "etag" not in made.model_dump()
    shown = local.show_class("violet")
    assert shown.etag == made.etag != ""
    for ask in (
        lambda: local.show_class("violet", if_none_match=shown.etag),
        lambda: local.class_page(if_none_match=local.class_page().etag),
        lambda: local.registry(if_none_match=local.registry().etag),
    ):
        with pytest.raises(NotModifiedError):
            ask()
    changed = local.describe_class("violet", {"description": "x"}, if_match=shown.etag)
    for change in (
        lambda: local.describe_class("violet", {"description": "y"}, if_match=shown.etag),
        lambda: local.put_class("violet", VIOLET_CLASS, if_match=shown.etag),
        lambda: local.put_class("violet", VIOLET_CLASS, if_none_match="*"),
        lambda: local.add_examples("violet", RED, if_match=shown.etag),
        lambda: local.remove_class("violet", if_match=shown.etag),
        lambda: local.roll_back(0, if_match='"0"'),
    ):
        with pytest.raises(PreconditionFailedError, match="The state is not the expected one"):
            change()
    local.remove_class("violet", if_match=changed.etag)
    local.roll_back(0, if_match=local.registry().etag)


def test_problems_are_exceptions_with_their_type(local: Client) -> None:
    cases: list[tuple[Callable[[], object], type[ServiceError], str]] = [
        (lambda: local.show_class("no/body"), NotFoundError, "not-found"),
        (lambda: local.list_examples("nobody"), NotFoundError, "no-such-class"),
        (lambda: local.remove_class("reddish"), ConflictError, "seen-class"),
        (lambda: local.add_class({"id": "bluish", "name": "B", "attributes": VIOLET}), ConflictError, "class-exists"),
        (lambda: local.store_batch([{"name": "B"}] * 1001), TooMuchError, "batch-too-large"),
        (lambda: local.add_class({"name": "B", "attributes": {"rde": 1}}), RefusedInputError, "unknown-attribute"),
        (lambda: local.registry(min_registry_version=10**6), ServiceUnavailableError, "version-not-reached"),
        (lambda: local.model_ready(version="other"), NotFoundError, ""),
    ]
    for ask, kind, name in cases:
        with pytest.raises(kind) as caught:
            ask()
        assert caught.value.name == name
        assert caught.value.type == (f"urn:d3gzsl:problem:{name}" if name else None)
        assert caught.value.request_id
    with pytest.raises(RefusedInputError) as caught:
        local.add_class({"name": "B", "attributes": {"rde": 1}})
    assert caught.value.errors[0].pointer == "/attributes/rde"
    assert "did you mean red?" in str(caught.value)


@pytest.mark.parametrize("kind", sorted({*PROBLEM_TYPES.values()}, key=lambda kind: kind.name), ids=lambda k: k.name)
def test_every_problem_of_the_service_has_a_class(kind: Any) -> None:
    document = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": "d",
        "request_id": "r",
        "errors": [],
    }
    error = error_of(httpx.Response(kind.status, json=document, request=httpx.Request("GET", "http://x")))
    assert isinstance(error, ServiceError)
    assert (type(error) is ServiceError) is (kind.status in (408, 500))
    assert (error.name, error.status, str(error)) == (kind.name, kind.status, f"{kind.title}: d")


@pytest.mark.anyio
async def test_a_key_goes_with_every_request(running: Running) -> None:
    async with running(keys=f"admin:{digest('changer')}") as client:
        for key, words in ((None, "A valid key is needed"), ("other", "A valid key is needed"), ("changer", None)):
            async with AsyncClient("http://localhost", key=key, transport=client._transport) as asking:
                if words is None:
                    assert (await asking.registry()).registry_version == 0
                else:
                    with pytest.raises(KeyRefusedError, match=words):
                        await asking.registry()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"attributes": [{"name": 3}]}),
        httpx.Response(404, text="not here"),
        httpx.Response(302, headers={"location": "/login"}),
        httpx.Response(500, json=["x"]),
        httpx.Response(409, json={"detail": "d", "errors": [3]}),
    ],
)
def test_what_is_no_such_service_is_said(answer: httpx.Response) -> None:
    with (
        Client("http://x", transport=httpx.MockTransport(lambda _request: answer)) as client,
        pytest.raises(UnexpectedAnswerError, match="http://x/attributes"),
    ):
        client.attributes()


def test_addresses_may_have_a_path_and_wrong_ones_are_named() -> None:
    asked: list[str] = []

    def service(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, json={"status": "live"})

    with Client("http://x/zoo/", transport=httpx.MockTransport(service)) as client:
        client.live()
    assert asked == ["http://x/zoo/healthz"]
    for url in ("http://localhost:many", "http://[::1"):
        for kind in (Client, AsyncClient):
            with pytest.raises(ClientError, match="is not an address"):
                kind(url)
    with Client("localhost:8000") as client, pytest.raises(ClientError, match="cannot be reached"):
        client.live()
