"""The beginning of a run, and what it must have in common with the command that continues it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model import __version__
from model.errors import DataError, Problem
from training.commit import code_commit
from training.config import TrainConfig
from training.run_dir.contents import CONFIG, SCHEMA, read_json, write_json

_MAY_DIFFER = ("data.path", "data.commit", "data.split.notes")
"""Data may have been moved, another commit is noted, and notes depend on how the data were asked for."""


def begin(
    run_dir: Path, config: TrainConfig, data: Mapping[str, Any], recipe: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Write `config.json` of a run that has not finished, or continue one.

    Args:
        run_dir: existing folder.
        config: hyper-parameters.
        data: how to build the data set again, its hash and its split.
        recipe: the recipe the settings began with.

    Returns:
        The data with the commit of the code, and with that of a later one that continues the run.

    Raises:
        DataError: the run there has finished, or has other settings or data; names what differs.
    """
    commit = code_commit()
    if (run_dir / CONFIG).exists():
        found = refuse_other(run_dir, config, data)
        if found.get("finished") is not False:
            raise DataError(f"{run_dir}: the run has finished")
        first = found["data"].get("commit")
        commit = first if first == commit else f"{first}, continued by {commit}"
    record = {**data, "commit": commit}
    fields = {"schema": SCHEMA, "code_version": __version__, "finished": False, "data": record}
    write_json(run_dir / CONFIG, {**fields, "recipe": recipe, "config": config.to_json()})
    return record


def refuse_other(run_dir: Path, config: TrainConfig, data: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` of a run, finished or not, that has these settings and data.

    Raises:
        DataError: it has others; names each.
    """
    found = read_json(run_dir / CONFIG)
    wanted = json.loads(json.dumps({"config": config.to_json(), "data": dict(data)}))
    problems = [
        *differences(found.get("config"), wanted["config"], "", holder="the run"),
        *differences(found.get("data"), wanted["data"], "data.", holder="the run"),
    ]
    problems = [p for p in problems if p.pointer not in _MAY_DIFFER]
    if problems:
        raise DataError(
            f"{run_dir}: the run was begun with other settings or data; give the same, or --overwrite to begin anew",
            problems,
        )
    return found


def differences(found: Any, wanted: Any, pointer: str, *, holder: str) -> Iterator[Problem]:
    """Where two JSON values differ: what the holder of the first has, and what this command."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in dict.fromkeys([*found, *wanted]):
            yield from differences(found.get(name), wanted.get(name), f"{pointer}{name}.", holder=holder)
    elif found != wanted:
        yield Problem(pointer=pointer.removesuffix("."), detail=f"{holder} has {found!r}, this command {wanted!r}")
