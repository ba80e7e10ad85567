"""Where generators start from: a ridge map from attributes to class means, and rows spread as the classes' do."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.training.tiny import config, task
from training.config import PathChoice
from training.datasets.dataset import Task
from training.generators import ridge_choice, ridge_prior
from training.generators.ridge_choice import (
    LINEAR,
    NORM_CORRECTIONS,
    WIDTHS,
    PseudoUnseenClasses,
    Shape,
    choose_by_area,
    dual_weights,
    kernel,
    mean_distance,
)
from training.generators.ridge_prior import (
    FLOOR,
    HIDDEN_SHARE,
    class_means,
    fit_path,
    residuals,
    within_class_directions,
    within_class_factor,
    within_class_std,
)
from training.generators.tfvaegan import TfVaegan
from training.generators.wgan import Wgan
from training.method.trainer import Trainer
from training.metrics import seen_unseen_curve
from training.networks.denoiser import DiffusionSampler
from training.networks.generator import AttributePath, location

Float64 = NDArray[np.float64]
Candidate = TypeVar("Candidate")
D, A, S = 6, 3, 5


@pytest.fixture(scope="module")
def small() -> Task:
    """Seen classes are not the first."""
    made = task(seen=S, unseen=2, rows=4, dim=D, attributes=A)
    order = torch.tensor([5, 0, 1, 6, 2, 3, 4])
    place = torch.argsort(order)
    return dataclasses.replace(
        made, labels=place[made.labels], attributes=made.attributes[order], seen=made.seen[order]
    )


def means(small: Task) -> Float64:
    """Of the seen classes, one row after the other."""
    rows, labels = small.features.double().numpy(), small.labels.tolist()
    return np.array(
        [np.mean([x for x, y in zip(rows, labels, strict=True) if y == c], axis=0) for c in small.seen_index.tolist()]
    )


def fitted(small: Task, *, anchors: int, strengths: tuple[float, ...]) -> AttributePath:
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=anchors)
    fit_path(path, small, strengths)
    return path


def kernel_of(a: Float64, b: Float64, g: float | None) -> Float64:
    """Without a sharpness the products of attributes."""
    if g is None:
        return np.array([[sum(x * y) for y in b] for x in a])
    return np.array([[math.exp(-g * sum((x - y) ** 2)) for y in b] for x in a])


def ridge(k: Float64, targets: Float64, penalty: float) -> tuple[Float64, Float64]:
    """Dual weights and intercept of min ||T - K w - b||^2 + penalty w^T K w, both by one linear system."""
    count = len(k)
    system = np.block([[k + penalty * np.eye(count), np.ones((count, 1))], [np.ones((1, count)), np.zeros((1, 1))]])
    solved = np.linalg.solve(system, np.vstack([targets, np.zeros((1, targets.shape[1]))]))
    return solved[:-1], solved[-1]


def trace(k: Float64) -> float:
    centring = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(centring @ k @ centring))


def covariance(small: Task) -> Float64:
    """Of rows around their class's mean, half of it replaced by its mean variance."""
    rows, labels = small.features.double().numpy(), small.labels.numpy()
    away = np.array([x - rows[labels == y].mean(axis=0) for x, y in zip(rows, labels, strict=True)])
    found = away.T @ away / len(away)
    return 0.5 * found + 0.5 * np.trace(found) / D * np.eye(D)


def norm_corrected(away: Float64, length: float, norm_correction: float, inverse: Float64) -> Float64:
    return np.array([d * (length / math.sqrt(d @ inverse @ d)) ** norm_correction for d in away])


def scale(described: Float64) -> float:
    return float(np.mean([[sum((x - y) ** 2) for y in described] for x in described]))


# --- the path -------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchors", [0, 4])
@pytest.mark.parametrize("norm_correction", [0.0, 0.5, 1.0])
def test_path_of_every_row(anchors: int, norm_correction: float) -> None:
    random = torch.Generator().manual_seed(0)
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=anchors)
    for buffer in path.buffers():
        buffer.copy_(torch.randn(buffer.shape, generator=random))
    path.sharpness.abs_()
    path.length.fill_(2.5)
    path.norm_correction.fill_(norm_correction)
    attributes = torch.randn(7, A, generator=random)
    expected = []
    for a in attributes:
        k = a
        if path.anchors is not None:
            k = torch.stack([(-path.sharpness * (a - anchor).square().sum()).exp() for anchor in path.anchors])
        k = k - path.centre
        expected.append(path.weight @ k * (2.5 / (path.metric @ k).norm()) ** norm_correction + path.bias)
    torch.testing.assert_close(path(attributes), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert not list(path.parameters())  # nothing of it is trained
    assert path(attributes[:0]).shape == (0, D)


def test_a_class_like_all_of_them_is_where_their_mean_is() -> None:
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=0)
    path.weight.normal_()
    path.bias.normal_()
    path.metric.copy_(torch.eye(A))
    path.norm_correction.fill_(1.0)
    assert torch.equal(path(torch.zeros(1, A))[0], path.bias)


def test_an_anchor_is_most_like_itself() -> None:
    path = AttributePath(attribute_dim=A, feature_dim=D, anchors=4)
    assert path.anchors is not None
    path.anchors.copy_(torch.randn(4, A))
    path.sharpness.fill_(3)
    likeness = path.likeness_less_centre(path.anchors)  # the centre is zero so far
    torch.testing.assert_close(likeness.diagonal(), torch.ones(4), atol=1e-5, rtol=0)
    assert (likeness <= 1).all()  # rounding must not make a distance negative
    squares = torch.cdist(path.anchors.double(), path.anchors.double()).square()
    torch.testing.assert_close(likeness, torch.exp(-3 * squares).float(), atol=1e-5, rtol=0)


def test_a_flat_kernel_keeps_its_digits() -> None:
    """Likenesses within a hundredth of 1, of 80 classes with a weak ridge, as Flowers has them."""
    torch.manual_seed(0)
    attributes = torch.nn.functional.normalize(torch.randn(81, 64) + 1, dim=1)
    path = AttributePath(attribute_dim=64, feature_dim=D, anchors=80)
    assert path.anchors is not None
    known = attributes[:80].double()
    likeness = kernel(known, 0.01)
    dual = dual_weights(likeness, 0.03) @ torch.randn(80, D, dtype=torch.float64)
    path.anchors.copy_(attributes[:80])
    path.sharpness.fill_(0.01 / mean_distance(known))
    path.centre.copy_(likeness.mean(dim=0))
    path.weight.copy_((dual - dual.mean(dim=0)).T)
    exact = copy.deepcopy(path).double()(attributes.double())
    error = (path(attributes).double() - exact).abs().max() / exact.abs().max()
    assert error < 5e-5  # 2e-4 where the likenesses themselves are computed


# --- its fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.05, 0.3, 4.0])
@pytest.mark.parametrize("anchors", [0, S])
@pytest.mark.parametrize("norm_correction", NORM_CORRECTIONS)
def test_path_is_ridge_regression_with_the_norm_corrected(
    small: Task, anchors: int, strength: float, norm_correction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every class of the task, by one linear system with an intercept."""
    monkeypatch.setattr(ridge_choice, "NORM_CORRECTIONS", (norm_correction,))
    path, targets = fitted(small, anchors=anchors, strengths=(strength,)), means(small)
    described, every = small.attributes[small.seen_index].double().numpy(), small.attributes.double().numpy()
    g = float(path.sharpness) if anchors else None
    k = kernel_of(described, described, g)
    dual, intercept = ridge(k, targets, strength * trace(k) / S)
    inverse = np.linalg.inv(covariance(small))
    middle = targets.mean(axis=0)
    length = np.median([math.sqrt(d @ inverse @ d) for d in targets - middle])
    away = kernel_of(every, described, g) @ dual + intercept - middle
    expected = middle + norm_corrected(away, length, norm_correction, inverse)
    np.testing.assert_allclose(path(small.attributes).numpy(), expected, rtol=1e-3, atol=1e-4)
    if g is not None:
        assert any(g * scale(described) == pytest.approx(width, rel=1e-5) for width in WIDTHS)


@pytest.mark.parametrize("anchors", [0, S])
def test_attributes_that_are_the_same_everywhere_predict_the_mean(small: Task, anchors: int) -> None:
    same = dataclasses.replace(small, attributes=torch.ones_like(small.attributes))
    path = fitted(same, anchors=anchors, strengths=(0.3,))
    middle = torch.tensor(means(small).mean(axis=0), dtype=torch.float32)
    torch.testing.assert_close(path(torch.ones(2, A)), middle.expand(2, -1))


@pytest.mark.parametrize("evidence", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("anchors", [0, S])
def test_width_and_strength_are_the_simplest_unless_others_predict_a_class_left_out_better(
    small: Task, anchors: int, evidence: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By fitting the other classes, one class at a time, at the same penalty; without evidence asked for, the best."""
    monkeypatch.setattr(ridge_choice, "STANDARD_ERRORS", evidence)
    strengths = (0.02, 0.1, 0.5, 2.0)
    targets, spread = means(small), within_class_std(small).double().numpy()
    described = small.attributes[small.seen_index].double().numpy()
    widths = WIDTHS if anchors else (LINEAR,)
    chosen = {}
    for width in widths:
        errors = {}
        for strength in strengths:
            k = kernel_of(described, described, width / scale(described) if anchors else None)
            penalty, wrong = strength * trace(k) / S, []
            for left in range(S):
                rest = [i for i in range(S) if i != left]
                dual, intercept = ridge(k[np.ix_(rest, rest)], targets[rest], penalty)
                wrong.append(np.mean(np.square((targets[left] - k[left, rest] @ dual - intercept) / spread)))
            errors[strength] = np.array(wrong)
        strength = min(not_worse(errors, evidence), key=lambda strength: abs(math.log(strength / 0.3)))
        chosen[width, strength] = errors[strength]
    shape = fit_path(AttributePath(attribute_dim=A, feature_dim=D, anchors=anchors), small, strengths)
    assert (shape.width, shape.strength) == min(not_worse(chosen, evidence))
    assert evidence or len(not_worse(chosen, evidence)) == 1


def not_worse(errors: dict[Candidate, Float64], evidence: float) -> list[Candidate]:
    """Those that the best one does not beat by so many standard errors."""
    best = min(errors.values(), key=np.mean)
    worse = {candidate: error - best for candidate, error in errors.items()}
    return [c for c, w in worse.items() if w.mean() <= evidence * w.std(ddof=1) / math.sqrt(S) + 1e-12]


def test_the_flattest_kernel_is_all_but_linear(small: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_prior, "WIDTHS", WIDTHS[:1])
    flat, linear = (fitted(small, anchors=anchors, strengths=(0.3,)) for anchors in (S, 0))
    mean = linear.bias
    expected = linear(small.attributes) - mean
    assert (flat(small.attributes) - mean - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_areas_are_those_of_heads_fitted_without_the_hidden_classes(linear: bool, strength: float) -> None:
    """Means from three rows of four, rules of discriminant analysis written out, every hidden group of six splits."""
    made = task(seen=9, unseen=2, rows=8, dim=D, attributes=A)
    norm_corrections = (0.0, 0.5, 1.0)
    rows, labels = made.features.double().numpy(), made.teacher_labels.numpy()
    described = made.attributes[made.seen_index].double().numpy()
    inverse = np.linalg.inv(covariance(made))
    held = np.zeros(len(rows), dtype=bool)
    for c in range(9):
        held[np.flatnonzero(labels == c)[::4]] = True
    own = np.array([rows[(labels == c) & ~held].mean(axis=0) for c in range(9)])
    g = None if linear else 2.0 / scale(described)
    random = np.random.default_rng(0)
    hidden = [turn == group for turn in [random.permutation(9) % 4 for _ in range(6)] for group in range(4)]
    expected = np.zeros((24, 3))
    for row, gone_C in enumerate(hidden):
        known, gone = np.flatnonzero(~gone_C), np.flatnonzero(gone_C)
        k = kernel_of(described[known], described[known], g)
        middle = own[known].mean(axis=0)
        lengths = sorted(math.sqrt(d @ inverse @ d) for d in own[known] - middle)
        length = lengths[(len(known) - 1) // 2]  # the lower one of two
        dual, intercept = ridge(k, own[known], strength * trace(k) / len(known))
        away = kernel_of(described[gone], described[known], g) @ dual + intercept - middle
        for j, norm_correction in enumerate(norm_corrections):
            centres = own.copy()
            centres[gone] = middle + norm_corrected(away, length, norm_correction, inverse)
            logits = np.array([[-0.5 * (x - m) @ inverse @ (x - m) for m in centres] for x in rows[held]])
            expected[row, j] = seen_unseen_curve(logits, labels[held], ~gone_C).area
    factor = within_class_factor(made, 0.5)
    attributes = made.attributes[made.seen_index].double()
    found = PseudoUnseenClasses.of(made, factor).areas(
        kernel(attributes, LINEAR if linear else 2.0), strength, norm_corrections
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.ptp(expected) > 0


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([[0.1, 0.2], [0.1, 0.2]], 1.0),
        ([[0.2, 0.1], [0.3, 0.1]], 0.5),
        ([[0.1, 0.3], [0.1, -0.1]], 0.5),  # one standard error of 1.0 is 0.2, as much as it gains
        ([[0.0, 0.1], [0.0, 0.3]], 0.0),  # 0.2 is two standard errors of 0.1, not more
        ([[0.0, 0.1], [0.0, 0.29]], 1.0),
        ([[0.3, -0.1], [-0.3, -0.1]], 0.0),
        ([[0.1, 0.2]], 0.0),  # of one group nobody knows how much is chance
    ],
)
def test_a_norm_correction_has_to_gain_more_than_two_standard_errors(
    gains: list[list[float]], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    areas = np.array([[0.5, *(0.5 + gain for gain in row)] for row in gains])
    assert chosen_by({0.3: areas}, monkeypatch) == (0.3, expected)
    assert chosen_by({0.3: np.empty((0, 3))}, monkeypatch) == (0.3, 0)


@pytest.mark.parametrize(
    ("stronger", "weaker", "expected"),
    [
        ([0.5, 0.6, 0.7], [0.7, 0.5, 0.8], (0.1, 1.0)),
        ([0.5, 0.6, 0.7], [0.7, 0.5, 0.5], (0.3, 1.0)),  # of equal gains the strength to keep without evidence
        ([0.5, 0.5, 0.5], [0.6, 0.5, 0.5], (0.1, 0.0)),
        ([0.5, 0.4, 0.3], [0.5, 0.4, 0.3], (0.3, 0.0)),
    ],
)
def test_strength_and_norm_correction_are_chosen_together(
    stronger: list[float], weaker: list[float], expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen_by({0.3: np.array([stronger] * 4), 0.1: np.array([weaker] * 4)}, monkeypatch) == expected


@pytest.mark.parametrize(("last", "expected"), [(0.59, 0.3), (0.31, 0.1)])
def test_another_strength_has_to_gain_more_than_three(
    last: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two groups with gains of 0.2 and `last`."""
    usual = np.full((2, 3), 0.5)
    weaker = usual + np.array([[0.2], [last]])
    gain, error = np.mean([0.2, last]), abs(last - 0.2) / 2
    assert (gain > 3 * error) == (expected == 0.1)
    assert gain > 2 * error
    assert chosen_by({0.3: usual, 0.1: weaker}, monkeypatch) == (expected, 0.0)


def chosen_by(areas: dict[float, Float64], monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Strength and norm correction by areas for each strength, the first one being that of the choice by error."""
    first, *others = areas
    shape = shape_by(lambda _, strength: areas[strength], monkeypatch, Shape(2.0, first, 0.0), (), others)
    return shape.strength, shape.norm_correction


def shape_by(
    areas: Callable[[float, float], Float64],
    monkeypatch: pytest.MonkeyPatch,
    first: Shape,
    widths: Sequence[float],
    strengths: Sequence[float],
) -> Shape:
    """What is chosen by areas that are known for each width and strength."""
    classes = PseudoUnseenClasses(scores=torch.zeros(0), gram=torch.zeros(0), labels=torch.zeros(0))
    with monkeypatch.context() as patched:
        patched.setattr(ridge_choice, "kernel", lambda _, width: width)
        patched.setattr(PseudoUnseenClasses, "areas", lambda _, width, strength, corrections: areas(width, strength))
        return choose_by_area(classes, torch.zeros(0), first, widths, strengths)


def test_the_width_is_chosen_before_the_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of widths only at the first strength, of strengths only at the chosen width."""
    met = []

    def areas(width: float, strength: float) -> Float64:
        met.append((width, strength))
        gain = {(0.5, 0.3): 0.1, (0.5, 3.0): 0.2, (2.0, 3.0): 0.9}.get((width, strength), 0.0)
        return np.full((4, 3), 0.5) + gain * np.array([1, 0, 0])

    first = Shape(2.0, 0.3, 0.0)
    assert shape_by(areas, monkeypatch, first, (0.5, 1.0, 2.0), (0.3, 1.0, 3.0)) == Shape(0.5, 3.0, 0.0)
    assert met == [(2.0, 0.3), (0.5, 0.3), (1.0, 0.3), (0.5, 1.0), (0.5, 3.0)]


@pytest.mark.parametrize("choice", ["error", "ausuc"])
def test_the_areas_decide_on_the_strength_only_where_that_is_asked_for(
    choice: PathChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, strengths = task(seen=9, unseen=2, rows=8, dim=D, attributes=A), (0.02, 0.1, 0.3, 2.0)
    by_error = fit_path(AttributePath(attribute_dim=A, feature_dim=D, anchors=0), made, strengths).strength
    for best in strengths:
        for place, correction in enumerate(NORM_CORRECTIONS):

            def areas(
                _: PseudoUnseenClasses,
                kernel: torch.Tensor,
                strength: float,
                __: object,
                best: float = best,
                place: int = place,
            ) -> Float64:
                found = np.full((4, 3), 0.5)
                found[:, place] += 0.1 if strength == best else 0.05
                return found

            monkeypatch.setattr(PseudoUnseenClasses, "areas", areas)
            path = AttributePath(attribute_dim=A, feature_dim=D, anchors=0)
            shape = fit_path(path, made, strengths, choice)
            assert shape.norm_correction == float(path.norm_correction) == correction
            assert shape.strength == (best if choice == "ausuc" else by_error)
            monkeypatch.undo()


def test_too_few_classes_to_hide_any_are_not_corrected() -> None:
    made = task(seen=2, unseen=2, rows=8, dim=D, attributes=A)
    assert fit_path(AttributePath(attribute_dim=A, feature_dim=D, anchors=2), made, (0.1, 0.7)).norm_correction == 0


def test_classes_of_one_row_are_known_and_never_tested() -> None:
    made = task(seen=6, unseen=2, rows=4, dim=D, attributes=A)
    single = made.labels == made.seen_index[0]
    keep = ~single | (single.long().cumsum(0) == 1)
    less = dataclasses.replace(made, features=made.features[keep], labels=made.labels[keep])
    hidden = PseudoUnseenClasses.of(less, within_class_factor(less, 0.5))
    assert hidden.labels.tolist() == [1, 2, 3, 4, 5]
    assert torch.isfinite(hidden.scores).all()


# --- the spread -----------------------------------------------------------------------------------


def test_residuals_and_spread_are_those_within_classes(small: Task) -> None:
    features, labels = small.features.clone(), small.labels.tolist()
    features[:, 2] = small.labels.float()  # no spread within a class, much between them
    work = dataclasses.replace(small, features=features)
    rows = features.double().numpy()
    own = {c: np.mean([x for x, y in zip(rows, labels, strict=True) if y == c], axis=0) for c in set(labels)}
    away = np.array([x - own[y] for x, y in zip(rows, labels, strict=True)])
    np.testing.assert_allclose(residuals(work).numpy(), away, atol=1e-12)
    expected = np.sqrt(np.mean(away**2, axis=0))
    assert expected[2] == 0
    expected[2] = FLOOR
    actual = within_class_std(work)
    assert actual.dtype == torch.float32
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6)
    assert not class_means(work)[small.unseen_index].any()


@pytest.mark.parametrize("count", [1, 3, D, D + 2])
def test_directions_spread_noise_as_the_classes_do(small: Task, count: int) -> None:
    """V V^T is the within-class covariance, or the nearest matrix of that rank."""
    away = residuals(small).numpy()
    covariance = away.T @ away / len(away)
    found = within_class_directions(small, count)
    assert found.shape == (D, count)
    u, s, vt = np.linalg.svd(covariance)
    s[count:] = 0
    np.testing.assert_allclose((found @ found.T).numpy(), u @ np.diag(s) @ vt, atol=1e-6)
    lengths = found.norm(dim=0)
    assert (lengths.diff() <= 0).all()
    assert not found[:, D:].any()


# --- the start ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["wgan", "cegzsl", "tfvaegan"])
@pytest.mark.parametrize("name", ["kernel", "linear"])
def test_the_generator_starts_as_a_gaussian_of_every_class(small: Task, method: str, name: str) -> None:
    settings = config(f"generator.method={method}", f"generator.attribute_path={name}", "vae.feedback=0")
    made = Trainer(small, settings)
    assert isinstance(made._method, Wgan)
    sampler = made._method.sampler
    assert sampler.attribute_path is not None
    assert sampler.noise_path is not None
    path = fitted(small, anchors=S if name == "kernel" else 0, strengths=settings.generator.path_ridge)
    for key, value in path.state_dict().items():
        assert torch.equal(sampler.attribute_path.state_dict()[key], value)
    directions = within_class_directions(small, 3)
    assert torch.equal(sampler.noise_path.weight, directions)
    noise = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    spread = directions.norm(dim=1)
    torch.testing.assert_close(sampler.spread, spread)
    expected = (location(path(small.attributes), spread) + noise @ directions.T).relu()
    many = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for generator in (sampler, made.networks.generator):
            torch.testing.assert_close(generator(noise, small.attributes), expected, atol=2e-3, rtol=0)
            for attributes, mean in zip(small.attributes, path(small.attributes), strict=True):
                made_of_class = generator(many, attributes.expand(len(many), -1)).mean(dim=0)
                assert ((made_of_class - mean.clamp(min=0)).abs() < 0.03 * spread + 2e-3).all()
    std = float(sampler.output.weight.detach().std())
    assert std == pytest.approx(0.02 * HIDDEN_SHARE, rel=0.5)


@pytest.mark.parametrize("method", ["wgan", "tfvaegan"])
def test_without_paths_the_generator_starts_as_published(small: Task, method: str) -> None:
    made = Trainer(small, config(f"generator.method={method}", "generator.attribute_path=none"))._method
    assert isinstance(made, Wgan)
    assert made.sampler.attribute_path is None
    assert made.sampler.noise_path is None
    assert float(made.sampler.output.weight.detach().std()) == pytest.approx(0.02, rel=0.5)
    assert not made.sampler.output.bias.any()


@pytest.mark.parametrize("name", ["kernel", "linear", "none"])
def test_diffusion_takes_the_path_or_the_mean(small: Task, name: str) -> None:
    """And keeps it: what is learned are residuals around it, in units of the spread within classes."""
    settings = config("generator.method=diffusion", f"generator.attribute_path={name}")
    trainer = Trainer(small, settings)
    trainer.run_epoch()
    around = small.features.mean(dim=0).expand(len(small.features), -1)
    if name != "none":
        path = fitted(small, anchors=S if name == "kernel" else 0, strengths=settings.generator.path_ridge)
        around = path(small.attributes[small.labels])
    for made in (trainer._method.sampler, trainer.networks.generator):
        assert isinstance(made, DiffusionSampler)
        assert torch.equal(made.spread, within_class_std(small))
        residual = made.residual(small.features, small.attributes[small.labels]) * made.spread
        torch.testing.assert_close(residual, small.features - location(around, made.sampled_spread))
        unit = within_class_std(small).double()
        within = residuals(small) / unit
        found = made.directions * made.variances @ made.directions.T
        torch.testing.assert_close(found, (within.T @ within / len(within)).float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made.directions.T @ made.directions, torch.eye(D), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["wgan", "tfvaegan", "diffusion"])
def test_training_leaves_the_attribute_path_and_moves_the_noise_path(small: Task, method: str) -> None:
    trainer = Trainer(small, config(f"generator.method={method}"))
    path = trainer.networks.generator.attribute_path
    before = {key: value.clone() for key, value in path.state_dict().items()}
    noise_path = getattr(trainer._method.sampler, "noise_path", None)
    start = noise_path.weight.detach().clone() if noise_path is not None else None
    for _ in range(2):
        trainer.run_epoch()
    for sampler in (trainer._method.sampler, trainer.networks.generator):
        assert all(torch.equal(sampler.attribute_path.state_dict()[key], value) for key, value in before.items())
    if noise_path is not None:
        assert not torch.equal(noise_path.weight, start)


@pytest.mark.parametrize(("path", "share"), [("kernel", HIDDEN_SHARE), ("none", 1.0)])
def test_feedback_starts_small_beside_paths_only(small: Task, path: str, share: float) -> None:
    made = Trainer(small, config("generator.method=tfvaegan", f"generator.attribute_path={path}"))._method
    assert isinstance(made, TfVaegan)
    first, last = (module for module in made.sampler.feedback or () if isinstance(module, nn.Linear))
    for layer, expected in ((first, 0.02), (last, 0.02 * share), (made.sampler.output, 0.02 * share)):
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.5)
