from __future__ import annotations

import subprocess

import pytest

from tests.docker.deployments import ROOT, compose_command


@pytest.fixture(scope="session")
def built() -> None:
    """The image of the service, built once for all tests from this checkout; skips where no engine answers."""
    command = compose_command()
    if command is None:
        pytest.skip("no Docker engine with compose answers")
    done = subprocess.run([*command, "build", "service"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
