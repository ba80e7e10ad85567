"""A search for settings with the best H on pseudo-unseen validation; test rows are never looked at."""

from __future__ import annotations

import functools
import os
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from model.errors import DataError
from training.config import TrainConfig
from training.console import OnStep, Step
from training.datasets.dataset import Dataset
from training.features.scaler import Scaling
from training.method.heads import HeadFitError
from training.method.trainer import DivergedError
from training.recipes import Recipe, merged
from training.runs.checkpoints import Interruption
from training.search.space import SearchSpace, initial_values, nested, space_json, suggest
from training.search.study import FINISHED, count_trials, enqueue, open_study
from training.selection.choice import choose_scaling
from training.selection.folds import fold_count
from training.selection.protocols import FoldEpoch, select


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """What is searched on.

    Attributes:
        dataset: only its trainval rows are read.
        base: settings that the trials change.
        space: which settings they change.
        device: where to train.
        recipe: the recipe that `base` began with.
        interruption: whether to stop.
    """

    dataset: Dataset
    base: TrainConfig
    space: SearchSpace
    device: torch.device
    recipe: Recipe | None = None
    interruption: Interruption = field(default_factory=Interruption)

    def __post_init__(self) -> None:
        if self.base.selection.protocol != "validation":
            raise DataError(
                "selection.protocol: a search sees no test images; expected validation, got "
                f"{self.base.selection.protocol}"
            )

    def open(self, name: str, storage: str, *, prune: bool) -> optuna.Study:
        """The study of this search; see :func:`training.search.study.open_study`."""
        basis = {
            "data_hash": self.dataset.data_hash,
            "split": {name: value for name, value in self.dataset.split.items() if name != "notes"},
            "config": self.base.to_json(),
            "space": space_json(self.space),
        }
        return open_study(name, storage, basis, prune=prune)

    def config(self, values: Mapping[str, Any]) -> TrainConfig:
        """The settings of a trial with these values."""
        return TrainConfig.from_json(merged(self.base.to_json(), nested(values)))


def tune(
    search: Search,
    study: optuna.Study,
    *,
    trials: int,
    timeout: float | None = None,
    on_step: OnStep = lambda _: None,
) -> None:
    """Run trials until the study has so many, by whatever process, or the time is over.

    The first trial has the settings that the search begins with. One that is stopped is done again later.

    Args:
        search: what is searched on.
        study: its study.
        trials: how many finished trials the study shall have.
        timeout: seconds after which no other trial is begun.
        on_step: told after each epoch and each trial.

    Raises:
        DataError: settings or data that cannot be trained with.
        Interrupted: somebody asked to stop; finished trials stay in the study.
    """
    end = None if timeout is None else time.monotonic() + timeout
    scaling: Scaling | None = None
    while count_trials(study, *FINISHED) < trials and (end is None or time.monotonic() < end):
        search.interruption.raise_if_asked(_finished_trials(study))
        on_step(_progress(study, trials))
        enqueue(study, initial_values(search.space, search.base))
        scaling = scaling or choose_scaling(search.dataset, search.base)[0]
        study.optimize(functools.partial(_objective, search, scaling=scaling, on_step=on_step), n_trials=1)
    on_step(_progress(study, trials))


def _finished_trials(study: optuna.Study) -> str:
    return f"finished trials in the study: {count_trials(study, *FINISHED)}"


def _progress(study: optuna.Study, trials: int) -> Step:
    best = best_trial(study)
    detail = "" if best is None else f"best H {best.value:.3f}"
    return Step(stage="trials", done=min(count_trials(study, *FINISHED), trials), total=trials, detail=detail)


def _objective(search: Search, trial: Trial, *, scaling: Scaling, on_step: OnStep) -> float:
    """H of one trial; reports the mean pseudo-H of the folds that are done after each of them."""
    values = suggest(trial, search.space)
    config = search.config(values)
    folds, begun = fold_count(config.selection), time.monotonic()
    best = [0.0] * folds

    def on_epoch(at: FoldEpoch) -> None:
        if search.interruption.signal is not None:
            enqueue(trial.study, values, instead_of=trial.number)
            search.interruption.raise_if_asked(_finished_trials(trial.study))
        best[at.fold] = max(best[at.fold], 0.0 if at.scores is None else at.scores["H"])
        on_step(
            Step(
                stage="trial",
                done=at.fold * at.epochs + at.epoch,
                total=folds * at.epochs,
                detail=f"{trial.number}, fold {at.fold + 1}/{folds}",
                scores=None if at.scores is None else ("pseudo", at.scores),
            )
        )
        if at.over and at.fold + 1 < folds:
            trial.report(sum(best[: at.fold + 1]) / (at.fold + 1), at.fold + 1)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        chosen = scaling if config.scaling == search.base.scaling else None
        selected = select(search.dataset, config, search.device, on_epoch=on_epoch, scaling=chosen)
    except (DivergedError, HeadFitError) as error:
        trial.set_user_attr("failed", str(error))
        raise optuna.TrialPruned from None
    for name, value in (
        ("epochs", selected.epochs),
        ("head", selected.head.name),
        ("H_student", selected.validation["H_student"]),
        ("seconds", round(time.monotonic() - begun, 1)),
    ):
        trial.set_user_attr(name, value)
    return float(selected.validation["H"])


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The finished trial with the best H; None where none has finished."""
    return study.best_trial if count_trials(study, TrialState.COMPLETE) else None


def summarise(study: optuna.Study) -> dict[str, Any]:
    """What a study has found, as JSON."""
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    best = best_trial(study)
    found = best and {
        "number": best.number,
        "H": best.value,
        "H_student": best.user_attrs["H_student"],
        "epochs": best.user_attrs["epochs"],
        "head": best.user_attrs["head"],
        "settings": best.params,
    }
    return {
        "study": study.study_name,
        "trials": {name: count_trials(study, state) for name, state in states.items()},
        "best": found,
    }


def best_recipe(search: Search, study: optuna.Study, best: FrozenTrial) -> Recipe:
    """The settings of a trial, all of them, as a recipe that says where it comes from."""
    counts = summarise(study)["trials"]
    found = (
        f"Found by a search on pseudo-unseen validation: trial {best.number} of the study {study.study_name!r} "
        f"({counts['complete']} trials finished, {counts['pruned']} stopped early), H "
        f"{best.value:.4f} at epoch {best.user_attrs['epochs']}, data hash {search.dataset.data_hash}; searched: "
        f"{', '.join(search.space)}."
    )
    sources = {} if search.recipe is None else dict(search.recipe.sources)
    return Recipe(
        name=study.study_name,
        summary=summary(study.study_name),
        sources={**sources, f"study {study.study_name}": found},
        settings=search.config(best.params).to_json(),
    )


def summary(study_name: str) -> str:
    """The first line of a recipe that a study gave."""
    return f"the best of the study {study_name}"


def refuse_other_file(out: Path, study_name: str, *, overwrite: bool) -> None:
    """Refuse to write a recipe over anything but an earlier one of the same study.

    Raises:
        DataError: the folder is missing, or there is another file.
    """
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.parent}")
    if overwrite or not out.exists():
        return
    try:
        found = tomllib.loads(out.read_text(encoding="utf-8")).get("summary")
    except (OSError, ValueError):
        found = None
    if found != summary(study_name):
        raise DataError(f"--out {out}: exists and is not of this study; choose another place or pass --overwrite")


def write_recipe(recipe: Recipe, out: Path) -> None:
    """Write a recipe beside and then rename it, each process under a name of its own."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.write_text(recipe.resolved_text(), encoding="utf-8")
    beside.replace(out)
