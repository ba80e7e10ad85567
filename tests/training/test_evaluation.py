"""Results of a run, computed a second time by hand from the networks and the store."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.calibration import Calibration
from model.errors import DataError
from training.datasets.dataset import Dataset
from training.datasets.opening import open_data
from training.evaluation import TestRows, evaluate, fit_chosen_head, protocol, run_key, run_task, softmax_logits
from training.method.heads import synthesise_features
from training.method.novelty import NOVELTY_SCORES, familiarity
from training.metrics import harmonic_mean
from training.runs.contents import Trained


@pytest.fixture(scope="module")
def results(data: Dataset, trained: Trained) -> dict[str, Any]:
    return evaluate(data, trained)


def by_hand(scores: np.ndarray, data: Dataset) -> dict[str, float]:
    """Accuracy of each class, then U, S and H, row by row."""
    hits: dict[int, list[bool]] = {}
    for row, label in zip(scores, data.labels[data.test].tolist(), strict=True):
        hits.setdefault(label, []).append(int(row.argmax()) == label)
    accuracy = {label: sum(found) / len(found) for label, found in hits.items()}
    unseen = float(np.mean([a for label, a in accuracy.items() if not data.seen[label]]))
    seen = float(np.mean([a for label, a in accuracy.items() if data.seen[label]]))
    per_class = {data.classes[label].id: value for label, value in accuracy.items()}
    return {"U": unseen, "S": seen, "H": harmonic_mean(unseen, seen), "per_class": per_class}  # type: ignore[dict-item]


def errors_by_hand(scores: np.ndarray, data: Dataset) -> tuple[float, float]:
    """Calibration errors with 15 bins, rows and classes counting the same."""
    labels = data.labels[data.test].tolist()
    errors = []
    for weights in (
        [1 / len(labels)] * len(labels),
        [1 / labels.count(label) / len(set(labels)) for label in labels],
    ):
        bins = [0.0] * 15
        for row, label, weight in zip(scores, labels, weights, strict=True):
            probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            confidence = float(probabilities.max())
            bins[math.ceil(confidence * 15) - 1] += weight * (confidence - (int(row.argmax()) == label))
        errors.append(sum(abs(value) for value in bins))
    return errors[0], errors[1]


def scaled_test_rows(data: Dataset, trained: Trained) -> torch.Tensor:
    return torch.from_numpy((data.features[data.test] - trained.scaler.minimum) / trained.scaler.range)


def at_the_median(calibration: Calibration, scores: np.ndarray, seen: np.ndarray) -> Calibration:
    gaps = scores[:, seen].max(axis=1) - scores[:, ~seen].max(axis=1)
    return dataclasses.replace(calibration, seen_penalty=float(np.median(gaps)) / calibration.temperature)


@torch.no_grad()
@pytest.mark.parametrize("favour_unseen", [False, True])
def test_results_of_both_classifiers(data: Dataset, trained: Trained, favour_unseen: bool) -> None:
    z, logits = trained.networks.student(scaled_test_rows(data, trained))
    head = fit_chosen_head(data, trained, key=run_key(trained))
    served = ((z.numpy() - head.centre) @ head.weight.T + head.bias).astype(np.float64)
    chosen = trained.selected
    if favour_unseen:  # penalties at which some rows change sides, whatever validation chose
        calibration = at_the_median(chosen.calibration, served, data.seen)
        chosen = dataclasses.replace(
            chosen,
            calibration=calibration,
            student=at_the_median(chosen.student, logits.double().numpy(), data.seen),
        )
    results = evaluate(data, dataclasses.replace(trained, selected=chosen))
    student = logits.double().numpy() / chosen.student.temperature - chosen.student.seen_penalty * data.seen
    served = served / chosen.calibration.temperature - chosen.calibration.seen_penalty * data.seen
    for name, scores, calibration in (("student", student, chosen.student), ("lda", served, chosen.calibration)):
        expected = by_hand(scores, data)
        assert results[name]["temperature"] == calibration.temperature
        assert results[name]["seen_penalty"] == calibration.seen_penalty
        plain, balanced = errors_by_hand(scores, data)
        assert (results[name]["ece"], results[name]["ece_balanced"]) == pytest.approx((plain, balanced))
        assert {key: results[name][key] for key in expected} == expected, name
        assert 0 <= results[name]["AUSUC"] <= 1
        assert results[name]["T1"] >= results[name]["U"]
    if favour_unseen:
        assert results["lda"]["H"] > 0.5
        assert (student.argmax(axis=1) != logits.numpy().argmax(axis=1)).any()
    assert set(results["lda"]["per_class"]) == {entry.id for entry in data.classes}


def test_the_softmax_row_is_that_of_adam_by_hand(data: Dataset, trained: Trained, results: dict[str, Any]) -> None:
    """Cross-entropy of a linear layer on real seen and synthesised unseen features, step by step in float64."""
    task = run_task(data, trained)
    synthetic = [
        synthesise_features(trained.networks, task.attributes[i], run_key(trained), data.classes[i].id, 10).numpy()
        for i in np.flatnonzero(~data.seen)
    ]
    x = np.concatenate([task.features.numpy(), *synthetic]).astype(np.float64)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    y = np.concatenate([task.labels.numpy(), np.repeat(np.flatnonzero(~data.seen), 10)])
    weight, first, second, step = np.zeros((len(data.classes), x.shape[1])), 0.0, 0.0, 0
    random = torch.Generator().manual_seed(trained.config.seed)
    for _ in range(25):
        order = torch.randperm(len(y), generator=random).numpy()
        for start in range(0, len(order), 256):
            batch = order[start : start + 256]
            error = np.exp(x[batch] @ weight.T)
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(batch)), y[batch]] -= 1
            gradient, step = error.T @ x[batch] / len(batch), step + 1
            first, second = 0.5 * first + 0.5 * gradient, 0.999 * second + 0.001 * gradient**2
            weight -= 1e-3 * (first / (1 - 0.5**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    test = trained.scaler.apply(data.features[data.test])
    scores = test @ weight[:, :-1].T + weight[:, -1]
    np.testing.assert_allclose(softmax_logits(data, trained), scores, rtol=1e-3, atol=1e-4)
    found, expected = results["softmax"], by_hand(scores, data)
    assert {key: found[key] for key in expected} == expected
    assert found["uncalibrated"] == {key: expected[key] for key in ("U", "S", "H")}
    assert (found["seen_penalty"], found["temperature"]) == (0, 1)


def test_a_bundles_own_head_is_measured_without_a_softmax(data: Dataset, trained: Trained) -> None:
    head = fit_chosen_head(data, trained, key="another")
    results = evaluate(data, trained, head=head, with_softmax=False)
    assert "softmax" not in results
    scores = trained.selected.calibration.scores(head.logits(TestRows.of(data, trained).embeddings), data.seen)
    assert results["lda"]["H"] == by_hand(scores, data)["H"]


@torch.no_grad()
def test_novelty(data: Dataset, trained: Trained, results: dict[str, Any]) -> None:
    """Every score, and the one that is served; the teacher's by hand, the others by the head of the run."""
    found, rows, labels = results["novelty"], scaled_test_rows(data, trained), data.labels[data.test]
    head, z = fit_chosen_head(data, trained, key=run_key(trained)), trained.networks.student.embedding(rows).numpy()
    scores = {name: familiarity(name, head, data.seen, z) for name in NOVELTY_SCORES if name != "teacher"}
    scores["teacher"] = trained.networks.teacher.score(rows).numpy()
    for name, values in scores.items():
        of_class = []
        for unseen in np.flatnonzero(~data.seen):
            pairs = [
                (u < s) + (u == s) / 2 for u in values[labels == unseen] for s in values[data.seen[labels]].tolist()
            ]
            of_class.append(np.mean(pairs))
        assert found["aurocs"][name] == pytest.approx(np.mean(of_class))
    assert found["score"] == trained.selected.novelty
    assert found["auroc"] == found["aurocs"].get(found["score"])
    assert (found["seen_rows"], found["unseen_rows"]) == (12, 16)


def test_protocol_says_how_the_numbers_came_about(data: Dataset, trained: Trained, results: dict[str, Any]) -> None:
    said = results["protocol"]
    assert said == protocol(data, trained)
    assert (said["name"], said["test_used_for_selection"]) == ("validation", False)
    assert said["classes"] == {"seen": 6, "unseen": 2}
    assert said["rows"] == {"trainval": 36, "test_seen": 12, "test_unseen": 16}
    assert said["data_hash"] == trained.data["data_hash"] == data.data_hash
    assert (said["seed"], said["split"]["test_fraction"], said["split"]["split_seed"]) == (0, 0.25, 0)
    assert "sha256" in said["split"]["rule"]
    assert results["validation"]["H"] == trained.selected.validation["H"]
    assert "candidates" not in results["validation"]


def test_evaluating_again_gives_the_same(data: Dataset, trained: Trained, results: dict[str, Any]) -> None:
    assert evaluate(data, trained) == results


def test_the_noise_is_keyed_by_the_configuration(trained: Trained) -> None:
    other = dataclasses.replace(trained, config=dataclasses.replace(trained.config, seed=1))
    assert run_key(other) != run_key(trained)
    assert run_key(dataclasses.replace(trained, data={})) == run_key(trained)


def test_rows_of_training_are_not_tested(data: Dataset, trained: Trained, results: dict[str, Any]) -> None:
    poisoned = data.features.copy()
    poisoned[data.trainval] = np.nan
    rows = TestRows.of(dataclasses.replace(data, features=poisoned), trained)
    assert np.isfinite(rows.embeddings).all()
    assert len(rows.labels) == 28


def test_without_test_rows_of_both_kinds(data: Dataset, trained: Trained, store_dir: Path) -> None:
    all_of_it, _ = open_data(store_dir, test_fraction=0, split_seed=0)
    unseen_only = ~data.seen[data.labels[data.test]]
    for made, counts in (
        (all_of_it, "got 0 and 16"),
        (dataclasses.replace(data, test=data.test[unseen_only]), "got 0 and 16"),
        (dataclasses.replace(data, test=data.test[~unseen_only]), "got 12 and 0"),
        (dataclasses.replace(data, test=data.test[:0]), "got 0 and 0"),
    ):
        assert not made.testable
        with pytest.raises(DataError, match=f"test images of seen and of unseen classes, {counts}"):
            evaluate(made, trained)
    assert data.testable
