"""The log of requests, as text and as JSON, and the traces."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model.errors import MissingDependencyError
from service.errors import SettingsError
from service.service import Service
from service.settings import Settings, load_settings
from service.telemetry import logs
from service.telemetry.tracing import Tracing
from tests.service.conftest import Client, Running
from tests.service.processes import serving
from tests.service.tiny import photo

PNG = {"content-type": "image/png"}


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Every line of the log while the test runs, as the service would write it."""
    written: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(json.loads(self.format(record)))

    handler, root = Keep(), logging.getLogger()
    handler.setFormatter(logs.JsonLines())
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def of(lines: Sequence[dict[str, Any]], logger: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["logger"] == logger]


@pytest.mark.anyio
async def test_each_request_has_a_line_with_its_id(client: Client, lines: list[dict[str, Any]]) -> None:
    files = [("images", ("a", photo(1))), ("images", ("b", photo(2)))]
    await client.post("/classify?top_k=1", files=files, headers={"x-request-id": "mine"})
    answer = await client.get("/classes/secret-name", headers={"authorization": "Bearer hidden"})
    first, second = of(lines, "d3gzsl.access")
    assert first.pop("ms") >= 0
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "d3gzsl.access",
        "message": "request",
        "request_id": "mine",
        "method": "POST",
        "route": "/classify",
        "status": 200,
        "images": 2,
    }
    assert (second["status"], second["problem"]) == (404, "no-such-class")
    assert second["request_id"] == answer.headers["x-request-id"]
    assert not any(word in json.dumps([first, second]) for word in ("secret-name", "hidden", "top_k"))


@pytest.mark.anyio
async def test_slow_requests_are_warned_of_with_their_stages(running: Running, lines: list[dict[str, Any]]) -> None:
    async with running(slow_request=1e-6) as client:
        await client.post("/classify", content=photo(1), headers=PNG)
    (line,) = of(lines, "d3gzsl.slow")
    assert line["level"] == "warning"
    assert {"decode_ms", "queue_ms", "inference_ms", "head_ms", "route", "request_id"} <= set(line)
    lines.clear()
    async with running(slow_request=0) as client:
        await client.post("/classify", content=photo(1), headers=PNG)
    assert of(lines, "d3gzsl.access")
    assert of(lines, "d3gzsl.slow") == []


@pytest.mark.anyio
async def test_a_bug_is_logged_with_its_cause_under_the_requests_id(
    running: Running, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with running() as client:
        monkeypatch.setattr(Service, "check_ready", broken)
        with pytest.raises(ZeroDivisionError):
            await client.get("/readyz", headers={"x-request-id": "mine"})
        monkeypatch.undo()
        metrics = (await client.get("/metrics")).text
    (line,) = (line for line in of(lines, "d3gzsl.access") if line["route"] == "/readyz")
    assert (line["status"], line["problem"]) == (500, "internal-error")
    (cause,) = of(lines, "service.http.problems")
    assert "ZeroDivisionError: a bug" in cause["exception"]
    assert 'd3gzsl_rejected_requests_total{reason="internal-error"} 1.0' in metrics


def test_text_lines_end_with_fields_and_id() -> None:
    record = logging.LogRecord("d3gzsl.access", logging.INFO, "", 0, "request %d", (7,), None)
    record.fields = {"status": 200}
    token = logs.REQUEST.set("mine")
    try:
        said = logs.TextLines().format(record)
    finally:
        logs.REQUEST.reset(token)
    assert said.endswith(" INFO d3gzsl.access: request 7 status=200 request_id=mine")


@pytest.fixture(scope="module")
def said(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a service with a log in JSON says in its life."""
    with serving(bundle_dir, tmp_path_factory.mktemp("json"), "--log-format", "json") as server:
        assert server.request("GET", "/readyz", headers={"x-request-id": "mine"}).status_code == 200
        server.process.terminate()
        server.process.wait(30)
        server.log.join(10)
    return server.log.text.splitlines()


def test_a_process_logs_nothing_but_json(said: list[str]) -> None:
    lines = [json.loads(line) for line in said]
    assert [line["request_id"] for line in lines if line["logger"] == "d3gzsl.access"] == ["mine"]
    assert any(line["logger"].startswith("uvicorn") for line in lines)  # the server's own words too


# --- traces -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Any:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    monkeypatch.setattr(Tracing, "from_settings", lambda settings: Tracing(memory, share=settings.trace_share))
    return memory


@pytest.mark.anyio
async def test_a_request_is_a_span_with_its_stages_in_it(running: Running, spans: Any) -> None:
    outer = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    async with running() as client:
        files = [("images", ("a", photo(1))), ("images", ("b", photo(2)))]
        await client.post("/classify", files=files, headers={**outer, "x-request-id": "mine"})
    found = spans.get_finished_spans()
    (request,) = (span for span in found if span.name == "POST /classify")
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/classify",
        "http.response.status_code": 200,
        "d3gzsl.images": 2,
        "d3gzsl.request_id": "mine",
    }
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    stages = [span for span in found if span is not request]
    assert sorted(span.name for span in stages) == ["decode"] * 2 + ["head"] + ["inference"] * 2 + ["queue"] * 2
    for span in stages:
        assert span.parent.span_id == request.context.span_id
        assert span.start_time <= span.end_time <= request.end_time
    decode, queue = (next(span for span in stages if span.name == name) for name in ("decode", "queue"))
    assert decode.end_time == queue.start_time


@pytest.mark.anyio
async def test_the_share_of_traced_requests_is_kept_but_for_those_decided_elsewhere(
    running: Running, spans: Any
) -> None:
    outer = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    async with running(trace_share=0) as client:
        await client.get("/version")
        await client.get("/attributes", headers=outer)
    assert [span.name for span in spans.get_finished_spans()] == ["GET /attributes"]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """URL of a collector of traces, and what it was sent."""
    sent: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", sent
        server.shutdown()


@pytest.mark.anyio
async def test_traces_are_sent_where_the_setting_says(running: Running, collector: tuple[str, list[bytes]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    url, sent = collector
    async with running(traces_url=url) as client:
        await client.post("/classify", content=photo(1), headers=PNG)
    body = b"".join(sent)
    assert all(word in body for word in (b"d3gzsl", b"POST /classify", b"decode", b"queue", b"inference", b"head"))


def test_without_opentelemetry_the_service_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        monkeypatch.setitem(sys.modules, name, None)
    settings = Settings(traces_url="http://localhost:4318/v1/traces")
    with pytest.raises(MissingDependencyError, match="the extra `tracing`"):
        Tracing.from_settings(settings)
    with pytest.raises(MissingDependencyError, match="the extra `tracing`"):
        Tracing(None)
    assert Tracing.from_settings(Settings()) is None


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="--traces-url"):
        load_settings(traces_url="localhost:4318")


def test_lines_of_one_kind_are_few_and_counted() -> None:
    now = 0.0
    few = logs.FewOfAKind(most=3, seconds=10, clock=lambda: now)

    def line(number: int, level: int = logging.WARNING, place: int = 1) -> logging.LogRecord:
        return logging.LogRecord("x", level, "file.py", place, "went wrong %d", (number,), None)

    assert [few.filter(line(i)) for i in range(5)] == [True, True, True, False, False]
    assert few.filter(line(0, place=2))
    assert all(few.filter(line(i, logging.INFO)) for i in range(9))
    now = 11.0
    first, second = line(5), line(6)
    assert few.filter(first)
    assert few.filter(second)
    assert first.fields == {"left_out": 2}  # type: ignore[attr-defined]
    assert not hasattr(second, "fields")
    third = line(7)
    assert few.filter(third)
    assert third.fields == {"more": "lines like this are left out for 10 seconds"}  # type: ignore[attr-defined]
