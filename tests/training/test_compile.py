"""Losses by torch.compile give what they give without it."""

from __future__ import annotations

import pytest
import torch

from tests.training.tiny import METHODS, config, task
from training.method.trainer import Trainer


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler, about itself
@pytest.mark.parametrize(("method", "form"), [*((method, "corrected") for method in METHODS), ("wgan", "faithful")])
def test_compiled_losses_train_the_same(method: str, form: str) -> None:
    torch.compiler.reset()
    small = task()
    forms = (f"d3.{loss}_form={form}" for loss in ("cls", "kl", "be", "od"))
    settings = (f"generator.method={method}", *forms, "steps=3", "teacher.epochs=1", "generator.warm_up=1")
    plain = Trainer(small, config(*settings, "compile=off"))
    compiled = Trainer(small, config(*settings, "compile=on"))
    before = {name: value.clone() for name, value in compiled.networks.student.state_dict().items()}
    expected, found = plain.run_epoch(), compiled.run_epoch()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, value in plain.networks.student.state_dict().items():
        torch.testing.assert_close(compiled.networks.student.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(before[name], value) for name, value in compiled.networks.student.state_dict().items())
