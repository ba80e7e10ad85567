"""What programs may import, the examples in its docstrings, and that importing it alone loads little."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import model
import service

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["service.client.clients", "service.library", "service.server.app", "model.bundle"])
def test_the_examples_are_true(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("package", [service, model])
def test_every_public_name_is_there_and_says_what_it_is(package) -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018  # the look-up is what is tested


def test_the_packages_alone_load_little() -> None:
    heavy = {"fastapi", "httpx", "numpy", "onnx", "onnxruntime", "pydantic", "sqlalchemy"}
    code = f"import model, service, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [service, model])
def test_their_types_are_for_others_too(package) -> None:
    assert (Path(package.__file__).parent / "py.typed").is_file()
