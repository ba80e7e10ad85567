"""A study of Optuna in a database: opened by several machines, and refused for other data or settings."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from model.errors import DataError, MissingDependencyError
from training.runs.directory import differences

HEARTBEAT, GRACE = 60, 180  # seconds; a trial whose process was killed is given up after the second
BUSY = 60  # seconds to wait for another writer of a SQLite file
_ATTEMPTS = 10
_BASIS = "d3gzsl"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(name: str, storage: str, basis: Mapping[str, Any], *, prune: bool) -> optuna.Study:
    """The study of this name, which is begun where there is none.

    Args:
        name: of the study.
        storage: URL of a SQLite file or of a PostgreSQL database.
        basis: JSON of what all trials of the study have in common: data, settings, space.
        prune: stop trials that are below the median of the others after the same fold.

    Raises:
        DataError: the storage cannot be opened, or the study there has another basis; names what differs.
        MissingDependencyError: the driver for PostgreSQL is not installed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the command shows what goes on itself
    url = storage_url(storage)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5) if prune else optuna.pruners.NopPruner()
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):  # heartbeat and constant liar
        sampler = optuna.samplers.TPESampler(constant_liar=True)  # processes keep away from each other's trials
        try:
            study = optuna.create_study(
                study_name=name,
                storage=_open_storage(url),
                sampler=sampler,
                pruner=pruner,
                direction="maximize",
                load_if_exists=True,
            )
        except (SQLAlchemyError, OptunaError, RuntimeError) as error:
            raise DataError(f"--storage {url!r}: cannot be used: {_reason(error)}") from None
    _refuse_other(study, json.loads(json.dumps(basis)))
    return study


def storage_url(text: str) -> URL:
    """The URL of a storage, with the driver that is installed.

    Raises:
        DataError: it is no URL of a SQLite file or of PostgreSQL.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise DataError(
            "--storage: expected a URL like sqlite:///studies.db or postgresql://user@host/database, got something else"
        ) from None
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite" or url.database in (None, "", ":memory:"):
        raise DataError(f"--storage: expected the URL of a SQLite file or of a PostgreSQL database, got {url!r}")
    return url


def count_trials(study: optuna.Study, *states: TrialState) -> int:
    """How many trials of a study are in one of these states."""
    return len(study.get_trials(deepcopy=False, states=states))


def enqueue(study: optuna.Study, values: Mapping[str, Any], *, instead_of: int | None = None) -> None:
    """Enqueue a trial with these values, unless one that was enqueued before has finished, waits or runs.

    A trial that was stopped is no reason to skip, as it would be for Optuna's own `skip_if_exists`.

    Args:
        study: to enqueue it in.
        values: of the settings, by name.
        instead_of: number of a running trial that is being stopped, which does not count.
    """
    alive = (TrialState.WAITING, TrialState.RUNNING, *FINISHED)
    wanted = dict(values)
    for trial in study.get_trials(deepcopy=False, states=alive):
        if trial.user_attrs.get("enqueued") == wanted and trial.number != instead_of:
            return
    study.enqueue_trial(wanted, user_attrs={"enqueued": wanted})


def _open_storage(url: URL) -> RDBStorage:
    """The storage; two processes that create its tables at the same moment get in each other's way, once."""
    arguments = {"timeout": BUSY} if url.drivername == "sqlite" else {"connect_timeout": 10}
    template = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(
                template,
                engine_kwargs={
                    "connect_args": arguments,
                    "poolclass": sa.NullPool,
                },  # trials take longer than lines hold
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
            )
        except ImportError:
            raise MissingDependencyError("--storage: the driver for PostgreSQL is not installed", "postgres") from None
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError) as error:
            if attempt + 1 == _ATTEMPTS or not _is_race(error):
                raise
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError


def _is_race(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, sa.exc.IntegrityError) or "already exists" in text or "locked" in text


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _refuse_other(study: optuna.Study, basis: dict[str, Any]) -> None:
    if _BASIS not in study.user_attrs:
        study.set_user_attr(_BASIS, basis)
    if problems := list(differences(study.user_attrs[_BASIS], basis, "", holder="the study")):
        raise DataError(
            f"--study {study.study_name}: was begun with other data or settings; give the same, or another name",
            problems,
        )
