"""Selection: folds of seen classes, test rows untouched, penalty, temperature and candidate against plain search."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from itertools import pairwise
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.errors import DataError
from tests.training.tiny import config, dataset
from training.config import SelectionConfig, TrainConfig
from training.datasets.dataset import Dataset, make_task
from training.features.scaler import Scaler
from training.method.heads import HeadChoice
from training.method.novelty import NOVELTY_SCORES
from training.metrics import gzsl_scores, harmonic_mean, seen_unseen_curve
from training.selection.choice import (
    UNSEEN_SCALES,
    Candidate,
    Selection,
    best_scores,
    calibrate,
    choose,
    choose_scale,
    measured_epochs,
)
from training.selection.fold_scores import (
    NEARLY_BEST,
    STUDENT,
    FoldScores,
    Measurement,
    best_penalty,
    curve_of,
    scale_unseen,
)
from training.selection.folds import fold_count, folds, used_folds
from training.selection.photos import Photos, PhotoScores
from training.selection.protocols import FoldEpoch, exhausted, select

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(seen=6, unseen=2, rows=10, dim=8)


# --- folds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seen", "count"), [(4, 2), (6, 3), (7, 3), (9, 2)])
def test_every_seen_class_is_hidden_once(seen: int, count: int) -> None:
    made = dataset(seen=seen, unseen=2, rows=6)
    dealt = list(folds(made, SelectionConfig(folds=count), seed=3))
    assert len(dealt) == count
    assert Counter(np.concatenate([fold.pseudo_unseen for fold in dealt]).tolist()) == Counter(range(seen))
    assert {len(fold.pseudo_unseen) for fold in dealt} <= {seen // count, -(-seen // count)}
    for fold in dealt:
        assert fold.classes.tolist() == list(range(seen))  # unseen classes take no part


def test_rows_of_a_fold(data: Dataset) -> None:
    for fold in folds(data, SelectionConfig(folds=3, seen_fraction=0.25), seed=0):
        assert sorted([*fold.train.tolist(), *fold.held.tolist()]) == data.trainval.tolist()
        held, kept = Counter(data.labels[fold.held].tolist()), Counter(data.labels[fold.train].tolist())
        for index in range(6):
            hidden = index in fold.pseudo_unseen
            assert (held[index], kept[index]) == ((10, 0) if hidden else (2, 8))  # round(2.5) is 2


@pytest.mark.parametrize(("fraction", "held"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_every_other_class_keeps_and_gives_at_least_one_row(fraction: float, held: int) -> None:
    made = dataset(seen=4, rows=4)
    for fold in folds(made, SelectionConfig(folds=2, seen_fraction=fraction), seed=0):
        others = np.setdiff1d(np.arange(4), fold.pseudo_unseen)
        assert [int((made.labels[fold.held] == index).sum()) for index in others] == [held, held]


def test_folds_come_from_the_seed(data: Dataset) -> None:
    def dealt(seed: int) -> list[list[int]]:
        return [
            [*fold.held.tolist(), -1, *fold.pseudo_unseen.tolist()]
            for fold in folds(data, SelectionConfig(folds=2), seed)
        ]

    assert dealt(1) == dealt(1)
    assert dealt(1) != dealt(2)


@pytest.mark.parametrize(
    ("seen", "count", "words"),
    [
        (3, 2, "expected at least 4 seen classes, got 3"),
        (2, 4, "expected at least 4 seen classes, got 2"),
        (5, 4, "selection.folds: expected 2 to 2 with 5 seen classes, got 4"),
        (9, 5, "selection.folds: expected 2 to 4 with 9 seen classes, got 5"),
    ],
)
def test_too_few_seen_classes(seen: int, count: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        select(dataset(seen=seen), config(f"selection.folds={count}"), CPU)


def test_task_of_a_fold(data: Dataset) -> None:
    fold = next(folds(data, SelectionConfig(folds=3), seed=0))
    scaler = Scaler.fit(data.features[fold.train])
    task = make_task(data, fold.train, fold.classes, scaler, CPU)
    assert task.unseen_index.tolist() == fold.pseudo_unseen.tolist()
    assert task.features.min() == 0
    assert task.features.max() == 1
    np.testing.assert_array_equal(task.attributes.numpy(), data.attributes[:6])
    some = make_task(data, np.flatnonzero(data.labels == 4)[:3], np.array([1, 4, 7]), scaler, CPU)
    assert some.labels.tolist() == [1, 1, 1]  # positions among the given classes
    np.testing.assert_array_equal(some.attributes.numpy(), data.attributes[[1, 4, 7]])


def test_only_the_used_folds_are_trained(data: Dataset) -> None:
    every = list(folds(data, SelectionConfig(folds=3), seed=0))
    some = list(used_folds(data, SelectionConfig(folds=3, used_folds=2), 0))
    assert [fold.pseudo_unseen.tolist() for fold in some] == [fold.pseudo_unseen.tolist() for fold in every[:2]]
    selected = select(data, config("selection.folds=3", "selection.used_folds=1"), CPU)
    assert selected.validation["folds"] == 1


def test_every_repeat_hides_every_class_once_in_other_groups(data: Dataset) -> None:
    settings = SelectionConfig(folds=3, repeats=2)
    dealt = [fold.pseudo_unseen.tolist() for fold in used_folds(data, settings, 0)]
    assert len(dealt) == fold_count(settings) == 6
    first, second = dealt[:3], dealt[3:]
    assert first == [
        fold.pseudo_unseen.tolist() for fold in folds(data, settings, 0)
    ]  # the first is that of one split alone
    for repeat in (first, second):
        assert sorted(index for group in repeat for index in group) == list(range(6))
    assert {tuple(group) for group in first} != {tuple(group) for group in second}


# --- test rows ------------------------------------------------------------------------------------


def test_test_rows_and_unseen_classes_are_never_touched(data: Dataset) -> None:
    """With poison in them, selection chooses the same, number by number."""
    features = data.features.copy()
    features[data.test] = np.nan
    labels = data.labels.copy()
    labels[data.test] = -1
    classes = tuple(
        c if c.kind == "seen" else dataclasses.replace(c, attributes=tuple(1e9 for _ in c.attributes))
        for c in data.classes
    )
    poisoned = dataclasses.replace(data, features=features, labels=labels, classes=classes)
    clean = select(data, config(), CPU)
    assert clean.validation["H"] > 0
    assert dataclasses.asdict(select(poisoned, config(), CPU)) == dataclasses.asdict(clean)


def test_select_measures_every_candidate_in_every_fold(data: Dataset) -> None:
    settings = config("selection.evaluations=2", "selection.folds=3", epochs=4)
    calls: list[tuple[int, int]] = []

    def note(at: FoldEpoch) -> None:
        assert {"cls", "kl", "be", "od"} < set(at.losses)
        assert (at.scores is not None) == (at.epoch in (2, 4))
        assert (at.epochs, at.over) == (4, at.epoch == 4)
        calls.append((at.fold, at.epoch))

    selected = select(data, settings, CPU, on_epoch=note)
    assert calls == [(fold, epoch) for fold in range(3) for epoch in (1, 2, 3, 4)]
    candidates = selected.validation["candidates"]
    assert [(c["epochs"], c["head"]) for c in candidates] == [
        (epochs, head) for epochs in (2, 4) for head in ("lda/0.3", "lda/0.7", "student")
    ]
    assert selected.epochs in (2, 4)
    assert selected.head.shrinkage in (0.3, 0.7)
    best = max((c for c in candidates if c["head"] != "student"), key=lambda c: c["H"])
    assert selected.validation["H"] == best["H"]
    assert selected.calibration.seen_penalty * selected.calibration.temperature == pytest.approx(best["seen_penalty"])
    assert selected.validation["folds"] == 3
    aurocs = selected.validation["novelty"]
    assert list(aurocs) == list(NOVELTY_SCORES)
    assert all(0 <= found["auroc"] <= 1 and found["error"] >= 0 for found in aurocs.values())
    assert selected.novelty in (None, max(aurocs, key=lambda name: aurocs[name]["auroc"]))
    assert Selection.from_json(json.loads(json.dumps(selected.to_json()))) == selected


def test_scores_of_a_fold_are_those_of_its_best_head() -> None:
    good, bad = with_noise(0.6, folds=1)[0], with_noise(3, folds=2)[1]
    measured = Measurement(
        labels=good.labels,
        seen=good.seen,
        logits={STUDENT: bad.logits, "lda/0.1": bad.logits, "lda/0.3": good.logits},
        novelty={},
        photos=no_photos(good),
    )
    found = best_scores(measured)
    assert set(found) == {"lda", STUDENT}
    for name, run in (("lda", good), (STUDENT, bad)):
        penalty, h = best_penalty([curve_of(run)])
        result = gzsl_scores(run.logits - np.float64(penalty) * run.seen, run.labels, run.seen)
        assert found[name] == pytest.approx({"U": result.U, "S": result.S, "H": h})
        assert h == pytest.approx(result.H)


@pytest.mark.parametrize(
    ("epochs", "evaluations", "expected"),
    [(60, 4, {8, 15, 30, 60}), (60, 8, {1, 2, 4, 8, 15, 30, 60}), (3, 8, {1, 2, 3}), (7, 2, {4, 7}), (10, 1, {10})],
)
def test_lengths_are_halves_of_each_other(epochs: int, evaluations: int, expected: set[int]) -> None:
    assert measured_epochs(TrainConfig(epochs=epochs, selection=SelectionConfig(evaluations=evaluations))) == expected


@pytest.mark.parametrize(
    ("epochs", "evaluations", "expected"),
    [(60, 4, {15, 30, 45, 60}), (3, 8, {1, 2, 3}), (7, 2, {4, 7}), (1, 1, {1}), (10, 1, {10})],
)
def test_under_test_best_lengths_are_evenly_spaced(epochs: int, evaluations: int, expected: set[int]) -> None:
    selection = SelectionConfig(protocol="test-best", evaluations=evaluations)
    assert measured_epochs(TrainConfig(epochs=epochs, selection=selection)) == expected


@pytest.mark.parametrize(
    ("best", "patience", "expected"),
    [
        ({}, 1, False),
        ({1: 0.3}, 1, False),
        ({1: 0.3, 2: 0.2}, 1, True),
        ({1: 0.3, 2: 0.2}, 2, False),
        ({1: 0.3, 2: 0.2}, 0, False),
        ({1: 0.3, 2: 0.3, 4: 0.3}, 2, True),  # as good is not better
        ({4: 0.1, 2: 0.2, 1: 0.3}, 2, True),
        ({1: 0.1, 2: 0.3, 4: 0.2, 8: 0.25}, 2, True),
        ({1: 0.1, 2: 0.3, 4: 0.2, 8: 0.31}, 2, False),
    ],
)
def test_patience_counts_longer_lengths_without_a_better_h(
    best: dict[int, float], patience: int, expected: bool
) -> None:
    assert exhausted(best, patience) is expected


def test_the_first_fold_decides_how_long_the_others_train(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second length is the best, and two without a better one follow; other folds may fall as they like."""
    settings = config("selection.evaluations=9", "selection.folds=3", "selection.patience=2", epochs=64)
    coming = iter([0.2, 0.4, 0.1, 0.3, *(8 * [0.3, 0.2])])
    monkeypatch.setattr(
        "training.selection.protocols.best_scores", lambda _: {"lda": {"U": 0.0, "S": 0.0, "H": next(coming)}}
    )
    told: list[FoldEpoch] = []
    selected = select(data, settings, CPU, on_epoch=told.append)
    assert [(at.fold, at.epoch) for at in told] == [(fold, epoch) for fold in range(3) for epoch in range(1, 9)]
    assert [at.epochs for at in told] == 8 * [64] + 16 * [8]
    assert [at.epoch for at in told if at.over] == [8, 8, 8]
    assert [at.epoch for at in told if at.scores is not None] == 3 * [1, 2, 4, 8]
    assert {c["epochs"] for c in selected.validation["candidates"]} == {1, 2, 4, 8}


# --- the penalty ----------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> list[FoldScores]:
    """One to three folds with some scores of few values."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        classes, rows = draw(st.integers(2, 4)), draw(st.integers(2, 7))
        seen = np.array(draw(st.lists(st.booleans(), min_size=classes, max_size=classes)))
        labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows)))
        assume(seen[labels].any() and not seen[labels].all())
        values = draw(st.lists(st.integers(-8, 8), min_size=rows * classes, max_size=rows * classes))
        logits = np.array(values, dtype=np.float32).reshape(rows, classes)
        made.append(FoldScores(logits=logits, labels=labels, seen=seen))
    return made


def mean_h(scored: list[FoldScores], penalty: float) -> float:
    """Mean H over folds by counting; `penalty` is between gaps, so that there are no ties of seen and unseen."""
    values = []
    for run in scored:
        result = gzsl_scores(run.logits - np.float64(penalty) * run.seen, run.labels, run.seen)
        values.append(harmonic_mean(result.U, result.S))
    return sum(values) / len(values)


@given(runs())
def test_best_penalty_is_that_of_a_full_search(scored: list[FoldScores]) -> None:
    curves = [curve_of(run) for run in scored]
    penalty, h = best_penalty(curves)
    gaps = sorted({gap for curve in curves for gap in curve.penalties.tolist()})
    if len(gaps) == 1:
        assert (penalty, h) == (gaps[0], 0)  # at the only gap all rows change sides together
        return
    tried = [(a + b) / 2 for a, b in pairwise(gaps)]
    search = [mean_h(scored, p) for p in tried]
    assert mean_h(scored, gaps[0] - 1) == mean_h(scored, gaps[-1] + 1) == 0  # nothing is lost beyond the gaps
    assert penalty in tried
    assert h == pytest.approx(mean_h(scored, penalty))
    assert h >= max(search) - NEARLY_BEST - 1e-9
    good = [p for p, value in zip(tried, search, strict=True) if value >= max(search) - NEARLY_BEST - 1e-9]
    below, above = sum(p < penalty for p in good), sum(p > penalty for p in good)
    assert abs(below - above) <= 1  # the one in the middle


# --- the temperature ------------------------------------------------------------------------------


def scored_rows(*, scale: float, seed: int = 0, rows: int = 60) -> FoldScores:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, rows) % random.integers(1, 5, rows)  # low labels are more frequent
    logits = scale * (2 * np.eye(4)[labels] + random.standard_normal((rows, 4)))
    return FoldScores(logits=logits.astype(np.float32), labels=labels, seen=np.array([True, True, True, False]))


def balanced_loss(scored: list[FoldScores], penalty: float, temperature: float) -> float:
    """Mean over folds of the mean over classes of the mean -log p, in loops."""
    of_folds = []
    for run in scored:
        of_classes: dict[int, list[float]] = {}
        for row, label in zip(run.logits.astype(float).tolist(), run.labels.tolist(), strict=True):
            shifted = [(v - penalty * bool(s)) / temperature for v, s in zip(row, run.seen, strict=True)]
            log_sum = max(shifted) + math.log(sum(math.exp(v - max(shifted)) for v in shifted))
            of_classes.setdefault(label, []).append(log_sum - shifted[label])
        of_folds.append(sum(sum(v) / len(v) for v in of_classes.values()) / len(of_classes))
    return sum(of_folds) / len(of_folds)


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_calibrate_finds_the_temperature(scale: float, penalty: float) -> None:
    scored, penalty = [scored_rows(scale=scale), scored_rows(scale=scale, seed=1, rows=25)], penalty * scale
    made = calibrate(scored, penalty)
    assert made.seen_penalty == pytest.approx(penalty / made.temperature)
    best = balanced_loss(scored, penalty, made.temperature)
    for temperature in (1.0, *(made.temperature * f for f in (0.5, 0.8, 0.95, 0.99, 1.01, 1.05, 1.25, 2.0))):
        assert best <= balanced_loss(scored, penalty, temperature) + 1e-6
    if scale != 1.0:
        assert best < balanced_loss(scored, penalty, 1.0) - 0.01


def test_calibration_does_not_change_what_is_best() -> None:
    run = scored_rows(scale=3)
    made = calibrate([run], 1.5)
    np.testing.assert_array_equal(
        made.scores(run.logits, run.seen).argmax(axis=1), (run.logits - 1.5 * run.seen).argmax(axis=1)
    )


# --- the choice -----------------------------------------------------------------------------------


def chosen(scored: dict[Candidate, list[FoldScores]]) -> Selection:
    novelty = {5: 0.5, 10: 0.8, 15: 0.1}
    folds = [
        {
            epoch: Measurement(
                labels=some[fold].labels,
                seen=some[fold].seen,
                logits={head: runs[fold].logits for (at, head), runs in scored.items() if at == epoch},
                novelty={
                    head: np.full((len(NOVELTY_SCORES), np.count_nonzero(~some[fold].seen)), novelty[epoch])
                    for at, head in scored
                    if at == epoch
                },
                photos=no_photos(some[fold]),
            )
            for (epoch, _), some in scored.items()
        }
        for fold in range(2)
    ]
    return choose(folds, TrainConfig())


def no_photos(scored: FoldScores) -> Photos:
    """Of classes too rare for photos, whatever the head."""
    unseen = np.count_nonzero(~scored.seen)
    scores = PhotoScores(
        products=np.empty((len(scored.labels), unseen, 0), dtype=np.float32),
        bias=np.zeros(len(scored.seen), dtype=np.float32),
    )
    return Photos(rows=np.empty((unseen, 0), dtype=np.int64), scores=defaultdict(lambda: scores))


def with_noise(noise: float, folds: int = 2) -> list[FoldScores]:
    """Held-out rows whose logits are right but for noise."""
    made = []
    for seed in range(folds):
        random, labels = np.random.default_rng(seed), np.arange(80) % 4
        logits = np.eye(4)[labels] + noise * random.standard_normal((80, 4))
        seen = np.array([True, True, False, False])
        made.append(FoldScores(logits=logits.astype(np.float32), labels=labels, seen=seen))
    return made


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ((0.3, 0.5, 0.7), 0.5),  # the middle one of those that are nearly best
        ((0.5, 0.7), 0.7),  # of two in the middle the better one
        ((0.1, 0.3, 0.5, 0.7), 0.5),
        ((0.7,), 0.7),
    ],
)
def test_the_strength_is_the_middle_one_of_those_nearly_best(near: tuple[float, ...], expected: float) -> None:
    """One row right or wrong of a thousand changes H by less than `NEARLY_BEST`; 0.7 has the fewest wrong."""
    wrong = {0.7: 1, 0.5: 2, 0.3: 3, 0.1: 3}
    runs = {strength: with_wrong_rows(wrong[strength] if strength in near else 200) for strength in wrong}
    assert chosen({(5, f"lda/{s}"): r for s, r in runs.items()} | {(5, STUDENT): runs[0.7]}).head.shrinkage == expected


def with_wrong_rows(count: int) -> list[FoldScores]:
    """Two folds of a thousand rows, some of which look like the next class."""
    labels = np.arange(1000) % 4
    logits = np.eye(4)[np.where(np.arange(1000) < count, labels + 1, labels) % 4]
    seen = np.array([True, True, False, False])
    return [FoldScores(logits=logits.astype(np.float32), labels=labels, seen=seen) for _ in range(2)]


def shrunk(scale: float, *, noise: float = 0.8, folds: int = 4, seed: int = 0) -> list[FoldScores]:
    """Noisy folds whose described classes get scores divided by a scale."""
    made = []
    for fold in range(folds):
        random, labels = np.random.default_rng((seed, fold)), np.arange(400) % 8
        seen = np.arange(8) < 4
        signal = random.gamma(2.0, size=(400, 1)) * np.eye(8)[labels]
        logits = (signal + noise * random.standard_normal((400, 8))) / np.where(seen, 1, scale)
        made.append(FoldScores(logits=logits.astype(np.float32), labels=labels, seen=seen))
    return made


def test_the_scale_is_the_one_with_the_best_h_if_it_gains_more_than_its_standard_error() -> None:
    """Against loops over folds and penalties."""
    found = []
    for runs in (shrunk(1.0), shrunk(1.5), shrunk(2.0), shrunk(1.5, noise=0.4, seed=2), shrunk(0.7)):
        h: dict[float, list[float]] = {}
        for scale in UNSEEN_SCALES:
            changed = [dataclasses.replace(r, logits=r.logits * np.where(r.seen, 1, scale)) for r in runs]
            penalty, _ = best_penalty([curve_of(run) for run in changed])
            h[scale] = [gzsl_scores(run.logits - penalty * run.seen, run.labels, run.seen).H for run in changed]
        expected, most = 1.0, 0.0
        for scale in UNSEEN_SCALES:
            gains = [more - less for more, less in zip(h[scale], h[1.0], strict=True)]
            if fmean(gains) > max(most, stdev(gains) / math.sqrt(4)):
                expected, most = scale, fmean(gains)
        assert choose_scale(runs) == expected
        found.append(expected)
    assert set(found) == set(UNSEEN_SCALES)
    assert choose_scale(shrunk(1.5, folds=1)) == 1.0


def test_the_chosen_head_has_its_scale_and_is_calibrated_with_it() -> None:
    runs = shrunk(2.0, folds=2)
    scale = choose_scale(runs)
    assert scale > 1
    selected = chosen({(5, "lda/0.3"): runs, (5, STUDENT): runs})
    changed = [scale_unseen(run, scale) for run in runs]
    penalty, h = best_penalty([curve_of(run) for run in changed])
    assert selected.head == HeadChoice(shrinkage=0.3, unseen_scale=scale)
    assert selected.calibration == calibrate(changed, penalty)
    assert selected.validation["H"] == h
    assert Selection.from_json(json.loads(json.dumps(selected.to_json()))) == selected


def test_the_best_mean_h_is_chosen() -> None:
    good, bad = with_noise(0.4), with_noise(2)
    selected = chosen(
        {
            (5, "lda/0.1"): bad,
            (5, STUDENT): bad,
            (10, "lda/0.1"): bad,
            (10, "lda/0.3"): good,
            (10, STUDENT): bad,
            (15, "lda/0.1"): bad,
            (15, STUDENT): good,  # the student is taken at the length of the served head
        }
    )
    assert (selected.epochs, selected.head.shrinkage) == (10, 0.3)
    penalty, h = best_penalty([seen_unseen_curve(r.logits, r.labels, r.seen) for r in good])
    assert selected.validation["H"] == h
    assert selected.calibration == calibrate(good, penalty)
    assert selected.validation["H_student"] == best_penalty([curve_of(r) for r in bad])[1]
    assert selected.student == calibrate(bad, best_penalty([curve_of(r) for r in bad])[0])
    assert selected.validation["novelty"]["energy"]["auroc"] == pytest.approx(0.8)


def test_a_tie_goes_to_fewer_epochs() -> None:
    equal = with_noise(0.5)
    selected = chosen({(epochs, head): equal for epochs in (15, 10, 5) for head in ("lda/0.3", "lda/0.1", STUDENT)})
    assert selected.epochs == 5


def test_folds_count_the_same() -> None:
    """The best mean over folds, not the best fold."""
    uneven = [*with_noise(0.01, folds=1), *with_noise(3, folds=2)[1:]]
    even = with_noise(0.6)
    selected = chosen({(5, "lda/0.1"): uneven, (5, STUDENT): even, (10, "lda/0.1"): even, (10, STUDENT): even})
    assert selected.epochs == 10


def test_classes_without_held_out_rows_count_for_nothing() -> None:
    run = with_noise(0.5, folds=1)[0]
    wider = FoldScores(
        logits=np.concatenate([run.logits, np.full((80, 1), -50, dtype=np.float32)], axis=1),
        labels=run.labels,
        seen=np.array([*run.seen, True]),
    )
    assert best_penalty([curve_of(wider)]) == best_penalty([curve_of(run)])
    both: list[NDArray[np.float64]] = [
        np.array([made.seen_penalty, made.temperature]) for made in (calibrate([wider], 0.3), calibrate([run], 0.3))
    ]
    np.testing.assert_allclose(both[0], both[1], rtol=1e-4)
