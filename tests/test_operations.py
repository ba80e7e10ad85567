"""The lines of the page on operating name what there is."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

from tests.docker.test_files import OPERATIONS, PROFILES, services
from tests.pages import ROOT, blocks, inline
from tests.test_docs import check_call


def test_lines_of_the_page_name_profiles_services_and_folders_that_exist() -> None:
    lines = re.sub(r"\\\n\s*", " ", "\n".join(blocks(OPERATIONS.read_text(), "sh"))).splitlines()
    lines += [code for code in inline(OPERATIONS.read_text()) if code.startswith("docker compose ")]
    composed = [shlex.split(line.partition("docker compose ")[2]) for line in lines if "docker compose " in line]
    assert len(composed) >= 15
    for words in composed:
        named = {word for before, word in pairwise(words) if before == "--profile"}
        assert named <= PROFILES, words
        command = next(word for word in words if word in ("up", "down", "run", "exec", "build", "stop", "cp", "ps"))
        rest = words[words.index(command) + 1 :]
        started = [word for word in rest if word in services()]
        for service in started:
            assert set(services()[service].get("profiles", ())) <= named, words
        if command == "run" and len(rest) > 2:
            check_call(["d3gzsl-train", *rest[rest.index("train") + 1 :]])
        if "d3gzsl" in rest:
            check_call(rest[rest.index("d3gzsl") :])
    applied = [line.split(" apply -k ")[1] for line in lines if " apply -k " in line]
    assert applied
    assert [folder for folder in applied if not (ROOT / folder / "kustomization.yaml").is_file()] == []
