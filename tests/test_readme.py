"""The lines of the README and of the service's pages, run by a shell as they stand, against the embedded bundle."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from model.manifest import Manifest
from service.settings import EMBEDDED_BUNDLE
from tests.pages import README, ROOT, blocks, inline, section
from tests.service.nursery import Nursery
from tests.service.processes import Address

TRY_IT = section(README.read_text(), "Try it")
ADDRESS = "http://127.0.0.1:8000"
UNSEEN, NEW, PHOTOGRAPHED = "red-dotted-heart", "blue-dotted-circle", "green-dotted-cross"


def shell(lines: str, server: Address) -> str:
    """What lines print; only the address is another, as the port of the page may be taken."""
    assert ADDRESS in lines
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines.replace(ADDRESS, server.url)],
        cwd=ROOT,
        env={**os.environ, "D3GZSL_KEY": "a-service-without-keys-takes-any"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{lines}\n{done.stderr}"
    return done.stdout


def curls(text: str) -> list[str]:
    return [block for block in blocks(text, "sh") if "curl " in block]


def ids(answer: dict[str, Any]) -> list[str]:
    (result,) = answer["results"]
    return [prediction["class_id"] for prediction in result["predictions"]]


def classify_photo(lines: str) -> str:
    return lines.replace(NEW, PHOTOGRAPHED)


def test_what_the_readme_tries(tmp_path: Path, nursery: Nursery) -> None:
    classify_unseen, classify_before, register, classify_after, register_photo = curls(TRY_IT)
    (remove,) = [code for code in inline(TRY_IT) if code.startswith("curl ")]
    with nursery.server(None, tmp_path / "registry") as server:
        unseen = json.loads(shell(classify_unseen, server))
        assert ids(unseen)[0] == UNSEEN
        assert len(ids(unseen)) == 3
        assert unseen["results"][0]["predictions"][0]["kind"] == "unseen"

        assert NEW not in ids(json.loads(shell(classify_before, server)))
        registered = json.loads(shell(register, server))
        assert registered["id"] == NEW
        assert registered["filled"]
        assert registered["out_of_range"] == []
        assert ids(json.loads(shell(classify_after, server)))[0] == NEW
        assert ids(json.loads(shell(classify_unseen, server)))[0] == UNSEEN
        by_photo = json.loads(shell(register_photo, server))
        assert (by_photo["id"], by_photo["examples"], by_photo["attributes"]) == (PHOTOGRAPHED, 1, None)
        assert ids(json.loads(shell(classify_photo(classify_after), server)))[0] == PHOTOGRAPHED

    with nursery.server(None, tmp_path / "registry") as server:
        assert ids(json.loads(shell(classify_after, server)))[0] == NEW
        assert shell(remove, server) == ""
        assert NEW not in ids(json.loads(shell(classify_after, server)))


def test_the_readme_counts_the_classes_of_the_bundle() -> None:
    manifest = Manifest.from_json(json.loads((EMBEDDED_BUNDLE / "manifest.json").read_text()))
    kinds = [entry.kind for entry in manifest.classes]
    words = " ".join(TRY_IT.split())
    (seen,) = re.findall(r"(\d+) classes it was trained on", words)
    (unseen,) = re.findall(r"(\d+) it only knows by", words)
    assert (kinds.count("seen"), kinds.count("unseen")) == (int(seen), int(unseen))


@pytest.mark.parametrize(("page", "least"), [("running.md", 1), ("http-api.md", 15)])
def test_the_curl_lines_of_a_page(page: str, least: int, tmp_path: Path, nursery: Nursery) -> None:
    """In order, each answered without a problem."""
    examples = curls((ROOT / "docs" / page).read_text())
    assert len(examples) >= least
    with nursery.server(None, tmp_path / "registry") as server:
        for lines in examples:
            printed = shell(lines, server)
            assert printed or "-X DELETE" in lines, lines
            assert '"request_id"' not in printed, f"{lines}\n{printed}"
