"""Without an extra every command says in one line which one it needs, and how to install it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from model.errors import MissingDependencyError
from model.outside.extras import what_is_missing
from service.settings import EMBEDDED_BUNDLE
from tests.pages import ROOT
from training.cli import app as training_cli

# Reads [[program, argument...], ...]; prints [[exit status, output, errors], ...] of the commands in a process in which
# the packages that are named first cannot be imported.
RUN = """
import contextlib, io, json, sys
from importlib import import_module

blocked, lines = json.load(sys.stdin)

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
done = []
for program, *arguments in lines:
    out, err, status = io.StringIO(), io.StringIO(), 0
    sys.argv = [program, *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main = import_module("training.cli" if program == "d3gzsl-train" else "service.cli").main
        console = sys.modules.get("training.console")
        if console is not None:
            console.ERRORS.file = err
        try:
            main()
        except SystemExit as end:
            status = end.code
    done.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


def without(packages: list[str], lines: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of command lines where some packages cannot be imported."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("D3GZSL_")}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        input=json.dumps([packages, lines]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(status, out, err) for status, out, err in json.loads(done.stdout)]


TRAINING = ["matplotlib", "onnxscript", "optuna", "safetensors", "tomli_w", "torch", "torchvision", "filelock"]
TRAINING_LINES = [
    ["fit", "data", "--out", "run"],
    ["tune", "data", "--study", "s", "--storage", "sqlite:///s.db", "--trials", "1", "--out", "best.toml"],
    ["evaluate", "run"],
    ["report", "run"],
    ["export", "run", "--out", "bundle"],
    ["demo", "--out", "bundle"],
    ["extract", "data", "--backbone", "b.onnx", "--out", "features"],
    ["backbone", "--weights", "imagenet", "--out", "b.onnx"],
    ["recipes"],
    ["fetch", "AWA2"],
    ["make", "data", "--backbone", "imagenet", "--out", "bundle"],
    ["text-encoder", "folder", "--out", "text.onnx"],
]
NEEDS_NOTHING = {"sample-photos"}


def test_every_command_of_training_names_its_extra(tmp_path: Path) -> None:
    lines = [["d3gzsl-train", *line] for line in TRAINING_LINES]
    for line, (status, out, err) in zip(lines, without(TRAINING, lines, tmp_path), strict=True):
        assert (status, out) == (2, ""), (line, err)
        assert err.count("\n") == 1, (line, err)
        assert err.startswith("error: the package "), line
        assert "pip install 'd3gzsl[training]'" in err, line
    assert [*tmp_path.iterdir()] == []


def test_these_are_all_the_commands_of_training() -> None:
    assert {line[0] for line in TRAINING_LINES} | NEEDS_NOTHING == set(typer.main.get_command(training_cli).commands)  # type: ignore[attr-defined]


def test_drawing_needs_no_extra(tmp_path: Path) -> None:
    line = ["d3gzsl-train", "sample-photos", "--out", "drawings", "--per-class", "1"]
    ((status, out, err),) = without([*TRAINING, "onnxruntime"], [line], tmp_path)
    assert (status, out[:9]) == (0, "drawings:"), err
    assert len([*tmp_path.glob("drawings/images/*/*.jpg")]) == 41


def test_training_without_a_runtime_names_both_extras(tmp_path: Path) -> None:
    lines = [["d3gzsl-train", "make", "data", "--backbone", "b.onnx", "--out", "bundle"]]
    ((status, out, err),) = without(["onnxruntime"], lines, tmp_path)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert "pip install 'd3gzsl[cpu]', or pip install 'd3gzsl[gpu]'" in err


def test_every_command_of_the_service_names_its_extra(tmp_path: Path) -> None:
    image = str(next((EMBEDDED_BUNDLE / "examples").glob("*.jpg")))
    postgres = "postgresql://127.0.0.1:9/x"
    cases = [
        (["classify", image], "'d3gzsl[cpu]', or pip install 'd3gzsl[gpu]'"),
        (["serve", "--data-dir", "d"], "'d3gzsl[cpu]', or pip install 'd3gzsl[gpu]'"),
        (["bundle", "verify", str(EMBEDDED_BUNDLE)], "'d3gzsl[cpu]', or pip install 'd3gzsl[gpu]'"),
        (["registry", "check", "--database-url", postgres], "'d3gzsl[postgres]'"),
        (["classify", ".", "--out", "r.parquet"], "'d3gzsl[bulk]'"),
        (["bundle", "sign", str(EMBEDDED_BUNDLE), "--key", "key.pem"], "'d3gzsl[signing]'"),
        (["bundle", "verify", str(EMBEDDED_BUNDLE), "--key", "key.pem"], "'d3gzsl[signing]'"),
    ]
    lines = [["d3gzsl", *line] for line, _ in cases]
    found = without(["onnxruntime", "psycopg", "pyarrow", "cryptography"], lines, tmp_path)
    for (line, words), (status, out, err) in zip(cases, found, strict=True):
        assert (status, out) == (2, ""), (line, err)
        assert err.count("\n") == 1, (line, err)
        assert f"pip install {words}" in err, (line, err)


def test_programs_are_told_the_same(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import training\n"
        "try:\n"
        "    training.fit\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (
        "MissingDependencyError the package torch is not installed; "
        "install d3gzsl with the extra `training`: pip install 'd3gzsl[training]'\n"
    )


def test_a_module_of_our_own_that_is_missing_is_no_extra() -> None:
    assert what_is_missing(ModuleNotFoundError("x", name="training.nothing")) is None
    assert what_is_missing(ModuleNotFoundError("x")) is None
    assert isinstance(what_is_missing(ModuleNotFoundError("x", name="ray.data")), MissingDependencyError)


@pytest.mark.parametrize("program", ["d3gzsl", "d3gzsl-train"])
def test_help_needs_no_extra(program: str, tmp_path: Path) -> None:
    everything = [*TRAINING, "onnxruntime", "psycopg", "pyarrow", "ray", "tensorboard", "opentelemetry"]
    lines = [[program, "--help"]]
    ((status, out, _err),) = without(everything, lines, tmp_path)
    assert status == 0
    assert "Usage" in out
