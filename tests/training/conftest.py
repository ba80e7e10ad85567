from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.tiny import write_run, write_store
from training.datasets.opening import reopen
from training.exporting.export import export
from training.runs.contents import Trained


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on two threads, and sums on the CPU depend on how they are shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def store_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature store of coloured photos; not to be changed."""
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def run_dir(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `store_dir`; not to be changed."""
    return write_run(store_dir, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `run_dir`; not to be changed."""
    trained, out = Trained.load(run_dir), tmp_path_factory.mktemp("bundle") / "bundle"
    export(reopen(trained.data), trained, out)
    return out
