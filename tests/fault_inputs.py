"""Sends a running service inputs that once broke it, by HTTP alone, and says for each what was expected and what came.

    python tests/fault_inputs.py http://127.0.0.1:8000 [--key KEY] [--heavy] [--lines forms,http,...]

Needs a service on the demo bundle, an admin key where it has keys, and a fresh registry. What is registered is removed
again. `--heavy` adds what takes long or much memory: bombs, floods, bodies that never end.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from fault_files import DIM, GREY, chunk, float_tiff, part, png, saved, scan_bomb

ROOT = Path(__file__).parents[1]
PHOTO = (ROOT / "service/demo_bundle/examples/red-checked-circle.jpg").read_bytes()
JSON = "application/json"
FORM = "multipart/form-data; boundary=XBX"
DOCUMENT = {"name": "fault input", "attributes": {"colour_blue": 1}}


@dataclass
class Answer:
    """What came: a status, 0 where the connection broke, and the body."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    @property
    def first(self) -> Any:
        """The first result."""
        results = self.json.get("results") if isinstance(self.json, dict) else None
        return results[0] if results else {}

    def __str__(self) -> str:
        problem = self.json.get("type", "").rpartition(":")[2] if isinstance(self.json, dict) else ""
        return f"{self.status or 'no answer'} {problem}".strip()


@dataclass(frozen=True)
class Service:
    """Speaks HTTP/1.1 by hand, so that requests may be as odd as they are to be."""

    host: str
    port: int
    key: str | None

    def raw(self, data: bytes, *, wait: float = 60) -> Answer:
        """Send bytes as they are; read until the end or one whole answer."""
        began, said = time.monotonic(), b""
        try:
            with socket.create_connection((self.host, self.port), timeout=wait) as connection:
                with suppress(OSError):  # an answer may have come all the same
                    connection.sendall(data)
                while not _is_whole(said) and (more := connection.recv(65536)):
                    said += more
        except OSError:
            pass
        head, _, body = said.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        if not lines[0].startswith("HTTP/1.1 "):
            return Answer(0, b"", {}, time.monotonic() - began)
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        return Answer(int(lines[0].split()[1]), body, headers, time.monotonic() - began)

    def head(self, method: str, path: str, *lines: str, host: str = "localhost") -> bytes:
        """A request's head without its end."""
        key = [f"Authorization: Bearer {self.key}"] if self.key else []
        return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *key, *lines, ""]).encode()

    def send(
        self, method: str, path: str, body: bytes = b"", kind: str = "", *lines: str, host: str = "localhost"
    ) -> Answer:
        """A request with a body."""
        types = [f"Content-Type: {kind}"] if kind else []
        length = [f"Content-Length: {len(body)}"] if body or method != "GET" else []
        return self.raw(self.head(method, path, *types, *length, *lines, host=host) + b"\r\n" + body)

    def image(self, data: bytes, kind: str = "image/x") -> Answer:
        """POST /classify with a file as it is."""
        return self.send("POST", "/classify?top_k=1", data, kind)

    def post(self, path: str, document: object, *lines: str) -> Answer:
        """POST with a JSON document."""
        return self.send("POST", path, json.dumps(document).encode(), JSON, *lines)


def _is_whole(said: bytes) -> bool:
    head, end, body = said.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(end) and len(body) >= int(line.partition(b":")[2])
    return bool(end) and head.split(b" ")[1:2] in ([b"204"], [b"304"])


@dataclass(frozen=True)
class Case:
    """An input, what it should get, and how to tell."""

    line: str
    name: str
    expected: str
    ask: Callable[[Service], Answer]
    right: Callable[[Answer], bool]
    heavy: bool = False


def status(*wanted: int, words: str = "") -> Callable[[Answer], bool]:
    """Whether an answer has one of the statuses and some words."""
    return lambda answer: answer.status in wanted and words in answer.body.decode(errors="replace")


# --- cases ------------------------------------------------------------------------------------------------------------


def forms() -> Iterator[Case]:
    """Forms, base64, encodings."""
    line, end = "forms", b"--XBX--\r\n"

    def form(body: bytes) -> Callable[[Service], Answer]:
        return lambda service: service.send("POST", "/classify?top_k=1", body, FORM)

    def is_named(name: str) -> Callable[[Answer], bool]:
        return lambda answer: answer.status == 200 and answer.first.get("id") == name

    cut = part(PHOTO) + part(PHOTO)[:-2]
    yield Case(line, "no closing boundary", "400 that names it", form(cut), status(400, words="closing boundary"))
    yield Case(line, "preamble", "200", form(b"Hello.\r\n" + part(PHOTO) + end), is_named("a.jpg"))
    blanks = part(PHOTO).replace(b"--XBX\r\n", b"--XBX \t\r\n") + b"--XBX-- \r\nepilogue"
    yield Case(line, "blanks, epilogue", "200", form(blanks), is_named("a.jpg"))
    for parameters in ("; filename*=utf-8''" + quote("猫.jpg"), '; filename="猫.jpg"', "; filename=猫.jpg"):
        body = form(part(PHOTO, parameters) + end)
        yield Case(line, parameters[2:], "id 猫.jpg", body, is_named("猫.jpg"))
    empty = part(PHOTO) + part(b"", '; filename=""') + end
    yield Case(line, "empty control", "one result", form(empty), lambda a: len(a.json.get("results", [])) == 1)

    text = base64.b64encode(PHOTO).decode()
    odd = {
        "data URI": "data:image/jpeg;base64," + text,
        "URL-safe": base64.urlsafe_b64encode(PHOTO).decode(),
        "line breaks": base64.encodebytes(PHOTO).decode(),
    }
    for name, data in odd.items():
        document = {"images": [{"data": data}]}
        yield Case("base64", name, "200", lambda s, d=document: s.post("/classify", d), status(200))

    for path, body, kind in (
        ("/classify", PHOTO, "image/jpeg"),
        ("/classify", part(PHOTO) + end, FORM),
        ("/classes:preview", json.dumps(DOCUMENT).encode(), JSON),
    ):
        packed = gzip.compress(body)
        zipped = lambda s, p=path, b=packed, k=kind: s.send("POST", p, b, k, "Content-Encoding: gzip")  # noqa: E731
        other = lambda s, p=path, b=body, k=kind: s.send("POST", p, b, k, "Content-Encoding: br")  # noqa: E731
        yield Case("encodings", f"gzip {path} {kind[:9]}", "200", zipped, status(200))
        yield Case("encodings", f"br {path} {kind[:9]}", "415 that names br", other, status(415, words="br"))


def http() -> Iterator[Case]:
    """Heads, chunks, refusals, versions, hosts, advice."""

    def lines(*more: str, body: bytes = b"") -> Callable[[Service], Answer]:
        return lambda s: s.raw(s.head("POST", "/classes", f"Content-Type: {JSON}", *more) + b"\r\n" + body)

    both = lines("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")
    closed = lambda a: a.status == 400 and "close" in a.headers.get("connection", "").lower()  # noqa: E731
    yield Case("http", "Content-Length and Transfer-Encoding", "400, closed", both, closed)
    for size in (b"zz", b"-1", b"0x5", b"", b"f" * 30):
        ask = lines("Transfer-Encoding: chunked", body=size + b"\r\nabcde")
        yield Case("http", f"chunk size {size[:9]!r}", "400", ask, status(400))
    refusal = lambda s: s.send("POST", "/classify", bytes(6_000_000), "text/plain", "Connection: close")  # noqa: E731
    for i in range(20):
        yield Case("refusals", f"6 MB refused, {i + 1} of 20", "415 arrives", refusal, status(415))
    for path in ("/classes", "/registry", "/version", "/metrics", "/openapi.json", "/v2"):
        ask = lambda s, p=path: s.send("GET", p, host="rebound.example")  # noqa: E731
        yield Case("hosts", f"GET {path} under another name", "421", ask, status(421))
    health = lambda s: s.send("GET", "/healthz", host="rebound.example")  # noqa: E731
    yield Case("hosts", "GET /healthz under another name", "200", health, status(200))
    far = lambda s: s.send("GET", "/classes?min_registry_version=1000000000")  # noqa: E731
    yield Case("versions", "far ahead", "503 within 2 s", far, lambda a: a.status == 503 and a.seconds < 2)
    names = {**DOCUMENT, "attributes": {f"attribut_{i}": 1 for i in range(10_000)}}
    short = lambda a: a.status == 422 and len(a.body) < 300_000 and a.seconds < 2  # noqa: E731
    yield Case("errors", "10,000 wrong names", "422, short, within 2 s", lambda s: s.post("/classes", names), short)
    nonsense = {"images": [{"x": 1}] * 30_000}
    small = lambda a: a.status in (413, 422) and len(a.body) < 300_000  # noqa: E731
    yield Case("errors", "300 KB of nonsense", "413 or 422, short", lambda s: s.post("/classify", nonsense), small)
    topk = lambda s: s.send("POST", "/classify?topk=3", PHOTO, "image/jpeg")  # noqa: E731
    yield Case("advice", "?topk=3", "422 with top_k", topk, status(422, words="did you mean top_k"))
    seen = {"id": "red-checked-heart", **DOCUMENT}
    yield Case(
        "advice",
        "POST of a seen class",
        "409 without PUT",
        lambda s: s.post("/classes", seen),
        lambda a: a.status == 409 and b"PUT" not in a.body,
    )
    for header in ("", '"'):
        ask = lambda s, h=header: s.send("GET", "/classes", b"", "", f"If-None-Match: {h}")  # noqa: E731
        yield Case("openapi", f"If-None-Match {header!r}", "422", ask, status(422))
    yield Case("openapi", "empty cursor", "422", lambda s: s.send("GET", "/classes?cursor="), status(422))
    yield Case("openapi", "security", "as the service", lambda s: s.send("GET", "/openapi.json"), _security_is_true)


def _security_is_true(answer: Answer) -> bool:
    # Whether a key is needed is seen by whoever runs this: with --key the document must ask for one.
    return ("securitySchemes" in answer.json["components"]) is ("--key" in sys.argv)


def classes() -> Iterator[Case]:
    """Names and bodies of classes."""
    persian, spaced = "می\u200cخواهم", "blue\u00a0whale"
    for name, words in (("joiner", persian), ("no-break space", spaced), ("emoji", "👩\u200d🔬 class")):
        document = {"id": f"fault-{name.replace(' ', '-')}", "name": words, "attributes": {"colour_blue": 1}}
        ask = lambda s, d=document: _registered(s, d)  # noqa: E731
        yield Case("names", name, "201", ask, status(201))
    packed = gzip.compress(json.dumps({"id": "fault-packed", **DOCUMENT}).encode())
    ask = lambda s: _registered(s, None, packed)  # noqa: E731
    yield Case("encodings", "gzip /classes", "201 or 415", ask, status(201, 415))


def _registered(service: Service, document: Any, packed: bytes = b"") -> Answer:
    answer = (
        service.send("POST", "/classes", packed, JSON, "Content-Encoding: gzip")
        if packed
        else service.post("/classes", document)
    )
    if answer.status == 201:
        service.send("DELETE", f"/classes/{answer.json['id']}")
    return answer


def images() -> Iterator[Case]:
    """Images whose pixels or other parts are odd."""
    line = "images"
    same = png(GREY)

    def as_same(answer: Answer) -> bool:
        return answer.status == 200 and answer.first.get("novelty") == REFERENCE["novelty"]

    def file(data: bytes) -> Callable[[Service], Answer]:
        return lambda service: service.image(data)

    def reference(service: Service) -> Answer:
        answer = service.image(same)
        REFERENCE.update(answer.first)
        return answer

    yield Case(line, "8-bit grey PNG", "200", reference, status(200))
    deep = (GREY.astype(">u2") * 257).astype(">u2")
    yield Case(line, "16-bit PNG of the same picture", "as 8-bit", file(png(deep, depth=16)), as_same)
    dim = png(DIM.astype(">u2"), depth=16)
    dark = lambda a: a.status == 200 and a.first.get("novelty") != REFERENCE["novelty"]  # noqa: E731
    yield Case(line, "16-bit PNG whose maximum is 255", "nearly black", file(dim), dark)
    yield Case(line, "float TIFF of 0 to 1", "as 8-bit", file(float_tiff()), as_same)
    for odd in (float("nan"), float("inf"), 7.0):
        yield Case(line, f"float TIFF with {odd}", "415 or 422", file(float_tiff(odd)), status(415, 422))
    crc = png(GREY, chunk(b"tEXt", b"Comment\0x", crc=1))
    yield Case(line, "wrong checksum in tEXt", "as without", file(crc), as_same)
    large = png(GREY, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))))
    yield Case(line, "zTXt of 80 MB", "as without", file(large), as_same)
    profile = png(GREY, chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")))
    yield Case(line, "broken colour profile", "as without", file(profile), as_same)
    cut = lambda a: a.status == 200 and "warning" in json.dumps(a.first)  # noqa: E731
    yield Case(line, "JPEG without end marker", "200 with a warning", file(PHOTO[:-2]), cut)
    exif = PHOTO[:2] + b"\xff\xe1\x00\x0cExif\0\0junk" + PHOTO[2:]
    yield Case(line, "broken EXIF", "200", file(exif), status(200))


REFERENCE: dict[str, Any] = {}


def heavy() -> Iterator[Case]:
    """Bombs and floods."""
    grey = png(np.full((7000, 7000), 127, dtype=np.uint8))
    copies = {"images": [{"data": base64.b64encode(grey).decode()}] * 64}
    quick = lambda a: 200 <= a.status < 500 or a.status == 503  # noqa: E731
    yield Case(
        "bombs",
        "64 grey PNGs of 49 MP",
        "others within 2 s",
        lambda s: _beside(s, copies),
        lambda a: a.seconds < 2,
        True,
    )
    for name, data in (
        ("scans", scan_bomb()),
        ("WebP", saved(np.zeros((7000, 7000), np.uint8), "WEBP", lossless=True)),
    ):
        ask = lambda s, d=data: s.image(d)  # noqa: E731
        fast = lambda a: quick(a) and a.seconds < 20  # noqa: E731
        yield Case("bombs", name, "an answer within 20 s", ask, fast, True)
    yield Case("floods", "1,100 idle connections", "others answered", _among_idle, status(200), True)
    yield Case("floods", "50 unfinished bodies of 20 MB", "others answered", _among_unfinished, status(200), True)
    for name, head in (("head", b""), ("body", b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n{")):
        ask = lambda s, h=head: s.raw(s.head("POST", "/classes") + h, wait=60)  # noqa: E731
        yield Case("times", f"a {name} that never ends", "408", ask, status(408), True)


def _beside(service: Service, document: object) -> Answer:
    """What another client gets while a body is at work."""
    thread = threading.Thread(target=service.post, args=("/classify", document))
    thread.start()
    time.sleep(1)
    answer = service.image(PHOTO)
    thread.join()
    return answer


def _among_idle(service: Service) -> Answer:
    with ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(socket.create_connection((service.host, service.port), timeout=10))
        return service.image(PHOTO)


def _among_unfinished(service: Service) -> Answer:
    head = service.head("POST", "/classify", "Content-Type: image/jpeg", "Content-Length: 20000000") + b"\r\n"
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(socket.create_connection((service.host, service.port), timeout=20))
            with suppress(OSError):
                connection.sendall(head + bytes(19_000_000))
        return service.image(PHOTO)


def main() -> int:
    """Run the cases; the exit status is 1 where one is not right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--key")
    parser.add_argument("--heavy", action="store_true")
    parser.add_argument("--lines", help="only these, with commas between; the first word of each line says which it is")
    chosen = parser.parse_args()
    at = urlsplit(chosen.url)
    service = Service(at.hostname or "127.0.0.1", at.port or 80, chosen.key)
    cases = [*forms(), *http(), *classes(), *images(), *(heavy() if chosen.heavy else ())]
    wrong = 0
    for case in cases:
        if chosen.lines and case.line not in chosen.lines.split(","):
            continue
        answer = case.ask(service)
        right = case.right(answer)
        wrong += not right
        print(f"{'ok   ' if right else 'WRONG'} {case.line:10} {case.name[:44]:44} {case.expected:24} {answer}")  # noqa: T201
    print(f"{wrong} wrong")  # noqa: T201
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
