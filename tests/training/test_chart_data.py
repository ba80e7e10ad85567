"""What the report draws, computed a second time by loops."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import tiny
from training.datasets.dataset import Dataset
from training.evaluation import evaluate, run_key
from training.experiment import write_results
from training.features.scaler import evenly
from training.method.heads import synthesise
from training.metrics import seen_unseen_curve
from training.reporting.chart_data import (
    BINS,
    CURVE_POINTS,
    SHOWN_PHOTOS,
    confusion,
    histograms,
    mistakes,
    principal_axes,
    spread_classes,
    synthetic_rows,
    trade_off,
)
from training.runs.contents import Trained


@pytest.fixture(scope="module")
def written(data: Dataset, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("results")
    metrics = write_results(folder, data, trained)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (folder / "curves.json").stat().st_size < 300_000
    return {"metrics": metrics, "curves": json.loads((folder / "curves.json").read_text())}


# --- trade-off --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [6, 100, 3000])
def test_trade_off_keeps_the_ends_and_points_of_the_curve(rows: int) -> None:
    random = np.random.default_rng(rows)
    seen = np.array([True, False, True, False])
    labels = np.concatenate([np.arange(4), random.integers(0, 4, rows)])
    scores = random.standard_normal((len(labels), 4)) + 1.5 * np.eye(4)[labels]
    curve = seen_unseen_curve(scores, labels, seen)
    found = trade_off(scores, labels, seen, penalty=0.25)
    assert 2 <= len(found["U"]) == len(found["S"]) <= CURVE_POINTS
    everything = {(round(u, 4), round(s, 4)) for u, s in zip(curve.unseen.tolist(), curve.seen.tolist(), strict=True)}
    points = list(zip(found["U"], found["S"], strict=True))
    assert set(points) <= everything
    assert points[0] == (round(curve.unseen[0], 4), round(curve.seen[0], 4))
    assert points[-1] == (round(curve.unseen[-1], 4), round(curve.seen[-1], 4))
    gaps = np.hypot(np.diff(found["U"]), np.diff(found["S"]))
    assert gaps.max() <= max(np.hypot(np.diff(curve.unseen), np.diff(curve.seen)).max(), 0) + 2 / (CURVE_POINTS - 2)
    shifted = scores - 0.25 * seen
    per_class = [(shifted[labels == c].argmax(axis=1) == c).mean() for c in range(4)]
    assert (found["chosen"]["U"], found["chosen"]["S"]) == pytest.approx(
        (np.mean([per_class[1], per_class[3]]), np.mean([per_class[0], per_class[2]]))
    )
    best = max(2 * u * s / (u + s) for u, s in zip(curve.unseen, curve.seen, strict=True) if u + s)
    assert found["best"]["H"] == pytest.approx(best)
    assert found["best"]["H"] >= found["chosen"]["H"] - 1e-12


def test_the_chosen_points_are_the_results(written: dict[str, Any]) -> None:
    for head in ("lda", "student"):
        chosen = written["curves"]["trade_off"][head]["chosen"]
        assert chosen == pytest.approx({name: written["metrics"][head][name] for name in ("U", "S", "H")})


# --- teacher's scores -------------------------------------------------------------------------------------------------


def test_histograms_are_counting() -> None:
    random = np.random.default_rng(0)
    values = {"a": random.normal(-2, 1, 500), "b": random.normal(-1, 0.5, 70)}
    found = histograms(values)
    low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
    width = (high - low) / BINS
    np.testing.assert_allclose(found["edges"], [low + i * width for i in range(BINS + 1)], atol=1e-4)
    for name, kind in values.items():
        counts = Counter(min(int((v - low) / width), BINS - 1) for v in kind.tolist())
        np.testing.assert_allclose(found["shares"][name], [counts[i] / len(kind) for i in range(BINS)], atol=1e-4)


def test_histograms_of_equal_values() -> None:
    found = histograms({"a": np.array([-1.0, -1.0])})
    assert sum(found["shares"]["a"]) == pytest.approx(1)
    assert len(found["edges"]) == BINS + 1


@torch.no_grad()
def test_teacher_scores_of_a_run(data: Dataset, trained: Trained, written: dict[str, Any]) -> None:
    found = written["curves"]["teacher_scores"]
    scaled = torch.from_numpy((data.features[data.test] - trained.scaler.minimum) / trained.scaler.range)
    scores = trained.networks.teacher.score(scaled).numpy()
    seen = data.seen[data.labels[data.test]]
    edges = np.array(found["edges"])
    assert edges[0] <= scores.min() + 1e-4
    assert edges[-1] >= scores.max() - 1e-4
    centres = (edges[1:] + edges[:-1]) / 2
    for name, kind in (("test_seen", scores[seen]), ("test_unseen", scores[~seen])):
        assert np.dot(found["shares"][name], centres) == pytest.approx(kind.mean(), abs=edges[1] - edges[0])
    assert sum(found["shares"]["synthetic_unseen"]) == pytest.approx(1, abs=0.01)


# --- confusion --------------------------------------------------------------------------------------------------------


def test_confusion_is_counting() -> None:
    data = tiny.dataset(seen=4, unseen=3)
    order = np.array([5, 0, 6, 1, 2, 4, 3])  # unseen classes among the seen ones
    classes = tuple(data.classes[i] for i in order)
    mixed = dataclasses.replace(data, classes=classes, labels=np.argsort(order)[data.labels])
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 7, 90), random.integers(0, 7, 90)
    found = confusion(predicted, labels, mixed)
    assert found["classes"] == ["class-5", "class-6", "class-4"]
    counts: Counter[tuple[str, str]] = Counter()
    for label, taken in zip(labels.tolist(), predicted.tolist(), strict=True):
        if not mixed.seen[label]:
            counts[classes[label].id, "seen" if mixed.seen[taken] else classes[taken].id] += 1
    names = [*found["classes"], "seen"]
    assert {(names[row], names[column]): count for row, column, count in found["counts"]} == counts


def test_confusion_of_a_run(written: dict[str, Any]) -> None:
    found, per_class = written["curves"]["confusion"], written["metrics"]["lda"]["per_class"]
    totals: Counter[int] = Counter()
    for row, _, count in found["counts"]:
        totals[row] += count
    hits = {row: count for row, column, count in found["counts"] if row == column}
    for row, name in enumerate(found["classes"]):
        assert hits.get(row, 0) / totals[row] == pytest.approx(per_class[name])


# --- the plane --------------------------------------------------------------------------------------------------------


def test_axes_are_those_of_the_singular_values() -> None:
    random = np.random.default_rng(0)
    z = random.standard_normal((50, 6)) * np.array([1, 5, 1, 3, 0.5, 1]) + 7
    mean, axes, shares = principal_axes(z.astype(np.float32))
    centred = z - z.mean(axis=0)
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(mean, z.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.abs(axes.T), np.abs(vectors[:2]), atol=1e-4)
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-4)
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()


@pytest.mark.parametrize("dimension", [1, 2])
def test_axes_of_few_dimensions(dimension: int) -> None:
    z = np.random.default_rng(0).standard_normal((9, dimension))
    _, axes, shares = principal_axes(z)
    assert axes.shape == (dimension, 2)
    assert shares.sum() == pytest.approx(1)
    assert principal_axes(np.ones((3, dimension)))[2].tolist() == [0, 0]


def test_rows_and_classes_to_show() -> None:
    assert evenly(5, 60).tolist() == [0, 1, 2, 3, 4]
    assert evenly(100, 3).tolist() == [0, 50, 99]
    assert evenly(0, 60).tolist() == []
    accuracy = np.array([0.9, 0.1, np.nan, 0.5, 0.3, 0.7])
    among = np.array([True, True, True, True, True, False])
    assert spread_classes(accuracy, among) == [1, 4, 3, 0]
    many = spread_classes(np.linspace(1, 0, 20), np.ones(20, dtype=bool))
    assert (len(many), many[0], many[-1]) == (8, 19, 0)
    assert many == sorted(many, reverse=True)


@torch.no_grad()
def test_plane_of_a_run(data: Dataset, trained: Trained, written: dict[str, Any]) -> None:
    found = written["curves"]["plane"]
    accuracy = written["metrics"]["lda"]["per_class"]
    shown = [entry["id"] for entry in found["classes"]]
    assert shown == sorted(written["metrics"]["unseen_classes"], key=lambda name: accuracy[name])

    def embedded(rows: np.ndarray) -> np.ndarray:
        scaled = torch.from_numpy((data.features[rows] - trained.scaler.minimum) / trained.scaler.range)
        return np.asarray(trained.networks.student.embedding(scaled).numpy())

    training = embedded(data.trainval)
    _, values, vectors = np.linalg.svd(training - training.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found["variance_shares"], values[:2] ** 2 / (values**2).sum(), atol=1e-3)
    for entry in found["classes"]:
        index = [c.id for c in data.classes].index(entry["id"])
        rows = data.test[data.labels[data.test] == index]
        expected = (embedded(rows) - training.mean(axis=0)) @ vectors[:2].T
        np.testing.assert_allclose(np.abs(entry["real"]), np.abs(expected), atol=1e-3)
        assert np.shape(entry["synthetic"]) == (60, 2)
    _, synthetic = synthetic_rows(data, trained, [index])
    attributes = torch.from_numpy(data.attributes[index])
    again = synthesise(trained.networks, attributes, run_key(trained), data.classes[index].id, 60)
    np.testing.assert_array_equal(synthetic[index], again)


# --- all of it --------------------------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_figures(
    data: Dataset, trained: Trained, written: dict[str, Any], tmp_path: Path
) -> None:
    write_results(tmp_path, data, trained)
    assert json.loads((tmp_path / "curves.json").read_text()) == written["curves"]
    assert evaluate(data, trained) == written["metrics"]


# --- photos that are named wrong --------------------------------------------------------------------------------------


def probabilities(data: Dataset, sure: float = 0.6) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Every test row is taken for the next class, later rows more surely; but the first row of each class is right."""
    labels = data.labels[data.test]
    found = np.full((len(labels), len(data.classes)), 0.01)
    for place, label in enumerate(labels.tolist()):
        right = place == labels.tolist().index(label)
        found[place, label if right else (label + 1) % len(data.classes)] = sure + place / 1000
    return found


def test_mistakes_come_from_the_classes_in_turn_surest_first(data: Dataset) -> None:
    labels = data.labels[data.test]
    found = mistakes(data, labels, probabilities(data))["mistakes"]
    unseen = ~data.seen[labels]
    classes = len(set(labels.tolist()))
    assert found["rows"] == {"unseen": int(unseen.sum()), "seen": int((~unseen).sum())}
    assert sum(found["wrong"].values()) == len(labels) - classes
    assert Path(found["root"]).is_absolute()
    for kind in ("unseen", "seen"):
        shown = [entry for entry in found["shown"] if entry["kind"] == kind]
        assert len(shown) == min(SHOWN_PHOTOS, found["wrong"][kind])
        names = [entry["class"] for entry in shown]
        first = names[: len(set(names))]
        assert len(set(first)) == len(first)  # each class once, before one comes again
        for name in set(names):
            sure = [entry["probability"] for entry in shown if entry["class"] == name]
            assert sure == sorted(sure, reverse=True)
    for entry in found["shown"]:
        position = [c.name for c in data.classes].index(entry["class"])
        assert entry["taken_for"] == data.classes[(position + 1) % len(data.classes)].name
        assert entry["path"].startswith(f"images/{entry['class']}/")
        assert len(entry["sha256"]) == 64


def test_features_without_photos_have_no_mistakes_to_show() -> None:
    data = tiny.dataset()
    assert mistakes(data, data.labels[data.test], probabilities(data)) == {}


def test_mistakes_are_those_of_the_served_head(written: dict[str, Any], data: Dataset) -> None:
    found, served = written["curves"]["mistakes"], written["metrics"]["lda"]["per_class"]
    labels = data.labels[data.test]
    right = sum(served[entry.id] * int((labels == place).sum()) for place, entry in enumerate(data.classes))
    assert len(labels) - sum(found["wrong"].values()) == round(right)
