"""The search: what it looks at, what it keeps, who may join it, how it ends, and the recipe it gives."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from model.calibration import Calibration
from model.errors import DataError
from tests.service.postgres import postgres_server
from tests.training.conftest import Command
from tests.training.tiny import SETTINGS, as_options, config, dataset
from training.config import TrainConfig
from training.console import Step
from training.datasets.dataset import Dataset
from training.features.scaler import Scaling
from training.method.heads import HeadChoice, HeadFitError
from training.method.trainer import DivergedError
from training.recipes import Recipe, load_recipe
from training.runs.checkpoints import Interrupted
from training.runs.contents import CONFIG, read_json
from training.search import tune as tune_module
from training.search.study import FINISHED, count_trials, storage_url
from training.search.tune import Search, best_recipe, best_trial, refuse_other_file, summarise, tune, write_recipe
from training.selection.choice import Selection
from training.selection.protocols import FoldEpoch, OnFoldEpoch, select

SPACE = {"learning_rate": FloatDistribution(1e-4, 1e-2, log=True), "generator.hidden": CategoricalDistribution((8, 16))}
FAST = ("epochs=1", "selection.evaluations=1", "teacher.epochs=1", "generator.critic_steps=1")
TINY = as_options(*SETTINGS, *FAST)
CPU = torch.device("cpu")


def search(**fields: Any) -> Search:
    known = {"dataset": dataset(rows=6), "base": config(*FAST), "space": SPACE, "device": CPU}
    return Search(**{**known, **fields})


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage without a study, whose tables take Optuna a second to make."""
    file = tmp_path_factory.mktemp("storage") / "studies.db"
    optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture
def storage(tables: Path, tmp_path: Path) -> str:
    """A copy of it."""
    return f"sqlite:///{shutil.copyfile(tables, tmp_path / 'studies.db')}"


@pytest.fixture
def new_storage(tmp_path: Path) -> str:
    """Nothing is there yet."""
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[TrainConfig]]:
    """`scripted([[H of fold 1, H of fold 2], ...])`: trials that train nothing; returns their settings as they come."""

    def prepare(*trials: list[float] | Exception) -> list[TrainConfig]:
        coming, seen = iter(trials), []

        def played(
            data: Dataset,
            settings: TrainConfig,
            device: torch.device,
            *,
            on_epoch: OnFoldEpoch,
            scaling: Scaling | None,
        ) -> Selection:
            assert scaling == (None if settings.scaling != "range" else "range")  # what the search begins with is known
            seen.append(settings)
            scores = next(coming)
            if isinstance(scores, Exception):
                raise scores
            for fold, h in enumerate(scores):
                for epoch in range(1, settings.epochs + 1):
                    last = epoch == settings.epochs
                    found = {"U": h, "S": h, "H": h} if last else None
                    at = FoldEpoch(fold=fold, epoch=epoch, epochs=settings.epochs, over=last, losses={}, scores=found)
                    on_epoch(at)
            plain = Calibration(seen_penalty=0.0, temperature=1.0)
            validation = {"H": sum(scores) / len(scores), "H_student": 0.1}
            head = HeadChoice(shrinkage=0.3)
            return Selection(epochs=1, head=head, calibration=plain, student=plain, validation=validation)

        monkeypatch.setattr(tune_module, "select", played)
        return seen

    return prepare


# --- what a trial is ----------------------------------------------------------------------------------------------


def test_the_first_trial_is_what_validation_says_of_the_settings_begun_with(storage: str) -> None:
    found, told = search(), []
    study = found.open("s", storage, prune=False)
    tune(found, study, trials=2, on_step=told.append)
    first, second = study.trials
    assert first.params == {"learning_rate": found.base.learning_rate, "generator.hidden": 8}
    assert first.value == select(found.dataset, found.base, CPU).validation["H"]
    assert second.params != first.params
    assert second.value == select(found.dataset, found.config(second.params), CPU).validation["H"]
    assert set(first.user_attrs) == {"enqueued", "epochs", "head", "H_student", "seconds"}
    assert list(first.intermediate_values) == [1]
    assert [step.done for step in told if step.stage == "trials"] == [0, 1, 2]
    assert [(step.done, step.total) for step in told if step.stage == "trial"] == 2 * [(1, 2), (2, 2)]


def test_test_rows_are_never_read(storage: str) -> None:
    clean = dataset(rows=6)
    features, labels = clean.features.copy(), clean.labels.copy()
    features[clean.test], labels[clean.test] = np.nan, 0
    values = []
    for name, data in (("clean", clean), ("other", dataclasses.replace(clean, features=features, labels=labels))):
        found = search(dataset=data)
        study = found.open(name, storage, prune=True)
        tune(found, study, trials=1)
        values.append(study.best_value)
    assert values[0] == values[1]


def test_a_search_on_test_images_is_refused() -> None:
    with pytest.raises(DataError, match="a search sees no test images; expected validation, got test-best"):
        search(base=config("selection.protocol=test-best"))


def test_what_folds_report_is_the_mean_of_those_done(storage: str, scripted: Callable[..., Any]) -> None:
    scripted([0.2, 0.4, 0.9])
    found = search(base=config("selection.folds=3"))
    study = found.open("s", storage, prune=True)
    tune(found, study, trials=1)
    assert study.trials[0].intermediate_values == pytest.approx({1: 0.2, 2: 0.3})
    assert study.best_value == pytest.approx(0.5)


@pytest.mark.parametrize(("prune", "state"), [(True, TrialState.PRUNED), (False, TrialState.COMPLETE)])
def test_a_trial_below_the_median_is_stopped_where_that_is_wanted(
    storage: str, scripted: Callable[..., Any], prune: bool, state: TrialState
) -> None:
    scripted(*5 * [[0.5, 0.5]], [0.4, 0.9], [0.6, 0.6])
    found = search()
    study = found.open("s", storage, prune=prune)
    tune(found, study, trials=7)
    assert [trial.state for trial in study.trials] == [*5 * [TrialState.COMPLETE], state, TrialState.COMPLETE]


@pytest.mark.parametrize("error", [DivergedError, HeadFitError])
def test_a_training_that_fails_ends_its_trial_only(
    error: type[DataError], storage: str, scripted: Callable[..., Any]
) -> None:
    scripted(error("too fast"), [0.3, 0.3])
    found = search()
    study = found.open("s", storage, prune=True)
    tune(found, study, trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert study.trials[0].user_attrs["failed"] == "too fast"
    assert summarise(study)["trials"] == {"complete": 1, "pruned": 1, "failed": 0}


def test_settings_that_cannot_be_trained_with_end_the_search(storage: str) -> None:
    found = search(base=config(*FAST, "selection.folds=5"))
    study = found.open("s", storage, prune=True)
    with pytest.raises(DataError, match=r"selection\.folds: expected 2 to 3"):
        tune(found, study, trials=2)
    assert best_trial(study) is None
    assert summarise(study)["best"] is None


# --- how it goes on -----------------------------------------------------------------------------------------------


def test_scaling_can_be_searched(storage: str, scripted: Callable[..., Any]) -> None:
    seen = scripted(*[[0.1, 0.1]] * 6)
    found = search(space={"scaling": CategoricalDistribution(("range", "normal"))})
    tune(found, found.open("s", storage, prune=False), trials=6)
    assert {settings.scaling for settings in seen} == {"range", "normal"}


def test_a_study_goes_on_to_the_number_of_trials(storage: str, scripted: Callable[..., Any]) -> None:
    seen = scripted([0.1, 0.1], [0.3, 0.3], [0.2, 0.2], [0.1, 0.2])
    for trials, done in ((2, 2), (2, 2), (4, 4)):
        found = search()
        tune(found, found.open("s", storage, prune=False), trials=trials)
        assert len(seen) == done
    study = found.open("s", storage, prune=False)
    assert [trial.params == study.trials[0].params for trial in study.trials] == [True, False, False, False]
    assert summarise(study) == {
        "study": "s",
        "trials": {"complete": 4, "pruned": 0, "failed": 0},
        "best": {
            "number": 1,
            "H": pytest.approx(0.3),
            "H_student": 0.1,
            "epochs": 1,
            "head": "lda/0.3",
            "settings": study.trials[1].params,
        },
    }


def test_no_trial_is_begun_after_the_time(storage: str, scripted: Callable[..., Any]) -> None:
    seen = scripted([0.1, 0.1])
    found = search()
    tune(found, found.open("s", storage, prune=False), trials=2, timeout=0)
    assert seen == []


@pytest.mark.parametrize("finished", [0, 1])
def test_a_stopped_trial_is_done_again_and_the_others_are_kept(
    storage: str, scripted: Callable[..., Any], finished: int
) -> None:
    scripted(*5 * [[0.1, 0.1]])
    for number in (finished, finished + 1):  # stopped, and stopped again
        found = search()

        def stop(step: Step, *, found: Search = found, number: int = number) -> None:
            if step.stage == "trial" and step.detail.startswith(f"{number}, fold 1"):
                found.interruption.signal = signal.SIGINT

        study = found.open("s", storage, prune=True)
        with pytest.raises(Interrupted, match=f"finished trials in the study: {finished}") as stopped:
            tune(found, study, trials=2, on_step=stop)
        assert stopped.value.status == 130
    again = search()
    tune(again, again.open("s", storage, prune=True), trials=finished + 1)
    states = [*finished * [TrialState.COMPLETE], TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.state for trial in study.trials] == states
    assert study.trials[-1].params == study.trials[finished].params


@pytest.mark.parametrize(
    ("other", "pointer"),
    [
        ({"base": config(*FAST, "batch_size=17")}, "config.batch_size"),
        ({"base": config(*FAST, seed=3)}, "config.seed"),
        ({"space": {"learning_rate": SPACE["learning_rate"]}}, "space.generator.hidden"),
        (
            {"space": {**SPACE, "learning_rate": FloatDistribution(1e-4, 1e-1, log=True)}},
            "space.learning_rate.attributes.high",
        ),
        ({"dataset": dataclasses.replace(dataset(), data_hash="1" * 64)}, "data_hash"),
        ({"dataset": dataclasses.replace(dataset(), split={"rule": "another"})}, "split.rule"),
    ],
)
def test_a_study_with_another_basis_is_refused(storage: str, other: dict[str, Any], pointer: str) -> None:
    search().open("s", storage, prune=True)
    search().open("s", storage, prune=False)
    noted = dataclasses.replace(dataset(), split={**dataset().split, "notes": ["another file is there, too"]})
    search(dataset=noted).open("s", storage, prune=True)
    search(**other).open("another", storage, prune=True)
    with pytest.raises(DataError, match="--study s: was begun with other data or settings") as error:
        search(**other).open("s", storage, prune=True)
    assert [problem.pointer for problem in error.value.problems] == [pointer]
    assert "the study has" in str(error.value)


# --- storages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["x", "", "sqlite://", "sqlite:///:memory:", "mysql://me:secret@host/db", "postgresql+asyncpg://me:secret@h/d"],
)
def test_urls_that_are_no_storage(url: str) -> None:
    with pytest.raises(DataError, match=r"^--storage: expected") as error:
        storage_url(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "postgresql://me:secret@127.0.0.1:1/db"])
def test_a_storage_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(DataError, match=r"^--storage .*: cannot be used: .") as error:
        search().open("s", url, prune=True)
    assert "secret" not in str(error.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x{1}.db").write_text("no database " * 100)
    with pytest.raises(DataError, match="cannot be used: file is not a database"):
        search().open("s", f"sqlite:///{tmp_path / 'x{1}.db'}", prune=True)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with postgres_server() as server:
        yield server.database()


def test_postgresql(postgres: str, scripted: Callable[..., Any]) -> None:
    scripted([0.1, 0.1], [0.3, 0.3])
    found = search()
    tune(found, found.open("s", postgres, prune=True), trials=1)
    tune(found, found.open("s", postgres, prune=True), trials=2)
    assert found.open("s", postgres, prune=True).best_value == pytest.approx(0.3)


# --- the recipe ---------------------------------------------------------------------------------------------------


def test_the_best_recipe_says_where_it_comes_from(storage: str, tmp_path: Path, scripted: Callable[..., Any]) -> None:
    seen = scripted([0.1, 0.1], [0.3, 0.3], [0.2, 0.2])
    begun = Recipe(name="mine", summary="", sources={"mine": "guessed"}, settings={})
    found = search(recipe=begun)
    study = found.open("s", storage, prune=False)
    tune(found, study, trials=3)
    best = best_trial(study)
    assert best is not None
    write_recipe(best_recipe(found, study, best), tmp_path / "best.toml")
    recipe = load_recipe(str(tmp_path / "best.toml"))
    assert recipe.config == seen[1] == found.config(study.trials[1].params)
    source = recipe.sources["best.toml"]
    assert source.startswith("mine: guessed\nstudy s: Found by a search on pseudo-unseen validation: trial 1 of ")
    assert "(3 trials finished, 0 stopped early), H 0.3000 at epoch 1" in source
    assert source.endswith("searched: learning_rate, generator.hidden.")
    assert [file.name for file in tmp_path.glob("*best*")] == ["best.toml"]

    refuse_other_file(tmp_path / "best.toml", "s", overwrite=False)
    for name, overwrite, message in (("t", False, "is not of this study"), ("t", True, None)):
        if message is None:
            refuse_other_file(tmp_path / "best.toml", name, overwrite=overwrite)
        else:
            with pytest.raises(DataError, match=message):
                refuse_other_file(tmp_path / "best.toml", name, overwrite=overwrite)
    (tmp_path / "notes").write_text("my = ")
    with pytest.raises(DataError, match="is not of this study"):
        refuse_other_file(tmp_path / "notes", "s", overwrite=False)
    with pytest.raises(DataError, match="there is no folder"):
        refuse_other_file(tmp_path / "none" / "best.toml", "s", overwrite=True)


# --- the command --------------------------------------------------------------------------------------------------


def test_from_a_search_to_a_run(run: Command, store_dir: Path, new_storage: str, tmp_path: Path) -> None:
    space, best = tmp_path / "space.toml", tmp_path / "best.toml"
    space.write_text("learning_rate = {low = 1e-4, high = 1e-2, log = true}\n")
    arguments = ("tune", store_dir, "--study", "[s]", "--storage", new_storage, "--space", space, "--out", best, *TINY)
    status, printed, errors = run(*arguments, "--trials", 1)
    assert status == 0, errors
    assert printed.startswith("study [s]: 1 trials finished, 0 stopped early, 0 failed\nbest: trial 0, validation H ")
    assert printed.endswith(f"  learning_rate = 0.001\nnext: d3gzsl-train fit DATA --recipe {best} --out RUN_DIR\n")
    assert "trials" in errors

    status, printed, errors = run(*arguments, "--trials", 2, "--json")
    fields = json.loads(printed)
    assert (status, errors) == (0, "")
    assert (fields["out"], fields["study"]) == (str(best), "[s]")
    assert fields["trials"]["complete"] + fields["trials"]["pruned"] == 2
    rate = fields["best"]["settings"]["learning_rate"]

    status, _, errors = run("fit", store_dir, "--recipe", best, "--out", tmp_path / "run")
    assert status == 0, errors
    resolved = read_json(tmp_path / "run" / CONFIG)
    assert (resolved["config"]["learning_rate"], resolved["config"]["generator"]["hidden"]) == (rate, 8)
    assert resolved["recipe"]["summary"] == "the best of the study [s]"
    assert resolved["selected"]["validation"]["H"] == fields["best"]["H"]


def test_mistakes_are_named_before_anything_is_trained(
    run: Command, store_dir: Path, new_storage: str, tmp_path: Path
) -> None:
    arguments = ("tune", store_dir, "--study", "s", "--storage", new_storage, "--trials", 1)
    status, _, errors = run(*arguments, "--recipe", "none")
    assert (status, errors.startswith("error: recipe 'none': there is none")) == (2, True)
    space = tmp_path / "space.toml"
    space.write_text("foo = 3\n")
    status, _, errors = run(*arguments, "--space", space)
    assert (status, "foo: no such setting" in errors) == (2, True)
    status, _, errors = run(*arguments, "--out", space)
    assert (status, "is not of this study" in errors) == (2, True)
    status, _, errors = run(*arguments, "--set", "selection.protocol=test-best")
    assert (status, "a search sees no test images" in errors) == (2, True)
    assert run(*arguments[:-1], 0)[0] == 2
    assert not (tmp_path / "studies.db").exists()


def finished(processes: list[subprocess.Popen[str]]) -> Mapping[int, tuple[str, str]]:
    return {place: process.communicate(timeout=120) for place, process in enumerate(processes)}


def work(storage: str, trials: int, start: Any) -> None:
    """One process's part of a study whose trials train nothing."""
    start.wait()
    found = search()
    tune(found, found.open("s", storage, prune=True), trials=trials)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_begin_and_share_a_study_at_the_same_moment(new_storage: str, scripted: Callable[..., Any]) -> None:
    workers, trials = 3, 5
    scripted(*trials * [[0.1, 0.1]])
    context = multiprocessing.get_context("fork")
    start = context.Barrier(workers)
    processes = [context.Process(target=work, args=(new_storage, trials, start)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=100)
    assert [process.exitcode for process in processes] == workers * [0]
    study = optuna.load_study(study_name="s", storage=new_storage)
    assert trials <= len(study.trials) < trials + workers
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))


@pytest.mark.slow  # two whole programs start
def test_two_processes_share_a_study_in_one_file(store_dir: Path, new_storage: str) -> None:
    trials = 6
    words = ("tune", store_dir, "--study", "s", "--storage", new_storage, "--trials", trials, "--no-prune", "--json")
    command = [sys.executable, "-W", "error", "-m", "training.cli", *map(str, words), *TINY]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    printed = finished(processes)
    assert [process.returncode for process in processes] == [0, 0], printed
    study = optuna.load_study(study_name="s", storage=new_storage)
    assert trials <= count_trials(study, *FINISHED) <= trials + 1
    assert len(study.trials) == count_trials(study, TrialState.COMPLETE)
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    assert sum("enqueued" in trial.user_attrs for trial in study.trials) <= 2
    best = [json.loads(out)["best"]["H"] for out, _ in printed.values()]
    assert max(best) == study.best_value
