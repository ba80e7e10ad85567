"""What the quirks of the published code do, each beside the corrected form (see test_losses.py for their values)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.training.tiny import config, task
from training.config import LossForm
from training.datasets.dataset import Task
from training.losses import d3gzsl
from training.losses.d3gzsl import classification, embedding_distillation, label_distillation, ood_distillation
from training.method.optimisers import schedule
from training.method.trainer import DivergedError, Trainer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    x = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(x), x)
    return found


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 60) -> float:
    """The smallest value that L-BFGS finds from a start."""
    x = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([x], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(x)
        value.backward()
        return value

    optimiser.step(closure)
    return float(loss(x).detach())


# --- kl_form: the double softmax ------------------------------------------------------------------


@pytest.mark.parametrize("classes", [40, 150, 645])
def test_double_softmax_pulls_a_student_that_knows_nothing_hundreds_of_times_less(classes: int) -> None:
    labels = torch.arange(8) % classes
    certain = (1e3 * nn.functional.one_hot(labels, classes).double()).log_softmax(1)
    unsure = torch.zeros(8, classes, dtype=torch.float64)
    pulls = {
        form: float(gradient(lambda x, form=form: label_distillation(x, certain, form), unsure).norm())
        for form in ("corrected", "faithful")
    }
    reference = float(gradient(lambda x: classification(x, labels, "faithful"), unsure).norm())
    assert pulls["corrected"] == pytest.approx(reference)  # a certain teacher says what the labels say
    assert pulls["faithful"] < reference / (classes / 2)
    assert pulls["faithful"] < 0.05 * reference


def test_double_softmax_does_not_tell_a_certain_student_from_one_that_is_wrong() -> None:
    """Between the best and the worst student there are 0.0113, and a wrong one gets no gradient at all."""
    certain = (1e3 * nn.functional.one_hot(torch.tensor([0]), 150).double()).log_softmax(1)
    wrong = 50 * nn.functional.one_hot(torch.tensor([1]), 150).double()
    worst = float(label_distillation(wrong, certain, "faithful"))
    assert worst == pytest.approx((math.e - 1) / (math.e + 149), rel=1e-6)
    assert float(gradient(lambda x: label_distillation(x, certain, "faithful"), wrong).abs().max()) < 1e-12
    assert float(gradient(lambda x: label_distillation(x, certain, "corrected"), wrong).abs().max()) > 0.99


# --- be_form: BCE-with-logits on similarities in 0..1 ---------------------------------------------


def test_no_embedding_brings_the_shifted_pair_loss_below_its_floor() -> None:
    """0.313 a positive pair and 0.974 a negative one, whatever is learned; the corrected form goes to 0."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    same = 12 / 36  # of all pairs
    floor = same * 0.3132 + (1 - same) * 0.9740
    teacher = torch.eye(3, dtype=torch.float64)[labels]

    def lowest(form: LossForm) -> float:
        def loss(x: Tensor) -> Tensor:
            return embedding_distillation(teacher, x.exp(), labels, form)

        return min(minimum(loss, normal(6, 3, seed=seed)) for seed in range(3))

    assert floor <= lowest("faithful") < floor + 0.01
    assert lowest("corrected") < 0.01


@pytest.mark.parametrize(("classes", "share"), [(2, 0.5), (10, 0.1), (50, 0.02)])
def test_the_shifted_pair_loss_is_ruled_by_pairs_that_are_unlike(classes: int, share: float) -> None:
    """Of its gradient on the similarities, positive pairs have no more than their share; half in the corrected form."""
    labels = torch.arange(classes).repeat(classes)  # every class the same number of times
    same = labels[:, None] == labels[None, :]
    similarity = torch.full(same.shape, 0.5, dtype=torch.float64)
    for loss, expected in ((d3gzsl.balanced_bce, 0.5), (d3gzsl.shifted_bce, None)):
        pull = loss(similarity.clone(), same.double())[1].abs()
        positive = float(pull[same].sum() / pull.sum())
        if expected is not None:
            assert positive == pytest.approx(expected)
        else:
            assert positive <= share


# --- od_form and ood_target -----------------------------------------------------------------------


def test_faithful_ood_values_lie_in_a_narrow_band() -> None:
    """Similarities lie in 0.673..1, so that a positive pair costs 0.313..0.413 and a negative one 1.085..1.313."""
    head = nn.Linear(3, 2).double()
    one, two = torch.zeros(1), torch.tensor([0, 1])
    for seed in range(200):
        logits, confidence = 10 * normal(1, 3, seed=seed), (10 * normal(1, seed=1000 + seed)).sigmoid()
        value = float(ood_distillation(logits, head, confidence, one, "faithful").detach())
        assert 0.3132 <= value <= 0.4125
        similarity = -math.log(math.exp(value) - 1)
        assert 0.672 <= similarity <= 1
        pair = 10 * normal(2, 3, seed=seed), (10 * normal(2, seed=2000 + seed)).sigmoid()
        mixed = float(ood_distillation(pair[0], head, pair[1], two, "faithful").detach())
        assert (0.3132 + 1.0852) / 2 <= mixed <= (0.4125 + 1.3133) / 2


class Same(nn.Module):
    """The head that makes of a softmax the same two numbers again."""

    def forward(self, probabilities: Tensor) -> Tensor:
        return probabilities.log()


def best_ood(classes: int) -> float:
    """The smallest L_od of one row of each class, student's and teacher's two numbers searched over a grid."""
    grid = torch.linspace(1e-9, 1 - 1e-9, 33, dtype=torch.float64)
    points = torch.stack([grid, 1 - grid], 1)
    similarity = nn.functional.cosine_similarity(points[:, None], points, dim=2).clamp(1e-4, 1 - 1e-4)
    alike, unlike = -similarity.log() / classes, -(1 - similarity).log() / (classes * (classes - 1))
    student = torch.cartesian_prod(*[torch.arange(len(grid))] * classes)
    teacher = []
    for column in range(classes):  # given the student, each of the teacher's rows by itself
        others = sum(unlike[student[:, row]] for row in range(classes) if row != column)
        teacher.append((alike[student[:, column]] + others).min(1))
    best = int(sum(found.values for found in teacher).argmin())
    confidence = grid[torch.stack([found.indices[best] for found in teacher])]
    return float(ood_distillation(points[student[best]].log(), Same(), confidence, torch.arange(classes), "corrected"))


def test_two_numbers_can_carry_the_domain_but_not_the_class() -> None:
    """Cosines of pairs [c, 1 - c] tell two groups apart; with a third, some pair that is unlike looks alike."""
    assert best_ood(2) < 0.001
    assert best_ood(3) > 0.3


# --- cls_form: rows that are not balanced ---------------------------------------------------------


def test_a_student_without_features_learns_the_counts_of_the_batch() -> None:
    """5 synthetic rows of each of 50 unseen classes, 256 real ones of 150 seen: an unseen one is three times as likely.

    The corrected form holds all classes of the batch equally likely.
    """
    real = torch.arange(256) % 150
    labels = torch.cat([torch.arange(150, 200).repeat_interleave(5), real])
    counts = torch.bincount(labels, minlength=200).double()

    def pull(form: LossForm, probabilities: Tensor) -> float:
        """Of a bias that is all the student has."""
        bias = probabilities.log()
        return float(gradient(lambda b: classification(b.expand(len(labels), -1), labels, form), bias).abs().max())

    frequencies, uniform = counts / counts.sum(), torch.full((200,), 1 / 200, dtype=torch.float64)
    assert float(frequencies[150:].mean() / frequencies[:150].mean()) == pytest.approx(5 / (256 / 150))
    assert pull("faithful", frequencies) < 1e-15
    assert pull("corrected", uniform) < 1e-15
    assert pull("faithful", uniform) > 1e-3
    assert pull("corrected", frequencies) > 1e-3


# --- schedule: growth of the learning rate --------------------------------------------------------


def test_published_rates_grow_five_thousandfold() -> None:
    growth = [schedule(config("schedule=published"), "generator", epoch) for epoch in range(0, 2001, 20)]
    assert all(later / one == pytest.approx(1.09) for one, later in itertools.pairwise(growth))
    assert growth[-1] == pytest.approx(5529, rel=0.001)


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def test_late_epochs_of_the_published_schedule_tear_the_generator_away(small: Task) -> None:
    """At its 2000 epochs one epoch moves weights by hundreds of times what a constant rate does."""

    def moved(name: str) -> float:
        alike = ("generator.averaging=0", "generator.learning_rate_factor=1")
        settings = config(f"schedule={name}", *alike, learning_rate=1e-4, epochs=2000)
        trainer = Trainer(small, settings)
        before = [p.detach().clone() for p in trainer.networks.generator.parameters()]
        trainer.epoch = 1999
        try:
            trainer.run_epoch()
        except DivergedError:
            return math.inf
        after = trainer.networks.generator.parameters()
        return max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))

    assert moved("constant") < 1e-3
    assert moved("cosine") < 1e-6
    assert moved("published") > 0.3
