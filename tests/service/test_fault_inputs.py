"""The script that sends odd inputs to any service finds everything right at one on the demo bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.service.processes import ROOT, environment, serving

LINES = "forms,base64,encodings,http,refusals,hosts,versions,errors,advice,openapi,names,images"


def test_every_input_gets_the_answer_that_it_should(tmp_path: Path) -> None:
    with serving(None, tmp_path) as server:
        result = subprocess.run(
            [sys.executable, "tests/fault_inputs.py", server.url, "--lines", LINES],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("ok ") > 50
