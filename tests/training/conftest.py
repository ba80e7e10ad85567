from __future__ import annotations

import functools
import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from model.outside import threads
from tests.training.tiny import write_run, write_store
from training import cli
from training.datasets.dataset import Dataset
from training.datasets.opening import reopen
from training.exporting import graphs
from training.exporting.export import export
from training.generators.ridge_prior import PseudoUnseenClasses
from training.onnx_files import to_onnx
from training.reporting import charts
from training.runs.contents import Trained

Command = Callable[..., tuple[int, str, str]]
AREAS, DRAW = PseudoUnseenClasses.areas, charts._styled


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, and sums on the CPU depend on how they are shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _a_network_is_exported_once() -> Iterator[None]:
    """Tracing a network takes seconds: the same weights in the same modules get the graph of the first time.

    Whether exporting twice gives the same graph is tested with `exported_anew`.
    """
    known: dict[str, bytes] = {}

    def remembered(module: torch.nn.Module, example: dict[str, torch.Tensor], outputs: list[str]) -> onnx.ModelProto:
        if not known:
            read_once(patched)
        saved, shapes = io.BytesIO(), {name: tensor.shape for name, tensor in example.items()}
        torch.save((module.cpu().eval(), shapes, outputs), saved)
        key = hashlib.sha256(saved.getvalue()).hexdigest()
        if key not in known:
            known[key] = to_onnx(module, example, outputs).SerializeToString()
        return onnx.load_from_string(known[key])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graphs, "to_onnx", remembered)
        yield


def read_once(patched: pytest.MonkeyPatch) -> None:
    """torch's exporter parses the source of a thousand functions for every graph, to ask each for a constant."""
    from onnxscript.values import TracedOnnxFunction  # takes a second, and most tests export nothing

    once = functools.cache(TracedOnnxFunction.function_ir.fget)
    patched.setattr(TracedOnnxFunction, "function_ir", property(once))


@pytest.fixture(autouse=True, scope="session")
def _a_chart_is_drawn_once() -> Iterator[None]:
    """A report takes a second or two to draw, and most of them show what an earlier one has shown.

    That the same values give the same bytes is tested with `drawn_anew`.
    """
    known: dict[bytes, str] = {}

    def remembered(draw: functools.partial[str]) -> str:
        key = pickle.dumps((draw.func.__qualname__, draw.args, draw.keywords))
        if key not in known:
            known[key] = DRAW(draw)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(charts, "_styled", remembered)
        yield


@pytest.fixture
def drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chart is drawn by matplotlib, also one that was before."""
    monkeypatch.setattr(charts, "_styled", DRAW)


@pytest.fixture(autouse=True, scope="session")
def _a_norm_correction_is_weighed_once() -> Iterator[None]:
    """A third of a small training goes into areas under curves at its start: the same rows and kernel have the same."""
    known: dict[bytes, NDArray[np.float64]] = {}

    def remembered(
        classes: PseudoUnseenClasses, kernel_SS: torch.Tensor, strength: float, norm_corrections: Sequence[float]
    ) -> NDArray[np.float64]:
        tensors = (classes.scores, classes.gram, classes.labels, kernel_SS)
        key = pickle.dumps(([tensor.cpu().numpy() for tensor in tensors], strength, tuple(norm_corrections)))
        if key not in known:
            known[key] = AREAS(classes, kernel_SS, strength, norm_corrections)
        return known[key].copy()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PseudoUnseenClasses, "areas", remembered)
        yield


@pytest.fixture
def exported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network is exported by torch, also one that was before."""
    monkeypatch.setattr(graphs, "to_onnx", to_onnx)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`run("fit", ...)`: exit status, standard output and standard error of `d3gzsl-train fit ...` on one thread."""
    monkeypatch.setattr(threads, "available_cpus", lambda: 1)  # as in `_one_thread`

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["d3gzsl-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return command


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature store of coloured photos; not to be changed."""
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def run_dir(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `store_dir`; not to be changed."""
    return write_run(store_dir, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def trained(run_dir: Path) -> Trained:
    """What `run_dir` holds; not to be changed."""
    return Trained.load(run_dir)


@pytest.fixture(scope="session")
def data(trained: Trained) -> Dataset:
    """The data set of `run_dir`; not to be changed."""
    return reopen(trained.data)


@pytest.fixture(scope="session")
def trained_on_all(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on `store_dir` that kept no rows to test on; not to be changed."""
    return Trained.load(write_run(store_dir, tmp_path_factory.mktemp("run") / "run", test_fraction=0.0))


@pytest.fixture(scope="session")
def exported(trained: Trained, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `run_dir`; not to be changed."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    export(data, trained, out)
    return out
