"""Steps that a GPU can record: they ask nothing of the host; and on a GPU, recorded steps train what others train."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.bundle import Bundle
from tests.training.tiny import COLOURS, METHODS, SETTINGS, as_options, config, state, task, write_store
from training.config import Compile
from training.datasets.dataset import Task
from training.device import records
from training.method.trainer import DivergedError, Trainer
from training.runs.contents import METRICS, read_json

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ON_THE_HOST = (
    "aten::_local_scalar_dense",  # item, tolist, float, bool, if
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::lift_fresh",  # torch.tensor of numbers
)
FORMS = {"corrected": (), "faithful": [f"d3.{term}_form=faithful" for term in ("cls", "kl", "be", "od")]}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class OnTheDevice(TorchDispatchMode):
    """Refuses what would wait for a GPU, or copy to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kinds = [x.dtype for x in args[1] if x is not None] if func.name() == "aten::index.Tensor" else []
        if func.name().startswith(ON_THE_HOST) or torch.bool in kinds:
            raise AssertionError(f"{func.name()} in a step")
        return func(*args, **(kwargs or {}))


def settings(method: str, *more: str) -> tuple[str, ...]:
    return (f"generator.method={method}", "steps=6", "teacher.epochs=1", "generator.warm_up=1", *more)


def on(device: torch.device, small: Task) -> Task:
    moved = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    return Task(**{name: value.to(device) if torch.is_tensor(value) else value for name, value in moved.items()})


def test_when_steps_are_recorded() -> None:
    every: tuple[Compile, ...] = ("auto", "on", "off")
    assert [records(setting, CPU) for setting in every] == [False, False, False]
    assert [records(setting, CUDA) for setting in every] == [True, True, False]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_stays_on_the_device(method: str, form: str) -> None:
    trainer = Trainer(task(), config(*settings(method, "generator.seen_classification=0.1", *FORMS[form])))
    trainer.run_epoch()
    with OnTheDevice():
        trainer._critic_steps()
        trainer._generator_step()


def test_what_would_not_stay_is_noticed() -> None:
    values = torch.arange(3.0)
    for found in (
        lambda: values[values > 1],
        lambda: values.sum().item(),
        lambda: torch.tensor([1.0]),
        lambda: values.nonzero(),
        lambda: values.unique(),
    ):
        with OnTheDevice(), pytest.raises(AssertionError, match="in a step"):
            found()  # type: ignore[no-untyped-call]


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def close(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@gpu
@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_train_the_same(method: str, precision: str) -> None:
    """Also when the learning rate changes between epochs, and from the same random numbers."""
    small, of_method = on(CUDA, task()), settings(method, f"precision={precision}", "schedule=cosine", "epochs=3")
    plain = Trainer(small, config(*of_method, "compile=off"))
    recorded = Trainer(small, config(*of_method))
    before = state(recorded.networks)
    for _ in range(3):
        expected, found = plain.run_epoch(), recorded.run_epoch()
        assert found == pytest.approx(expected, rel=1e-2, abs=1e-3)
    close(state(recorded.networks), state(plain.networks), 1e-3 if precision == "fp32" else 1e-2)
    assert any(not torch.equal(before[name], value) for name, value in state(recorded.networks).items())


@gpu
@pytest.mark.usefixtures("exact_products")
@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_training_goes_on_from_its_state(method: str) -> None:
    small, whole_settings = on(CUDA, task()), config(*settings(method, "schedule=cosine", "epochs=4"))
    whole = Trainer(small, whole_settings)
    for _ in range(2):
        whole.run_epoch()
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    kept = torch.load(file, map_location="cpu", weights_only=True)
    again = Trainer(small, whole_settings, kept)
    for _ in range(2):
        expected, found = whole.run_epoch(), again.run_epoch()
        assert found == pytest.approx(expected, rel=1e-2, abs=1e-3)
    close(state(again.networks), state(whole.networks), 1e-3)


@gpu
def test_divergence_is_noticed_in_a_recorded_training() -> None:
    trainer = Trainer(on(CUDA, task()), config(*settings("wgan", "learning_rate=1e6", "steps=30")))
    with pytest.raises(DivergedError, match=r"outer step \d+ of 30"):
        trainer.run_epoch()


@gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_a_gpu_becomes_a_bundle(tmp_path: Path, method: str) -> None:
    store, run = write_store(tmp_path), tmp_path / "run"
    overrides = as_options(*SETTINGS, f"generator.method={method}")
    for words in (
        ["fit", str(store), "--device", "cuda", "--test-fraction", "0.25", *overrides, "--out", str(run)],
        ["export", str(run), "--out", str(tmp_path / "bundle")],
    ):
        subprocess.run([sys.executable, "-m", "training.cli", *words], cwd=ROOT, check=True)
    assert 0 <= read_json(run / METRICS)["lda"]["H"] <= 1
    assert len(Bundle.load(tmp_path / "bundle").manifest.classes) == len(COLOURS)
