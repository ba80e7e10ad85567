"""Requests made up by schemathesis from the OpenAPI document, against `d3gzsl serve` on the embedded demo bundle.

    python -m tests.fuzz.api --requests 20000 --out results.json

First come requests at the edges of each parameter, then random ones for each operation, valid and not, then sequences
in which later requests use what earlier answers gave. Every answer must have a status that the document names, its
media type, headers and schema; nothing that is not valid may be accepted; nothing may be a server error but a 503 that
the request asked for. The command ends with status 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from service.service import load_bundle
from tests.fuzz.api_hooks import VERSIONS
from tests.service.processes import ROOT, Server, environment, serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
)
CONFIG = Path(__file__).with_name("schemathesis.toml")
RANDOM_PHASES = ("fuzzing", "stateful")
PHASES = ("examples", "coverage", *RANDOM_PHASES)
# So long that no answer comes late, however busy or halted the machine is.
SERVER = ("--deadline", "900", "--body-timeout", "900", "--header-timeout", "900", "--threads", "1")
LIKE = next(entry.id for entry in load_bundle(None).manifest.classes)


@dataclass(frozen=True, kw_only=True)
class ApiRun:
    """What a run of schemathesis found.

    Attributes:
        requests: that were made up and sent.
        seconds: that it took.
        failures: kinds of failures, with the operations that have them; empty where all was as promised.
        seed: makes the same requests again.
        said: all that schemathesis printed.
    """

    requests: int
    seconds: float
    failures: tuple[str, ...]
    seed: int
    said: str


def fuzz_api(*, examples: int, seed: int, phases: Sequence[str] = PHASES, seconds: int | None = None) -> ApiRun:
    """Run schemathesis against a service of its own.

    Args:
        examples: most requests for each operation in each phase but coverage, which has as many as there are edges.
        seed: for what is random.
        phases: of schemathesis.
        seconds: most time; what is not done by then is left out.
    """
    with (
        tempfile.TemporaryDirectory(prefix="d3gzsl-fuzz-api-") as folder,
        serving(None, Path(folder) / "data", *SERVER) as server,
        (Path(folder) / "said").open("w+") as output,
    ):
        _make_versions(server)
        report = Path(folder) / "report.json"
        limits = [] if seconds is None else ["--max-time", str(seconds)]
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"),
                f"{server.url}/openapi.json",
                *("--phases", ",".join(phases), "--checks", ",".join(CHECKS), "--max-examples", str(examples)),
                *(
                    "--seed",
                    str(seed),
                    "--continue-on-failure",
                    "--no-shrink",
                    "--generation-database",
                    "none",
                    "--warnings",
                    "off",
                ),
                *("--suppress-health-check", "all", "--request-timeout", "300", "--no-color"),
                *("--report", "json", "--report-json-path", str(report), *limits),
            ],
            env=environment(
                SCHEMATHESIS_HOOKS="tests.fuzz.api_hooks", HYPOTHESIS_STORAGE_DIRECTORY=str(ROOT / ".hypothesis")
            ),
            cwd=folder,  # it leaves a cache where it runs
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = (Path(folder) / "said").read_text()
        if not report.exists():
            raise RuntimeError(f"schemathesis ended with status {ended.returncode} and no report:\n{said}")
        found: dict[str, Any] = json.loads(report.read_text())
        alive = server.process.poll() is None
    failures = [f"{f['title']}: {f['count']} in {', '.join(f['operations'])}" for f in found["failures"]]
    failures += [f"{error['title']}: {error['count']}" for error in found["errors"]]
    failures += [] if alive else ["the service did not survive"]
    return ApiRun(
        requests=found["test_cases"]["generated"],
        seconds=found["running_time"],
        failures=tuple(failures),
        seed=seed,
        said=said,
    )


def _make_versions(server: Server) -> None:
    """Bring the registry to a version of which small numbers, which are tried most, are former ones."""
    with httpx.Client(base_url=server.url, timeout=300) as client:
        created = client.put("/classes/new-1", json={"name": "0", "like": LIKE})
        assert created.status_code == 201, created.text
        for i in range(1, VERSIONS):
            assert client.patch("/classes/new-1", json={"name": str(i)}).status_code == 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="at least so many are sent, in several runs")
    parser.add_argument("--examples", type=int, default=150, help="of each operation in a run")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each following one has the next number")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="of schemathesis; all by default")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    chosen = parser.parse_args()
    runs: list[ApiRun] = []
    while sum(run.requests for run in runs) < chosen.requests:
        # The edges of the parameters are the same in every run.
        phases = [phase for phase in chosen.phases if not runs or phase in RANDOM_PHASES] or chosen.phases
        runs.append(fuzz_api(examples=chosen.examples, seed=chosen.seed + len(runs), phases=phases))
        print(f"seed {runs[-1].seed}: {runs[-1].requests} requests in {runs[-1].seconds:.0f} s", flush=True)
        if runs[-1].failures:
            print(runs[-1].said)
        if chosen.out is not None:
            chosen.out.write_text(json.dumps(_numbers(runs), indent=1) + "\n")
    total = _numbers(runs)
    print(f"{total['requests']} requests in {total['seconds']:.0f} s, {len(total['failures'])} kinds of failures")
    sys.exit(1 if total["failures"] else 0)


def _numbers(runs: Sequence[ApiRun]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "requests": sum(run.requests for run in runs),
        "seconds": round(sum(run.seconds for run in runs), 1),
        "failures": [failure for run in runs for failure in run.failures],
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "schemathesis": version("schemathesis"),
        "runs": [{k: v for k, v in asdict(run).items() if k != "said"} for run in runs],
    }


if __name__ == "__main__":
    main()
