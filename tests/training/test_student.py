"""The student's terms on a batch: each against plain loops in float64, in the right order of rows and columns.

B: real rows, M: synthetic rows, D: features, C: all classes, S: seen classes.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from model.errors import DataError
from tests.training.tiny import config, task
from training.datasets.dataset import Task
from training.losses.d3gzsl import EPSILON
from training.method.heads import HeadChoice, fit_head
from training.method.student import START_SHRINKAGE, StudentBatch, new_student, student_terms
from training.method.teacher import TeacherOutputs, fit_teacher
from training.method.trainer import Trainer
from training.networks.d3gzsl import Student, Teacher

D, C, SEEN = 5, 6, [1, 2, 4, 5]  # seen classes need not come first
BATCHES = {  # labels of the synthetic and of the real rows
    "mixed": ([0, 0, 3, 3], [1, 5, 5, 2, 4, 1, 1]),
    "one class": ([0], [4, 4, 4]),
    "no synthetic rows": ([], [1, 2, 5, 5]),
    "one row each": ([3], [2]),
    "zero rows": ([0, 3], [1, 1, 2]),
}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def networks() -> tuple[Student, Teacher]:
    student = Student(feature_dim=D, dim=D, classes=C, init="normal", confidence_w=1.5, confidence_b=0.8).double()
    teacher = Teacher(feature_dim=D, dim=D, seen_classes=len(SEEN), init="normal").double()
    for module in (student, teacher):
        for index, parameter in enumerate(p for p in module.parameters() if p.dim()):
            with torch.no_grad():
                parameter.copy_(0.7 * normal(*parameter.shape, seed=index))
    return student, teacher.requires_grad_(False)


def batch(name: str, teacher: Teacher) -> StudentBatch:
    synthetic, real = BATCHES[name]
    scale = 0 if name == "zero rows" else 1
    features = scale * normal(len(real), D, seed=21).relu()
    return StudentBatch(
        synthetic=scale * normal(len(synthetic), D, seed=20).relu(),
        synthetic_labels=torch.tensor(synthetic, dtype=torch.int64),
        real=features,
        real_labels=torch.tensor(real),
        teacher=TeacherOutputs.of(teacher, features),
    )


# --- plain forms ----------------------------------------------------------------------------------


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm().clamp(min=1e-8) * b.norm().clamp(min=1e-8))


def balanced(pairs: list[tuple[Tensor, bool]]) -> Tensor:
    rows = [(s.clamp(EPSILON, 1 - EPSILON), same) for s, same in pairs]
    halves = [[-s.log() for s, same in rows if same], [-(1 - s).log() for s, same in rows if not same]]
    return torch.stack([torch.stack(half).mean() for half in halves if half]).mean()


def plain_terms(student: Student, teacher: Teacher, rows: StudentBatch, target: str) -> dict[str, Tensor]:
    z = [student.embedding(x) for x in (*rows.synthetic, *rows.real)]
    logits = [student.classifier(h) for h in z]
    labels = [*rows.synthetic_labels.tolist(), *rows.real_labels.tolist()]
    count, everything = len(rows.synthetic), range(len(labels))
    spoken = [torch.log_softmax(teacher.classifier(teacher.embedding(x)), 0) for x in (*rows.synthetic, *rows.real)]

    means = []
    for label in sorted(set(labels)):
        own = [-torch.log_softmax(logits[i], 0)[label] for i in everything if labels[i] == label]
        means.append(torch.stack(own).mean())
    kl = []
    for i in everything[count:]:
        q = torch.log_softmax(torch.stack([logits[i][index] for index in SEEN]), 0)
        kl.append(sum((p.exp() * (p - own) for p, own in zip(spoken[i], q, strict=True)), torch.zeros(())))
    be = [
        (cosine(teacher.embedding(rows.real[i - count]), z[j]), labels[i] == labels[j])
        for i in everything[count:]
        for j in everything[count:]
    ]
    confidence = [1 / (1 + (-student.log_w.exp() * (s.max() + student.b)).exp()) for s in spoken]
    b = [torch.stack([c, 1 - c]) for c in confidence]
    a = [torch.softmax(student.ood_head(torch.softmax(row, 0)), 0) for row in logits]
    group = labels if target == "class" else [i < count for i in everything]
    od = [(cosine(a[i], b[j]), group[i] == group[j]) for i in everything for j in everything]
    return {
        "cls": torch.stack(means).mean(),
        "kl": torch.stack(kl).mean(),
        "be": balanced(be),
        "od": balanced(od),
    }


@pytest.mark.parametrize("target", ["domain", "class"])
@pytest.mark.parametrize("name", BATCHES)
def test_terms(name: str, target: str) -> None:
    student, teacher = networks()
    rows = batch(name, teacher)
    actual = student_terms(student, teacher, rows, torch.tensor(SEEN), config(f"d3.ood_target={target}").d3)
    expected = plain_terms(student, teacher, rows, target)
    assert actual.keys() == expected.keys()
    parameters = dict(student.named_parameters())
    for term, value in actual.items():
        assert (value.shape, value.dtype) == ((), torch.float64)
        torch.testing.assert_close(value, expected[term], rtol=1e-10, atol=1e-12, msg=lambda m, t=term: f"{t}: {m}")
        fast, slow = (
            torch.autograd.grad(
                x, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for x in (value, expected[term])
        )
        for key, f, s in zip(parameters, fast, slow, strict=True):
            torch.testing.assert_close(f, s, rtol=1e-8, atol=1e-10, msg=lambda m, k=(term, key): f"{k}: {m}")


def test_the_synthetic_rows_learn_from_student_and_teacher() -> None:
    """Gradients reach the generator through both; real rows need none."""
    student, teacher = networks()
    rows = batch("mixed", teacher)
    made = rows.synthetic.clone().requires_grad_()
    rows = dataclasses.replace(rows, synthetic=made)
    for target in ("domain", "class"):
        terms = student_terms(student, teacher, rows, torch.tensor(SEEN), config(f"d3.ood_target={target}").d3)
        plain = plain_terms(student, teacher, rows, target)
        for name in ("cls", "od"):
            (fast,) = torch.autograd.grad(terms[name], made, retain_graph=True)
            (slow,) = torch.autograd.grad(plain[name], made, retain_graph=True)
            assert fast.any()
            torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-10)
        for name in ("kl", "be"):
            (fast,) = torch.autograd.grad(
                terms[name], made, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            assert not fast.any()


NAMES = {
    "cls": "d3.classification",
    "kl": "d3.label_distillation",
    "be": "d3.embedding_distillation",
    "od": "d3.ood_distillation",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_term_with_weight_zero_is_absent(name: str) -> None:
    student, teacher = networks()
    rows, seen = batch("mixed", teacher), torch.tensor(SEEN)
    every = student_terms(student, teacher, rows, seen, config().d3)
    rest = student_terms(student, teacher, rows, seen, config(f"{NAMES[name]}=0").d3)
    assert rest.keys() == every.keys() - {name}
    assert all(torch.equal(rest[key], every[key]) for key in rest)
    alone = [f"{setting}=0" for other, setting in NAMES.items() if other != name]
    assert student_terms(student, teacher, rows, seen, config(*alone).d3).keys() == {name}


def test_without_weights_nothing_is_computed() -> None:
    student, teacher = networks()
    off = config(*(f"{setting}=0" for setting in NAMES.values())).d3
    assert student_terms(student, teacher, batch("mixed", teacher), torch.tensor(SEEN), off) == {}


@pytest.mark.parametrize("form", ["cls_form", "kl_form", "be_form", "od_form"])
def test_each_form_is_that_of_its_own_term(form: str) -> None:
    student, teacher = networks()
    rows, seen = batch("mixed", teacher), torch.tensor(SEEN)
    corrected = student_terms(student, teacher, rows, seen, config().d3)
    faithful = student_terms(student, teacher, rows, seen, config(f"d3.{form}=faithful").d3)
    changed = {name for name in corrected if not torch.equal(corrected[name], faithful[name])}
    assert changed == {form.removesuffix("_form")}


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
    nn.init.normal_(teacher.classifier.weight)
    outputs = TeacherOutputs.of(teacher, mixed.features)
    student = new_student(mixed, outputs.scores, settings)
    with torch.no_grad():
        student.embedding.load_state_dict(teacher.embedding.state_dict())
        for column, source in zip([1, 3, 4], range(3), strict=True):
            student.classifier.weight[column] = teacher.classifier.weight[source]
            student.classifier.bias[column] = teacher.classifier.bias[source]
    rows = StudentBatch(
        synthetic=torch.rand(2, 4),
        synthetic_labels=mixed.unseen_index,
        real=mixed.features,
        real_labels=mixed.labels,
        teacher=outputs,
    )
    terms = student_terms(student, teacher, rows, mixed.seen_index, settings.d3)
    assert float(terms["kl"].detach()) == pytest.approx(0, abs=1e-6)
    other = student_terms(student, teacher, rows, mixed.seen_index.flip(0), settings.d3)
    assert float(other["kl"].detach()) > 1e-3


def test_a_classifier_that_starts_from_the_head_says_what_the_head_says() -> None:
    """Its rows are those of an `lda` head on the same embeddings, real and synthesised ones."""
    small, settings = task(seen=5, unseen=2, rows=8, dim=8), config("d3.classifier_init=head")
    networks = Trainer(small, settings).networks
    names = [str(index) for index in range(len(small.seen))]
    samples = settings.selection.samples
    head = fit_head(networks, small, names, HeadChoice(shrinkage=START_SHRINKAGE), samples=samples, key="")
    with torch.no_grad():
        z, logits = networks.student(small.features)
    torch.testing.assert_close(logits, torch.from_numpy(head.logits(z.numpy())), rtol=1e-3, atol=1e-3)
    random = Trainer(small, config()).networks.student.classifier.weight
    assert not torch.allclose(networks.student.classifier.weight, random, atol=0.1)


def test_no_classifier_starts_from_rows_that_are_all_the_same() -> None:
    small = task(seen=5, unseen=2, rows=8, dim=8)
    same = dataclasses.replace(small, features=torch.full_like(small.features, 0.5))
    with pytest.raises(
        DataError, match=r"d3\.classifier_init: no head can be fitted on the embeddings of the training images"
    ):
        Trainer(same, config("d3.classifier_init=head"))


def test_the_classifier_learns_at_its_own_rate() -> None:
    small, names = task(seen=5, unseen=2, rows=8, dim=8), ("classifier", "ood_head")
    moved = []
    for factor in (1.0, 1e-6):
        trainer = Trainer(small, config(f"d3.classifier_lr_factor={factor}", "steps=1"))
        before = [getattr(trainer.networks.student, name).weight.detach().clone() for name in names]
        trainer.run_epoch()
        after = [getattr(trainer.networks.student, name).weight for name in names]
        moved.append([float((a - b).detach().abs().max()) for a, b in zip(after, before, strict=True)])
    assert moved[0][0] > 1e-4
    assert moved[1][0] < 1e-6
    assert moved[1][1] > 1e-4


def test_the_confidence_starts_at_the_median_and_spread_of_the_scores() -> None:
    small = task(seen=5, unseen=2, rows=8, dim=8)
    scores = torch.tensor([-4.0, -1.0, -0.5, -0.25, -3.0])
    student = new_student(small, scores, config())
    assert student.log_w.exp().item() == pytest.approx(1 / float(scores.std()))
    assert student.b.item() == pytest.approx(1.0)
    assert student.confidence(torch.tensor([-1.0])).item() == pytest.approx(0.5)
    with pytest.raises(AttributeError):
        student.w  # noqa: B018 - it has one or the other
    equal = new_student(small, torch.full((5,), -0.5), config())
    assert equal.log_w.exp().item() == pytest.approx(1e3)
    assert math.isfinite(equal.b.item())


def test_the_published_confidence_starts_at_a_half_or_less_and_may_fall_with_the_score() -> None:
    small = task(seen=5, unseen=2, rows=8, dim=8)
    student = new_student(small, torch.tensor([-4.0, -1.0, -0.5]), config("d3.od_form=faithful"))
    p = torch.tensor([1.0, 0.5, 1 / 150])
    torch.testing.assert_close(student.confidence(p.log()), p / (1 + p))
    with torch.no_grad():
        student.w.fill_(-2.0)
    one, other = student.confidence(torch.tensor([-0.1, -3.0])).tolist()
    assert one < other
    trainer = Trainer(small, config("d3.od_form=faithful"))
    scalars = (trainer.networks.student.w, trainer.networks.student.b)
    before = [x.item() for x in scalars]
    trainer.run_epoch()
    assert all(x.item() != y for x, y in zip(scalars, before, strict=True))
