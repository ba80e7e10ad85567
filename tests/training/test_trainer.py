"""The training loop: what it steps, what each switch changes, and what it never touches."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.errors import DataError
from model.networks.d3gzsl import Student, Teacher
from tests.training.tiny import config, same, state, task
from training import fit, trainer
from training.config import TrainConfig
from training.dataset import from_store
from training.extraction import extract
from training.fit import without_d3
from training.gradients import INERT, gradient_shares
from training.ridge import class_mean_ridge
from training.scaler import Scaler
from training.selection import make_task
from training.task import Task
from training.teacher import TeacherOutputs, fit_teacher
from training.trainer import Batch, Networks, scale_gradient, train

SHARED = Path(__file__).parents[3] / "shared" / "data"
ANIMALS, MOBILENET = SHARED / "animals", SHARED / "backbones" / "mobilenet_v1_224.onnx"


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=5, unseen=2, rows=8, dim=8)


def trained(small: Task, *settings: str, **fields: Any) -> Networks:
    chosen = config("generator.averaging=0", *settings, **fields)
    return train(small, chosen, epochs=chosen.epochs)


@pytest.fixture(scope="module")
def base(small: Task) -> Networks:
    return trained(small)


# --- the same again -------------------------------------------------------------------------------


def test_a_seed_decides_everything(small: Task, base: Networks) -> None:
    torch.manual_seed(99)  # what came before does not matter
    assert same(trained(small), base)
    other = trained(small, seed=1)
    for name, module in base.modules():
        assert not same(module, dict(other.modules())[name]), name


def test_a_shorter_training_is_the_beginning_of_a_longer_one(small: Task, base: Networks) -> None:
    """Selection measures every length in one training, and then trains anew for the chosen length."""
    on_the_way = {}
    train(small, config("generator.averaging=0"), epochs=4, on_epoch=lambda e, n, _: on_the_way.update({e: state(n)}))
    assert list(on_the_way) == [1, 2, 3, 4]
    assert all(torch.equal(on_the_way[2][key], value) for key, value in state(base).items())
    assert not all(torch.equal(on_the_way[3][key], value) for key, value in state(base).items())


def test_measuring_gradients_does_not_disturb_training(small: Task, base: Networks) -> None:
    settings = config("generator.averaging=0")
    shares: list[dict[str, float]] = []
    measured = train(
        small, settings, epochs=2, on_epoch=lambda _e, n, _l: shares.append(gradient_shares(n, small, settings))
    )
    assert [sorted(s) for s in shares] == [["be", "cls", "kl", "od"]] * 2
    assert same(measured, base)


# --- every switch switches ------------------------------------------------------------------------

OFF = ("d3.label_distillation", "d3.embedding_distillation", "d3.ood_distillation")


@pytest.mark.parametrize("switch", [*OFF, "d3.classification"])
def test_every_term_changes_student_and_generator(small: Task, base: Networks, switch: str) -> None:
    other = trained(small, f"{switch}=0")
    assert not same(other.student.embedding, base.student.embedding)
    assert not same(other.student.classifier, base.student.classifier)
    assert not same(other.generator, base.generator)
    assert same(other.teacher, base.teacher)


def test_all_terms_off_is_without_d3(small: Task, base: Networks) -> None:
    settings = without_d3(config("generator.averaging=0"))
    plain = train(small, settings, epochs=2)
    assert same(plain, trained(small, *(f"{switch}=0" for switch in OFF)))
    assert not same(plain.student, base.student)
    assert not same(plain.generator, base.generator)
    start = at_the_start(small, settings)  # H and the confidence serve L_od only
    assert same(plain.student.ood_head, start.ood_head)
    assert torch.equal(plain.student.log_w, start.log_w)
    assert torch.equal(plain.student.b, start.b)
    assert not same(base.student.ood_head, start.ood_head)
    assert not torch.equal(base.student.log_w, start.log_w)
    assert not torch.equal(base.student.b, start.b)


def at_the_start(small: Task, settings: TrainConfig) -> Student:
    """The student as `train` makes it."""
    torch.manual_seed(settings.seed)
    teacher = fit_teacher(small.features, small.teacher_labels, len(small.seen_index), settings)
    return trainer.build(small, teacher, TeacherOutputs.of(teacher, small.features).scores, settings).student


@pytest.mark.parametrize(
    "setting",
    [
        "d3.cls_form=faithful",
        "d3.kl_form=faithful",
        "d3.be_form=faithful",
        "d3.od_form=faithful",
        "d3.ood_target=class",
        "d3.embedding_init=normal",
        "d3.embedding_lr_factor=1",
        "d3.synthetic_per_class=2",
        "d3.embedding_dim=5",
    ],
)
def test_every_form_changes_the_weights(small: Task, base: Networks, setting: str) -> None:
    other = trained(small, setting)
    for mine, theirs in ((base.student.classifier, other.student.classifier), (base.generator, other.generator)):
        left, right = state(mine), state(theirs)
        assert any(left[key].shape != right[key].shape or not torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    "setting",
    [
        "generator.seen_classification=0",
        "generator.gp_weight=0",
        "generator.critic_steps=1",
        "generator.linear_path_ridge=0",
        "generator.linear_path=false",
        "generator.averaging=0.5",
    ],
)
def test_every_setting_of_the_generator_changes_it(small: Task, base: Networks, setting: str) -> None:
    left, right = state(base.generator), state(trained(small, setting).generator)
    assert left.keys() != right.keys() or any(not torch.equal(left[key], right[key]) for key in left)


def test_without_a_share_the_student_losses_do_not_reach_the_generator(small: Task) -> None:
    alone = trained(small, "d3.generator_share=0")
    for switch in (*OFF, "d3.classification"):
        other = trained(small, "d3.generator_share=0", f"{switch}=0")
        assert same(other.generator, alone.generator)
        assert same(other.critic, alone.critic)
        assert not same(other.student, alone.student)


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
        on_epoch=lambda _e, n, _l: measured.append(gradient_shares(n, realistic, settings)),
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
    from training.backbone import load_backbone
    from training.own_data import read_own_data

    store = extract(read_own_data(ANIMALS), load_backbone(MOBILENET), tmp_path / "features").store
    data = from_store(store, test_fraction=0.3, split_seed=0)
    scaler = Scaler.fit(data.features[data.trainval])
    animals = make_task(data, data.trainval, np.arange(len(data.classes)), scaler, torch.device("cpu"))
    settings, measured = TrainConfig(), []
    torch.set_num_threads(2)
    train(
        animals, settings, epochs=6, on_epoch=lambda _e, n, _l: measured.append(gradient_shares(n, animals, settings))
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


# --- what is stepped ------------------------------------------------------------------------------


class Counting(torch.optim.Adam):
    """Adam that counts its steps by the shape of its first parameter."""

    made: list[Counting] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = 0
        self.made.append(self)

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        return super().step(closure)


@pytest.fixture
def optimisers(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    made: list[Counting] = []
    monkeypatch.setattr(Counting, "made", made)
    monkeypatch.setattr(torch.optim, "Adam", Counting)
    return made


@pytest.mark.parametrize(("rows", "outer"), [(8, 3), (3, 1)])
def test_schedule(optimisers: list[Counting], rows: int, outer: int) -> None:
    """Per outer step the critic steps `critic_steps` times, the generator once, the student each time."""
    work = task(seen=5, unseen=2, rows=rows, dim=8)  # 40 or 15 rows in batches of 16
    teacher_steps = (rows * 5 // min(16, rows * 5)) * 2
    losses: list[dict[str, float]] = []
    trained_with = config("generator.critic_steps=3", "d3.embedding_lr_factor=0.1", learning_rate=0.002)
    train(work, trained_with, epochs=2, on_epoch=lambda _e, _n, found: losses.append(found))
    teacher, critic, generator, student = optimisers
    assert teacher.steps == teacher_steps  # the last, smaller batch is dropped
    assert (critic.steps, generator.steps, student.steps) == (2 * outer * 3, 2 * outer, 2 * outer * 4)
    assert [(g["lr"], g["betas"]) for g in student.param_groups] == [
        (pytest.approx(0.0002), (0.5, 0.999)),
        (0.002, (0.5, 0.999)),
    ]
    assert [len(found) for found in losses] == [5, 5]
    assert all(np.isfinite(list(found.values())).all() for found in losses)


def test_every_parameter_has_one_optimiser(small: Task, optimisers: list[Counting]) -> None:
    networks = train(small, config("generator.averaging=0"), epochs=1)
    held = Counter(id(p) for adam in optimisers[1:] for group in adam.param_groups for p in group["params"])
    wanted = [*networks.critic.parameters(), *networks.student.parameters()]
    assert set(held.values()) == {1}
    assert {id(p) for p in wanted} <= set(held)
    assert len(held) == len(wanted) + len(list(networks.generator.parameters()))


def test_losses_are_means_over_their_steps(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers in the log: each term by the steps that it is part of."""
    terms: list[float] = []
    distances: list[float] = []
    original = trainer.student_losses

    def noted(*args: Any) -> dict[str, torch.Tensor]:
        found = original(*args)
        terms.append(float(found["kl"].detach()))
        return found

    class Critic(trainer.Critic):
        def forward(self, features: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
            scores = super().forward(features, attributes)
            if len(scores) == 32:  # synthetic rows, then as many real ones
                distances.append(float((scores[16:].mean() - scores[:16].mean()).detach()))
            return scores

    monkeypatch.setattr(trainer, "student_losses", noted)
    monkeypatch.setattr(trainer, "Critic", Critic)
    logged: list[dict[str, float]] = []
    train(small, config(), epochs=1, on_epoch=lambda _e, _n, found: logged.append(found))
    assert (len(terms), len(distances)) == (9, 6)
    assert logged[0]["kl"] == pytest.approx(np.mean(terms), rel=1e-4)
    assert logged[0]["wasserstein"] == pytest.approx(np.mean(distances), rel=1e-4)


def test_the_kept_generator_is_the_moving_average(small: Task, optimisers: list[Counting]) -> None:
    """average = decay * average + (1 - decay) * generator after every outer step, from the start of training."""
    own: list[dict[str, torch.Tensor]] = []
    kept: list[dict[str, torch.Tensor]] = []
    original = trainer.average_into

    def noted(average: nn.Module, module: nn.Module, decay: float) -> None:
        if not own:
            own.append(state(average))
        original(average, module, decay)
        own.append(state(module))
        kept.append(state(average))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "average_into", noted)
        networks = train(small, config("generator.averaging=0.7"), epochs=1)
    expected = own[0]
    for now, average in zip(own[1:], kept, strict=True):
        expected = {key: 0.7 * expected[key] + 0.3 * now[key] for key in expected}
        torch.testing.assert_close(average, expected)
    assert not any(p.requires_grad for p in networks.generator.parameters())
    torch.testing.assert_close(state(networks.generator), expected)


def test_the_teacher_is_fitted_once_and_stays(small: Task, base: Networks) -> None:
    settings = config()
    torch.manual_seed(settings.seed)
    teacher = fit_teacher(small.features, small.teacher_labels, len(small.seen_index), settings)
    assert same(teacher, base.teacher)
    assert not teacher.training
    assert not any(p.requires_grad for p in base.teacher.parameters())


def test_the_teacher_learns() -> None:
    work = task(seen=4, unseen=1, rows=20, dim=8)
    fitted = fit_teacher(
        work.features, work.teacher_labels, 4, config("teacher.epochs=60", "teacher.learning_rate=0.01")
    )
    accuracy = (fitted(work.features)[1].argmax(1) == work.teacher_labels).float().mean()
    assert accuracy > 0.8


def test_teacher_outputs(small: Task, base: Networks) -> None:
    outputs = TeacherOutputs.of(base.teacher, small.features)
    rows = torch.tensor([7, 0, 7])
    taken, again = outputs.take(rows), TeacherOutputs.of(base.teacher, small.features[rows])
    for name in ("embeddings", "log_probs", "scores"):
        torch.testing.assert_close(getattr(taken, name), getattr(again, name))
    assert torch.equal(outputs.scores, outputs.log_probs.max(1).values)


def test_held_out_scores_come_from_teachers_that_did_not_see_the_row(
    small: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config("teacher.epochs=40", "teacher.learning_rate=0.01")
    learned_from: list[set[tuple[float, ...]]] = []

    def noted(features: torch.Tensor, labels: torch.Tensor, *rest: Any) -> Teacher:
        learned_from.append({tuple(row) for row in features.tolist()})
        assert set(labels.tolist()) == set(range(5))
        return fit_teacher(features, labels, *rest)

    monkeypatch.setattr(fit, "fit_teacher", noted)
    scores = fit.held_out_scores(small, settings)
    rows = {tuple(row) for row in small.features.tolist()}
    held = [rows - learned for learned in learned_from]
    assert [len(fold) for fold in held] == [8] * 5
    assert set.union(*held) == rows
    assert scores.shape == (40,)
    assert scores.dtype == np.float32
    assert (np.diff(scores) >= 0).all()
    by_heart = fit_teacher(small.features, small.teacher_labels, 5, settings).score(small.features)
    assert scores.mean() < float(by_heart.mean())


def test_divergence_is_reported(small: Task) -> None:
    with pytest.raises(DataError, match=r"diverged: mean losses of epoch \d+ are not finite \(.*\); use a lower learn"):
        trained(small, learning_rate=1e30, epochs=20)


# --- rows and gradients ---------------------------------------------------------------------------


def test_a_task_refuses_rows_of_unseen_classes_and_seen_classes_without_rows(small: Task) -> None:
    with pytest.raises(ValueError, match="every seen class needs rows, and no unseen class may have any"):
        dataclasses.replace(small, labels=torch.cat([small.labels[:-1], small.unseen_index[:1]]))
    with pytest.raises(ValueError, match="every seen class needs rows"):
        dataclasses.replace(small, labels=small.labels.clamp(max=3))


def test_labels_of_the_teacher_count_seen_classes_only() -> None:
    mixed = Task(
        features=torch.rand(4, 2),
        labels=torch.tensor([3, 1, 4, 1]),
        attributes=torch.rand(5, 2),
        seen=torch.tensor([False, True, False, True, True]),
    )
    assert mixed.seen_index.tolist() == [1, 3, 4]
    assert mixed.unseen_index.tolist() == [0, 2]
    assert mixed.teacher_labels.tolist() == [1, 0, 2, 0]


def test_synthetic_rows_are_of_unseen_classes_and_generated(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    original = trainer.student_losses

    def noted(networks: Networks, batch: Batch, *rest: Any) -> dict[str, torch.Tensor]:
        batches.append(batch)
        return original(networks, batch, *rest)

    monkeypatch.setattr(trainer, "student_losses", noted)
    train(small, config("d3.synthetic_per_class=3"), epochs=1)
    assert len(batches) == 9  # 3 outer steps, 2 of the critic and 1 of the generator each
    real = {tuple(row) for row in small.features.tolist()}
    for batch in batches:
        assert batch.synthetic_labels.tolist() == [5, 5, 5, 6, 6, 6]
        assert not small.seen[batch.synthetic_labels].any()
        assert all(tuple(row) not in real for row in batch.synthetic.tolist())
        assert all(tuple(row) in real for row in batch.real.tolist())
        assert small.seen[batch.real_labels].all()
    assert [batch.synthetic.requires_grad for batch in batches] == [False, False, True] * 3
    assert len({tuple(batch.synthetic.flatten().tolist()) for batch in batches}) == 9  # fresh noise every time


def test_student_columns_of_seen_classes_meet_the_teacher_in_its_order() -> None:
    """Seen classes need not come first: L_kl is 0 where the student's seen columns are the teacher's."""
    mixed = Task(
        features=torch.rand(6, 4),
        labels=torch.tensor([3, 1, 4, 1, 3, 4]),
        attributes=torch.rand(5, 2),
        seen=torch.tensor([False, True, False, True, True]),
    )
    settings = config()
    teacher = fit_teacher(mixed.features, mixed.teacher_labels, 3, settings)
    outputs = TeacherOutputs.of(teacher, mixed.features)
    networks = trainer.build(mixed, teacher, outputs.scores, settings)
    with torch.no_grad():
        networks.student.embedding.load_state_dict(teacher.embedding.state_dict())
        for column, source in zip([1, 3, 4], range(3), strict=True):
            networks.student.classifier.weight[column] = teacher.classifier.weight[source]
            networks.student.classifier.bias[column] = teacher.classifier.bias[source]
    batch = Batch(
        synthetic=torch.rand(2, 4),
        synthetic_labels=mixed.unseen_index,
        real=mixed.features,
        real_labels=mixed.labels,
        teacher=outputs,
    )
    terms = trainer.student_losses(networks, batch, mixed.seen_index, settings.d3)
    assert float(terms["kl"].detach()) == pytest.approx(0, abs=1e-6)


def test_scale_gradient() -> None:
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    scaled = scale_gradient(x, 0.25)
    torch.testing.assert_close(scaled, x)
    (scaled * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.25, 2.5, 25]


def test_only_seen_classes() -> None:
    """Nothing to synthesise is nothing to fail on."""
    alone = task(seen=4, unseen=0, rows=6, dim=6)
    networks = train(alone, config(), epochs=1)
    assert all(torch.isfinite(value).all() for value in state(networks).values())


# --- ridge ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.05, 0.3, 4.0])
def test_ridge_is_the_closed_form(strength: float) -> None:
    """The normal equations in attribute space, against the code's in the space of classes."""
    work = task(seen=5, unseen=2, rows=4, dim=6, attributes=3)
    features, labels = work.features.double(), work.labels.tolist()
    means = np.array(
        [
            sum((features[i].numpy() for i in range(len(labels)) if labels[i] == c), np.zeros(6)) / labels.count(c)
            for c in range(5)
        ]
    )
    described = work.attributes[:5].double().numpy()
    a, m = described - described.mean(0), means - means.mean(0)
    penalty = strength * np.trace(a @ a.T) / 5
    expected = np.linalg.solve(a.T @ a + penalty * np.eye(3), a.T @ m).T
    weight, bias = class_mean_ridge(work, strength)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias.numpy(), means.mean(0) - expected @ described.mean(0), rtol=1e-4, atol=1e-6)


def test_the_generator_starts_from_the_ridge(small: Task) -> None:
    settings = config("generator.linear_path_ridge=0.3")
    teacher = fit_teacher(small.features, small.teacher_labels, 5, settings)
    generator = trainer.build(small, teacher, torch.linspace(-2, 0, 9), settings).generator
    weight, bias = class_mean_ridge(small, 0.3)
    assert generator.linear_path is not None
    assert torch.equal(generator.linear_path.weight, weight)
    assert torch.equal(generator.output.bias, bias)
    with torch.no_grad():
        made = generator(torch.randn(7, 3), small.attributes)
    torch.testing.assert_close(made, (small.attributes @ weight.T + bias).relu(), atol=0.02, rtol=0)
    unstarted = trainer.build(
        small, teacher, torch.linspace(-2, 0, 9), config("generator.linear_path_ridge=0")
    ).generator
    assert unstarted.linear_path is not None
    assert not unstarted.linear_path.weight.any()


def test_the_confidence_starts_at_the_median_and_spread_of_the_scores(small: Task, base: Networks) -> None:
    scores = torch.tensor([-4.0, -1.0, -0.5, -0.25, -3.0])
    student = trainer.build(small, base.teacher, scores, config()).student
    assert student.log_w.exp().item() == pytest.approx(1 / float(scores.std()))
    assert student.b.item() == pytest.approx(1.0)
    assert student.confidence(torch.tensor([-1.0])).item() == pytest.approx(0.5)
    equal = trainer.build(small, base.teacher, torch.full((5,), -0.5), config()).student
    assert equal.log_w.exp().item() == pytest.approx(1e3)
