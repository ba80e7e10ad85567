"""The clients of Triton and KServe, unmodified, against a real process: their answers are those of /classify.

Both want older versions of packages than ours, so that they get an environment of their own.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.preprocess import preprocess
from tests.service.processes import Server, environment
from tests.service.tiny import SPEC, S, photo, png

pytestmark = pytest.mark.slow

CLIENTS = ("tritonclient[http]==2.73.0", "kserve==0.21.0")
PROGRAM = Path(__file__).parent / "foreign_clients.py"
FILES = [photo(1), photo(2, side=30), png((250, 10, 0))]
FORMS = [f"{what} in {how}, {out}" for what in ("files", "pixels") for how in ("JSON", "bytes") for out in (0, 1, None)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the two clients."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert uv is not None
    home = tmp_path_factory.mktemp("clients") / "venv"
    for arguments in (
        ["venv", "--no-project", "--python", sys.executable, str(home)],
        ["pip", "install", "--python", str(home), *CLIENTS],
    ):
        done = subprocess.run([uv, *arguments], cwd=home.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def answers(python: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("images")
    (folder / "pixels").write_bytes(np.stack([preprocess(file, SPEC) for file in FILES]).tobytes())
    for i, file in enumerate(FILES):
        (folder / str(i)).write_bytes(file)
    images = [str(folder / str(i)) for i in range(len(FILES))]
    done = subprocess.run(
        [str(python), str(PROGRAM), server.url, str(S), str(folder / "pixels"), *images],
        env={k: v for k, v in environment().items() if k != "PYTHONPATH"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_every_form_gives_the_answers_of_classify(
    answers: dict[str, Any], server: Server, client: str, form: str
) -> None:
    images = [{"data": base64.b64encode(file).decode()} for file in FILES]
    results = server.request("POST", "/classify", json={"images": images}).json()["results"]
    found = answers[client][form.replace("0", "False").replace("1", "True")]
    for name, field in (("class_id", "class_id"), ("label", "name"), ("kind", "kind")):
        assert found[name] == [[p[field] for p in r["predictions"]] for r in results]
    expected = [[p["probability"] for p in r["predictions"]] for r in results]
    np.testing.assert_allclose(found["probability"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["novelty"], [r["novelty"] for r in results], rtol=1e-6)


def test_triton_lists_metadata_and_reads_errors(answers: dict[str, Any], server: Server) -> None:
    assert answers["triton"]["server"] == server.request("GET", "/v2").json()
    assert answers["triton"]["model"] == server.request("GET", "/v2/models/d3gzsl").json()
    assert "/parameters/top_k" in answers["triton"]["error"]
