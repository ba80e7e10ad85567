"""A web server for downloads, with parts of files, versions and broken connections as a test wants them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and how.

    Attributes:
        files: contents by path; `/moved/PATH` redirects to PATH.
        etag: sent with every file; none where empty.
        last_modified: the same.
        parts: whether Range is answered.
        cut: bytes of a body after which the connection breaks; None for whole bodies.
        encoding: content encoding that is claimed; none where empty.
        asked: path, Range and If-Range of every request.
        url: where it listens.
    """

    files: dict[str, bytes]
    etag: str = '"one"'
    last_modified: str = ""
    parts: bool = True
    cut: int | None = None
    encoding: str = ""
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    served: FileServer

    def do_GET(self) -> None:
        served = self.served
        wanted, only_if = self.headers["Range"], self.headers["If-Range"]
        served.asked.append((self.path, wanted, only_if))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = served.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start, status = 0, 200
        current = only_if is None or only_if in (served.etag, served.last_modified)
        if wanted and served.parts and current:
            start, status = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]), 206  # type: ignore[index]
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in (
            ("ETag", served.etag),
            ("Last-Modified", served.last_modified),
            ("Content-Encoding", served.encoding),
        ):
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[start:][: served.cut])

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(served: FileServer) -> Iterator[FileServer]:
    """Serve on a free port of this machine; `served.url` says where."""
    handler = type("Handler", (_Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
