"""Graphs of a stranger on trial: checked without being run, then run once in a process with little memory and time.

What passes is loaded in the process that serves. So a graph that is hostile or broken ends the trial, not the service.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle import MAX_TOKENIZER_BYTES
from model.errors import BundleError, MissingDependencyError
from model.guards.files import read_plain
from model.guards.tokenizers import check_tokenizer
from model.text.description import MAX_SENTENCE_LENGTH
from model.text.encoder import Tokens
from service.inference.graph import Graph, GraphFile
from service.inference.sessions import SessionConfig

_MEMORY = 2**29
"""Bytes for a graph beside six times its file: what reading it, its weights and their packing for the kernels take."""
_CPU_SECONDS, _CPU_SECONDS_PER_BYTE = 6, 60 / 2**30
_PATIENCE = 20  # times as long as the CPU time that is allowed, for machines that do other work too

_TOO_MUCH = "{}: two rows take too much memory"

_PROBE = "A photo of a grey animal, 3 m tall. "

_passed: set[tuple[str, str]] = set()
"""Files with their hashes that this process has seen pass."""


class _Trial:
    """A process that tries graphs, from the moment when this is made.

    Args:
        graphs: what it tries, which are files that are there.
    """

    def __init__(self, graphs: list[GraphFile]) -> None:
        self.graphs, self._seconds = graphs, _cpu_seconds(graphs)
        question = [
            {**asdict(graph), "file": str(graph.file), "tokenizer": graph.tokenizer and str(graph.tokenizer)}
            for graph in graphs
        ]
        path = os.pathsep.join(map(os.path.abspath, sys.path))  # finds the same packages as this process
        self._process = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
            text=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stream:  # its status says why it has ended
            json.dump(question, stream)
        self._process.stdin = None  # closed; `communicate` need not look at it

    def verdict(self) -> None:
        """Wait for the end.

        Raises:
            BundleError: a graph is not allowed, does not load or run, or takes too much memory or time.
        """
        graphs, seconds = self.graphs, self._seconds
        try:
            said, complained = self._process.communicate(timeout=_PATIENCE * seconds)
        except subprocess.TimeoutExpired:
            raise BundleError(_too_long(graphs, seconds)) from None
        finally:
            self.end()
        status = self._process.returncode
        if status == -signal.SIGXCPU:
            raise BundleError(_too_long(graphs, seconds))
        if status != 0:
            raise BundleError(f"{_names(graphs)}: the trial ended with status {status}: {_last_line(complained)}")
        if (error := json.loads(said)["error"]) is not None:
            raise BundleError(error)

    def end(self) -> None:
        """End the process, if it has not ended yet."""
        self._process.kill()
        self._process.communicate()


_begun: list[_Trial] = []


@contextmanager
def trial_begun(*graphs: GraphFile) -> Iterator[None]:
    """Have graphs tried from now on; who asks for the verdict within the block waits for what is left of it.

    The files may be unverified, as nothing but the process of the trial reads them. Where one is not there, nothing is
    begun: who asks is told so.
    """
    try:
        trial = _Trial(list(graphs))
    except OSError:
        yield
        return
    _begun.append(trial)
    try:
        yield
    finally:
        if trial in _begun:
            _begun.remove(trial)
            trial.end()


def try_graphs(*graphs: GraphFile) -> None:
    """Have graphs checked and run on two rows of zeros in a process of their own.

    Raises:
        BundleError: one is not allowed, does not load or run, or takes too much memory or time.
    """
    new = [graph for graph in graphs if (str(graph.file), graph.sha256) not in _passed]
    if not new:
        return
    trial = next((begun for begun in _begun if begun.graphs == new), None)
    if trial is None:
        trial = _Trial(new)
    else:
        _begun.remove(trial)
    trial.verdict()
    _passed.update((str(graph.file), graph.sha256) for graph in new)


def _too_long(graphs: list[GraphFile], seconds: int) -> str:
    return f"{_names(graphs)}: two rows take more than {seconds} seconds of CPU time"


def _names(graphs: list[GraphFile]) -> str:
    return f"{graphs[0].file.parent}: {' and '.join(graph.file.name for graph in graphs)}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def _cpu_seconds(graphs: list[GraphFile]) -> int:
    return _CPU_SECONDS + round(_CPU_SECONDS_PER_BYTE * _bytes(graphs))


def _bytes(graphs: list[GraphFile]) -> int:
    files = [file for graph in graphs for file in (graph.file, graph.tokenizer) if file is not None]
    return sum(file.stat().st_size for file in files)


def _limit(graphs: list[GraphFile]) -> None:
    """Limit what this process may take beyond what it has taken already."""
    pages = Path("/proc/self/statm")
    if pages.exists():  # Linux; other systems do not enforce the limit either
        taken = int(pages.read_text().split()[0]) * resource.getpagesize()
        most = taken + _MEMORY + 6 * _bytes(graphs)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    seconds = _cpu_seconds(graphs)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _fault_of(graph: GraphFile) -> str | None:
    """What is wrong with a graph, or None."""
    from model.guards.graphs import check_graph, read_graph  # and with it onnx, which only the trial needs

    try:
        name = str(graph.file)
        inputs = {key: (2, *shape) for key, shape in graph.inputs.items()}
        check_graph(read_graph(graph.file.read_bytes(), name), name, inputs=inputs)
        runs = Graph(graph, SessionConfig(threads=1))
        if graph.tokenizer is not None:
            try_tokenizer(graph.tokenizer, runs)
    except BundleError as error:
        return _TOO_MUCH.format(graph.file) if "bad_alloc" in str(error) else str(error)
    except MemoryError:
        return _TOO_MUCH.format(graph.file)
    except MissingDependencyError:
        return None  # the process that asked cannot load a graph either, and says so
    return None


def read_tokens(file: Path) -> Tokens:
    """The tokenizer in a file.

    Raises:
        BundleError: it is not allowed, or cannot be read.
        MissingDependencyError: `tokenizers` is not installed.
    """
    data = read_plain(file, limit=MAX_TOKENIZER_BYTES)
    check_tokenizer(data, str(file))
    return Tokens(data, str(file))


def try_tokenizer(file: Path, graph: Graph) -> None:
    """Have a tokenizer read the longest text, and the graph its largest token id.

    Raises:
        BundleError: one of them cannot.
        MissingDependencyError: `tokenizers` is not installed.
    """
    tokens = read_tokens(file)
    tokens.of((_PROBE * MAX_SENTENCE_LENGTH)[:MAX_SENTENCE_LENGTH])
    try:
        graph.run({"input_ids": np.full((1, 3), tokens.largest_id, dtype=np.int64)}, ("token_embeddings",))
    except BundleError as error:
        raise BundleError(f"{file}: the graph does not take its token {tokens.largest_id}: {error}") from None


def _main() -> None:
    graphs = [_graph_file(fields) for fields in json.load(sys.stdin)]
    _limit(graphs)
    faults = (_fault_of(graph) for graph in graphs)
    sys.stdout.write(json.dumps({"error": next((fault for fault in faults if fault is not None), None)}))


def _graph_file(fields: dict[str, Any]) -> GraphFile:
    shapes = {ends: {name: tuple(shape) for name, shape in fields[ends].items()} for ends in ("inputs", "outputs")}
    tokenizer = fields["tokenizer"] and Path(fields["tokenizer"])
    return GraphFile(file=Path(fields["file"]), sha256=fields["sha256"], tokenizer=tokenizer, **shapes)


if __name__ == "__main__":
    _main()
