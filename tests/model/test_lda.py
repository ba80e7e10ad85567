"""The closed-form head, against loops in float64 and against Bayes' rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.head import HeadSpec, logits
from model.lda import LdaHead, class_means, shrunk_cholesky


def rows(classes: int, dimension: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Unbalanced classes with a common, correlated covariance."""
    random = np.random.default_rng(seed)
    counts = random.integers(dimension, 3 * dimension, classes)
    labels = np.repeat(np.arange(classes), counts)
    mix = random.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    z = random.normal(size=(classes, dimension))[labels] + random.normal(size=(len(labels), dimension)) @ mix
    order = random.permutation(len(labels))
    return z[order], labels[order]


def within_class_covariance(z: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over classes of each class's own covariance, one row at a time."""
    classes = sorted(set(labels.tolist()))
    total = np.zeros((z.shape[1], z.shape[1]))
    for c in classes:
        own = z[labels == c]
        mean = own.mean(axis=0)
        for row in own:
            total += np.outer(row - mean, row - mean) / len(own) / len(classes)
    return total


def shrink(covariance: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    dimension = len(covariance)
    return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / dimension * np.eye(dimension)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize(("classes", "dimension"), [(2, 1), (3, 4), (7, 12)])
def test_rows_are_the_closed_form(classes: int, dimension: int, shrinkage: float) -> None:
    z, labels = rows(classes, dimension)
    head = LdaHead.fit(z, labels, shrinkage=shrinkage)
    assert head.dimension == dimension
    inverse = np.linalg.inv(shrink(within_class_covariance(z, labels), shrinkage))
    means, _ = class_means(z, labels)
    weights, biases = head.rows(means)
    assert weights.dtype == biases.dtype == np.float32
    for c in range(classes):
        np.testing.assert_allclose(weights[c], inverse @ means[c], rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(biases[c], -0.5 * means[c] @ inverse @ means[c], rtol=2e-4, atol=2e-5)


def test_the_softmax_of_its_logits_is_bayes_rule_for_gaussians() -> None:
    z, labels = rows(4, 5)
    head = LdaHead.fit(z, labels, shrinkage=0.2)
    covariance = shrink(within_class_covariance(z, labels), 0.2)
    means, _ = class_means(z, labels)
    scores = logits(z.astype(np.float32), *head.rows(means)).astype(np.float64)
    posterior = np.exp(scores - scores.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    density = np.array([[np.exp(-0.5 * (x - m) @ np.linalg.solve(covariance, x - m)) for m in means] for x in z])
    np.testing.assert_allclose(posterior, density / density.sum(axis=1, keepdims=True), atol=2e-4)


def test_logits_are_a_product_and_a_sum() -> None:
    random = np.random.default_rng(1)
    z, weight, bias = (random.normal(size=s).astype(np.float32) for s in [(3, 4), (5, 4), (5,)])
    expected = [[sum(z[n, k] * weight[c, k] for k in range(4)) + bias[c] for c in range(5)] for n in range(3)]
    np.testing.assert_allclose(logits(z, weight, bias), expected, rtol=1e-5, atol=1e-6)


def test_every_class_weighs_the_same_in_the_covariance() -> None:
    z, labels = rows(3, 4)
    often = np.concatenate([z, *[z[labels == 0]] * 9])
    more = np.concatenate([labels, *[labels[labels == 0]] * 9])
    few, many = (
        LdaHead.fit(a, b, shrinkage=0.1).bank()["covariance_cholesky"] for a, b in [(z, labels), (often, more)]
    )
    np.testing.assert_allclose(few, many, rtol=1e-5, atol=1e-6)


def test_a_row_is_that_of_the_mean_and_of_no_other_class() -> None:
    z, labels = rows(5, 6)
    head = LdaHead.fit(z, labels, shrinkage=0.3)
    means, _ = class_means(z, labels)
    weights, biases = head.rows(means)
    for c in range(5):
        row = head.row(z[labels == c].astype(np.float32))
        np.testing.assert_allclose(row.weight, weights[c], rtol=1e-4, atol=1e-5)
        assert row.bias == pytest.approx(float(biases[c]), rel=1e-4, abs=1e-5)
    alone, bias = head.rows(means[2:3])
    np.testing.assert_allclose(alone[0], weights[2], rtol=1e-6)
    np.testing.assert_allclose(bias[0], biases[2], rtol=1e-6)
    vector = head.row_of(means[2])
    assert vector.weight.dtype == np.float32
    np.testing.assert_allclose(vector.weight, weights[2], rtol=1e-5)
    assert vector.bias == pytest.approx(float(biases[2]), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=20))
def test_any_history_gives_the_rows_of_a_fresh_fit_to_the_last_bit(history: list[int]) -> None:
    """Each step registers a class that is not there, or removes one that is."""
    z, labels = rows(7, 6)
    head = LdaHead.fit(z, labels, shrinkage=0.3)
    embeddings = [z[labels == c].astype(np.float32) for c in range(7)]
    table: dict[int, bytes] = {}
    for c in history:
        if c in table:
            del table[c]
        else:
            table[c] = head.row(embeddings[c]).weight.tobytes()
    fresh = LdaHead.from_bank(head.bank())
    assert table == {c: fresh.row(embeddings[c]).weight.tobytes() for c in sorted(table)}


def test_a_class_has_the_same_row_to_the_last_bit_alone_and_among_others() -> None:
    z, labels = rows(40, 24)
    head = LdaHead.fit(z, labels, shrinkage=0.3)
    means, _ = class_means(z, labels)
    weights, biases = head.rows(means)
    for c in range(40):
        alone, bias = head.rows(means[c : c + 1])
        np.testing.assert_array_equal(alone[0], weights[c])
        assert bias[0] == biases[c]


@pytest.mark.parametrize("count", [2, 7, 64, 150])
def test_rows_that_are_solved_for_together_have_the_bits_of_each_alone(count: int) -> None:
    """At a size at which the library works in blocks."""
    random = np.random.default_rng(count)
    head = LdaHead(np.tril(0.02 * random.standard_normal((768, 768))) + 3 * np.eye(768))
    means = random.standard_normal((count, 768))
    weights, biases = head.rows(means)
    for c in {0, 1, count // 2, count - 1}:
        alone, bias = head.rows(means[c : c + 1])
        np.testing.assert_array_equal(alone[0], weights[c])
        assert bias[0] == biases[c]


def test_the_stored_factor_gives_the_very_same_rows() -> None:
    z, labels = rows(5, 6)
    head = LdaHead.fit(z, labels, shrinkage=0.3)
    again = LdaHead.from_bank(head.bank())
    fresh = np.random.default_rng(3).normal(size=(20, 6)).astype(np.float32)
    np.testing.assert_array_equal(head.row(fresh).weight, again.row(fresh).weight)
    assert head.row(fresh).bias == again.row(fresh).bias
    assert head.bank()["covariance_cholesky"].dtype == np.float32


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25])
def test_a_scaled_head_multiplies_weights_and_biases(scale: float) -> None:
    z, labels = rows(5, 6)
    head = LdaHead.fit(z, labels, shrinkage=0.3)
    scaled, means = head.scaled(scale), np.random.default_rng(3).normal(size=(4, 6))
    for found, plain in zip(scaled.rows(means), head.rows(means), strict=True):
        np.testing.assert_allclose(found, scale * plain, rtol=1e-5, atol=1e-5)
    again = LdaHead.from_bank(scaled.bank())
    for found, stored in zip(scaled.rows(means), again.rows(means), strict=True):
        np.testing.assert_array_equal(found, stored)


def test_fewer_rows_than_dimensions_need_shrinkage() -> None:
    random = np.random.default_rng(0)
    z, labels = random.normal(size=(6, 20)), np.repeat([0, 1], 3)
    assert LdaHead.fit(z, labels, shrinkage=0.5).dimension == 20
    with pytest.raises(ValueError, match=r"singular at shrinkage 0.0: use more shrinkage or more images"):
        LdaHead.fit(z, labels, shrinkage=0.0)


def test_one_image_per_class_is_singular_at_any_shrinkage() -> None:
    with pytest.raises(ValueError, match="singular"):
        LdaHead.fit(np.eye(3), [0, 1, 2], shrinkage=1.0)


def test_the_factor_is_lower_and_rebuilds_the_covariance() -> None:
    z, labels = rows(3, 8)
    covariance = within_class_covariance(z, labels)
    factor = shrunk_cholesky(covariance.copy(), 0.25)
    np.testing.assert_array_equal(np.triu(factor, 1), 0)
    np.testing.assert_allclose(factor @ factor.T, shrink(covariance, 0.25), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (2, 2, 2)])
def test_a_factor_that_is_no_square_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be square"):
        LdaHead(np.ones(shape))


def test_class_means_with_a_class_that_has_no_rows() -> None:
    z = np.array([[1.0, 2], [3, 4], [10, 20]])
    means, counts = class_means(z, [0, 0, 2])
    assert means.tolist() == [[2, 3], [0, 0], [10, 20]]
    assert counts.tolist() == [2, 0, 1]


def spec(**fields) -> HeadSpec:
    return HeadSpec(**{"kind": "lda", "dimension": 8, "samples": 50, "noise_dimension": 4, "shrinkage": 0.5, **fields})


@pytest.mark.parametrize(
    ("change", "written"),
    [
        ({}, {}),
        ({"noise_form": "matched"}, {"noise": "matched"}),
        ({"unseen_scale": 1.25}, {"unseen_scale": 1.25}),
    ],
    ids=str,
)
def test_a_spec_survives_json(change: dict[str, object], written: dict[str, object]) -> None:
    """What bundles had from the start is written as it was: their id is a hash of it."""
    fields = spec(**change).to_json()
    assert HeadSpec.from_json(fields) == spec(**change)
    plain = {"kind": "lda", "dimension": 8, "samples": 50, "noise_dimension": 4, "shrinkage": 0.5}
    assert fields == {**plain, **written}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "svm"},
        {"dimension": 0},
        {"samples": 0},
        {"samples": 201},
        {"noise_dimension": 0},
        {"shrinkage": -0.1},
        {"shrinkage": 1.1},
        {"shrinkage": float("nan")},
        {"noise_form": "pink"},
        {"unseen_scale": 0.0},
        {"unseen_scale": float("inf")},
        {"kind": "softmax"},
        {"noise_form": "antithetic"},
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="head"):
        spec(**change)
