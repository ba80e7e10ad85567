"""Where a run lives while it goes: RUN_DIR itself, or RUN_DIR.new beside a finished run that it is to replace."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.errors import DataError
from training.features.store import move_into_place, undo_half_move
from training.run_dir.checkpoints import PROGRESS, STATE
from training.run_dir.contents import CONFIG, read_json

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
    beside = out.with_name(f"{out.name}.new")
    for path, name in ((out, named), (beside, beside)):
        if not _is_run(path) and path.exists() and not _is_empty(path):
            raise DataError(f"--out {name}: exists and is not a run directory; choose another place")
    replaces = _is_run(beside) or (overwrite and is_finished(out))
    place = beside if replaces else out
    _refuse_unless_told(named, place, resume=resume, overwrite=overwrite)
    existed = place.exists()
    (place / PROGRESS).mkdir(parents=True, exist_ok=True)
    with (place / PROGRESS / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"--out {named}: another process trains into it") from None
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
