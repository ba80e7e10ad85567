"""Every loss in both forms against plain loops in float64, and the values that follow from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from training.config import LossForm
from training.losses import d3gzsl, generative
from training.losses.d3gzsl import EPSILON

FORMS: tuple[LossForm, ...] = ("corrected", "faithful")
SIZES = [(1, 1, 2), (2, 3, 2), (5, 4, 3), (9, 2, 7)]  # rows, dimensions, classes
Vector = Sequence[float]


# --- references: no tensors, no vector operations -------------------------------------------------


def softmax(x: Vector) -> list[float]:
    largest = max(x)
    powers = [math.exp(v - largest) for v in x]
    return [p / sum(powers) for p in powers]


def log_softmax(x: Vector) -> list[float]:
    largest = max(x)
    total = math.log(sum(math.exp(v - largest) for v in x)) + largest
    return [v - total for v in x]


def cosine(a: Vector, b: Vector) -> float:
    length = max(math.sqrt(sum(v * v for v in a)), 1e-8) * max(math.sqrt(sum(v * v for v in b)), 1e-8)
    return sum(v * w for v, w in zip(a, b, strict=True)) / length


def slow_balanced_bce(pairs: Sequence[tuple[float, bool]]) -> float:
    clamped = [(min(max(s, EPSILON), 1 - EPSILON), positive) for s, positive in pairs]
    alike = [-math.log(s) for s, positive in clamped if positive]
    unlike = [-math.log(1 - s) for s, positive in clamped if not positive]
    halves = [sum(half) / len(half) for half in (alike, unlike) if half]
    return sum(halves) / len(halves)


def slow_shifted_bce(pairs: Sequence[tuple[float, bool]]) -> float:
    total = 0.0
    for value, positive in pairs:
        probability = 1 / (1 + math.exp(-(value + 1) / 2))
        total += -math.log(probability if positive else 1 - probability)
    return total / len(pairs)


SLOW_PAIRS: dict[LossForm, Callable[[Sequence[tuple[float, bool]]], float]] = {
    "corrected": slow_balanced_bce,
    "faithful": slow_shifted_bce,
}


def slow_label_distillation(logits: Sequence[Vector], teacher: Sequence[Vector], form: LossForm) -> float:
    total = 0.0
    for row, log_probs in zip(logits, teacher, strict=True):
        p, log_q = [math.exp(v) for v in log_probs], log_softmax(row)
        if form == "faithful":
            p, log_q = softmax(p), log_softmax(softmax(row))
        total += sum(a * (math.log(a) - b) for a, b in zip(p, log_q, strict=True) if a > 0)
    return total / len(logits)


def slow_embedding_distillation(
    teacher: Sequence[Vector], student: Sequence[Vector], labels: Sequence[int], form: LossForm
) -> float:
    rows = range(len(labels))
    pairs = [(cosine(teacher[i], student[j]), labels[i] == labels[j]) for i in rows for j in rows]
    return SLOW_PAIRS[form](pairs)


def slow_ood_distillation(
    logits: Sequence[Vector], head: nn.Linear, confidence: Vector, groups: Sequence[int], form: LossForm
) -> float:
    weight, bias = head.weight.tolist(), head.bias.tolist()
    a, b = [], []
    for row, c in zip(logits, confidence, strict=True):
        seen = softmax(row) if form == "corrected" else log_softmax(row)
        a.append(softmax([sum(w * v for w, v in zip(weight[k], seen, strict=True)) + bias[k] for k in (0, 1)]))
        b.append([c, 1 - c] if form == "corrected" else softmax([c, 1 - c]))
    rows = range(len(logits))
    return SLOW_PAIRS[form]([(cosine(a[i], b[j]), groups[i] == groups[j]) for i in rows for j in rows])


def slow_classification(logits: Sequence[Vector], labels: Sequence[int], form: LossForm) -> float:
    rows = [-log_softmax(row)[label] for row, label in zip(logits, labels, strict=True)]
    if form == "faithful":
        return sum(rows) / len(rows)
    means = [
        sum(r for r, label in zip(rows, labels, strict=True) if label == wanted) / list(labels).count(wanted)
        for wanted in sorted(set(labels))
    ]
    return sum(means) / len(means)


# --- inputs ---------------------------------------------------------------------------------------


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def integers(high: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed))


def embeddings(rows: int, dim: int, seed: int) -> Tensor:
    """Rectified, as the networks give them; the first row is zero wherever there are several."""
    z = normal(rows, dim, seed=seed).relu()
    if rows > 1:
        z[0] = 0
    return z


def ood_head(classes: int) -> nn.Linear:
    torch.manual_seed(classes)
    return nn.Linear(classes, 2).double()


def number(loss: Tensor) -> float:
    return float(loss.detach())


def close(actual: Tensor, expected: float) -> None:
    assert actual.dtype == torch.float64
    assert actual.shape == ()
    assert number(actual) == pytest.approx(expected, rel=1e-10, abs=1e-12)


# --- against the references -----------------------------------------------------------------------


@pytest.mark.parametrize("positive", ["some", "none", "all"])
@pytest.mark.parametrize("shape", [(1,), (6,), (3, 4)])
def test_pair_losses(shape: tuple[int, ...], positive: str) -> None:
    similarity = normal(*shape, seed=3).clamp(-1, 1)  # beyond both clamps of the corrected form
    target = {"some": normal(*shape, seed=4) > 0, "none": similarity > 2, "all": similarity < 2}[positive]
    listed = list(zip(similarity.flatten().tolist(), target.flatten().tolist(), strict=True))
    for fast, slow in ((d3gzsl.balanced_bce, slow_balanced_bce), (d3gzsl.shifted_bce, slow_shifted_bce)):
        close(fast(similarity.clone(), target.double())[0], slow(listed))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "_dim", "classes"), SIZES)
def test_label_distillation(rows: int, _dim: int, classes: int, form: LossForm) -> None:
    logits, teacher = 2 * normal(rows, classes, seed=5), (3 * normal(rows, classes, seed=6)).log_softmax(1)
    expected = slow_label_distillation(logits.tolist(), teacher.tolist(), form)
    close(d3gzsl.label_distillation(logits, teacher, form), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "dim", "classes"), SIZES)
def test_embedding_distillation(rows: int, dim: int, classes: int, form: LossForm) -> None:
    teacher, student, labels = embeddings(rows, dim, 7), embeddings(rows, dim, 8), integers(classes, rows)
    expected = slow_embedding_distillation(teacher.tolist(), student.tolist(), labels.tolist(), form)
    close(d3gzsl.embedding_distillation(teacher, student, labels, form), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", ["class", "domain", "one"])
@pytest.mark.parametrize(("rows", "_dim", "classes"), SIZES)
def test_ood_distillation(rows: int, _dim: int, classes: int, groups: str, form: LossForm) -> None:
    logits, confidence, head = 2 * normal(rows, classes, seed=9), normal(rows, seed=10).sigmoid(), ood_head(classes)
    alike = {
        "class": integers(classes, rows),
        "domain": torch.arange(rows) < rows // 2,
        "one": torch.zeros(rows, dtype=torch.int64),
    }[groups]
    expected = slow_ood_distillation(logits.tolist(), head, confidence.tolist(), alike.tolist(), form)
    close(d3gzsl.ood_distillation(logits, head, confidence, alike, form), expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", ["mixed", "one class"])
@pytest.mark.parametrize(("rows", "_dim", "classes"), SIZES)
def test_classification(rows: int, _dim: int, classes: int, labels: str, form: LossForm) -> None:
    logits = 2 * normal(rows, classes, seed=11)
    chosen = integers(classes, rows) if labels == "mixed" else torch.full((rows,), classes - 1)
    close(d3gzsl.classification(logits, chosen, form), slow_classification(logits.tolist(), chosen.tolist(), form))


@pytest.mark.parametrize(("rows", "dim", "_classes"), SIZES)
def test_gradient_penalty(rows: int, dim: int, _classes: int) -> None:
    gradients = embeddings(rows, dim, 12)
    lengths = [math.sqrt(sum(v * v for v in row)) for row in gradients.tolist()]
    close(generative.gradient_penalty(gradients), sum((length - 1) ** 2 for length in lengths) / rows)


@pytest.mark.parametrize(("rows", "dim", "_classes"), SIZES)
def test_gaussian_kl(rows: int, dim: int, _classes: int) -> None:
    """Of independent numbers: the sum of KL(N(m, v) || N(0, 1)) = (m^2 + v - 1 - ln v)/2."""
    mean, log_variance = embeddings(rows, dim, 16), 2 * normal(rows, dim, seed=17)
    log_variance[-1] = 0
    total = 0.0
    for means, logs in zip(mean.tolist(), log_variance.tolist(), strict=True):
        total += sum((m * m + math.exp(v) - 1 - v) / 2 for m, v in zip(means, logs, strict=True))
    close(generative.gaussian_kl(mean, log_variance), total / rows)
    assert number(generative.gaussian_kl(0 * mean, 0 * log_variance)) == 0


# --- values that follow from the formulas ---------------------------------------------------------


def one_hot(rows: Sequence[int], classes: int) -> Tensor:
    """Logits whose softmax is one-hot to the last digit."""
    return 1e3 * nn.functional.one_hot(torch.tensor(rows), classes).double()


@pytest.mark.parametrize(("classes", "bound"), [(150, 0.0065), (40, 0.023), (645, 0.0015)])
def test_double_softmax_makes_label_distillation_inert(classes: int, bound: float) -> None:
    certain = one_hot([0], classes).log_softmax(1)
    unsure = torch.zeros(1, classes, dtype=torch.float64)
    assert number(d3gzsl.label_distillation(unsure, certain, "faithful")) == pytest.approx(bound, rel=0.03)
    assert number(d3gzsl.label_distillation(unsure, certain, "corrected")) == pytest.approx(math.log(classes))
    # Even a student that is certain of another class loses next to nothing.
    wrong = one_hot([1], classes)
    worst = (math.e - 1) / (math.e + classes - 1)
    assert number(d3gzsl.label_distillation(wrong, certain, "faithful")) == pytest.approx(worst)
    for seed in range(20):
        logits, teacher = 30 * normal(2, 4, classes, seed=seed)
        assert number(d3gzsl.label_distillation(logits, teacher.log_softmax(1), "faithful")) <= worst


@pytest.mark.parametrize("form", FORMS)
def test_label_distillation_is_zero_for_a_student_that_agrees(form: LossForm) -> None:
    logits = 3 * normal(4, 6, seed=13)
    agreeing = logits + normal(4, 1, seed=14)  # logits are free up to a constant per row
    assert number(d3gzsl.label_distillation(agreeing, logits.log_softmax(1), form)) == pytest.approx(0, abs=1e-12)
    assert number(d3gzsl.label_distillation(agreeing.flip(1), logits.log_softmax(1), form)) > 1e-3


def test_faithful_pair_losses_cannot_come_near_zero() -> None:
    """Rectified embeddings have cosines in 0..1: a positive pair costs 0.313 to 0.474, a negative 0.974 to 1.313."""
    best, worst = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    alike = torch.tensor([True, False])
    four = [(values[i : i + 1], alike[i : i + 1]) for values in (best, worst) for i in (0, 1)]
    costs = [number(d3gzsl.shifted_bce(similarity.clone(), positive.float())[0]) for similarity, positive in four]
    assert costs == pytest.approx([0.3133, 0.9741, 0.4741, 1.3133], abs=1e-4)
    # The best that any embedding can do: every class on an axis of its own.
    ideal = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    labels = torch.arange(4).repeat(2)
    expected = (2 * 0.3133 + 6 * 0.9741) / 8
    assert number(d3gzsl.embedding_distillation(ideal, ideal, labels, "faithful")) == pytest.approx(expected, abs=1e-4)
    assert number(d3gzsl.embedding_distillation(ideal, ideal, labels, "corrected")) == pytest.approx(EPSILON, rel=1e-3)


def test_faithful_ood_similarity_lies_above_two_thirds() -> None:
    """b is soft-maxed into 0.269..0.731, so that even opposite rows look alike: (cos + 1) / 2 lies in 0.673..1."""
    head = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    certain, one = one_hot([0], 2), torch.zeros(1)
    confidences = [torch.tensor([c], dtype=torch.float64) for c in (0.0, 1.0)]
    values = [number(d3gzsl.ood_distillation(certain, head, c, one, "faithful")) for c in confidences]
    similarities = [-math.log(math.exp(value) - 1) for value in values]
    assert similarities == pytest.approx([0.673, 0.969], abs=2e-3)
    opposite = d3gzsl.ood_distillation(certain, _certain_head(), confidences[0], one, "corrected")
    assert number(opposite) == pytest.approx(-math.log(EPSILON))


def _certain_head() -> nn.Linear:
    """Makes of a one-hot softmax a one-hot pair."""
    head = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(1e3 * torch.eye(2))
    return head


def test_ood_distillation_by_domain_can_be_solved() -> None:
    """Confident in real rows and not in synthetic ones, with a student that says the same, costs next to nothing."""
    logits, confidence = one_hot([0, 0, 1, 1, 1], 2), torch.tensor([1.0, 1, 0, 0, 0], dtype=torch.float64)
    real = torch.tensor([True, True, False, False, False])
    assert number(d3gzsl.ood_distillation(logits, _certain_head(), confidence, real, "corrected")) < 2 * EPSILON
    swapped = d3gzsl.ood_distillation(logits, _certain_head(), 1 - confidence, real, "corrected")
    assert number(swapped) > -math.log(EPSILON) / 2


def test_every_class_weighs_the_same_in_classification() -> None:
    """The published batch: 5 rows of each unseen class among 256 real ones; repeating rows changes nothing."""
    logits = normal(3, 4, seed=15)
    labels = torch.tensor([0, 2, 3])
    counts = torch.tensor([256, 5, 5])
    repeated = d3gzsl.classification(logits.repeat_interleave(counts, 0), labels.repeat_interleave(counts), "corrected")
    close(repeated, number(d3gzsl.classification(logits, labels, "corrected")))
    logits.requires_grad_()
    d3gzsl.classification(logits.repeat_interleave(counts, 0), labels.repeat_interleave(counts), "corrected").backward()
    own = logits.grad[torch.arange(3), labels] / (logits.softmax(1)[torch.arange(3), labels] - 1)
    torch.testing.assert_close(own.detach(), torch.full((3,), 1 / 3, dtype=torch.float64))
    faithful = d3gzsl.classification(logits.repeat_interleave(counts, 0), labels.repeat_interleave(counts), "faithful")
    assert number(faithful) != pytest.approx(number(repeated), rel=1e-3)


def test_gradient_penalty_wants_length_one() -> None:
    assert number(generative.gradient_penalty(torch.eye(3))) == 0
    assert number(generative.gradient_penalty(3 * torch.eye(3))) == pytest.approx(4)
    assert number(generative.gradient_penalty(torch.zeros(2, 3))) == 1


# --- gradients ------------------------------------------------------------------------------------


def _terms(form: LossForm) -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    labels, classes, rows = torch.tensor([0, 0, 1, 2, 2]), 3, 5
    head = ood_head(classes)
    teacher_log_probs = normal(rows, classes, seed=20).log_softmax(1)
    return {
        "cls": (lambda x: d3gzsl.classification(x, labels, form), (normal(rows, classes, seed=21),)),
        "kl": (
            lambda x, t: d3gzsl.label_distillation(x, t, form),
            (normal(rows, classes, seed=22), teacher_log_probs),
        ),
        "be": (
            lambda t, s: d3gzsl.embedding_distillation(t, s, labels, form),
            (normal(rows, 4, seed=23).abs(), normal(rows, 4, seed=24).abs()),
        ),
        "od": (
            lambda x, c: d3gzsl.ood_distillation(x, head, c, labels, form),
            (normal(rows, classes, seed=25), normal(rows, seed=26).sigmoid()),
        ),
        "gp": (generative.gradient_penalty, (normal(rows, 4, seed=27),)),
        "kl to N(0, 1)": (generative.gaussian_kl, (normal(rows, 4, seed=28), normal(rows, 4, seed=29))),
    }


@pytest.mark.parametrize("positive", ["some", "none", "all"])
@pytest.mark.parametrize("shape", [(1,), (6,), (3, 4), (30, 30)])
def test_gradients_of_pair_losses_are_those_of_autograd(shape: tuple[int, ...], positive: str) -> None:
    """Beyond and inside the clamps."""
    similarity = normal(*shape, seed=3).clamp(-1, 1)
    target = {"some": normal(*shape, seed=4) > 0, "none": similarity > 2, "all": similarity < 2}[positive]

    def plain(s: Tensor) -> Tensor:
        clamped = s.clamp(EPSILON, 1 - EPSILON)
        halves = [half for half in (-clamped[target].log(), -(1 - clamped[~target]).log()) if len(half)]
        return torch.stack([half.mean() for half in halves]).mean()

    def plain_shifted(s: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits((s + 1) / 2, target.double())

    for fast, slow in ((d3gzsl.balanced_bce, plain), (d3gzsl.shifted_bce, plain_shifted)):
        x = similarity.clone().requires_grad_()
        (expected,) = torch.autograd.grad(slow(x), x)
        _, gradient, factor = fast(similarity.clone(), target.double())
        torch.testing.assert_close(factor * gradient, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (4, 2), (9, 2), (7, 12)])
def test_gradients_through_cosines_are_those_of_autograd(rows: int, dim: int, form: LossForm) -> None:
    """Of both sides, and of a zero row on either."""
    a, b, groups = embeddings(rows, dim, 31), embeddings(rows, dim, 32).flip(0), integers(3, rows)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        unit = [nn.functional.normalize(z, dim=1, eps=1e-8) for z in (x, y)]
        s, same = unit[0] @ unit[1].T, groups[:, None] == groups[None, :]
        if form == "faithful":
            return nn.functional.binary_cross_entropy_with_logits((s + 1) / 2, same.double())
        s = s.clamp(EPSILON, 1 - EPSILON)
        halves = [half for half in (-s[same].log(), -(1 - s[~same]).log()) if len(half)]
        return torch.stack([half.mean() for half in halves]).mean()

    fast = d3gzsl.balanced_pairs if form == "corrected" else d3gzsl.shifted_pairs
    sides = (a.requires_grad_(), b.requires_grad_())
    expected = torch.autograd.grad(3 * plain(*sides), sides)
    torch.testing.assert_close(torch.autograd.grad(3 * fast(*sides, groups), sides), expected)
    for side in (0, 1):  # and of one without the other
        one = [z if i == side else z.detach() for i, z in enumerate(sides)]
        (actual,) = torch.autograd.grad(3 * fast(*one, groups), one[side])
        torch.testing.assert_close(actual, expected[side])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", ["class", "domain", "one"])
@pytest.mark.parametrize("rows", [1, 2, 9, 40])
def test_gradients_in_the_plane_are_those_of_autograd(rows: int, groups: str, form: LossForm) -> None:
    """Of outputs that are even, opposite and certain, and of confidences up to 0 and 1."""
    outputs, confidence = 3 * normal(rows, 2, seed=33), (4 * normal(rows, seed=34)).sigmoid()
    outputs[-1], confidence[-1], confidence[0] = torch.tensor([40.0, -40]), 0, 1
    alike = {
        "class": integers(5, rows),
        "domain": torch.arange(rows) < rows // 3,
        "one": torch.zeros(rows, dtype=torch.int64),
    }[groups]

    def plain(o: Tensor, c: Tensor) -> Tensor:
        b = torch.stack([c, 1 - c], dim=1)
        if form == "corrected":
            return d3gzsl.balanced_pairs(o.softmax(1), b, alike)
        s = nn.functional.cosine_similarity(o.softmax(1)[:, None], b.softmax(1)[None], dim=2)
        same = alike[:, None] == alike[None]
        return nn.functional.binary_cross_entropy_with_logits((s + 1) / 2, same.double())

    def fast(o: Tensor, c: Tensor) -> Tensor:
        if form == "corrected":
            return d3gzsl.balanced_pairs_in_plane(o, c, alike)
        return d3gzsl.shifted_pairs_in_plane(o, c, alike, 5)

    inputs = (outputs.requires_grad_(), confidence.requires_grad_())
    close(fast(*inputs), number(plain(*inputs)))
    torch.testing.assert_close(
        torch.autograd.grad(3 * fast(*inputs), inputs), torch.autograd.grad(3 * plain(*inputs), inputs)
    )


def test_the_series_of_the_published_pair_loss_leaves_out_less_than_float64_holds() -> None:
    cosine = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    weights = d3gzsl._series(torch.float64, torch.device("cpu"))[2]
    series = (weights * torch.cos(torch.arange(d3gzsl.TERMS)[:, None] * cosine.acos())).sum(dim=0)
    exact = nn.functional.softplus((1 + cosine) / 2)
    torch.testing.assert_close(series, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["cls", "kl", "be", "od", "gp", "kl to N(0, 1)"])
def test_gradients_are_those_of_finite_differences(name: str, form: LossForm) -> None:
    loss, inputs = _terms(form)[name]
    assert torch.autograd.gradcheck(loss, tuple(x.detach().clone().requires_grad_() for x in inputs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_gradients_are_finite_at_the_edges(labels: list[int], form: LossForm) -> None:
    """Zero rows, equal rows, certain and impossible classes, confidence 0 and 1, in the float32 of the training."""
    y = torch.tensor(labels)
    teacher = torch.tensor([[0.0, 0], [1, 0], [1, 0]])
    student = torch.tensor([[0.0, 0], [1, 0], [0, 1]], requires_grad=True)
    logits = torch.tensor([[1e4, -1e4, 0], [0, 0, 0], [-1e4, 1e4, 1e4]], requires_grad=True)
    log_probs = torch.tensor([[50.0, 0, 0], [0, 0, 0], [0, -200, 100]]).log_softmax(1)
    confidence = torch.tensor([0.0, 1, 0.5], requires_grad=True)
    head = ood_head(3).float()
    zero = torch.zeros(3, 2, requires_grad=True)
    terms = (
        d3gzsl.classification(logits, y, form),
        d3gzsl.label_distillation(logits, log_probs, form),
        d3gzsl.embedding_distillation(teacher, student, y, form),
        d3gzsl.ood_distillation(logits, head, confidence, y, form),
        generative.gradient_penalty(zero),
    )
    for term in terms:
        assert torch.isfinite(term)
        term.backward(retain_graph=True)
    for x in (student, logits, confidence, zero, *head.parameters()):
        assert torch.isfinite(x.grad).all()
