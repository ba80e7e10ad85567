"""The commands, as a user types them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import service.settings
from service.keys import digest
from tests.service.nursery import Nursery
from tests.service.processes import Server, command
from tests.service.tiny import NAMES, VIOLET, png


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    files = []
    for name, colour in (("red", (255, 0, 0)), ("violet", (230, 0, 230))):
        files.append(tmp_path / f"{name}.png")
        files[-1].write_bytes(png(colour))
    return files


@pytest.fixture
def fresh(server: Server) -> Iterator[Server]:
    """The shared server, with the classes of the test removed again."""
    before = {c["id"] for c in server.request("GET", "/classes").json()["classes"]}
    yield server
    for c in server.request("GET", "/classes").json()["classes"]:
        if c["id"] not in before:
            server.request("DELETE", f"/classes/{c['id']}")


def ran(*arguments: object, **variables: str) -> str:
    result = command(*arguments, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def failed(*arguments: object, **variables: str) -> str:
    result = command(*arguments, **variables)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_bundle_and_a_service_give_the_same_answers(server: Server, bundle_dir: Path, images: list[Path]) -> None:
    local = json.loads(ran("classify", *images, "--bundle", bundle_dir, "--json"))
    remote = json.loads(ran("classify", *images, "--url", server.url, "--json"))
    assert local["bundle"] == remote["bundle"]
    assert [r["predictions"][0]["class_id"] for r in local["results"]] == ["reddish", "bluish"]
    for ours, theirs in zip(local["results"], remote["results"], strict=True):
        assert {k: v for k, v in ours.items() if k != "predictions"} == pytest.approx(
            {k: v for k, v in theirs.items() if k != "predictions"}
        )
        assert ours["predictions"] == [
            {**p, "probability": pytest.approx(p["probability"], rel=1e-4)} for p in theirs["predictions"]
        ]


def test_the_embedded_bundle_is_the_default(
    bundle_dir: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.settings, "EMBEDDED_BUNDLE", bundle_dir)
    assert json.loads(ran("classify", images[0], "--json"))["results"][0]["predictions"][0]["class_id"] == "reddish"
    monkeypatch.setattr(service.settings, "EMBEDDED_BUNDLE", tmp_path / "none")
    for arguments in (("classify", images[0]), ("serve", "--data-dir", tmp_path)):
        assert "no embedded demo bundle; name a bundle with --bundle DIR" in failed(*arguments)


def test_people_get_a_table(bundle_dir: Path, images: list[Path]) -> None:
    said = ran("classify", images[0], "--bundle", bundle_dir, "--top-k", 1, "--scope", "unseen")
    assert "Bluish" in said
    assert "1.000" in said
    assert "Reddish" not in said


def test_images_that_cannot_be_read_are_named_beside_the_others(
    server: Server, bundle_dir: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    for where in (("--bundle", bundle_dir), ("--url", server.url)):
        result = command("classify", images[0], tmp_path / "bad.png", "--json", *where)
        assert result.returncode == 2
        assert "bad.png: not an image in a format that is read here" in result.stderr
        good, bad = json.loads(result.stdout)["results"]
        assert good["predictions"][0]["class_id"] == "reddish"
        assert "error" in bad
        for wrong in (tmp_path / "bad.png", tmp_path / "none.png", tmp_path):
            assert f"1 of 1 images could not be read\n{wrong}: " in failed("classify", wrong, *where)
        (tmp_path / "Thumbs.db").write_text("x")  # as `photos/*` names it
        asked = (images[0], tmp_path / "none.png", tmp_path, tmp_path / "Thumbs.db", images[1], "--json", *where)
        result = command("classify", *asked)
        assert result.returncode == 2
        assert f"2 of 4 images could not be read\n{tmp_path / 'none.png'}: No such file" in result.stderr
        found = json.loads(result.stdout)
        assert [list(r)[-1] for r in found["results"]] == ["predictions", "error", "error", "predictions"]
        assert found["registry_version"] >= 0
    assert "exclude each other" in failed("classify", images[0], "--bundle", bundle_dir, "--url", server.url)


def test_classes_are_added_listed_shown_and_removed(fresh: Server) -> None:
    url = ("--url", fresh.url)
    said = ran("classes", "add", "Violet", "--attributes", "red=0.9,blue=0.9", *url)
    assert said.startswith("violet is in version ")
    assert "1 attributes took their mean" in said
    assert "already" in failed("classes", "add", "Violet", "--attributes", "[0.9, 0, 0.9]", *url)
    ran("classes", "add", "Violet", "--attributes", "[0.9, 0, 0.9]", "--replace", *url)
    ran("classes", "add", "Violet#", "--attributes", "[0.9, 0, 0.8]", *url)
    again = json.loads(ran("classes", "add", "Violet#", "--attributes", "[0.9, 0, 0.7]", "--replace", "--json", *url))
    assert (again["id"], again["status"], again["attributes"]) == ("violet-2", "replaced", [0.9, 0, 0.7])
    ran("classes", "remove", "violet-2", *url)

    listed = json.loads(ran("classes", "list", "--json", "--kind", "unseen", *url))
    assert [c["id"] for c in listed] == ["bluish", "violet"]
    assert "Violet" in ran("classes", "list", *url)
    shown = json.loads(ran("classes", "show", "violet", "--json", *url))
    assert shown["attributes"] == [0.9, 0, 0.9]
    assert "green" in ran("classes", "show", "violet", *url)

    result = command("classes", "remove", "nobody", "violet", *url)
    assert (result.returncode, result.stdout) == (2, "removed violet\n")
    assert "1 of 2 classes were not removed\nnobody: The class does not exist" in result.stderr
    assert "The class does not exist" in failed("classes", "show", "violet", *url)
    assert "Seen classes cannot be changed" in failed("classes", "remove", "reddish", *url)
    wrong = failed("classes", "add", "Violet", "--attributes", "rde=1", *url)
    assert "/attributes/rde: no such attribute in the vocabulary; did you mean red?" in wrong
    assert "expected name=number, got 'red'" in failed("classes", "add", "V", "--attributes", "red", *url)


def test_classes_are_imported_from_csv_and_json(fresh: Server, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["class", "split", *NAMES], ["violet", "unseen", *VIOLET], ["Light Grey", "unseen", 0.8, 0.8, 0.8]]
        )
    done = json.loads(ran("classes", "import", table, "--json", "--url", fresh.url))
    assert [(c["id"], c["status"]) for c in done] == [("violet", "created"), ("light-grey", "created")]
    listed_now = {c["id"]: c["attributes"] for c in fresh.request("GET", "/classes").json()["classes"]}
    assert (listed_now["violet"], listed_now["light-grey"]) == (list(VIOLET), [0.8, 0.8, 0.8])

    listed = tmp_path / "classes.json"
    listed.write_text(json.dumps([{"name": "Violet", "attributes": {"red": 1, "blue": 1, "green": 0}}]))
    assert "exists" in failed("classes", "import", listed, "--url", fresh.url)
    assert ran("classes", "import", listed, "--replace", "--url", fresh.url).startswith("violet is in version")


def test_a_file_is_imported_whole_or_not_at_all(fresh: Server, tmp_path: Path) -> None:
    def version() -> int:
        found: int = fresh.request("GET", "/registry").json()["registry_version"]
        return found

    listed = tmp_path / "classes.json"
    good = [{"name": f"Grey {i}", "attributes": [0.1 * i, 0.5, 0.5]} for i in range(4)]
    listed.write_text(json.dumps([*good, {"name": "Bad", "attributes": {"rde": 1}}]))
    before = version()
    said = failed("classes", "import", listed, "--url", fresh.url)
    assert "/classes/4/attributes/rde: no such attribute in the vocabulary; did you mean red?" in said
    assert version() == before
    listed.write_text(json.dumps(good))
    said = ran("classes", "import", listed, "--url", fresh.url)
    assert version() == before + 1
    assert said.count(f"is in version {before + 1}") == 4
    listed.write_text(json.dumps([{**c, "description": "new"} for c in good]))
    ran("classes", "import", listed, "--replace", "--chunk", 3, "--url", fresh.url)
    assert version() == before + 3


def test_a_class_is_tried_out(fresh: Server, images: list[Path]) -> None:
    before = fresh.request("GET", "/registry").json()
    wanted = ("classes", "preview", "Violet", "--attributes", "red=0.9,blue=0.9,green=0", "--url", fresh.url)
    said = ran(*wanted, "--image", images[1], "--neighbours", 2)
    for words in ("violet is not taken", "cosine of rows", "bluish", "violet.png: violet 1.000"):
        assert words in said
    found = json.loads(ran(*wanted, "--id", "bluish", "--json"))
    assert (found["exists"], found["results"]) == (True, [])
    assert "almost the same as reddish" in ran(
        "classes", "preview", "R", "--attributes", "[0.5,0,0]", "--url", fresh.url
    )
    assert "none.png" in failed(*wanted, "--image", images[0].parent / "none.png")
    assert fresh.request("GET", "/registry").json() == before


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "a.csv",
            "class,red,green,blue\nx,1,2,many\n",
            "a.csv line 2, column 'blue': expected a finite number of class 'x', found 'many'",
        ),
        ("a.csv", "class,red,green,blue\nx,1,2\n", "a.csv line 2: expected 4 cells as in line 1, found 3"),
        (
            "a.csv",
            "class,red,,blue\nx,1,,2\n",
            "a.csv line 1: expected a name for every column, found none for column 3",
        ),
        ("a.csv", "class;red\nx;1\n", "a.csv line 1: expected columns separated by commas"),
        ("a.csv", "class,red,red\nx,1,1\n", "a.csv line 1: expected every column once, found 'red' 2 times"),
        ("a.csv", "class,red\nx,inf\n", "found 'inf'"),
        ("a.csv", "red,green,blue\n1,2,3\n", "expected a header with the column class or name"),
        ("a.json", '{"name": "x"}', "expected a JSON list of objects with a name"),
        ("a.json", "{", "is not JSON"),
    ],
)
def test_files_that_cannot_be_imported_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    assert words in failed("classes", "import", tmp_path / name, "--url", "http://127.0.0.1:9")


def test_a_table_as_spreadsheets_write_it_is_imported(fresh: Server, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_bytes(b"\xef\xbb\xbfclass,red,green,blue,,\r\ntrail,0.1,0.2,0.3,,\r\n,,,,,\r\n\r\n")
    assert ran("classes", "import", table, "--url", fresh.url).startswith("trail is in version")
    assert json.loads(ran("classes", "show", "trail", "--json", "--url", fresh.url))["attributes"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"all_proxy": "socks://127.0.0.1:1080/", "NO_PROXY": "localhost,[::1]"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "fd07:b51a:cc66:f0::/64"},
    ],
)
def test_a_service_on_this_machine_is_reached_whatever_the_proxies(server: Server, variables: dict[str, str]) -> None:
    assert "Reddish" in ran("classes", "list", "--url", server.url, **variables)


def test_a_proxy_that_does_not_work_is_named_by_its_variable() -> None:
    wanted = ("classes", "list", "--url", "http://service.invalid")
    assert "ALL_PROXY (socks5://127.0.0.1:9): SOCKS proxies need" in failed(*wanted, ALL_PROXY="socks5://127.0.0.1:9")
    said = failed(*wanted, HTTP_PROXY="http://me:secret@127.0.0.1:9", NO_PROXY="[::1]")
    assert "through the proxy of HTTP_PROXY (http://127.0.0.1:9); NO_PROXY=service.invalid asks" in said
    assert "secret" not in said


def test_a_service_that_is_not_there_is_named() -> None:
    assert "http://127.0.0.1:9 cannot be reached" in failed("classes", "list", "--url", "http://127.0.0.1:9")
    assert "is not an address" in failed("classes", "list", "--url", "http://localhost:many")


def test_a_bundle_is_inspected_and_verified(bundle_dir: Path, tmp_path: Path) -> None:
    said = ran("bundle", "inspect", bundle_dir)
    for words in ("tiny.onnx, 6 features", "2 seen, 1 unseen", "lda, 4 dimensions", "test.H"):
        assert words in said
    assert "--full" not in said
    assert json.loads(ran("bundle", "inspect", bundle_dir, "--json"))["schema_version"] == 1
    assert "is whole" in ran("bundle", "verify", bundle_dir)
    assert json.loads(ran("bundle", "verify", bundle_dir, "--json"))["ok"] is True
    for name in ("inspect", "verify"):
        assert "no bundle at" in failed("bundle", name, tmp_path / "none")


def test_a_bundle_is_inspected_on_one_screen() -> None:
    said = ran("bundle", "inspect", service.settings.EMBEDDED_BUNDLE, COLUMNS="80")
    assert len(said.splitlines()) <= 24
    for words in ("counts as", "lda.H", "novelty.auroc", "validation.H", "evaluate", "more results with --full"):
        assert words in said
    assert "per_class" not in said
    full = ran("bundle", "inspect", service.settings.EMBEDDED_BUNDLE, "--full")
    assert "lda.per_class.red-checked-circle" in full
    assert "--full" not in full


def test_what_attributes_mean_is_shown(bundle_dir: Path, tmp_path: Path, nursery: Nursery) -> None:
    told = Path(shutil.copytree(bundle_dir, tmp_path / "told"))
    manifest = json.loads((told / "manifest.json").read_text())
    manifest["vocabulary"]["attributes"][1] |= {"description": "How much of it is green", "unit": "share"}
    (told / "manifest.json").write_text(json.dumps(manifest))
    ran("bundle", "verify", told)  # it is the same bundle
    assert "How much of it is green" in ran("bundle", "inspect", told, "--full")
    with nursery.server(told, tmp_path / "data") as server:
        red, green, _blue = server.request("GET", "/attributes").json()["attributes"]
        shown = ran("classes", "show", "greenish", "--url", server.url)
    assert set(red) == {"name", "min", "max", "mean"}
    assert (green["description"], green["unit"]) == ("How much of it is green", "share")
    assert "How much of it is green" in shown


def test_verify_finds_what_inspect_does_not_read(bundle_dir: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(bundle_dir, tmp_path / "broken"))
    (broken / "head.npz").write_bytes(b"damaged")
    ran("bundle", "inspect", broken)
    assert "head.npz is damaged" in failed("bundle", "verify", broken)


def test_keys_open_the_service(bundle_dir: Path, tmp_path: Path, nursery: Nursery) -> None:
    keys_file = tmp_path / "keys"
    made = {
        role: json.loads(ran("keys", "new", "--role", role, "--keys-file", keys_file, "--json"))["key"]
        for role in ("classify", "admin")
    }
    lines = [f"{role}:{digest(key)} id={digest(key)[:8]}\n" for role, key in made.items()]
    assert keys_file.read_text() == "".join(lines)
    assert keys_file.stat().st_mode & 0o077 == 0
    with nursery.server(bundle_dir, tmp_path / "data", "--keys-file", str(keys_file)) as server:
        add = ("classes", "add", "Violet", "--attributes", "red=1", "--url", server.url)
        assert "A valid key is needed" in failed(*add)
        assert "The key's role does not allow this" in failed(*add, D3GZSL_KEY=made["classify"])
        ran(*add, "--key", made["admin"])
        ran("classes", "list", "--url", server.url, D3GZSL_KEY=made["classify"])


def test_help_names_every_command() -> None:
    said = ran("--help")
    for name in ("serve", "classify", "classes", "bundle", "keys"):
        assert name in said
    assert ran("--version").strip() == "0.1.0"
    flags = ran("serve", "--help")
    for words in ("--max-image-bytes", "D3GZSL_MAX_IMAGE_BYTES", "--allow-anonymous", "8000"):
        assert words in flags


@pytest.mark.parametrize("command_line", [["serve", "--port", "0"], ["classify"]])
def test_a_bundle_with_a_head_that_is_not_served_is_refused(
    bundle_dir: Path, images: list[Path], tmp_path: Path, command_line: list[str]
) -> None:
    shutil.copytree(bundle_dir, tmp_path / "softmax")
    file = tmp_path / "softmax" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["head"]["shrinkage"]
    manifest["head"] |= {"kind": "softmax", "penalty": 0.1, "tolerance": 1e-4}
    file.write_text(json.dumps(manifest))
    given = images[:1] if command_line == ["classify"] else ["--data-dir", tmp_path]
    (line,) = failed(*command_line, *given, "--bundle", tmp_path / "softmax").strip().splitlines()
    assert str(tmp_path / "softmax") in line
    assert "lda" in line
    assert "softmax" in line
