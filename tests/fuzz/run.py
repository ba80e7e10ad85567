"""Fuzz what reads bytes of strangers, guided by coverage (atheris): `python -m tests.fuzz.run --seconds 600`.

Each target runs in a process of its own, from its seeds and from what once broke it. An input that breaks it is kept in
the folder of the results. Then what was found on the way is run through the target again and again in a fresh process,
whose memory must not grow.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = Path(__file__).parent / "found"
NAMES = ("images", "json", "forms", "tensors", "bundles")
INSTRUMENTED = ["model", "service", "PIL", "email", "zipfile", "numpy.lib.format"]
_PASSES, _WARM_UP = 8, 3
_MOST_REPLAYED = 3000
MOST_GROWTH = 8_000_000
"""Bytes that a process may grow by in the passes after the warm-up; an allocator is never quite still."""
MOST_COMPUTING = 10.0
"""Seconds of computing that one input of 100 KB may take, slowed down by being watched."""
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


@dataclass(frozen=True, kw_only=True)
class FuzzRun:
    """What fuzzing one target found.

    Attributes:
        target: its name.
        seconds: of fuzzing.
        runs: of the target.
        coverage: edges of the instrumented code that were reached.
        corpus: inputs that reached something new.
        broken_by: files with inputs that broke it; empty where none did.
        resident: bytes of memory of the replaying process, after each pass over the corpus.
        said: the end of what was printed.
    """

    target: str
    seconds: float
    runs: int
    coverage: int
    corpus: int
    broken_by: tuple[str, ...]
    resident: tuple[int, ...]
    said: str

    @property
    def growth(self) -> int:
        """Bytes by which the process grew after the warm-up."""
        return self.resident[-1] - self.resident[_WARM_UP - 1] if self.resident else 0

    @property
    def well(self) -> bool:
        return not self.broken_by and len(self.resident) == _PASSES and self.growth <= MOST_GROWTH


def fuzz(name: str, *, seconds: int, out: Path) -> FuzzRun:
    """Fuzz one target for a time, then look at its memory."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-", dir=memory) as folder:
        corpus, kept = Path(folder) / "corpus", out / name
        corpus.mkdir()
        kept.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        ended = _python(folder, "--child", name, "--corpus", corpus, "--seconds", seconds, "--out", kept)
        took, printed = time.monotonic() - started, ended.stdout + ended.stderr
        replayed = _python(folder, "--replay", name, "--corpus", corpus)
        broken = sorted(str(file) for file in kept.iterdir() if file.name.startswith(("crash-", "timeout-", "oom-")))
        if not broken and (ended.returncode or replayed.returncode):
            broken = [f"nothing that was kept; status {ended.returncode}, replay {replayed.returncode}"]
            printed += replayed.stdout + replayed.stderr
        runs, coverage = _RUNS.findall(printed), _COVERAGE.findall(printed)
        return FuzzRun(
            target=name,
            seconds=round(took, 1),
            runs=int(runs[-1]) if runs else 0,
            coverage=int(coverage[-1][0]) if coverage else 0,
            corpus=int(coverage[-1][2]) if coverage else 0,
            broken_by=tuple(broken),
            resident=tuple(json.loads(replayed.stdout)) if replayed.returncode == 0 else (),
            said=printed[-4000:],
        )


def _python(folder: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": folder},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _child(name: str, corpus: Path, seconds: int, out: Path) -> None:
    """Fuzz in this process until the time is up or an input breaks the target; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import MOST_BYTES, TARGETS

    target = TARGETS[name]
    found = [file.read_bytes() for file in sorted((FOUND / name).glob("*"))]
    for i, data in enumerate([*target.seeds(), *found]):
        (corpus / f"seed-{i}").write_bytes(data)
    words = out / "words"
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words))
    flags = {
        "max_total_time": seconds,
        "max_len": MOST_BYTES,
        "timeout": 1800,  # by the clock, which goes on where the machine stops; the time of computing is bounded below
        "rss_limit_mb": 4000,
        "dict": words,
        "artifact_prefix": f"{out}{os.sep}",
        "print_final_stats": 1,
    }

    def run(data: bytes) -> None:
        before = time.process_time()
        target.run(data)
        if (took := time.process_time() - before) > MOST_COMPUTING:
            raise TimeoutError(f"{len(data)} bytes took {took:.1f} seconds of computing")

    atheris.Setup([name, *(f"-{flag}={value}" for flag, value in flags.items()), str(corpus)], run)
    atheris.Fuzz()


def _replay(name: str, corpus: Path) -> None:
    """Run everything in the corpus several times; prints the memory after each pass as JSON."""
    from tests.fuzz.targets import TARGETS

    inputs = [file.read_bytes() for file in sorted(corpus.iterdir())[:_MOST_REPLAYED]]
    resident = []
    for _ in range(_PASSES):
        for data in inputs:
            TARGETS[name].run(data)
        gc.collect()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    print(json.dumps(resident))


def _report(run: FuzzRun) -> None:
    print(
        f"{run.target}: {run.runs} runs in {run.seconds:.0f} s, {run.coverage} edges, {run.corpus} inputs kept, "
        f"{(run.resident or (0,))[-1] / 1e6:.0f} MB resident, grown by {run.growth / 1e6:.1f} MB: "
        f"{'well' if run.well else 'NOT WELL ' + ' '.join(run.broken_by)}",
        flush=True,
    )
    if not run.well:
        print(run.said)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(NAMES)}; all where none is named")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--at-once", type=int, default=2, help="targets at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="folder for what is found")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--replay", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        return _child(chosen.child, chosen.corpus, chosen.seconds, chosen.out)
    if chosen.replay:
        return _replay(chosen.replay, chosen.corpus)
    if unknown := sorted({*chosen.targets} - {*NAMES}):
        parser.error(f"there is no target {', '.join(unknown)}; expected {', '.join(NAMES)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed; it comes with `make dev` on Linux with an x86-64 processor")
    chosen.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(chosen.at_once) as threads:

        def one(name: str) -> FuzzRun:
            run = fuzz(name, seconds=chosen.seconds, out=chosen.out)
            _report(run)
            return run

        runs = list(threads.map(one, chosen.targets or NAMES))
    numbers = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "runs": [{**asdict(run), "said": run.said if not run.well else ""} for run in runs],
    }
    (chosen.out / "results.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return sys.exit(0 if all(run.well for run in runs) else 1)


if __name__ == "__main__":
    main()
