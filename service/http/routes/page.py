"""GET /: the page on which people try the service, and the files that belong to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from service.http.headers import tags_of

FOLDER = Path(__file__).parents[1] / "page"
INDEX = "index.html"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What the page may load and do: nothing from elsewhere, nothing inline, no markup made from text."""
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again with its tag: an upgrade is seen at once
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
}


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """A file of the page, as it is answered."""

    content: bytes
    media_type: str
    etag: str


def page_files(folder: Path = FOLDER) -> Mapping[str, PageFile]:
    """Every file of the page by its path inside the folder, read once."""
    return {
        path.relative_to(folder).as_posix(): PageFile(
            content=(content := path.read_bytes()),
            media_type=_MEDIA_TYPES[path.suffix],
            etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def install_page(app: FastAPI) -> None:
    """Serve the page at / and its files under /page. All its addresses are relative, so that a prefix is no matter."""
    files = page_files()

    @app.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        return _answer(request, files[INDEX])

    @app.get("/page/{path:path}", include_in_schema=False)
    async def page_file(path: str, request: Request) -> Response:
        if path not in files or path == INDEX:  # its relative addresses hold at / only
            raise HTTPException(404, f"the page has no file {path[:100]!r}")
        return _answer(request, files[path])


def _answer(request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "etag": file.etag}
    tags = tags_of(request, "if-none-match", weak=True)
    if "*" in tags or file.etag in tags:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
