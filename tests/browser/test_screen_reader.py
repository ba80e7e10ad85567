"""axe-core, as axe-playwright-python brings it, finds nothing on any view, in both themes, at a desk and on a phone."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from service.keys import digest
from tests.browser.conftest import DESK, PHONE, Open
from tests.service.processes import Server, serving

pytestmark = pytest.mark.browser

LOOKS = [("light", DESK), ("dark", DESK), ("light", PHONE), ("dark", PHONE)]


def violations(page: Page, where: str) -> list[tuple[str, ...]]:
    """What axe-core says of the page as it is now."""
    page.wait_for_timeout(500)  # until bars and colours have come to rest
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    assert len(results.response["passes"]) > 5  # it has looked
    return [
        (where, rule["id"], node["html"][:200], node["failureSummary"])
        for rule in results.response["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("theme", "window"), LOOKS, ids=["desk-light", "desk-dark", "phone-light", "phone-dark"])
def test_every_view(demo: Server, opened: Open, theme: str, window: dict[str, int]) -> None:
    page = opened(demo.url + "/", color_scheme=theme, viewport=window)
    found: list[tuple[str, ...]] = []

    def press(name: str | re.Pattern[str]) -> None:
        page.get_by_role("button", name=name, exact=True).click()

    def go(view: str) -> None:
        page.get_by_role("link", name=view, exact=True).click()

    expect(page.locator(".sample img[src]").first).to_be_visible()
    found += violations(page, "classify, empty")
    press("Classify the example blue dotted circle")
    press("Why? blue-dotted-circle.jpg")
    expect(page.get_by_role("table")).to_be_visible()
    page.get_by_label("Choose images").set_input_files([{"name": "no.png", "mimeType": "image/png", "buffer": b"no"}])
    expect(page.get_by_role("alert")).to_be_visible()
    found += violations(page, "classify, answered, explained and refused")
    press("Take a photo")
    expect(page.locator("video")).to_be_visible()
    found += violations(page, "camera")
    press("Cancel")

    press("Describe blue dotted circle")
    page.locator("details").evaluate_all("all => { for (const one of all) one.open = true; }")
    found += violations(page, "register, filled")
    page.get_by_role("combobox", name="Start from a class").focus()
    expect(page.get_by_role("option").first).to_be_visible()
    found += violations(page, "register, list of classes")
    page.keyboard.press("ArrowDown")
    found += violations(page, "register, a class of the list")
    page.keyboard.press("Escape")
    page.get_by_label("Id", exact=True).fill("Not An Id")
    press("Register")
    expect(page.get_by_role("alert").last).to_contain_text("id:")
    found += violations(page, "register, refused")
    page.get_by_label("Id", exact=True).fill("")
    press("Preview")
    expect(page.get_by_text("It would be recognised as")).to_be_visible()
    found += violations(page, "register, previewed")
    press("Register")
    expect(page.get_by_text("blue dotted circle is registered")).to_be_visible()
    found += violations(page, "register, done")
    press("Classify again")
    expect(page.get_by_text("Before the change:")).to_be_visible()
    found += violations(page, "classify, changed")

    go("Classes")
    page.get_by_label("Find by name").fill("blue dotted")
    expect(page.get_by_text("6 classes shown.")).to_be_visible()
    press("Details of blue dotted circle")
    expect(page.get_by_role("button", name="Add photos").or_(page.get_by_label("Add photos"))).to_be_visible()
    found += violations(page, "classes")
    press("Remove blue dotted circle")
    found += violations(page, "question")
    press("Cancel")
    page.get_by_label("Find by name").fill("no such class")
    expect(page.get_by_text("No class fits.")).to_be_visible()
    found += violations(page, "classes, none")

    go("History")
    expect(page.get_by_text("the bundle alone")).to_be_visible()
    found += violations(page, "history")
    returns = page.get_by_text("back to version 0")
    before = returns.count()  # those of the looks before this one
    press("Return to version 0")
    press("Return to it")
    expect(returns).to_have_count(before + 1)
    assert found == []


def test_what_asks_for_a_key(tmp_path, opened: Open) -> None:
    with serving(None, tmp_path, "--keys", f"admin:{digest('changer')}") as server:
        page = opened(server.url + "/")
        found: list[tuple[str, ...]] = []
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        found += violations(page, "key")
        dialog.get_by_label("Key").fill("a b")
        page.get_by_role("button", name="Use this key").click()
        expect(dialog.get_by_text("without spaces")).to_be_visible()
        found += violations(page, "key, refused")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert")).to_contain_text("A valid key is needed")
        found += violations(page, "no key")
        assert found == []
