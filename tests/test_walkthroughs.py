"""The pages that lead through something, every line of them run in order as it stands."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.bundle import Bundle
from tests.pages import README, ROOT, blocks
from tests.service.nursery import Nursery
from tests.service.processes import Address, environment, serving
from tests.training import tiny
from tests.training.file_server import FileServer
from tests.training.file_server import serving as files_served
from tests.training.photos import write_backbone

ADDRESS = "http://127.0.0.1:8000"
DOTTED, CHECKED = "green dotted cross", "green checked cross"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def shell(lines: str, folder: Path) -> str:
    """What lines print, with the project's commands and `python` at hand."""
    commands = str(Path(sys.executable).parent)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=environment(PATH=os.pathsep.join([commands, os.environ["PATH"]]), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=_on_one_processor,
        check=False,
    )
    assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _on_one_processor() -> None:
    """Two threads of a tiny training wait for each other longer than they compute where other tests run beside it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def of_service(name: str, server: Address) -> list[str]:
    """What every block of a page prints, asking a service that runs here."""
    text = page(name)
    assert [line for line in blocks(text, "sh") if ADDRESS not in line] == []
    return [shell(lines.replace(ADDRESS, server.url), ROOT) for lines in blocks(text, "sh")]


def first_class(printed: str) -> str:
    """The first row of the table that `d3gzsl classify` prints, without spaces."""
    row = next(line for line in printed.splitlines() if ".jpg" in line or "…" in line)
    return re.split(r"\s{2,}", row.strip())[1]


def test_your_first_class(tmp_path: Path, nursery: Nursery) -> None:
    with nursery.server(None, tmp_path / "registry") as server:
        before, attributes, preview, added, after, photo, versions = of_service("your-first-class.md", server)
        assert first_class(before) == CHECKED
        assert f"`{CHECKED}`" in page("your-first-class.md")
        assert {"texture_dotted", "texture_striped"} <= {a["name"] for a in json.loads(attributes)["attributes"]}
        assert "green-dotted-cross is not taken" in preview
        assert "green-dotted-cross.jpg: green-dotted-cross 0." in preview
        assert "; today green-checked-cross 0." in preview
        assert "in version 1" in added
        assert first_class(after) == DOTTED
        assert "1" in photo
        history, rolled_back = (json.loads(line) for line in re.split(r"(?<=})\n?(?={)", versions.strip()))
        assert [entry["registry_version"] for entry in history["versions"]] == [1, 2]
        assert rolled_back["registry_version"] == 3
        assert server.request("GET", "/classes/green-dotted-cross").status_code == 404
        back = server.request("POST", "/registry:rollback", json={"version": 2}, headers={"If-Match": "*"})
        assert back.status_code == 200
        assert server.request("GET", "/classes/green-dotted-cross").json()["examples"] == 1


def test_why_is_my_class_confused(tmp_path: Path, nursery: Nursery) -> None:
    with nursery.server(None, tmp_path / "registry") as server:
        vague, preview, explained, mended, _photo, penalty = of_service("why-confused.md", server)
    rows = [line for line in vague.splitlines() if "unseen" in line or " seen " in line]
    assert [name in line for name, line in zip((DOTTED, CHECKED), rows, strict=False)] == [True, True]
    assert preview.splitlines()[0].endswith("attributes took their mean")
    own, checked = json.loads(explained)["results"][0]["predictions"]
    assert (own["name"], checked["name"]) == (DOTTED, CHECKED)
    assert checked["explanation"]["opposing"][0]["attribute"] == "texture_dotted"
    named = {a["attribute"] for kind in ("supporting", "opposing") for a in own["explanation"][kind]}
    assert "texture_dotted" not in named
    assert probability(mended) > probability(vague) + 0.1
    assert json.loads(penalty)["results"][0]["predictions"][0]["name"] == DOTTED


def probability(printed: str) -> float:
    """Of the first row."""
    row = next(line for line in printed.splitlines() if DOTTED in line and "version" not in line)
    return float(re.findall(r"\b[01]\.\d+", row)[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_readme_makes_a_bundle_of_drawings(tmp_path: Path) -> None:
    """The lines for those without photos, which need no network."""
    (block,) = [block for block in blocks(README.read_text(), "sh") if "sample-photos" in block]
    lines = [line for line in block.splitlines() if "drawings" in line]
    assert [line.split()[1] for line in lines] == ["sample-photos", "make"]
    (tmp_path / "service").symlink_to(ROOT / "service")
    printed = shell("\n".join(lines), tmp_path)
    assert "next: d3gzsl serve --bundle drawings-bundle" in printed
    assert Bundle.load(tmp_path / "drawings-bundle").manifest.metrics["lda"]["H"] > 0.9


# --- animals ----------------------------------------------------------------------------------------------------------

_CLASSES = """
antelope grizzly+bear killer+whale beaver dalmatian persian+cat horse german+shepherd blue+whale siamese+cat skunk
mole tiger hippopotamus leopard moose spider+monkey humpback+whale elephant gorilla ox fox sheep seal chimpanzee
hamster squirrel rhinoceros rabbit bat giraffe wolf chihuahua rat weasel otter buffalo zebra giant+panda deer bobcat
pig lion mouse polar+bear collie walrus raccoon cow dolphin
"""
CLASSES = _CLASSES.split()
_ATTRIBUTES = """
black white blue brown gray orange red yellow patches spots stripes furry hairless toughskin big small bulbous lean
flippers hands hooves pads paws longleg longneck tail chewteeth meatteeth buckteeth strainteeth horns claws tusks
smelly flys hops swims tunnels walks fast slow strong weak muscle bipedal quadrapedal active inactive nocturnal
hibernate agility fish meat plankton vegetation insects forager grazer hunter scavenger skimmer stalker newworld
oldworld arctic coastal desert bush plains forest fields jungle mountains ocean ground water tree cave fierce timid
smart group solitary nestspot domestic
"""
ATTRIBUTES = _ATTRIBUTES.split()


def archive_of_animals() -> bytes:
    """An archive with the form of AWA2's: its tables, and six small pictures of each class."""
    random = np.random.default_rng(0)
    values = np.round(random.uniform(0, 100, (50, 85)), 2)
    values[3, 7] = -1  # a missing one
    root, out = "Animals_with_Attributes2", io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, words in (("classes.txt", CLASSES), ("predicates.txt", ATTRIBUTES)):
            lines = "".join(f"{number:7d}\t{word}\n" for number, word in enumerate(words, start=1))
            archive.writestr(f"{root}/{name}", lines)
        matrix = "\n".join(" ".join(f"{value:7.2f}" for value in row) for row in values)
        archive.writestr(f"{root}/predicate-matrix-continuous.txt", matrix + "\n")
        for row, name in zip(values, CLASSES, strict=True):
            for number in range(10001, 10007):
                picture = io.BytesIO()
                pixels = row[:3] * 2.5 + random.normal(0, 10, (12, 12, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(picture, "JPEG")
                archive.writestr(f"{root}/JPEGImages/{name}/{name}_{number}.jpg", picture.getvalue())
    return out.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_animals_with_attributes(tmp_path: Path) -> None:
    """From an archive of the same form to answers of the service; with a small network in place of ResNet-101."""
    assert (len(CLASSES), len(ATTRIBUTES)) == (50, 85)
    text = page("animals.md")
    download, make, serve, ask = blocks(text, "sh")
    (table,) = blocks(text, "python")
    network = write_backbone(tmp_path / "small.onnx", dim=8)
    with files_served(FileServer({"/AwA2/AwA2-data.zip": archive_of_animals()})) as host:
        shell(download.replace("https://cvml.ista.ac.at", host.url), tmp_path)
    shell(f"python - <<'END'\n{table}\nEND", tmp_path)
    lines = (tmp_path / "animals" / "classes.csv").read_text().splitlines()
    assert len(lines) == 51
    assert sum(",unseen," in line for line in lines) == 10
    assert lines[4].split(",")[9] == "0.0"

    settings = " ".join(f"--set '{setting}'" for setting in tiny.SETTINGS)
    assert "--backbone imagenet" in make
    shell(make.replace("--backbone imagenet", f"--backbone {network} {settings}"), tmp_path)
    bundle = Bundle.load(tmp_path / "awa2")
    unseen = {entry.name for entry in bundle.manifest.classes if entry.kind == "unseen"}
    assert unseen == {"sheep", "dolphin", "bat", "seal", "blue whale", "rat", "horse", "walrus", "giraffe", "bobcat"}
    assert (tmp_path / "awa2-training" / "run" / "report.html").is_file()

    assert serve == "d3gzsl serve --bundle awa2\n"
    with serving(tmp_path / "awa2", tmp_path / "registry") as server:
        printed = shell(ask.replace(ADDRESS, server.url), tmp_path)
    answers: list[Any] = [json.loads(part) for part in re.split(r"(?<=})\n?(?={)", printed.strip())]
    assert len(answers[0]["results"][0]["predictions"]) == 3
    assert (answers[1]["id"], answers[1]["kind"]) == ("okapi", "unseen")
    assert server.url not in text
