"""The page as a person uses it: classify, explain, register in every way the bundle allows, see it win, go back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from model.photos import PhotoPrior
from service.keys import digest
from tests.browser.conftest import PHONE, Open, files
from tests.service.processes import Server, serving
from tests.service.tiny import HEAD, png, tiny_bundle

pytestmark = pytest.mark.browser


@pytest.fixture
def page(demo: Server, opened: Open) -> Iterator[Page]:
    """The page on the demo bundle; what a test changes is taken back."""
    page = opened(demo.url + "/")
    yield page
    assert demo.request("POST", "/registry:rollback", json={"version": 0}).status_code == 200


@pytest.fixture(scope="module")
def with_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = replace(HEAD, photos=PhotoPrior(described=2.0, undescribed=1.0, fade=3.0))
    return tiny_bundle(tmp_path_factory.mktemp("photos") / "tiny", spec=spec)


def go(page: Page, view: str) -> None:
    page.get_by_role("link", name=view, exact=True).click()
    expect(page.get_by_role("link", name=view, exact=True)).to_have_attribute("aria-current", "page")


def press(where: Page | Locator, name: str | re.Pattern[str]) -> None:
    where.get_by_role("button", name=name, exact=True).click()


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name)


def winner(where: Locator) -> Locator:
    return where.get_by_role("listitem").first


def set_slider(page: Page, name: str, key: str) -> None:
    """As a keyboard does: Home is the lowest value, End the highest."""
    page.get_by_role("slider", name=name, exact=True).press(key)


# --- classify ---------------------------------------------------------------------------------------------------------


def test_an_example_is_classified_and_explained(page: Page) -> None:
    expect(page.get_by_text("114 classes: 100 seen in training, 14 known by description only.")).to_be_visible()
    press(page, "Classify the example red dotted heart")
    one = card(page, "red-dotted-heart.jpg")
    expect(winner(one)).to_contain_text(re.compile(r"red dotted heart.*unseen.*%"))
    expect(one.get_by_role("listitem")).to_have_count(5)
    expect(one.get_by_text("Novelty")).to_be_visible()
    why = one.get_by_role("button", name="Why? red-dotted-heart.jpg")
    why.press("Enter")
    expect(why).to_have_attribute("aria-expanded", "true")
    expect(one.get_by_role("row", name=re.compile(r"texture dotted 1 .*\+"))).to_be_visible()
    expect(one.get_by_role("row", name=re.compile("−"))).not_to_have_count(0)
    one.get_by_label("Why", exact=True).select_option("red checked heart")
    expect(one.get_by_role("table")).to_contain_text("For (+) and against (−) red checked heart")


def test_images_are_chosen_dropped_and_pasted(page: Page) -> None:
    first, second, third = files("red-dotted-heart.jpg", "yellow-plain-cross.jpg", "red-plain-square.jpg")
    page.get_by_label("Choose images").set_input_files([first])
    expect(winner(card(page, first.name))).to_contain_text("red dotted heart")
    bring = """([kind, bytes, name]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
        const options = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === "drop"
            ? new DragEvent(kind, { ...options, dataTransfer: transfer })
            : new ClipboardEvent(kind, { ...options, clipboardData: transfer }));
    }"""
    page.evaluate(bring, ["drop", list(second.read_bytes()), second.name])
    expect(winner(card(page, second.name))).to_contain_text("yellow plain cross")
    page.evaluate(bring, ["paste", list(third.read_bytes()), third.name])
    expect(winner(card(page, third.name))).to_contain_text("red plain square")
    press(page, f"Remove {second.name}")
    expect(card(page, second.name)).to_have_count(0)
    press(page, "Remove all")
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_photo_is_taken(page: Page) -> None:
    press(page, "Take a photo")
    dialog = page.get_by_role("dialog", name="Take a photo")
    expect(dialog.locator("video")).to_have_js_property("readyState", 4)  # there is a picture
    press(dialog, "Take the photo")
    expect(card(page, "photo.jpg").get_by_role("listitem")).to_have_count(5)


def test_only_one_kind_takes_part(page: Page) -> None:
    press(page, "Classify the example red dotted heart")
    one = card(page, "red-dotted-heart.jpg")
    expect(winner(one)).to_contain_text("red dotted heart")
    page.get_by_label("Among").select_option("seen")
    expect(one.get_by_text("unseen")).to_have_count(0)
    expect(one.get_by_role("listitem")).to_have_count(5)


def test_what_is_no_image_says_so(page: Page) -> None:
    file = {"name": "notes.png", "mimeType": "image/png", "buffer": b"no image"}
    page.get_by_label("Choose images").set_input_files([file])  # type: ignore[list-item]
    alert = card(page, "notes.png").get_by_role("alert")
    expect(alert).to_contain_text("The image has no format that is read here")
    expect(alert).to_contain_text("JPEG, PNG")


# --- register ---------------------------------------------------------------------------------------------------------


def test_a_class_is_registered_with_sliders_and_wins(page: Page, demo: Server) -> None:
    press(page, "Classify the example blue dotted circle")
    one = card(page, "blue-dotted-circle.jpg")
    expect(winner(one)).not_to_contain_text("blue dotted circle")
    former = winner(one).locator(".rank-name").inner_text()
    one.get_by_role("button", name="None of these? Describe blue-dotted-circle.jpg").click()
    expect(page.get_by_role("heading", name="Register a class")).to_be_focused()
    expect(page.get_by_role("combobox", name="Start from a class")).to_have_value(former)  # the nearest class there is
    page.get_by_label("Name", exact=True).fill("blue dotted circle")
    for name in ("colour blue", "shape circle", "texture dotted", "rounded"):
        set_slider(page, name, "End")
    for group in ("shape", "texture"):
        kept = {"shape": "circle", "texture": "dotted"}[group]
        others = page.get_by_role("group", name=group).get_by_role("slider").all()
        for slider in others:
            if slider.get_attribute("aria-label") != f"{group} {kept}":
                slider.press("Home")
    set_slider(page, "pointed", "Home")

    version = demo.request("GET", "/registry").json()["registry_version"]
    press(page, "Preview")
    preview = page.get_by_role("complementary", name="Preview, then register")
    expect(preview.get_by_text("It would be recognised as")).to_be_visible()
    expect(preview.get_by_text("Described most alike")).to_be_visible()
    expect(winner(preview.get_by_role("list", name=re.compile("^Today:")))).to_contain_text(former)
    expect(winner(preview.get_by_role("list", name=re.compile("^With this class:")))).to_contain_text(
        "blue dotted circle"
    )
    assert demo.request("GET", "/registry").json()["registry_version"] == version  # nothing was stored

    press(page, "Register")
    expect(page.get_by_role("heading", name="blue dotted circle is registered")).to_be_focused()
    expect(winner(page.get_by_role("list", name=re.compile("^Now:")))).to_contain_text("blue dotted circle")
    press(page, "Classify again")
    expect(winner(one)).to_contain_text(re.compile("blue dotted circle.*unseen"))
    expect(one).to_contain_text(f"Before the change: {former}")
    expect(page.get_by_text("115 classes: 100 seen in training, 15 known")).to_be_visible()
    expect(page.get_by_role("button", name="Describe blue dotted circle")).to_have_count(0)

    go(page, "History")
    expect(page.get_by_role("list", name="Versions, newest first")).to_contain_text("blue-dotted-circle")
    page.get_by_role("button", name=re.compile("^Return to version")).first.click()
    press(page.get_by_role("dialog"), "Return to it")
    expect(page.get_by_text("back to version").first).to_be_visible()
    go(page, "Classify")
    expect(winner(one)).to_contain_text(former)
    expect(page.get_by_role("button", name="Describe blue dotted circle")).to_be_visible()


def test_a_class_is_registered_by_photos_and_wins(with_photos: Path, tmp_path: Path, opened: Open) -> None:
    with serving(with_photos, tmp_path) as server:
        page = opened(server.url + "/")
        orange = [
            {"name": f"{i}.png", "mimeType": "image/png", "buffer": png(colour)}
            for i, colour in enumerate(((250, 120, 10), (240, 130, 30), (255, 110, 0), (245, 125, 15)))
        ]
        page.get_by_label("Choose images").set_input_files(orange[3:])  # type: ignore[arg-type]
        one = card(page, "3.png")
        expect(winner(one)).to_contain_text("Reddish")
        one.get_by_role("button", name="None of these? Describe 3.png").click()
        page.get_by_label("Name", exact=True).fill("Orange")
        press(page, "Leave all attributes open")
        page.get_by_label("Choose photos").set_input_files(orange[:3])  # type: ignore[arg-type]
        expect(page.get_by_role("list", name="Photos of the class").get_by_role("img")).to_have_count(3)
        press(page, "Remove 2.png")
        expect(page.get_by_role("list", name="Photos of the class").get_by_role("img")).to_have_count(2)
        press(page, "Preview")
        expect(winner(page.get_by_role("list", name=re.compile("^Today:")))).to_contain_text("Reddish")
        expect(winner(page.get_by_role("list", name=re.compile("^With this class:")))).to_contain_text("Orange")
        press(page, "Register")
        expect(page.get_by_role("heading", name="Orange is registered")).to_be_visible()
        expect(winner(page.get_by_role("list", name=re.compile("^Now:")))).to_contain_text("Orange")
        go(page, "Classes")
        press(page, "Details of Orange")
        expect(page.get_by_role("button", name="Take back the photo of 10 by 12")).to_have_count(2)
        page.get_by_label("Add photos").set_input_files(orange[2:3])  # type: ignore[arg-type]
        expect(page.get_by_role("button", name="Take back the photo of 10 by 12")).to_have_count(3)
        page.get_by_role("button", name="Take back the photo of 10 by 12").first.click()
        expect(page.get_by_role("button", name="Take back the photo of 10 by 12")).to_have_count(2)
        stored = server.request("GET", "/classes/orange").json()
        assert (stored["examples"], stored["attributes"]) == (2, None)


def test_a_bundle_without_photos_offers_none(bundle_dir: Path, tmp_path: Path, opened: Open) -> None:
    with serving(bundle_dir, tmp_path) as server:
        page = opened(server.url + "/#register")
        expect(page.get_by_role("heading", name="Attributes")).to_be_visible()
        for absent in ("Photos", "Words"):
            expect(page.get_by_role("heading", name=absent)).to_have_count(0)


def test_words_are_sent_where_the_bundle_takes_them(demo: Server, opened: Open) -> None:
    """The service is stood in for: this bundle has no text encoder."""
    page = opened(f"{demo.url}/#history")
    vocabulary = demo.request("GET", "/attributes").json()
    taken = {"max_tokens": 128, "max_texts": 8, "max_length": 2000}
    page.route("**/attributes", lambda route: route.fulfill(json={**vocabulary, "text": taken}))
    sent = []

    def refuse(route: Route) -> None:
        sent.append(route.request.post_data_json)
        problem = {"title": "Not today", "status": 422, "errors": [{"pointer": "/text/1", "detail": "too long"}]}
        route.fulfill(status=422, json=problem)

    page.route("**/classes", lambda route: refuse(route) if route.request.method == "POST" else route.continue_())
    page.reload()
    go(page, "Register")
    page.get_by_label("Name", exact=True).fill("Elephant")
    page.get_by_label("What it looks like").fill("a grey animal\n\n a trunk ")
    press(page, "Register")
    expect(page.get_by_role("alert")).to_contain_text("text › 1: too long")
    expect(page.get_by_label("What it looks like")).to_be_focused()
    assert sent == [{"name": "Elephant", "description": "", "text": ["a grey animal", "a trunk"]}]


def test_a_row_of_a_table_fills_the_sliders(page: Page, tmp_path: Path) -> None:
    go(page, "Register")
    page.get_by_text("From a row of a table").click()
    row = page.get_by_label("Pasted row")
    row.fill("class;colour_blue;warm\nred one;0,25;1\nblue one;0,75;0")
    press(page, "Take it over")
    page.get_by_label("Which row?").select_option("blue one")
    press(page, "Take this row")
    expect(page.get_by_label("Name", exact=True)).to_have_value("blue one")
    expect(page.get_by_role("spinbutton", name="colour blue, exact value")).to_have_value("0.75")
    expect(page.get_by_text("2 attributes of 29 set.")).to_be_visible()
    row.fill("colour_blue,colour_bleu\n1,2")
    press(page, "Take it over")
    expect(page.get_by_text('The bundle has no attribute "colour_bleu".')).to_be_visible()
    expect(row).to_have_attribute("aria-invalid", "true")
    file = tmp_path / "one.csv"
    file.write_text("name,size\nbig one,0.7\n")
    page.get_by_label("Choose a CSV file").set_input_files(file)
    expect(page.get_by_label("Name", exact=True)).to_have_value("big one")


def test_faults_are_said_where_they_are(page: Page) -> None:
    go(page, "Register")
    press(page, "Register")
    name = page.get_by_label("Name", exact=True)
    expect(name).to_be_focused()
    expect(name).to_have_attribute("aria-invalid", "true")
    name.fill("x")
    page.get_by_text("Id and notes").click()
    page.get_by_label("Id", exact=True).fill("Not An Id")
    page.get_by_role("spinbutton", name="size, exact value").fill("1e300")
    press(page, "Register")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("attributes › size")
    expect(page.get_by_label("Id", exact=True)).to_be_focused()
    expect(page.locator(".slider.wrong")).to_have_count(1)
    page.get_by_label("Id", exact=True).fill("")
    page.get_by_role("spinbutton", name="size, exact value").fill("9")
    press(page, "Preview")
    expect(page.get_by_text("Beyond the range of the training classes: size.")).to_be_visible()


# --- classes ----------------------------------------------------------------------------------------------------------


def test_classes_are_found_edited_and_removed(page: Page, demo: Server) -> None:
    go(page, "Classes")
    expect(page.get_by_role("list", name="Classes").get_by_role("heading", level=2)).to_have_count(50)
    press(page, "Show more")
    expect(page.get_by_role("list", name="Classes").get_by_role("heading", level=2)).to_have_count(100)
    page.get_by_label("Find by name").fill("checked circle")
    page.get_by_label("Kind").select_option("unseen")
    expect(page.get_by_text("1 class shown.")).to_be_visible()
    press(page, "Details of red checked circle")
    expect(page.get_by_role("list", name="Classes").get_by_role("definition").first).to_be_visible()

    press(page, "Edit red checked circle")
    page.get_by_label("Name", exact=True).fill("chequered disc")
    press(page, "Save")
    expect(page.get_by_role("heading", name="chequered disc is saved")).to_be_visible()
    (last,) = demo.request("GET", "/registry/versions?order=newest&limit=1").json()["versions"]
    assert (last["operation"], last["class_ids"]) == ("describe", ["red-checked-circle"])  # the weights stayed

    go(page, "Classes")
    page.get_by_label("Find by name").fill("chequered")
    press(page, "Edit chequered disc")
    set_slider(page, "warm", "Home")
    press(page, "Save")
    expect(page.get_by_role("heading", name="chequered disc is saved")).to_be_visible()
    (last,) = demo.request("GET", "/registry/versions?order=newest&limit=1").json()["versions"]
    assert last["operation"] == "put"

    go(page, "Classes")
    press(page, "Remove chequered disc")
    press(page.get_by_role("dialog"), "Cancel")
    assert demo.request("GET", "/classes/red-checked-circle").status_code == 200
    press(page, "Remove chequered disc")
    press(page.get_by_role("dialog"), "Remove")
    expect(page.get_by_role("button", name="Remove chequered disc")).to_have_count(0)
    assert demo.request("GET", "/classes/red-checked-circle").status_code == 404


def test_what_another_changed_meanwhile_is_not_written_over(page: Page, demo: Server) -> None:
    go(page, "Classes")
    page.get_by_label("Find by name").fill("green plain star")
    press(page, "Edit green plain star")
    assert demo.request("PATCH", "/classes/green-plain-star", json={"description": "a star"}).status_code == 200
    set_slider(page, "warm", "End")
    press(page, "Save")
    expect(page.get_by_role("alert")).to_contain_text("The state is not the expected one")


# --- keys, overload, the network --------------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_kept_in_memory_only(tmp_path: Path, opened: Open) -> None:
    keys = f"classify:{digest('reader')},admin:{digest('changer')}"
    with serving(None, tmp_path, "--keys", keys) as server:
        page = opened(server.url + "/")
        dialog = page.get_by_role("dialog", name="A key is needed")
        dialog.get_by_label("Key").fill("nonsense")
        press(dialog, "Use this key")
        expect(dialog.get_by_text("The key that was sent is not valid here.")).to_be_visible()
        dialog.get_by_label("Key").fill("reader")
        press(dialog, "Use this key")
        press(page, "Classify the example red dotted heart")
        expect(winner(card(page, "red-dotted-heart.jpg"))).to_contain_text("red dotted heart")

        press(page, "Describe blue dotted circle")
        press(page, "Register")
        expect(page.get_by_role("alert")).to_contain_text("The key's role does not allow this")
        press(page, "Use another key")
        dialog.get_by_label("Key").fill("changer")
        press(dialog, "Use this key")
        expect(page.get_by_role("heading", name="blue dotted circle is registered")).to_be_visible()

        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert "changer" not in kept
        assert "reader" not in kept
        page.reload()
        expect(dialog).to_be_visible()  # it is forgotten


def test_a_full_service_is_tried_again(page: Page) -> None:
    refused = []

    def refuse_once(route, request) -> None:  # type: ignore[no-untyped-def]
        if refused:
            route.continue_()
            return
        refused.append(request.url)
        problem = '{"type": "urn:d3gzsl:problem:overloaded", "title": "Too much is waiting", "status": 503}'
        kind = "application/problem+json"
        route.fulfill(status=503, headers={"retry-after": "1"}, content_type=kind, body=problem)

    page.route(re.compile("/classify"), refuse_once)
    press(page, "Classify the example red dotted heart")
    expect(page.get_by_text("Too much is waiting. Trying again in 1 s")).to_be_visible()
    expect(winner(card(page, "red-dotted-heart.jpg"))).to_contain_text("red dotted heart")
    assert len(refused) == 1


def test_a_service_that_went_away_is_told_and_tried_again(page: Page) -> None:
    expect(page.get_by_role("button", name="Classify the example red dotted heart").locator("img[src]")).to_be_visible()
    page.route(re.compile("/classify"), lambda route: route.abort())
    press(page, "Classify the example red dotted heart")
    one = card(page, "red-dotted-heart.jpg")
    expect(one.get_by_role("alert")).to_contain_text("The service cannot be reached")
    page.unroute_all()
    press(one, "Try again")
    expect(winner(one)).to_contain_text("red dotted heart")


# --- the page itself --------------------------------------------------------------------------------------------------


def test_without_javascript_it_says_what_to_do(demo: Server, opened: Open) -> None:
    page = opened(demo.url + "/", java_script_enabled=False)
    expect(page.get_by_role("heading", name="This page needs JavaScript")).to_be_visible()
    expect(page.locator("noscript pre")).to_be_visible()
    expect(page.locator("noscript pre")).to_contain_text("curl --data-binary")


def test_the_theme_follows_the_system_and_the_person(demo: Server, opened: Open) -> None:
    page = opened(demo.url + "/", color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    press(page, "Light theme")
    light = page.evaluate(paper)
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Dark theme")).to_be_visible()
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("view", ["classify", "register", "classes", "history"])
def test_nothing_is_cut_off_on_a_phone(demo: Server, opened: Open, view: str) -> None:
    page = opened(f"{demo.url}/#{view}", viewport=PHONE)
    expect(page.locator(".view:visible h1")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_the_keyboard_reaches_everything(page: Page) -> None:
    expect(page.get_by_role("button", name="Classify the example red dotted heart")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    go(page, "Register")
    box = page.get_by_role("combobox", name="Start from a class")
    box.focus()
    page.keyboard.type("green dotted circ")
    expect(page.get_by_role("option", name=re.compile("green dotted circle"))).to_be_visible()
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(box).to_have_value("green dotted circle")
    expect(page.get_by_text("29 attributes of 29 set.")).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox")).to_have_count(0)
