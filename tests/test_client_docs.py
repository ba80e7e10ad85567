"""The examples of docs/client.md and the notebook, run as they stand."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service import client as client_package
from service.client import AsyncClient, Client, ClientError
from service.client.clients import Endpoint, StreamEndpoint
from tests.pages import ROOT, rows, section
from tests.service.nursery import Nursery
from tests.service.processes import environment

PAGE = ROOT / "docs" / "client.md"
ADDRESS = "http://127.0.0.1:8000"
_EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def test_the_examples_print_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: Nursery
) -> None:
    monkeypatch.chdir(ROOT)
    examples = _EXAMPLE.findall(PAGE.read_text())
    assert len(examples) >= 9
    names: dict[str, Any] = {}
    with nursery.server(None, tmp_path / "registry") as server:
        for code, printed in examples:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code.replace(ADDRESS, server.url), str(PAGE), "exec"), names)
            assert out.getvalue() == printed, code


def test_every_method_is_in_the_table() -> None:
    table = "\n".join(row[0] for row in rows(section(PAGE.read_text(), "Methods")))
    listed = set(re.findall(r"(\w+)\(", table))
    methods = {n for n in dir(Client) if isinstance(inspect.getattr_static(Client, n), Endpoint | StreamEndpoint)}
    assert listed == methods
    assert all(callable(getattr(AsyncClient("http://x"), name)) for name in methods)


def test_every_exception_is_in_the_table() -> None:
    named = {row[0] for row in rows(section(PAGE.read_text(), "What goes wrong"))[1:]}
    classes = {name: getattr(client_package, name) for name in client_package.__all__}
    errors = {name for name, cls in classes.items() if isinstance(cls, type) and issubclass(cls, ClientError)}
    assert named == errors - {"ClientError"}


# --- the notebook -----------------------------------------------------------------------------------------------------

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
# Runs the code of each cell in one namespace, as a kernel does, and prints [[cell, what it printed], ...] at the end.
RUN_CELLS = """
import contextlib, io, json, sys
names, printed = {"__name__": "__main__"}, []
for number, code in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, f"cell {number}", "exec"), names)
    printed.append([number, out.getvalue()])
print(json.dumps(printed))
"""


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
    return found


def test_the_notebook_is_one_and_holds_no_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert {"name", "display_name"} <= set(notebook["metadata"]["kernelspec"])
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_goes_from_photos_to_a_new_class(tmp_path: Path) -> None:
    """Its cells run in a Python process, in order; no kernel of Jupyter is needed."""
    code = [[i, "".join(cell["source"])] for i, cell in enumerate(cells()) if cell["cell_type"] == "code"]
    running = subprocess.Popen(
        [sys.executable, "-c", RUN_CELLS],
        cwd=tmp_path,
        env={**environment(), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running:
        try:
            printed, errors = running.communicate(json.dumps(code))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)  # with a service that a cell has left
    assert running.returncode == 0, errors
    text = "\n".join(said for _, said in json.loads(printed))
    assert "160 photos" in text
    numbers = ast.literal_eval(next(line for line in text.splitlines() if line.startswith("{'U'")))
    assert numbers["H"] > 0.5  # of 16 classes, 13 of them seen
    first = next(line for line in text.splitlines() if line.startswith("red checked circle"))
    assert "unseen" in first
    lists = [ast.literal_eval(line) for line in text.splitlines() if line.startswith("[")]
    before, previewed, after, operations = lists
    assert "blue dotted circle" not in before
    assert after.count("blue dotted circle") >= 2
    assert previewed == after
    assert operations == ["put", "rollback", "put"]
    assert "the service has ended" in text
    assert text.rstrip().endswith("blue dotted circle")
    assert [*tmp_path.glob("d3gzsl-*")] == []  # torch leaves a cache of its own
