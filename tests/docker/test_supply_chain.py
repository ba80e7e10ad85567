"""What is in the image is listed with the hashes of its pins; an audit that did not happen is not taken for one."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docker.deployments import ROOT, compose_command

DEBIAN = "libc6\t2.36-9+deb12u13\tamd64\nzlib1g\t1:1.2.13.dfsg-1\tamd64\n"


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(f"docker_{name}", ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SBOM, AUDIT = script("sbom"), script("audit")


def pins() -> dict[str, list[str]]:
    found: dict[str, list[str]] = SBOM.pinned((ROOT / "requirements" / "service.txt").read_text().splitlines())
    return found


def by_purl(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {component["purl"]: component for component in bill["components"]}


def test_pins_are_read_with_their_hashes() -> None:
    lines = ["Some_Package[x,y]==1.0 \\", f"    --hash=sha256:{'a' * 64} \\", f"    --hash=sha256:{'b' * 64}", "# c"]
    assert SBOM.pinned(lines) == {"some-package": ["a" * 64, "b" * 64]}
    assert all(pins().values())
    assert len(pins()) > 30


def test_this_environment_as_a_bill_of_materials() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SBOM.PYTHON], capture_output=True, text=True, check=True)
    found = [one for one in json.loads(done.stdout) if SBOM.normal(one["name"]) in pins()]
    bill = SBOM.bill("d3gzsl-service", packages=found, debian=DEBIAN, pins=pins())  # which its schema has checked
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "d3gzsl-service"
    listed = by_purl(bill)
    pillow = next(one for purl, one in listed.items() if purl.startswith("pkg:pypi/pillow@"))
    assert {"libavif", "libtiff"} <= {library["name"] for library in pillow["components"]}
    allowed = [one["value"] for one in pillow["properties"] if one["name"] == "d3gzsl:allowed:sha256"]
    assert sorted(allowed) == sorted(pins()["pillow"])
    assert "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64" in listed
    assert {purl.split("@")[0].removeprefix("pkg:pypi/") for purl in listed if "pypi" in purl} <= set(pins())
    (whole,) = [one for one in bill["dependencies"] if one["ref"] == "image:d3gzsl-service"]
    assert len(whole["dependsOn"]) == len(bill["components"])


def test_an_audit_that_reached_nobody_found_nothing_out() -> None:
    skipped = {"name": "a", "skip_reason": "not found"}
    assert AUDIT.verdict([skipped])[0] == AUDIT.verdict([])[0] == AUDIT.NOT_AUDITED
    clean = {"name": "b", "version": "1", "vulns": []}
    assert AUDIT.verdict([clean, skipped]) == (
        0,
        ["not audited: a: not found", "1 packages were audited: no vulnerability is known"],
    )
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    status, lines = AUDIT.verdict([clean, bad])
    assert (status, lines[0]) == (1, "c 2: CVE-1, mended in 3")


@pytest.mark.docker
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("built")
def test_the_bill_of_materials_of_the_image_holds_every_pin(tmp_path: Path) -> None:
    assert compose_command() is not None
    SBOM.main(["d3gzsl-service", "--out", str(tmp_path / "sbom.json")])
    listed = by_purl(json.loads((tmp_path / "sbom.json").read_text()))
    names = {purl.split("@")[0].removeprefix("pkg:pypi/") for purl in listed if purl.startswith("pkg:pypi/")}
    # Pins for other systems are not in it, and nothing but ours is in it without a pin.
    assert names - set(pins()) == {"d3gzsl"}
    assert {"numpy", "onnxruntime", "pillow", "fastapi", "sqlalchemy"} <= names
    assert "pillow-heif" not in names
    assert sum(purl.startswith("pkg:deb/debian/") for purl in listed) > 50


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="the image d3gzsl-no-such-image cannot be asked"):
        SBOM.main(["d3gzsl-no-such-image", "--out", str(tmp_path / "sbom.json")])
