"""The softmax head against a plain objective, finite differences, scipy.optimize and itself in another order."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from model import softmax as softmax_module
from model.errors import ConvergenceError, DataError, StoppedError, TooManyClassesError
from model.head import HeadSpec, check_class_count, logits
from model.newton import SoftmaxRegression, minimise
from model.softmax import SoftmaxHead, bank_choice, bank_rows, rows_per_class

Float64 = NDArray[np.float64]
PENALTY = 3e-3


def embeddings(classes: int, dimension: int, seed: int = 0) -> tuple[Float64, NDArray[np.int64]]:
    """Unbalanced, overlapping classes in no order, already rounded as the bank rounds them."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), random.integers(0, classes, 12 * classes)])
    z = random.normal(size=(classes, dimension))[labels] + random.normal(size=(len(labels), dimension))
    order = random.permutation(len(labels))
    return z[order].astype(np.float16).astype(np.float64), labels[order]


def plain_objective(w_CD: Float64, z_NZ: Float64, labels: NDArray[np.int64], penalty: float) -> tuple[float, Float64]:
    """f and its gradient, one row at a time."""
    classes = len(w_CD)
    value, gradient = penalty / 2 * float((w_CD**2).sum()), penalty * w_CD
    for z, label in zip(z_NZ, labels, strict=True):
        x = np.append(z, 1)
        scores = w_CD @ x
        share = 1 / classes / int((labels == label).sum())
        value += share * float(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])
        p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        gradient = gradient + share * np.outer(p - (np.arange(classes) == label), x)
    return value, gradient


def optimum(z: Float64, labels: NDArray[np.int64], penalty: float) -> Float64:
    """By L-BFGS on the plain objective, vectorised only over rows."""
    classes, shape = int(labels.max()) + 1, (int(labels.max()) + 1, z.shape[1] + 1)
    x = np.append(z, np.ones((len(z), 1)), axis=1)
    share = 1 / classes / np.bincount(labels)[labels]
    own = np.arange(classes) == labels[:, None]

    def objective(flat: Float64) -> tuple[float, Float64]:
        w = flat.reshape(shape)
        scores = x @ w.T
        log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        gradient = (share[:, None] * (np.exp(log_p) - own)).T @ x + penalty * w
        return float(-(share * log_p[own]).sum() + penalty / 2 * (w**2).sum()), gradient.ravel()

    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 0, "gtol": 1e-11, "maxcor": 50}
    found = minimize(objective, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options=options)
    weight: Float64 = found.x.reshape(shape)
    assert np.linalg.norm(objective(found.x)[1]) < 3e-6 * penalty * np.linalg.norm(weight)
    return weight


def together(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Float64:
    return np.append(weight, bias[:, None], axis=1).astype(np.float64)


def sorted_problem(
    classes: int, dimension: int, penalty: float
) -> tuple[SoftmaxRegression, Float64, NDArray[np.int64]]:
    z, labels = embeddings(classes, dimension)
    order = np.argsort(labels, kind="stable")
    return SoftmaxRegression(z[order], np.bincount(labels), penalty), z[order], labels[order]


# --- the objective ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "dimension"), [(1, 2), (2, 1), (3, 4), (6, 9)])
@pytest.mark.parametrize("penalty", [1e-3, 0.5])
def test_value_and_gradient_are_the_plain_ones(classes: int, dimension: int, penalty: float) -> None:
    problem, z, labels = sorted_problem(classes, dimension, penalty)
    w = np.random.default_rng(1).normal(size=(classes, dimension + 1))
    point = problem.at(w)
    value, gradient = plain_objective(w, z, labels, penalty)
    assert point.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(point.gradient, gradient, rtol=1e-10, atol=1e-13)
    assert point.relative == pytest.approx(np.linalg.norm(gradient) / penalty / np.linalg.norm(w), rel=1e-9)
    np.testing.assert_allclose(point.probability.sum(axis=1), 1, rtol=1e-6)


def test_the_gradient_is_that_of_the_value() -> None:
    problem, _, _ = sorted_problem(4, 3, 0.01)
    random = np.random.default_rng(2)
    w = random.normal(size=(4, 4))
    gradient = problem.at(w).gradient
    for c in range(4):
        for d in range(4):
            step = np.zeros_like(w)
            step[c, d] = 1e-6
            slope = (problem.at(w + step).value - problem.at(w - step).value) / 2e-6
            assert slope == pytest.approx(gradient[c, d], rel=1e-6, abs=1e-9)


def test_the_product_is_the_change_of_the_gradient() -> None:
    problem, _, _ = sorted_problem(5, 4, 0.01)
    random = np.random.default_rng(3)
    w, direction = random.normal(size=(2, 5, 5))
    point = problem.at(w)
    change = (problem.at(w + 1e-5 * direction).gradient - problem.at(w - 1e-5 * direction).gradient) / 2e-5
    product = problem.hessian_product(point, direction.astype(np.float32))
    np.testing.assert_allclose(product, change, rtol=2e-4, atol=1e-6)


def test_the_preconditioner_is_the_mean_diagonal_block() -> None:
    problem, z, labels = sorted_problem(3, 4, 0.02)
    point = problem.at(np.random.default_rng(4).normal(size=(3, 5)))
    block = np.zeros((5, 5))
    for row, label, p in zip(z, labels, point.probability.astype(np.float64), strict=True):
        x = np.append(row, 1)
        for c in range(3):
            block += np.outer(x, x) * p[c] * (1 - p[c]) / 3 / 3 / int((labels == label).sum())
    residual = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
    solved = problem.preconditioner(point)(residual)
    np.testing.assert_allclose(solved @ (block + 0.02 * np.eye(5)), residual, rtol=1e-3, atol=1e-4)


def test_rows_that_fill_several_chunks_count_once() -> None:
    random = np.random.default_rng(6)
    z = random.normal(size=(2100, 3)).astype(np.float16)
    w = random.normal(size=(2, 4))
    whole = SoftmaxRegression(z, [1000, 1100], 0.1).at(w)
    value, gradient = plain_objective(w, z.astype(np.float64), np.repeat([0, 1], [1000, 1100]), 0.1)
    assert whole.value == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(whole.gradient, gradient, rtol=1e-9)


@pytest.mark.parametrize(
    ("counts", "penalty"), [([3, 3], 0.1), ([5, 0], 0.1), ([2, 3], 0.0), ([2, 3], -1.0), ([2, 3], float("nan"))]
)
def test_a_problem_that_makes_no_sense_is_refused(counts: list[int], penalty: float) -> None:
    with pytest.raises(ValueError, match="expected 5 rows in classes of one or more and a penalty above 0"):
        SoftmaxRegression(np.ones((5, 2)), counts, penalty)


# --- the solution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1e-5, 1e-3, 0.3])
@pytest.mark.parametrize(("classes", "dimension"), [(2, 3), (5, 8), (9, 40)])
def test_a_fit_is_the_optimum_within_the_tolerance(classes: int, dimension: int, penalty: float) -> None:
    z, labels = embeddings(classes, dimension)
    exact = optimum(z, labels, penalty)
    for tolerance in (1e-2, 1e-4):
        head = SoftmaxHead.fit(z, labels, penalty=penalty, tolerance=tolerance)
        distance = np.linalg.norm(together(head.weight, head.bias) - exact)
        assert distance <= tolerance * np.linalg.norm(exact) * 1.05
        head.verify()


def test_rows_that_do_not_solve_the_bank_are_found() -> None:
    z, labels = embeddings(5, 8)
    good = SoftmaxHead.fit(z, labels, penalty=0.01)
    other = SoftmaxHead.fit(z, labels, penalty=0.02)
    rows, counts = good.bank().values()
    for weight, bias in [(other.weight, other.bias), (good.weight[::-1], good.bias), (good.weight * np.nan, good.bias)]:
        with pytest.raises(ValueError, match=r"expected rows that solve the bank to a relative gradient of 0\.0001"):
            SoftmaxHead(rows, counts, weight, bias, penalty=0.01).verify()


def test_no_curvature_exceeds_the_bound() -> None:
    problem, _, _ = sorted_problem(3, 4, 0.02)
    random = np.random.default_rng(9)
    for scale in (0, 0.1, 3):
        point = problem.at(scale * random.normal(size=(3, 5)))
        basis = np.eye(15, dtype=np.float32).reshape(15, 3, 5)
        hessian = np.stack([problem.hessian_product(point, e).ravel() for e in basis])
        assert np.linalg.eigvalsh(hessian)[0] >= 0.02 * 0.99
        assert np.linalg.eigvalsh(hessian)[-1] <= problem.curvature


def test_the_distance_to_the_optimum_is_bounded_by_the_gradient() -> None:
    """||W - W*|| <= ||gradient|| / penalty at any W, near and far."""
    problem, z, labels = sorted_problem(4, 5, 0.02)
    exact = optimum(z, labels, 0.02)
    random = np.random.default_rng(7)
    for scale in (1e-4, 1e-2, 1, 100):
        w = exact + scale * random.normal(size=exact.shape)
        point = problem.at(w)
        bound = np.linalg.norm(point.gradient) / 0.02
        assert np.linalg.norm(w - exact) <= bound
        assert bound == pytest.approx(point.relative * np.linalg.norm(w))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_a_far_start_ends_at_the_same_place(tolerance: float) -> None:
    problem, z, labels = sorted_problem(4, 5, 0.02)
    exact = optimum(z, labels, 0.02)
    far = 30 * np.random.default_rng(8).normal(size=exact.shape)
    found = minimise(problem, far, tolerance=tolerance)
    assert found.relative <= tolerance
    assert np.linalg.norm(found.weight - exact) <= (tolerance + 1e-6) * np.linalg.norm(exact)


def test_another_penalty_may_start_from_a_head() -> None:
    z, labels = embeddings(5, 6)
    first = SoftmaxHead.fit(z, labels, penalty=0.1)
    near = SoftmaxHead.fit(z, labels, penalty=0.01, start=first)
    cold = SoftmaxHead.fit(z, labels, penalty=0.01)
    np.testing.assert_allclose(near.weight, cold.weight, atol=2e-4 * np.linalg.norm(cold.weight))
    with pytest.raises(ValueError, match=r"weights of shape \(4, 7\)"):
        SoftmaxHead.fit(z[labels < 4], labels[labels < 4], penalty=0.01, start=first)


def test_one_class_alone_and_rows_that_are_all_the_same_have_the_optimum_zero() -> None:
    alone = SoftmaxHead.fit(np.ones((3, 2)), [0, 0, 0], penalty=0.1)
    assert not alone.weight.any()
    same = SoftmaxHead.fit(np.ones((4, 2)), [0, 0, 1, 1], penalty=0.1)
    np.testing.assert_allclose(together(same.weight, same.bias), 0, atol=1e-9)
    problem = SoftmaxRegression(np.ones((4, 2)), [2, 2], 0.1)
    np.testing.assert_allclose(minimise(problem, np.ones((2, 3)) * [[3], [-1]], tolerance=1e-4).weight, 0, atol=1e-9)


def test_every_class_weighs_the_same() -> None:
    z, labels = embeddings(4, 5)
    often = np.concatenate([z, *[z[labels == 0]] * 5]), np.concatenate([labels, *[labels[labels == 0]] * 5])
    few, many = (SoftmaxHead.fit(a, b, penalty=0.01) for a, b in [(z, labels), often])
    np.testing.assert_allclose(few.weight, many.weight, atol=3e-4 * np.linalg.norm(few.weight))


def test_a_tolerance_beyond_the_numbers_is_said_and_not_hidden() -> None:
    problem, _, _ = sorted_problem(4, 5, 0.02)
    with pytest.raises(ConvergenceError, match="relative gradient of"):
        minimise(problem, np.zeros((4, 6)), tolerance=1e-30)


@pytest.mark.parametrize("penalty", [1e-10, 1e-30])
def test_a_penalty_beyond_the_numbers_is_said_and_not_hidden(penalty: float) -> None:
    z, labels = embeddings(5, 30)
    with pytest.raises(ConvergenceError, match="use a larger penalty"):
        SoftmaxHead.fit(z, labels, penalty=penalty)


def test_a_solution_can_be_given_up() -> None:
    problem, _, _ = sorted_problem(4, 5, 0.02)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(StoppedError):
        minimise(problem, np.zeros((4, 6)), tolerance=1e-9, stop=stop)
    assert len(asked) == 3


# --- adding and removing classes --------------------------------------------------------------------------------------

CLASSES, KNOWN, DIMENSION = 9, 5, 12  # the bundle has 5 of 9 classes; the others can be registered
IDS = ("delta", "alpha", "charlie", "bravo")


@cache
def world() -> tuple[SoftmaxHead, dict[str, NDArray[np.float16]]]:
    """A head of the first classes, and the embeddings of the others."""
    z, labels = embeddings(CLASSES, DIMENSION, seed=11)
    head = SoftmaxHead.fit(z[labels < KNOWN], labels[labels < KNOWN], penalty=PENALTY)
    return head, {name: bank_rows(z[labels == KNOWN + i]) for i, name in enumerate(IDS)}


@cache
def refit_of(kept: tuple[int, ...], added: frozenset[str]) -> tuple[Float64, Float64]:
    """What `refit` answers, and the optimum by the slow reference on the same rows."""
    head, others = world()
    solution = head.refit(kept, {name: others[name] for name in added})
    rows, counts = head.bank()["rows"], head.bank()["counts"]
    labels = np.repeat(np.arange(KNOWN), counts)
    parts = [rows[labels == c] for c in kept] + [others[name] for name in sorted(added)]
    z = np.concatenate(parts).astype(np.float64)
    return together(solution.weight, solution.bias), optimum(
        z, np.repeat(np.arange(len(parts)), [*map(len, parts)]), PENALTY
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([*IDS, 3, 4]), max_size=12))
def test_any_history_gives_the_weights_of_a_fresh_fit(history: list[str | int]) -> None:
    """Each step registers a class that is not there or removes one that is; 3 and 4 are the bundle's own."""
    head, others = world()
    kept, added = set(range(KNOWN)), {}
    for step in history:
        if isinstance(step, int):
            kept ^= {step}
        elif step in added:
            del added[step]
        else:
            added[step] = others[step]
    found = head.refit(sorted(kept), added)  # `added` is in the order of this history
    alphabetical, exact = refit_of(tuple(sorted(kept)), frozenset(added))
    weights = together(found.weight, found.bias)
    np.testing.assert_array_equal(weights, alphabetical)
    assert np.linalg.norm(weights - exact) <= 1.02e-4 * np.linalg.norm(exact)
    z = np.random.default_rng(1).normal(size=(300, DIMENSION)) * 1.5
    scores = np.append(z, np.ones((300, 1)), axis=1) @ exact.T
    margins = np.sort(scores, axis=1)
    clear = margins[:, -1] - margins[:, -2] > 2e-4 * np.linalg.norm(exact) * np.linalg.norm(z, axis=1)
    assert clear.mean() > 0.9
    ours = logits(z.astype(np.float32), found.weight, found.bias)
    np.testing.assert_array_equal(ours.argmax(axis=1)[clear], scores.argmax(axis=1)[clear])


def test_registering_and_removing_restores_the_very_same_rows() -> None:
    head, others = world()
    before = head.refit(range(KNOWN), {})
    np.testing.assert_array_equal(before.weight, head.weight)
    np.testing.assert_array_equal(before.bias, head.bias)
    one = head.refit(range(KNOWN), {"alpha": others["alpha"]})
    two = head.refit(range(KNOWN), {"bravo": others["bravo"], "alpha": others["alpha"]})
    assert np.abs(two.weight[: KNOWN + 1] - one.weight).max() > 1e-3  # rows of others do move
    again = head.refit(range(KNOWN), {"alpha": others["alpha"]})
    np.testing.assert_array_equal(again.weight, one.weight)
    np.testing.assert_array_equal(again.bias, one.bias)


def test_a_registered_class_is_a_class_of_a_bundle_that_knew_it() -> None:
    head, others = world()
    z, labels = embeddings(CLASSES, DIMENSION, seed=11)
    knew = labels < KNOWN + 1
    fresh = SoftmaxHead.fit(z[knew], labels[knew], penalty=PENALTY)
    grown = head.refit(range(KNOWN), {IDS[0]: others[IDS[0]]})
    np.testing.assert_allclose(
        together(grown.weight, grown.bias),
        together(fresh.weight, fresh.bias),
        atol=2.1e-4 * np.linalg.norm(together(fresh.weight, fresh.bias)),
    )


def test_a_provisional_row_points_where_the_exact_one_does_and_wins_most_of_its_rows() -> None:
    head, others = world()
    for name, z in others.items():
        row, solved = head.row(z), head.refit(range(KNOWN), {name: z})
        ours, exact = np.append(row.weight, row.bias), np.append(solved.weight[-1], solved.bias[-1])
        assert ours @ exact > 0.6 * np.linalg.norm(ours) * np.linalg.norm(exact)
        grown = np.append(head.weight, row.weight[None], axis=0), np.append(head.bias, np.float32(row.bias))
        assert np.mean(logits(z.astype(np.float32), *grown).argmax(axis=1) == KNOWN) > 0.6
        np.testing.assert_array_equal(head.row(z[::-1]).weight, row.weight)


def test_provisional_rows_are_a_regression_on_class_means() -> None:
    head, others = world()
    rows, counts = head.bank()["rows"].astype(np.float64), head.bank()["counts"]
    labels = np.repeat(np.arange(KNOWN), counts)
    means = np.stack([np.append(rows[labels == c].mean(axis=0), 1) for c in range(KNOWN)])
    known = together(head.weight, head.bias)
    scale = sum(m @ w for m, w in zip(means, known, strict=True)) / sum(m @ m for m in means)
    ridge = 1e-3 * sum(m @ m for m in means) / KNOWN
    mean = np.append(others["alpha"].astype(np.float64).mean(axis=0), 1)
    # Primal ridge regression of what `scale` leaves: T = argmin ||M T - R||^2 + ridge ||T||^2
    left = np.linalg.solve(means.T @ means + ridge * np.eye(DIMENSION + 1), means.T @ (known - scale * means))
    row = head.row(others["alpha"])
    np.testing.assert_allclose(np.append(row.weight, row.bias), scale * mean + mean @ left, rtol=1e-4, atol=1e-6)
    weights, biases = head.rows(np.stack([mean[:-1], 2 * mean[:-1]]))
    np.testing.assert_array_equal(weights[0], row.weight)
    assert weights.dtype == biases.dtype == np.float32


# --- the bank and its limits ------------------------------------------------------------------------------------------


def test_the_bank_rebuilds_the_head() -> None:
    head, others = world()
    again = SoftmaxHead.from_bank(head.bank(), head.weight, head.bias, penalty=head.penalty, tolerance=head.tolerance)
    assert head.bank()["rows"].dtype == np.float16
    assert again.dimension == DIMENSION
    one, two = (h.refit(range(KNOWN), {"alpha": others["alpha"]}) for h in (head, again))
    np.testing.assert_array_equal(one.weight, two.weight)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_bank_takes_evenly_spread_rows_of_each_class(counts: list[int], most: int, random: object) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    random.shuffle(labels)  # type: ignore[attr-defined]
    chosen = bank_choice(labels, most)
    assert labels[chosen].tolist() == sorted(labels[chosen].tolist())
    for c, count in enumerate(counts):
        own = np.flatnonzero(labels == c)
        places = np.searchsorted(own, chosen[labels[chosen] == c])
        assert len(places) == min(count, most)
        assert np.ptp(np.diff([*places, count + places[0]])) <= 1  # steps differ by one at most, around the circle


def test_at_most_150_rows_a_class_enter_the_bank_and_fewer_where_40_mb_are_full() -> None:
    assert rows_per_class(50, 2048) == 150
    assert rows_per_class(200, 2048) == 48
    assert 2 * 2048 * 200 * rows_per_class(200, 2048) < 40_000_000
    with pytest.raises(DataError, match="cannot hold 1000 classes: expected at most 199 with embeddings of 100000"):
        rows_per_class(1000, 100_000)
    head = SoftmaxHead.fit(np.random.default_rng(0).normal(size=(400, 2)), np.repeat([0, 1], [390, 10]), penalty=0.1)
    assert head.bank()["counts"].tolist() == [150, 10]


def test_a_full_bank_fits_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_module, "MAX_BANK_BYTES", 101_000)
    assert rows_per_class(10, 5) == 10


@pytest.mark.parametrize("value", [7e4, np.inf, np.nan])
def test_embeddings_beyond_float16_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="expected finite numbers up to 65504"):
        bank_rows(np.array([[1.0, value]]))


def test_more_than_1000_classes_are_refused() -> None:
    with pytest.raises(TooManyClassesError, match="at most 1000 classes in all, got 1001"):
        SoftmaxHead.fit(np.ones((1001, 1)), np.arange(1001), penalty=0.1)
    head, others = world()
    with pytest.raises(TooManyClassesError, match="got 1001"):
        head.refit(range(KNOWN), {f"c{i}": others["alpha"] for i in range(996)})
    check_class_count("lda", 100_000)
    check_class_count("softmax", 1000)


def test_a_class_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="class 1 has no rows"):
        SoftmaxHead.fit(np.ones((2, 1)), [0, 2], penalty=0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"rows_NZ": np.ones((4, 2), np.float16)},
        {"weight_CZ": np.ones((2, 3), np.float32)},
        {"bias_C": np.ones(3, np.float32)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_arrays_that_do_not_fit_together_are_refused(change: dict[str, NDArray[np.float32]]) -> None:
    arrays = {
        "rows_NZ": np.ones((5, 2), np.float16),
        "counts_C": np.array([2, 3]),
        "weight_CZ": np.ones((2, 2), np.float32),
        "bias_C": np.ones(2, np.float32),
    }
    SoftmaxHead(**arrays, penalty=0.1)
    with pytest.raises(ValueError, match="expected"):
        SoftmaxHead(**{**arrays, **change}, penalty=0.1)


# --- the spec ---------------------------------------------------------------------------------------------------------

SPEC = HeadSpec(kind="softmax", dimension=8, samples=50, noise_dimension=4, penalty=0.01, tolerance=1e-4)


def test_a_spec_survives_json() -> None:
    assert HeadSpec.from_json(SPEC.to_json()) == SPEC
    assert list(SPEC.to_json()) == ["kind", "dimension", "samples", "noise_dimension", "penalty", "tolerance"]


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 151},
        {"penalty": 0.0},
        {"penalty": None},
        {"penalty": float("inf")},
        {"tolerance": -1e-4},
        {"tolerance": None},
        {"tolerance": float("nan")},
        {"shrinkage": 0.5},
        {"kind": "lda", "shrinkage": 0.5},
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="head"):
        replace(SPEC, **change)  # type: ignore[arg-type]
