"""What programs may import of `training`, the examples in its docstrings, and that importing it alone loads little."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import training
from tests.training.matfiles import contents, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", training.__all__)
def test_the_example_of_a_public_name_is_true(name: str, store_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    """The names in capitals stand for a user's own folders."""
    places = {
        "PHOTOS": store_dir.parent / "data",
        "BACKBONE": store_dir.parent / "backbone.onnx",
        "FEATURES": store_dir,
        "BENCHMARK": write(tmp_path / "benchmark", *contents()),
        "FINISHED_RUN": run_dir,
        "RUN_DIR": tmp_path / "run",
        "OUT": tmp_path,
    }
    module = importlib.import_module(training._DEFINED_IN[name])
    examples = doctest.DocTestFinder(recurse=True).find(getattr(training, name), name, module, globs=places)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in examples:
        runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0


def test_the_package_alone_loads_little() -> None:
    heavy = {"numpy", "torch", "onnx", "onnxruntime", "pydantic", "scipy"}
    code = f"import training, sys; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        training.nothing  # noqa: B018  # the look-up is what is tested


def test_its_types_are_for_others_too() -> None:
    assert (Path(training.__file__).parent / "py.typed").is_file()
