"""The scaling of features is chosen on folds of trainval, by the plainest classifier that knows attributes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.lda import LdaHead, class_means
from tests.training.tiny import config, dataset
from training.datasets.dataset import Dataset
from training.features.scaler import Scaler
from training.runs.contents import Trained
from training.runs.fit import fit
from training.selection.choice import RIDGE, SHRINKAGE, choose_scaling, ridge, score
from training.selection.folds import folds
from training.selection.protocols import select

CPU = torch.device("cpu")


def skewed(seed: int = 0) -> Dataset:
    """Features that are normal but for their measure: exponentials of four times as much."""
    data = dataset(seen=12, unseen=3, rows=30, dim=24, attributes=6, seed=seed)
    means = data.attributes @ np.random.default_rng(seed).standard_normal((6, 24)) * 2
    noise = np.random.default_rng(seed + 1).standard_normal((len(data.labels), 24))
    features = np.exp(2 * (means[data.labels] + noise)).astype(np.float32)
    return dataclasses.replace(data, features=features)


def even() -> Dataset:
    data = skewed()
    return dataclasses.replace(data, features=np.log(data.features))


def test_skewed_features_are_scaled_to_a_normal_distribution() -> None:
    chosen, h = choose_scaling(skewed(), config("scaling=auto", "selection.folds=4"))
    assert chosen == "normal"
    assert h["normal"] > h["range"] + 0.05


def test_features_that_are_normal_keep_their_scale() -> None:
    chosen, h = choose_scaling(even(), config("scaling=auto", "selection.folds=4"))
    assert chosen == "range"
    assert set(h) == {"range", "normal"}


@pytest.mark.parametrize("scaling", ["range", "normal"])
def test_a_configured_scaling_is_taken_as_it_is(scaling: str) -> None:
    assert choose_scaling(skewed(), config(f"scaling={scaling}")) == (scaling, {})


def test_of_one_fold_nobody_knows_what_is_chance() -> None:
    assert choose_scaling(skewed(), config("scaling=auto", "selection.used_folds=1"))[0] == "range"


def test_test_rows_decide_nothing() -> None:
    data, settings = skewed(), config("scaling=auto", "selection.folds=4")
    features = data.features.copy()
    features[data.test] = 0
    assert choose_scaling(dataclasses.replace(data, features=features), settings) == choose_scaling(data, settings)


def test_scores_are_those_of_class_means_ridge_regression_and_lda() -> None:
    data = even()
    fold = next(iter(folds(data, config("selection.folds=4").selection, seed=0)))
    found = score(data, fold, "range")
    scaler = Scaler.fit(data.features[fold.train])
    rows, labels = scaler.apply(data.features[fold.train]).astype(np.float64), data.labels[fold.train]
    seen = [c for c in fold.classes if c not in fold.pseudo_unseen]
    mean = {c: rows[labels == c].mean(axis=0) for c in seen}
    centre = np.mean(list(mean.values()), axis=0)
    predicted = by_ridge(
        data.attributes[seen], np.stack([mean[c] - centre for c in seen]), data.attributes[fold.pseudo_unseen]
    )
    mean |= dict(zip(fold.pseudo_unseen, predicted + centre, strict=True))
    head = LdaHead.fit(rows - centre, np.searchsorted(seen, labels), shrinkage=SHRINKAGE)
    weight, bias = head.rows(np.stack([mean[c] - centre for c in fold.classes]))
    expected = (scaler.apply(data.features[fold.held]) - centre) @ weight.T + bias
    np.testing.assert_allclose(found.logits, expected, rtol=1e-3, atol=1e-3)
    assert fold.classes[found.labels].tolist() == data.labels[fold.held].tolist()
    assert fold.classes[~found.seen].tolist() == fold.pseudo_unseen.tolist()


def by_ridge(
    attributes: NDArray[np.float32], targets: NDArray[np.float64], others: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Primal ridge regression: (X'X + r I) W = X'Y with r relative to the mean squared length of the rows."""
    x = attributes.astype(np.float64) - attributes.astype(np.float64).mean(axis=0)
    strength = RIDGE * np.square(x).sum() / len(x)
    w = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ targets)
    return (others.astype(np.float64) - attributes.astype(np.float64).mean(axis=0)) @ w


def test_ridge_weights_without_any_attribute_that_differs() -> None:
    assert ridge(np.ones((4, 2)), np.array([True, True, True, False])).tolist() == [[0, 0, 0]]


def test_a_rare_class_keeps_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 rows taken evenly from many none may be of it."""
    data = dataset(seen=6, unseen=2, rows=40)
    labels = data.labels[data.trainval]
    kept = (labels != 3) | (np.arange(len(labels)) == np.flatnonzero(labels == 3)[1])
    data = dataclasses.replace(data, trainval=data.trainval[kept])
    fold = next(iter(folds(data, config().selection, 0)))
    met = []

    def means(rows: NDArray[np.float64], labels: NDArray[np.int64]) -> Any:
        met.append(set(fold.classes[labels].tolist()))
        return class_means(rows, labels)

    monkeypatch.setattr("training.selection.choice.class_means", means)
    monkeypatch.setattr("training.selection.choice.MOST_ROWS", 10)
    score(data, fold, "range")
    assert met == [set(data.labels[fold.train].tolist())]


def test_a_run_keeps_its_scaling(tmp_path: Path) -> None:
    settings = config("scaling=auto", "selection.folds=4", "epochs=1", "selection.evaluations=1")
    folder = tmp_path / "run"
    folder.mkdir()
    trained = fit(skewed(), settings, folder, data={"kind": "x"}, device=CPU)
    assert trained.selected.scaling == "normal"
    assert set(trained.selected.validation["scaling"]) == {"range", "normal"}
    again = Trained.load(folder)
    assert again.selected == trained.selected
    rows = skewed().features[:50]
    np.testing.assert_array_equal(again.scaler.apply(rows), trained.scaler.apply(rows))
    np.testing.assert_array_equal(
        again.scaler.apply(rows), Scaler.fit(skewed().features[skewed().trainval], "normal").apply(rows)
    )


def test_under_test_best_the_scaling_is_chosen_on_folds_too(tmp_path: Path) -> None:
    settings = config(
        "scaling=auto", "selection.folds=4", "epochs=1", "selection.evaluations=1", "selection.protocol=test-best"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    assert fit(skewed(), settings, folder, data={"kind": "x"}, device=CPU).selected.scaling == "normal"


def test_a_selection_takes_a_scaling_that_is_chosen_already() -> None:
    settings = config("scaling=auto", "selection.folds=4", "epochs=1", "selection.evaluations=1")
    assert select(skewed(), settings, CPU, scaling="range").scaling == "range"
    assert select(skewed(), settings, CPU).scaling == "normal"
