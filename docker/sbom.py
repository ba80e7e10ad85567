"""The bill of materials (CycloneDX, JSON) of an image of the service: what is in it, asked of the image itself.

    python docker/sbom.py IMAGE --out sbom.json

It lists the Python packages with the hashes of their pins and the libraries that their wheels carry, and the packages
of Debian. Needs a Docker engine that has the image; nothing is asked of any other machine.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).parents[1]
DEBIAN = ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n"]
# Runs in the image, whose Python has no more than the service needs.
PYTHON = """
import json, re
from importlib.metadata import distributions
print(json.dumps([
    {
        "name": d.metadata["Name"],
        "version": d.version,
        "license": d.metadata["License-Expression"] or d.metadata["License"] or "",
        "libraries": sorted({f.name for f in d.files or () if re.search(r"[.]libs/.*[.]so([.]|$)", str(f))}),
    }
    for d in distributions()
]))
"""
_LIBRARY = re.compile(r"(?P<name>[\w.+-]+?)(?:-[0-9a-f]{8})?\.so(?:\.(?P<version>[\d.]+))?$")


def normal(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lines: Iterable[str]) -> dict[str, list[str]]:
    """The SHA-256 hashes of each pin of a requirements file."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if pin := re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==", line):
            name = normal(pin[1])
            found.setdefault(name, [])
        found.get(name, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def bill(
    image: str, *, packages: Sequence[Mapping[str, Any]], debian: str, pins: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The bill of materials, valid by its schema.

    Args:
        image: its name.
        packages: what `PYTHON` prints.
        debian: what `DEBIAN` prints.
        pins: see :func:`pinned`. A package may come as one of several files, so it has several hashes.
    """
    bom = Bom()
    bom.metadata.component = Component(name=image, type=ComponentType.CONTAINER, bom_ref=f"image:{image}")
    components = [*_python(packages, pins), *_debian(debian)]
    bom.components.update(components)
    bom.register_dependency(bom.metadata.component, components)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if (problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise SystemExit(f"error: the bill of materials does not fit its schema: {problem}")
    found: dict[str, Any] = json.loads(text)
    return found


def _python(packages: Sequence[Mapping[str, Any]], pins: Mapping[str, Sequence[str]]) -> Iterator[Component]:
    licences = LicenseFactory()
    for package in packages:
        name, version = normal(package["name"]), package["version"]
        said = package["license"].strip()
        one = Component(
            name=name,
            version=version,
            bom_ref=f"pypi:{name}@{version}",
            purl=PackageURL("pypi", None, name, version),
            # Some packages have the whole text in that field.
            licenses=[licences.make_from_string(said)] if 0 < len(said) <= 100 and "\n" not in said else [],
            properties=[
                Property(name="d3gzsl:pinned", value=str(name in pins).lower()),
                *(Property(name="d3gzsl:allowed:sha256", value=value) for value in pins.get(name, ())),
            ],
        )
        if len(pins.get(name, ())) == 1:
            one.hashes.add(HashType(alg=HashAlgorithm.SHA_256, content=pins[name][0]))
        for file in package["libraries"]:
            library = _LIBRARY.fullmatch(file)
            one.components.add(
                Component(
                    name=library["name"] if library else file,
                    version=library["version"] if library else None,
                    bom_ref=f"pypi:{name}@{version}#{file}",
                    properties=[Property(name="d3gzsl:file", value=file)],
                )
            )
        yield one


def _debian(lines: str) -> Iterator[Component]:
    for line in lines.splitlines():
        name, version, architecture = line.split("\t")
        yield Component(
            name=name,
            version=version,
            bom_ref=f"deb:{name}@{version}:{architecture}",
            purl=PackageURL("deb", "debian", name, version, {"arch": architecture}),
        )


def _of(image: str, program: str, *arguments: str) -> str:
    """What a program prints in a container that can do nothing."""
    line = ["docker", "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--entrypoint", program]
    return subprocess.run([*line, image, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the bill of materials of an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--requirements", type=Path, nargs="+", default=[ROOT / "requirements" / "service.txt"])
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    try:
        packages = json.loads(_of(asked.image, "/opt/d3gzsl/bin/python", "-I", "-c", PYTHON))
        debian = _of(asked.image, *DEBIAN)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"error: the image {asked.image} cannot be asked what is in it: {error}") from None
    pins: dict[str, list[str]] = {}
    for file in asked.requirements:
        pins |= pinned(file.read_text().splitlines())
    found = bill(asked.image, packages=packages, debian=debian, pins=pins)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.stdout.write(f"{asked.out}: {len(packages)} packages of Python, {len(debian.splitlines())} of Debian\n")


if __name__ == "__main__":
    main()
