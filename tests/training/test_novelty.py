"""Novelty scores against their plain formulas, and which of them is served, if any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.lda import within_class_covariance
from tests.training.tiny import config, task
from training.datasets.dataset import Task
from training.method.heads import HeadChoice, HeadRows, embed
from training.method.novelty import NOVELTY_SCORES, Familiarity, NoveltyScore, familiarity
from training.method.trainer import Networks, train
from training.metrics import auroc, class_aurocs
from training.runs.fit import novelty_reference
from training.selection.choice import Selection, choose
from training.selection.fold_scores import HeldOut, Measurement
from training.selection.novelty import choose_novelty

SHRINKAGE = 0.3
OF_EMBEDDINGS: tuple[NoveltyScore, ...] = tuple(score for score in NOVELTY_SCORES if score != "teacher")


def rows(classes: int = 4, dimension: int = 6) -> HeadRows:
    """Some rows of all classes but the last one."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 9)
    z = random.normal(size=(classes, dimension))[labels] + random.normal(size=(len(labels), dimension)) * 0.4
    return HeadRows(z=z.astype(np.float32), labels=labels, seen=np.arange(classes + 1) < classes)


def plain_scores(given: HeadRows, z: NDArray[np.float32]) -> dict[NoveltyScore, NDArray[np.float64]]:
    """Row by row in float64, with the covariances written out."""
    classes = np.unique(given.labels)
    means = np.array([given.z[given.labels == c].mean(axis=0, dtype=np.float64) for c in classes])
    centre = means.mean(axis=0)
    within = within_class_covariance(given.z.astype(np.float64), given.labels)
    within = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    total = within + (means - centre).T @ (means - centre) / len(means)

    def square(x: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
        return float(x @ np.linalg.solve(covariance, x))

    found: dict[NoveltyScore, list[float]] = {score: [] for score in OF_EMBEDDINGS}
    for row in z.astype(np.float64):
        distances = np.array([square(row - mean, within) for mean in means])
        ratios = (square(row - centre, within) - distances) / 2
        found["logit"].append(ratios.max())
        found["energy"].append(np.log(np.exp(ratios - ratios.max()).sum()) + ratios.max())
        found["distance"].append(-min(float(np.square(row - mean).sum()) for mean in means))
        found["relative_mahalanobis"].append(square(row - centre, total) - distances.min())
    return {score: np.array(values) for score, values in found.items()}


@pytest.mark.parametrize("score", OF_EMBEDDINGS)
def test_a_score_is_that_of_its_formula(score: NoveltyScore) -> None:
    given, others = rows(), np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32) * 2
    (head,) = given.lda({}, [HeadChoice(shrinkage=SHRINKAGE)])
    found = familiarity(score, head, given.seen, others)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_scores(given, others)[score], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score", OF_EMBEDDINGS)
def test_described_classes_and_their_scale_change_no_score(score: NoveltyScore) -> None:
    given, described = rows(), {4: np.full((3, 6), 5, dtype=np.float32)}
    near = np.full((1, 6), 5, dtype=np.float32)
    alone, with_described, scaled = (
        familiarity(score, head, given.seen, near)
        for head in (
            *given.lda({}, [HeadChoice(shrinkage=SHRINKAGE)]),
            *given.lda(described, [HeadChoice(shrinkage=SHRINKAGE), HeadChoice(shrinkage=SHRINKAGE, unseen_scale=1.5)]),
        )
    )
    np.testing.assert_array_equal(with_described, alone)
    np.testing.assert_array_equal(scaled, alone)


def test_the_teachers_score_is_none_of_embeddings() -> None:
    (head,) = rows().lda({}, [HeadChoice(shrinkage=SHRINKAGE)])
    with pytest.raises(ValueError, match="teacher"):
        Familiarity("teacher", head, rows().seen)


# --- AUROC of each class ------------------------------------------------------------------------------------------


def test_auroc_of_each_unseen_class() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 5, 60)
    values = random.integers(0, 6, 60).astype(np.float32)  # with ties
    seen = np.array([True, False, True, False, True, False])  # the last class has no rows
    found = class_aurocs(values, labels, seen)
    of_seen = -values[seen[labels]]
    np.testing.assert_allclose(found[:2], [auroc(-values[labels == c], of_seen) for c in (1, 3)])
    assert np.isnan(found[2])
    with pytest.raises(ValueError, match="rows of seen classes"):
        class_aurocs(values[labels == 1], labels[labels == 1], seen)


# --- the choice ---------------------------------------------------------------------------------------------------


def of_folds(*folds: tuple[list[int], Callable[[int, int], float]]) -> tuple[NoveltyScore | None, dict[str, dict]]:
    """The choice for folds of six classes: which are pseudo-unseen, and the AUROC of a score's place and a class."""
    aurocs = [np.array([[of(k, c) for c in hidden] for k in range(len(NOVELTY_SCORES))]) for hidden, of in folds]
    return choose_novelty(aurocs, [~np.isin(np.arange(6), hidden) for hidden, _ in folds])


def test_the_best_mean_over_classes_is_served() -> None:
    chosen, said = of_folds(([0, 1, 2, 3], lambda k, c: 0.6 + 0.05 * (k == 2) + 0.01 * c))
    assert chosen == NOVELTY_SCORES[2]
    assert list(said) == list(NOVELTY_SCORES)
    expected = np.array([0.65, 0.66, 0.67, 0.68])
    error = expected.std(ddof=1) / 2
    assert said[chosen] == {"auroc": pytest.approx(expected.mean()), "error": pytest.approx(error)}


@pytest.mark.parametrize(("above", "served"), [(2.1, True), (1.9, False), (-3, False)])
def test_none_is_served_unless_it_beats_chance_by_two_standard_errors(above: float, served: bool) -> None:
    spread = 0.1 * np.array([-1, 1, -1, 1, -1, 1])
    error = spread.std(ddof=1) / np.sqrt(6)
    chosen, _ = of_folds(
        ([0, 2, 4], lambda k, c: 0.5 + above * error + spread[c] - (k != 1)),
        ([1, 3, 5], lambda k, c: 0.5 + above * error + spread[c] - (k != 1)),
    )
    assert chosen == (NOVELTY_SCORES[1] if served else None)


def test_a_class_that_is_hidden_twice_counts_once() -> None:
    once = of_folds(([0, 1, 2], lambda _k, c: 0.6 + 0.1 * c))
    twice = of_folds(([0, 1, 2], lambda _k, c: 0.5 + 0.1 * c), ([0, 1, 2], lambda _k, c: 0.7 + 0.1 * c))
    for name in NOVELTY_SCORES:
        assert twice[1][name] == pytest.approx(once[1][name])


def test_a_class_without_rows_does_not_count() -> None:
    with_it = of_folds(([0, 1, 2, 3], lambda _k, c: np.nan if c == 3 else 0.6 + 0.1 * c))
    assert with_it == of_folds(([0, 1, 2], lambda _k, c: 0.6 + 0.1 * c))


def test_of_one_class_nobody_knows_how_much_is_chance() -> None:
    chosen, said = of_folds(([3], lambda _k, _c: 1.0))
    assert chosen is None
    assert said["logit"] == {"auroc": 1.0, "error": None}


# --- in a training ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Task:
    return task(seen=4, unseen=2, rows=9, dim=6)


@pytest.fixture(scope="module")
def networks(small: Task) -> Networks:
    return train(small, config(), epochs=2)


@pytest.fixture(scope="module")
def measured(small: Task, networks: Networks) -> Measurement:
    random = torch.Generator().manual_seed(0)
    held = HeldOut(
        features=torch.rand(36, 6, generator=random), labels=np.arange(36) % 6, names=[f"c{i}" for i in range(6)]
    )
    return held.measure(networks, small, config(), key="")


def test_what_is_measured_is_kept(measured: Measurement) -> None:
    again = Measurement.from_bytes(measured.to_bytes())
    assert set(measured.novelty) == {"lda/0.3", "lda/0.7"}
    assert set(again.novelty) == set(measured.novelty)
    for name, values in measured.novelty.items():
        assert values.shape == (len(NOVELTY_SCORES), 2)
        np.testing.assert_array_equal(again.novelty[name], values)


@pytest.fixture(scope="module")
def selected(measured: Measurement) -> Selection:
    return choose([{2: measured}], config())


@pytest.mark.parametrize("score", OF_EMBEDDINGS)
def test_the_reference_is_of_rows_that_the_head_did_not_see(
    small: Task, networks: Networks, selected: Selection, score: NoveltyScore
) -> None:
    settings = config("selection.novelty_folds=3")
    chosen = dataclasses.replace(selected, novelty=score)
    found = novelty_reference(networks, small, settings, chosen)
    z, labels = embed(networks, small.features), small.labels.numpy()
    expected = []
    for fold in range(3):  # each class's nine rows are dealt in turn
        held = np.zeros(len(labels), dtype=bool)
        for c in range(4):
            mine = np.flatnonzero(labels == c)
            held[mine[(np.arange(9) + 9 * c) % 3 == fold]] = True
        given = HeadRows(z=z[~held], labels=labels[~held], seen=np.arange(6) < 4)
        (head,) = given.lda({}, [HeadChoice(shrinkage=chosen.head.shrinkage)])
        expected.append(familiarity(score, head, given.seen, z[held]))
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.sort(np.concatenate(expected)), rtol=1e-5)


def test_without_a_score_there_is_no_reference(small: Task, networks: Networks, selected: Selection) -> None:
    assert novelty_reference(networks, small, config(), dataclasses.replace(selected, novelty=None)) is None
