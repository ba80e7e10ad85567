"""How much each student loss pulls: no term is inert with the default weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.tiny import Noting, config, task
from training.config import TrainConfig
from training.datasets.dataset import Task, from_store, make_task
from training.features.extraction import extract
from training.features.scaler import Scaler
from training.method.student import StudentBatch, student_terms
from training.method.teacher import TeacherOutputs
from training.method.trainer import Networks, train
from training.runs.measuring import INERT, gradient_shares

SHARED = Path(__file__).parents[3] / "shared" / "data"
ANIMALS, MOBILENET = SHARED / "animals", SHARED / "backbones" / "mobilenet_v1_224.onnx"


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


@pytest.fixture(scope="module")
def base(small: Task) -> Networks:
    return train(small, config(), epochs=2)


def test_every_term_pulls(small: Task) -> None:
    """With the default weights no term is inert: its gradient is at least 1 % of that of L_cls."""
    realistic = task(seen=8, unseen=3, rows=20, dim=16, attributes=8)
    settings = config("batch_size=64", "d3.classification=1", "teacher.epochs=30", "learning_rate=1e-4")
    assert (settings.d3.label_distillation, settings.d3.embedding_distillation, settings.d3.ood_distillation) == (
        1,
        1,
        1,
    )
    measured: list[dict[str, float]] = []
    train(
        realistic,
        settings,
        epochs=6,
        measuring=Noting(lambda _e, n, _l: measured.append(gradient_shares(n, realistic, settings))),
    )
    for shares in measured:
        assert set(shares) == {"cls", "kl", "be", "od"}
        assert shares["cls"] == 1
        assert min(shares.values()) >= INERT, measured


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_term_pulls_on_real_photos(tmp_path: Path) -> None:
    if not (ANIMALS.is_dir() and MOBILENET.is_file()):
        pytest.skip(f"needs {ANIMALS} and {MOBILENET}")
    from training.features.backbone import load_backbone
    from training.features.own_photos import read_own_photos

    store = extract(read_own_photos(ANIMALS), load_backbone(MOBILENET), tmp_path / "features").store
    data = from_store(store, test_fraction=0.3, split_seed=0)
    scaler = Scaler.fit(data.features[data.trainval])
    animals = make_task(data, data.trainval, np.arange(len(data.classes)), scaler, torch.device("cpu"))
    settings, measured = TrainConfig(), []
    torch.set_num_threads(2)
    train(
        animals,
        settings,
        epochs=6,
        measuring=Noting(lambda _e, n, _l: measured.append(gradient_shares(n, animals, settings))),
    )
    for shares in measured:
        assert min(shares.values()) >= INERT, measured


def test_gradient_shares_are_norms(small: Task, base: Networks) -> None:
    """Doubling a weight doubles its share; without L_cls there is nothing to compare with."""
    settings = config()
    shares = gradient_shares(base, small, settings)
    doubled = gradient_shares(base, small, config("d3.ood_distillation=2"))
    assert doubled == pytest.approx({**shares, "od": 2 * shares["od"]}, rel=1e-5)
    assert gradient_shares(base, small, config("d3.classification=0")) == {}
    assert "kl" not in gradient_shares(base, small, config("d3.label_distillation=0"))


def test_gradient_shares_are_those_of_autograd(small: Task, base: Networks) -> None:
    """One backward pass for each term, on the batch that the seed decides."""
    settings = config("d3.label_distillation=3", batch_size=64)  # all 40 rows, in some order
    labels = small.unseen_index.repeat_interleave(5)
    random = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(40, generator=random)
    noise = torch.randn(len(labels), 3, generator=random)
    rows = StudentBatch(
        synthetic=base.generator(noise, small.attributes[labels]).detach(),
        synthetic_labels=labels,
        real=small.features[order],
        real_labels=small.labels[order],
        teacher=TeacherOutputs.of(base.teacher, small.features[order]),
    )
    norms = {}
    for name, value in student_terms(base.student, base.teacher, rows, small.seen_index, settings.d3).items():
        base.student.zero_grad()
        (settings.d3.weights()[name] * value).backward(retain_graph=True)
        squares = [float(p.grad.square().sum()) for p in base.student.parameters() if p.grad is not None]
        norms[name] = sum(squares) ** 0.5
    base.student.zero_grad()
    expected = {name: norm / norms["cls"] for name, norm in norms.items()}
    assert gradient_shares(base, small, settings) == pytest.approx(expected, rel=1e-4)
