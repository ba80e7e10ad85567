"""The one rule between the packages, and a service without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("model", "service", "training")


# Reads [[file, line], ...]; prints [[exit status, output], ...] of the contracts, with each line alone in its file.
LINT = """
import contextlib, io, json, pathlib, sys
from importlinter.cli import lint_imports

def lint(cache):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = lint_imports(cache_dir=cache, no_cache=cache is None)
    return status, said.getvalue()

def with_line(file, line):
    target = pathlib.Path(file)
    before = target.read_text() if target.exists() else None
    target.write_text((before or "") + "\\n" + line + "\\n")
    try:
        return lint("cache")
    finally:
        target.unlink()
        if before is not None:
            target.write_text(before)

print(json.dumps([with_line(*edit) for edit in json.load(sys.stdin)] or [lint(None)]))
"""


def lint_imports(root: Path, edits: Sequence[tuple[str, str]] = ()) -> list[tuple[int, str]]:
    """Exit status and output of import-linter in a folder: as it is, or with each of the lines alone in its file."""
    done = subprocess.run(
        [sys.executable, "-c", LINT], cwd=root, input=json.dumps(edits), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(status, said) for status, said in json.loads(done.stdout)]


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


def test_the_contracts_hold() -> None:
    ((status, said),) = lint_imports(ROOT)
    assert status == 0, said
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert f"{len(contracts)} kept, 0 broken" in said


BREAKS = [
    ("service/keys.py", "import torch"),
    ("model/lda.py", "from torchvision import models"),
    ("service/keys.py", "import training.networks.d3gzsl"),
    ("model/vocabulary.py", "import training.networks.d3gzsl"),
    ("service/keys.py", "import training.cli"),
    ("training/metrics.py", "import service.server.app"),
    ("model/lda.py", "import service.server.app"),
    ("training/features/scaler.py", "import training.datasets.benchmark"),
    ("training/runs/contents.py", "import training.reporting.report"),
    ("training/method/trainer.py", "import training.commands.fit"),
    ("training/selection/folds.py", "import training.runs.fit"),
    ("training/config.py", "import training.metrics"),
    ("training/probe.py", "import json"),  # in no layer
    ("training/method/probe.py", "import json"),
    ("model/probe.py", "import json"),
    ("model/head.py", "import model.bundle"),
    ("training/selection/folds.py", "import training.selection.protocols"),
    ("service/inference/decoding.py", "import service.classes.class_table"),
    ("service/classes/ranking.py", "import service.http.schemas"),
    ("service/classes/class_table.py", "import service.classes.registrar"),
    ("service/service.py", "import service.telemetry.metrics"),
    ("service/probe.py", "import json"),  # in no layer
    ("service/http/routes/probe.py", "import json"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[int, str]]:
    """What import-linter says to each of `BREAKS`, in a copy of the packages."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copy(ROOT / "pyproject.toml", root)
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            target = root / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return dict(zip(BREAKS, lint_imports(root, BREAKS), strict=True))


@pytest.mark.parametrize(("file", "line"), BREAKS)
def test_the_contracts_see_a_break(broken: dict[tuple[str, str], tuple[int, str]], file: str, line: str) -> None:
    status, said = broken[file, line]
    assert status == 1, said
    assert re.search(r"[1-9]\d* broken", said), said


def test_model_and_service_leave_torch_out() -> None:
    # Alembic runs its env.py as a script, with a context that only a migration has.
    left_out = ("service.registry.migrations.env",)
    names = [m for m in [*modules("model"), *modules("service")] if not m.startswith(left_out)]
    assert len(names) > 20
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'torchvision', 'training')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["service", "training"])
def test_onnx_runtime_is_loaded_with_its_telemetry_off(package: str, tmp_path: Path) -> None:
    """With telemetry on, loading the library leaves a device id and a queue of events in the home directory."""
    left_out = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in left_out} | {"HOME": str(tmp_path)}
    code = f"import {package}, onnxruntime"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [str(p) for p in tmp_path.rglob("*")] == []
