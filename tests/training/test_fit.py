"""What a fit does beside training: protocols, monitoring, progress, several seeds, TensorBoard."""

from __future__ import annotations

import builtins
import dataclasses
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from model.bundle import Bundle
from model.errors import DataError, MissingDependencyError
from tests.training.tiny import config, dataset, same, write_run
from training import console, experiment
from training.commands.results import table as results_table
from training.config import TrainConfig
from training.console import Bars, Step
from training.datasets.dataset import Dataset, make_task
from training.datasets.opening import reopen
from training.evaluation import evaluate
from training.experiment import SUMMARY, Order, parse_seeds, run, run_seeds, table
from training.exporting.export import export
from training.features.scaler import Scaler
from training.method.trainer import train as train_networks
from training.runs.checkpoints import LOG, Interrupted, Interruption
from training.runs.contents import CONFIG, METRICS, REPORT, Trained, read_json
from training.runs.fit import FitOptions, fit
from training.runs.log import BOARD
from training.selection.fold_scores import STUDENT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(seen=5, unseen=2, rows=8, dim=8)


def train(
    data: Dataset, out: Path, settings: TrainConfig, *, progress: Any = lambda _: None, **options: Any
) -> Trained:
    out.mkdir(parents=True, exist_ok=True)
    return fit(data, settings, out, data={"kind": "x"}, device=CPU, progress=progress, options=FitOptions(**options))


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


SOME = ("epochs=4", "selection.evaluations=2")


# --- monitoring -----------------------------------------------------------------------------------


def test_the_last_line_of_the_log_has_the_results(data: Dataset, tmp_path: Path) -> None:
    trained = train(data, tmp_path, config(*SOME))
    final = [line for line in log(tmp_path) if line["stage"] == "final"]
    measured = {line["epoch"]: line["test"] for line in final if "test" in line}
    assert set(measured) == {epoch for epoch in (2, 4) if epoch <= trained.selected.epochs}
    results = evaluate(data, trained)
    for head in ("lda", STUDENT):
        assert measured[trained.selected.epochs][head] == {score: results[head][score] for score in ("U", "S", "H")}


def test_folds_say_how_they_do(data: Dataset, tmp_path: Path) -> None:
    train(data, tmp_path, config(*SOME))
    folds = [line for line in log(tmp_path) if line["stage"] == "selection"]
    assert [line["epoch"] for line in folds if "validation" in line] == [2, 4, 2, 4]
    for line in folds:
        if found := line.get("validation"):
            assert found["H"] == pytest.approx(2 * found["U"] * found["S"] / max(found["U"] + found["S"], 1e-12))


def test_monitoring_can_be_switched_off_and_changes_nothing(data: Dataset, tmp_path: Path) -> None:
    watched = train(data, tmp_path / "watched", config(*SOME))
    blind = train(data, tmp_path / "blind", config(*SOME), monitor=False)
    assert not any("test" in line for line in log(tmp_path / "blind"))
    assert same(watched.networks, blind.networks)
    assert watched.selected == blind.selected


def test_without_test_rows_there_is_nothing_to_monitor(data: Dataset, tmp_path: Path) -> None:
    train(dataclasses.replace(data, test=np.array([], dtype=np.int64)), tmp_path, config())
    assert not any("test" in line for line in log(tmp_path))


# --- protocols ------------------------------------------------------------------------------------


def other_test_rows(data: Dataset) -> Dataset:
    features = data.features.copy()
    features[data.test] = np.random.default_rng(5).uniform(0, 9, features[data.test].shape)
    return dataclasses.replace(data, features=features)


def test_under_validation_test_rows_decide_nothing(data: Dataset, tmp_path: Path) -> None:
    one = train(data, tmp_path / "one", config(*SOME))
    other = train(other_test_rows(data), tmp_path / "other", config(*SOME))
    assert one.selected == other.selected
    assert same(one.networks, other.networks)


def test_test_best_takes_what_is_best_on_the_test_rows(data: Dataset, tmp_path: Path) -> None:
    settings = config("epochs=6", "selection.evaluations=6", "selection.protocol=test-best")
    trained = train(data, tmp_path, settings)
    candidates = trained.selected.validation["candidates"]
    assert [c["epochs"] for c in candidates] == sorted([1, 2, 3, 4, 5, 6] * 3)
    results = evaluate(data, trained)
    assert results["lda"]["H"] == pytest.approx(max(c["H"] for c in candidates if c["head"] != STUDENT))
    (student,) = (c for c in candidates if (c["epochs"], c["head"]) == (trained.selected.epochs, STUDENT))
    assert results[STUDENT]["H"] == pytest.approx(student["H"])
    # All of trainval, for the chosen length, once.
    scaler = Scaler.fit(data.features[data.trainval])
    task = make_task(data, data.trainval, np.arange(len(data.classes)), scaler, CPU)
    assert same(trained.networks, train_networks(task, settings, epochs=trained.selected.epochs))
    lines = log(tmp_path)
    assert [line["stage"] for line in lines] == ["final"] * 6 + ["selected"]
    best = max(line["test"]["lda"]["H"] for line in lines[:6])
    assert best == lines[6]["H"] == trained.selected.validation["H"]


def test_test_best_depends_on_the_test_rows(data: Dataset, tmp_path: Path) -> None:
    settings = config(*SOME, "selection.protocol=test-best")
    one = train(data, tmp_path / "one", settings)
    other = train(other_test_rows(data), tmp_path / "other", settings)
    assert one.selected != other.selected


def test_test_best_needs_test_rows(data: Dataset, tmp_path: Path) -> None:
    without = dataclasses.replace(data, test=np.array([], dtype=np.int64))
    with pytest.raises(DataError, match="needs test images of seen and of unseen classes"):
        train(without, tmp_path, config("selection.protocol=test-best"))


def test_results_and_bundles_say_that_test_images_were_used(store_dir: Path, tmp_path: Path) -> None:
    out = write_run(store_dir, tmp_path / "run", "selection.protocol=test-best")
    trained = Trained.load(out)
    data = reopen(trained.data)
    results = evaluate(data, trained)
    assert results["protocol"]["name"] == "test-best"
    assert results["protocol"]["test_used_for_selection"] is True
    assert "test images used for selection: YES" in results_table(results)
    export(data, trained, tmp_path / "bundle")
    manifest = Bundle.load(tmp_path / "bundle").manifest
    assert manifest.metrics["protocol"]["test_used_for_selection"] is True
    assert manifest.metrics["protocol"]["name"] == "test-best"


def test_the_protocol_is_part_of_the_hash() -> None:
    assert config().digest() != config("selection.protocol=test-best").digest()
    assert config().digest() == config().digest()


# --- progress -------------------------------------------------------------------------------------


def test_progress(data: Dataset, tmp_path: Path) -> None:
    steps: list[Step] = []
    trained = train(data, tmp_path, config(*SOME), progress=steps.append)
    selection = [step for step in steps if step.stage == "selection"]
    assert [(s.done, s.total) for s in selection] == [(done, 8) for done in range(9)]
    assert [s.detail for s in selection] == ["fold 1/2"] * 5 + ["fold 2/2"] * 4
    assert [s.done for s in selection if s.scores is not None] == [2, 4, 6, 8]
    final = steps[len(selection) :]
    length = trained.selected.epochs
    assert [(s.stage, s.done, s.total) for s in final] == [("training", done, length) for done in range(length + 1)]
    assert final[-1].scores is not None
    assert final[-1].scores[0] == "test"


def test_a_resumed_run_is_told_from_where_it_goes_on(data: Dataset, tmp_path: Path) -> None:
    asked, steps = Interruption(), list[Step]()

    def after_six(step: Step) -> None:
        asked.signal = 2 if step.done == 6 else None

    with pytest.raises(Interrupted):
        train(data, tmp_path, config(*SOME), progress=after_six, interruption=asked)
    train(data, tmp_path, config(*SOME), progress=steps.append)
    assert [s.done for s in steps if s.stage == "selection"] == [6, 7, 8]


def test_bars_show_scores_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "ERRORS", Console(file=screen, force_terminal=True, width=80))
    with Bars(console.progress_bar()) as bars:
        tell = bars.of("seed 3 ")
        tell(Step(stage="selection", done=5, total=96, detail="fold 1/4"))
        scores = {"U": 0.5, "S": 0.75, "H": 0.6}
        tell(Step(stage="selection", done=6, total=96, detail="fold 1/4", scores=("pseudo", scores)))
        tell(Step(stage="selection", done=7, total=96, detail="fold 1/4"))
    assert "seed 3 selection  fold 1/4  pseudo U 0.50 S 0.75 H 0.60" in screen.getvalue()
    assert "7/96" in screen.getvalue()


def test_bars_say_nothing_before_the_first_step() -> None:
    screen = io.StringIO()
    with pytest.raises(DataError), Bars(console.progress_bar()):
        raise DataError("an error of its own")
    assert screen.getvalue() == ""


# --- several seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [0, 1, 2]), ("1", [0]), ("0,1,2", [0, 1, 2]), ("7,3", [7, 3]), ("4, 5", [4, 5])]
)
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "x", "1,,2", "-1", "1,1", "1.5"])
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(DataError, match="--seeds: expected"):
        parse_seeds(text)


def order(data: Dataset, *, resume: bool = False, overwrite: bool = False, **options: Any) -> Order:
    return Order(
        dataset=data,
        data={"kind": "x"},
        device=CPU,
        options=FitOptions(**options),
        resume=resume,
        overwrite=overwrite,
    )


@pytest.fixture
def undrawn_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a report is another file's matter; here it only takes a second to draw."""
    monkeypatch.setattr(experiment, "write_report", lambda folder: (folder / REPORT).touch())


def silent(_seed: int) -> Callable[[Step], None]:
    return lambda _: None


@pytest.mark.usefixtures("undrawn_reports")
def test_several_seeds_give_rows_means_and_deviations(data: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    summary = run_seeds(order(data), config(), [0, 4], out, progress=silent)
    assert read_json(out / SUMMARY) == json.loads(json.dumps(summary))
    assert sorted(path.name for path in out.iterdir()) == ["seed-0", "seed-4", SUMMARY]
    for row, seed in zip(summary["rows"], (0, 4), strict=True):
        metrics = read_json(out / f"seed-{seed}" / METRICS)
        assert (row["run"], row["seed"], row["protocol"]) == (f"seed-{seed}", seed, "validation")
        assert row["test_used_for_selection"] is False
        for name in ("commit", "config_hash", "data_hash"):
            assert row[name] == metrics["protocol"][name]
        for head in ("lda", STUDENT):
            assert row[head] == {score: metrics[head][score] for score in ("U", "S", "H", "T1", "AUSUC")}
    values = [row[STUDENT]["AUSUC"] for row in summary["rows"]]
    assert values[0] != values[1]
    spread = summary["summary"][STUDENT]["AUSUC"]
    assert spread["mean"] == pytest.approx(sum(values) / 2)
    assert spread["sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5) == statistics.stdev(values)
    printed = table(summary)
    assert f"{spread['mean']:.3f} ({spread['sd']:.3f})" in printed
    assert "test images used for selection: no" in printed


@pytest.mark.usefixtures("undrawn_reports")
def test_finished_seeds_are_kept_when_resumed(data: Dataset, tmp_path: Path) -> None:
    asked = Interruption()

    def stop_in_the_second(seed: int) -> Callable[[Step], None]:
        def tell(step: Step) -> None:
            asked.signal = 2 if seed == 1 and step.done == 3 else None

        return tell

    with pytest.raises(Interrupted):
        run_seeds(
            order(data, interruption=asked), config(*SOME), [0, 1], tmp_path / "runs", progress=stop_in_the_second
        )
    assert [row["seed"] for row in read_json(tmp_path / "runs" / SUMMARY)["rows"]] == [0]
    kept = (tmp_path / "runs" / "seed-0" / CONFIG).stat().st_mtime_ns
    with pytest.raises(DataError, match="seed-0: exists already"):
        run_seeds(order(data), config(*SOME), [0, 1], tmp_path / "runs", progress=silent)
    summary = run_seeds(order(data, resume=True), config(*SOME), [0, 1, 2], tmp_path / "runs", progress=silent)
    assert [row["seed"] for row in summary["rows"]] == [0, 1, 2]
    assert (tmp_path / "runs" / "seed-0" / CONFIG).stat().st_mtime_ns == kept
    alone = run(order(data), dataclasses.replace(config(*SOME), seed=1), tmp_path / "alone")
    assert same(Trained.load(tmp_path / "runs" / "seed-1").networks, alone.trained.networks)
    with pytest.raises(DataError, match="begun with other settings"):
        run_seeds(order(data, resume=True), config(), [0], tmp_path / "runs", progress=silent)


@pytest.mark.usefixtures("undrawn_reports")
def test_one_seed_has_no_deviation_and_no_test_rows_no_mean(data: Dataset, tmp_path: Path) -> None:
    one = run_seeds(order(data), config(), [2], tmp_path / "one", progress=silent)
    assert one["summary"]["lda"]["H"] == {"mean": one["rows"][0]["lda"]["H"], "sd": None}
    without = dataclasses.replace(data, test=np.array([], dtype=np.int64))
    none = run_seeds(order(without), config(), [2], tmp_path / "none", progress=silent)
    assert none["summary"] == {}
    assert none["rows"][0]["lda"] is None
    assert "test images used for selection: no" in table(none)


@pytest.mark.usefixtures("undrawn_reports")
def test_seeds_go_nowhere_else(data: Dataset, tmp_path: Path) -> None:
    run(order(data), config(), tmp_path / "single")
    with pytest.raises(DataError, match="holds a single run"):
        run_seeds(order(data, overwrite=True), config(), [0], tmp_path / "single", progress=silent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(DataError, match="holds other things than runs with seeds: file"):
        run_seeds(order(data, overwrite=True), config(), [0], tmp_path / "mine", progress=silent)
    run_seeds(order(data), config(), [0], tmp_path / "runs", progress=silent)
    with pytest.raises(DataError, match="exists and is not a run directory"):
        run(order(data, overwrite=True), config(), tmp_path / "runs")


@pytest.mark.usefixtures("undrawn_reports")
def test_a_run_killed_before_its_results_gets_them_when_resumed(data: Dataset, tmp_path: Path) -> None:
    first = run(order(data), config(), tmp_path / "run")
    (tmp_path / "run" / METRICS).unlink()
    (tmp_path / "run" / REPORT).unlink()
    again = run(order(data, resume=True), config(), tmp_path / "run")
    assert again.metrics == first.metrics == read_json(tmp_path / "run" / METRICS)
    assert (tmp_path / "run" / REPORT).exists()


# --- TensorBoard ----------------------------------------------------------------------------------


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_holds_the_log(data: Dataset, tmp_path: Path) -> None:
    asked = Interruption()

    def after_six(step: Step) -> None:
        asked.signal = 2 if step.done == 6 else None

    with pytest.raises(Interrupted):
        train(data, tmp_path, config(*SOME), progress=after_six, interruption=asked, tensorboard=True)
    train(data, tmp_path, config(*SOME), tensorboard=True)
    assert {path.name for path in (tmp_path / BOARD).iterdir()} == {"fold-1", "fold-2", "final"}
    for name in ("fold-1", "fold-2", "final"):
        wanted: dict[str, list[tuple[int, float]]] = {}
        for line in log(tmp_path):
            if "epoch" in line and name == (f"fold-{line['fold'] + 1}" if "fold" in line else "final"):
                for group in ("losses", "gradient_shares", "validation"):
                    for key, value in line.get(group, {}).items():
                        wanted.setdefault(f"{group}/{key}", []).append((line["epoch"], value))
                for head, scores in line.get("test", {}).items():
                    for key, value in scores.items():
                        wanted.setdefault(f"test/{head}/{key}", []).append((line["epoch"], value))
        found = events(tmp_path / BOARD / name)
        assert found.keys() == wanted.keys()
        for tag, points in wanted.items():
            assert [step for step, _ in found[tag]] == [step for step, _ in points]
            np.testing.assert_allclose([v for _, v in found[tag]], [v for _, v in points], rtol=1e-6)


def test_without_the_package_there_is_a_clear_error(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "tensorboard" or name == "torch.utils.tensorboard":
            raise ImportError(name)
        return imports(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="install d3gzsl with the extra `tensorboard`"):
        train(data, tmp_path, config(), tensorboard=True)
