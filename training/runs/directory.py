"""RUN_DIR while a run goes: where it is, who may write to it, and what a command that continues it must have in common.

A run lives in RUN_DIR itself, or in RUN_DIR.new beside a finished run that it is to replace.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model import __version__
from model.errors import DataError, Problem
from training.config import TrainConfig
from training.files import exclusive, move_into_place, undo_half_move, write_json
from training.runs.checkpoints import PROGRESS, STATE
from training.runs.contents import CONFIG, SCHEMA, code_commit, read_json

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


def begun_at(out: Path) -> Path | None:
    """Where the run at RUN_DIR is that `--resume` would continue or keep: RUN_DIR, or RUN_DIR.new; None without one."""
    out = out.resolve()
    undo_half_move(out)
    return next((place for place in (_beside(out), out) if _is_run(place)), None)


def differences(found: Any, wanted: Any, pointer: str, *, holder: str) -> Iterator[Problem]:
    """Where two JSON values differ: what the holder of the first has, and what this command."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in dict.fromkeys([*found, *wanted]):
            yield from differences(found.get(name), wanted.get(name), f"{pointer}{name}.", holder=holder)
    elif found != wanted:
        yield Problem(pointer=pointer.removesuffix("."), detail=f"{holder} has {found!r}, this command {wanted!r}")


LOCK = "lock"


@contextmanager
def run_place(out: Path, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """The folder to train in, locked; when the block ends well it is at `out`, and a finished run there is replaced.

    A run that failed before anything of it was saved leaves nothing; otherwise it stays, to be resumed.

    Args:
        out: RUN_DIR.
        resume: continue an unfinished run; where there is none, begin one, and leave a finished one as it is.
        overwrite: begin anew; a finished run stays until the new one has finished.

    Raises:
        DataError: `out` is no run, or is one and neither flag is set, or another process trains there.
    """
    if resume and overwrite:
        raise DataError("--resume continues a run and --overwrite begins it anew: give one of them")
    named, out = out, out.resolve()  # a link stays a link, to the new run
    undo_half_move(out)
    beside = _beside(out)
    for path, name in ((out, named), (beside, beside)):
        if not _is_run(path) and path.exists() and not _is_empty(path):
            raise DataError(f"--out {name}: exists and is not a run directory; choose another place")
    replaces = _is_run(beside) or (overwrite and is_finished(out))
    place = beside if replaces else out
    _refuse_unless_told(named, place, resume=resume, overwrite=overwrite)
    existed = place.exists()
    (place / PROGRESS).mkdir(parents=True, exist_ok=True)
    with exclusive(place / PROGRESS / LOCK, f"--out {named}: another process trains into it"):
        if overwrite:
            _empty(place / PROGRESS, but={LOCK})
            _empty(place, but={PROGRESS, CONFIG})
            (place / CONFIG).unlink(missing_ok=True)
        try:
            yield place
        except BaseException:
            if is_finished(place):
                shutil.rmtree(place / PROGRESS, ignore_errors=True)
            elif not (place / PROGRESS / STATE).exists():
                _empty(place)
                if not existed:
                    place.rmdir()
            raise
        shutil.rmtree(place / PROGRESS, ignore_errors=True)
        if replaces:
            move_into_place(place, out)


def is_finished(run_dir: Path) -> bool:
    """Whether a folder holds a run that has finished, of any schema."""
    return (run_dir / CONFIG).is_file() and not is_unfinished(run_dir)


def is_unfinished(run_dir: Path) -> bool:
    """Whether a folder holds a run that was begun and has not finished."""
    try:
        return read_json(run_dir / CONFIG).get("finished") is False
    except DataError:
        return False


def _beside(out: Path) -> Path:
    """Where a run lies that is to replace a finished one."""
    return out.with_name(f"{out.name}.new")


def _is_run(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing, or only what a run leaves that was killed before it had begun."""
    found = {str(child.relative_to(path)) for child in path.rglob("*")} if path.is_dir() else {"a file"}
    return found <= {PROGRESS, f"{PROGRESS}/{LOCK}", f"{CONFIG}.partial"}


def _refuse_unless_told(named: Path, place: Path, *, resume: bool, overwrite: bool) -> None:
    if resume or overwrite or not _is_run(place):
        return
    if is_finished(place):
        raise DataError(f"--out {named}: exists already; choose another place or pass --overwrite")
    what = "holds a run" if place == named.resolve() else f"{place} holds a run to replace it"
    raise DataError(
        f"--out {named}: {what} that has not finished; pass --resume to continue it or --overwrite to begin anew"
    )


def _empty(folder: Path, *, but: Collection[str] = ()) -> None:
    for child in folder.iterdir():
        if child.name in but:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
