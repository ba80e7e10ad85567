"""Chromium, and the service that it looks at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.service.processes import Server, serving
from tests.service.tiny import tiny_bundle

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 860}

PATIENCE = 30_000  # milliseconds: what else runs on the machine must fail no test

expect.set_options(timeout=PATIENCE)
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module, as it keeps an event loop running that other tests would meet."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`d3gzsl serve` with the embedded demo bundle and an empty registry."""
    with serving(None, tmp_path_factory.mktemp("demo")) as server:
        yield server


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


class Watch:
    """What a page asked for and complained about."""

    def __init__(self, context: BrowserContext) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))

    def _heard(self, message: ConsoleMessage) -> None:
        # Chromium reports each answer of 4xx and 5xx, and what a test cuts off; the page shows these itself.
        shown = ("the server responded with a status", "net::ERR_FAILED")
        if message.type in ("error", "warning") and not any(words in message.text for words in shown):
            self.complaints.append(message.text)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """`opened(url, **options of the context)`: a page; afterwards nothing foreign was asked for and nothing failed."""
    contexts: list[tuple[BrowserContext, Watch, str]] = []  # with the address of the service

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESK, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append((context, Watch(context), url[: url.index("/", len("http://")) + 1]))
        page = context.new_page()
        page.goto(url)
        return page

    yield open_page
    for context, watch, service in contexts:
        context.close()
        assert watch.complaints == []
        assert [asked for asked in watch.asked if not asked.startswith((service, "blob:", "data:"))] == []


def files(*names: str) -> list[Path]:
    """Example images of the demo bundle."""
    return [Path(__file__).parents[2] / "service" / "demo_bundle" / "examples" / name for name in names]
