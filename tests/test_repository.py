"""What is in the repository, in the pins, and in the wheel that is built from it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.model import tiny

ROOT = Path(__file__).parents[1]
PACKAGES = ("model", "service", "training")
MAX_FILE_BYTES = 8_000_000


def tracked() -> list[str]:
    """Paths of the files under version control."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_that_has_no_place_here() -> None:
    forbidden = re.compile(
        r"(^|/)(uv\.lock|poetry\.lock|\.env|id_rsa)$|\.(pkl|pickle|pt|pth|joblib|mat|pyc|so|whl|sqlite3?|db|pem|key)$"
    )
    assert [name for name in tracked() if forbidden.search(name)] == []


def test_no_file_is_larger_than_the_demo_bundle_may_be() -> None:
    assert [name for name in tracked() if (ROOT / name).stat().st_size > MAX_FILE_BYTES] == []


def test_docker_is_no_package() -> None:
    """It would shadow the Docker SDK."""
    assert not (ROOT / "docker" / "__init__.py").exists()


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert re.match(r"\s+Apache License\s+Version 2\.0, January 2004\s+http://www\.apache\.org/licenses/", text)
    assert len(re.findall(r"^   \d\. ", text, flags=re.MULTILINE)) == 9
    assert "END OF TERMS AND CONDITIONS" in text
    assert "APPENDIX: How to apply the Apache License to your work." in text


# --- pins -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pin:
    requirement: Requirement
    version: Version
    hashes: tuple[str, ...]


def pins(file: str) -> list[Pin]:
    text = (ROOT / "requirements" / file).read_text()
    logical = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    found = []
    for line in filter(None, logical.split("\n")):
        head, *hashes = re.split(r"\s+--hash=", line)
        requirement = Requirement(head)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        found.append(Pin(requirement=requirement, version=Version(specifier.version), hashes=tuple(hashes)))
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct(file: str) -> list[Requirement]:
    """The direct dependencies that a file of pins must hold."""
    fields = project()
    base, extras, groups = fields["project"]["dependencies"], fields["project"]["optional-dependencies"], {}
    for name, entries in fields["dependency-groups"].items():
        groups[name] = [e for e in entries if isinstance(e, str)]
    wanted = {
        "service.txt": [*base, *extras["cpu"], *extras["postgres"], *extras["tracing"]],
        "service-gpu.txt": [*base, *extras["gpu"], *extras["postgres"], *extras["tracing"]],
        "training.txt": [*base, *extras["cpu"], *extras["training"], *extras["tensorboard"]],
        "dev.txt": [
            *base,
            *extras["cpu"],
            *extras["postgres"],
            *extras["training"],
            *extras["bulk"],
            *extras["heic"],
            *extras["tracing"],
            *groups["dev"],
            *groups["build"],
        ],
        "build.txt": groups["build"],
        "heic.txt": extras["heic"],
    }
    return [Requirement(text) for text in wanted[file]]


FILES = ("service.txt", "service-gpu.txt", "training.txt", "dev.txt", "build.txt", "heic.txt")


def test_these_are_all_the_files_of_pins() -> None:
    assert {p.name for p in (ROOT / "requirements").iterdir()} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_every_line_is_a_pin_with_hashes(file: str) -> None:
    found = pins(file)
    assert found
    for pin in found:
        assert pin.hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in pin.hashes), pin


@pytest.mark.parametrize("file", FILES)
def test_every_direct_dependency_is_pinned_within_its_bounds(file: str) -> None:
    found = pins(file)
    for requirement in direct(file):
        own = [p for p in found if normal(p.requirement.name) == normal(requirement.name)]
        assert own, f"{requirement.name} is not in {file}: run `make lock`"
        for pin in own:
            assert pin.version in requirement.specifier, f"{file} pins {pin.requirement}: run `make lock`"


@pytest.mark.parametrize("file", FILES)
def test_pins_name_no_place_to_download_from(file: str) -> None:
    text = (ROOT / "requirements" / file).read_text()
    assert "://" not in text
    assert [line for line in text.split("\n") if line.startswith("-")] == []


@pytest.mark.parametrize("file", [f for f in FILES if f != "dev.txt"])
def test_what_is_served_is_what_was_tested(file: str) -> None:
    tested: dict[str, set[Version]] = {}
    for pin in pins("dev.txt"):
        tested.setdefault(pin.requirement.name, set()).add(pin.version)
    others = [pin for pin in pins(file) if pin.version not in tested.get(pin.requirement.name, set())]
    if file == "service-gpu.txt":  # its runtime, and what only that needs, cannot stand beside the one for CPUs
        others = [pin for pin in others if pin.requirement.name in tested]
    assert others == []


@pytest.mark.parametrize(("file", "runtime"), [("service.txt", "onnxruntime"), ("service-gpu.txt", "onnxruntime-gpu")])
def test_the_service_has_one_runtime_and_no_torch(file: str, runtime: str) -> None:
    names = {normal(p.requirement.name) for p in pins(file)}
    assert names & {"onnxruntime", "onnxruntime-gpu"} == {runtime}
    assert not names & {"torch", "torchvision", "onnxscript", "pytest", "ruff"}
    assert [n for n in names if n.startswith("nvidia-")] == [] or file == "service-gpu.txt"


# --- wheel ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("d3gzsl-*.whl")
    return file


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name for name in tracked() if name.split("/")[0] in PACKAGES} <= held
    assert {name.split("/")[0] for name in held} == set(PACKAGES)
    assert [name for name in held if name.endswith(".pyc")] == []


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(info["METADATA"]).decode())
        scripts = archive.read(info["entry_points.txt"]).decode()
        licence = archive.read(info["licenses/LICENSE"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    assert "d3gzsl = service.cli:main" in scripts
    assert "d3gzsl-train = training.cli:main" in scripts


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the service's pins and the wheel, as an operator would make it."""
    beside = Path(sys.executable).parent
    uv = shutil.which("uv", path=os.pathsep.join([str(beside), os.environ["PATH"]]))
    assert uv is not None
    home = tmp_path_factory.mktemp("installed") / "venv"
    pins_file = ROOT / "requirements" / "service.txt"
    for arguments in (
        ["venv", "--no-project", "--python", sys.executable, str(home)],
        ["pip", "sync", "--python", str(home), "--require-hashes", str(pins_file)],
        ["pip", "install", "--python", str(home), "--no-deps", str(wheel)],
    ):
        done = subprocess.run([uv, *arguments], cwd=home.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return home / "bin"


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_from_another_directory(installed: Path, tmp_path: Path) -> None:
    code = (
        "import model, service.server.app, training; "
        "print(model.__file__); print(service.__file__); print(training.__file__)"
    )
    for line in run([str(installed / "python"), "-c", code], tmp_path).split():
        assert Path(line).is_relative_to(installed.parent), line


@pytest.mark.slow
def test_the_service_installs_and_serves_without_torch(installed: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'torchvision', 'onnxscript') if u.find_spec(n)])"
    assert run([str(installed / "python"), "-c", code], tmp_path).strip() == "[]"
    tiny.write(tmp_path / "bundle")
    arguments = ["serve", "--bundle", str(tmp_path / "bundle"), "--data-dir", str(tmp_path / "data"), "--port", "0"]
    service = subprocess.Popen(
        [str(installed / "d3gzsl"), *arguments], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        assert service.stderr is not None
        started = next((found for line in service.stderr if (found := re.search(r"on (http://\S+)", line))), None)
        assert started is not None
        url = started[1]
        deadline = time.monotonic() + 60
        while not answers(url + "/readyz"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        image = (tmp_path / "bundle" / tiny.EXAMPLE.file).read_bytes()
        answer = httpx.post(url + "/classify", content=image, headers={"content-type": "image/png"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"][0]["predictions"][0]["class_id"] == tiny.EXAMPLE.class_id
    finally:
        service.terminate()
        service.communicate(timeout=60)


@pytest.mark.slow
def test_training_without_its_extra_says_how_to_install_it(installed: Path, tmp_path: Path) -> None:
    for line in (["fit", "DATA", "--out", "RUN"], ["evaluate", "RUN"], ["recipes"]):
        command = [str(installed / "d3gzsl-train"), *line]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.endswith("extra `training`: pip install 'd3gzsl[training]'\n")


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
