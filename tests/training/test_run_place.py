"""Where a run lives while it goes: nothing foreign is touched, and nothing finished is lost before its successor is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.errors import DataError
from training.runs.checkpoints import PROGRESS, STATE
from training.runs.contents import CONFIG
from training.runs.directory import is_finished, is_unfinished, run_place


def write(folder: Path, name: str, *, finished: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps({"name": name} if finished else {"name": name, "finished": False}))
    if not finished:
        (folder / PROGRESS).mkdir(exist_ok=True)
        (folder / PROGRESS / STATE).write_text(name)


def name(folder: Path) -> str:
    return str(json.loads((folder / CONFIG).read_text())["name"])


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def killed(out: Path, made: str, **flags: bool) -> Path:
    """What a training leaves behind that fails after a checkpoint; returns where it was."""
    places = []

    def train() -> None:
        with run_place(out, **{"resume": False, "overwrite": False, **flags}) as place:
            places.append(place)
            write(place, made, finished=False)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()
    return places[0]


def test_a_run_lives_in_its_folder_while_it_goes(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    with run_place(out, resume=False, overwrite=False) as folder:
        assert folder == out
        write(folder, "new", finished=False)
        assert is_unfinished(out)
        assert not is_finished(out)
        write(folder, "new")
    assert contents(out) == {CONFIG}
    assert is_finished(out)
    assert contents(out.parent) == {"a"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", ["nothing", "empty", "finished"])
def test_nothing_is_left_of_a_failure_before_the_first_checkpoint(
    tmp_path: Path, error: type[BaseException], before: str
) -> None:
    out = tmp_path / "run"
    if before == "empty":
        out.mkdir()
    if before == "finished":
        write(out, "old")

    def train() -> None:
        with run_place(out, resume=False, overwrite=True) as folder:
            (folder / CONFIG).write_text(json.dumps({"finished": False}))
            (folder / "log.jsonl").touch()
            raise error

    with pytest.raises(error):
        train()
    assert contents(tmp_path) == (set() if before == "nothing" else {"run"})
    if before != "nothing":
        assert contents(out) == ({CONFIG} if before == "finished" else set())


def test_an_unfinished_run_is_continued_or_begun_anew_only_when_told(tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed(out, "first")
    with pytest.raises(DataError, match=r"has not finished; pass --resume to continue it or --overwrite to begin anew"):
        run_place(out, resume=False, overwrite=False).__enter__()
    with run_place(out, resume=True, overwrite=False) as folder:
        assert (folder / PROGRESS / STATE).read_text() == name(folder) == "first"
        write(folder, "first")
    assert contents(out) == {CONFIG}

    killed(tmp_path / "other", "second")
    with run_place(tmp_path / "other", resume=False, overwrite=True) as folder:
        assert contents(folder) == {PROGRESS}
        assert not (folder / PROGRESS / STATE).exists()
        write(folder, "third")
    assert name(tmp_path / "other") == "third"


def test_a_finished_run_stays_until_the_new_one_has_finished(tmp_path: Path) -> None:
    out = tmp_path / "run"
    write(out, "old")
    (out / "old.txt").touch()
    with pytest.raises(DataError, match="exists already; choose another place or pass --overwrite"):
        run_place(out, resume=False, overwrite=False).__enter__()
    at = killed(out, "new", overwrite=True)
    assert at == tmp_path / "run.new"
    assert (name(out), contents(out)) == ("old", {CONFIG, "old.txt"})
    with pytest.raises(DataError, match=r"run\.new holds a run to replace it that has not finished; pass --resume"):
        run_place(out, resume=False, overwrite=False).__enter__()
    with run_place(out, resume=True, overwrite=False) as folder:
        assert folder == at
        write(folder, "new")
        assert name(out) == "old"
    assert (name(out), contents(out)) == ("new", {CONFIG})
    assert contents(tmp_path) == {"run"}


def test_a_replacement_can_be_begun_anew(tmp_path: Path) -> None:
    out = tmp_path / "run"
    write(out, "old")
    killed(out, "second", overwrite=True)
    with run_place(out, resume=False, overwrite=True) as folder:
        assert contents(folder) == {PROGRESS}
        assert name(out) == "old"
        write(folder, "third")
    assert name(out) == "third"
    assert contents(tmp_path) == {"run"}


@pytest.mark.parametrize("moved", [False, True])
def test_a_kill_while_the_old_run_is_replaced(tmp_path: Path, moved: bool) -> None:
    """The replacement has finished; the old run may be set aside already."""
    out = tmp_path / "run"
    write(tmp_path / ("run.replaced.partial" if moved else "run"), "old")
    write(tmp_path / "run.new", "new")
    with run_place(out, resume=True, overwrite=False) as folder:
        assert name(folder) == "new"
        assert name(out) == "old"
    assert name(out) == "new"
    assert contents(tmp_path) == {"run"}


def test_a_finished_run_is_left_as_it_is_when_resumed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    write(out, "old")
    with run_place(out, resume=True, overwrite=False) as folder:
        assert folder == out
        assert is_finished(folder)
    with pytest.raises(RuntimeError), run_place(out, resume=True, overwrite=False):
        raise RuntimeError
    assert (name(out), contents(out)) == ("old", {CONFIG})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with run_place(out, resume=False, overwrite=False) as folder:
        write(folder, "mine", finished=False)
        for flags in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
            with pytest.raises(DataError, match="another process trains into it"):
                run_place(out, **flags).__enter__()
        assert name(folder) == "mine"
        assert (folder / PROGRESS / STATE).exists()


def test_both_flags_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--resume continues a run and --overwrite begins it anew"):
        run_place(tmp_path / "run", resume=True, overwrite=True).__enter__()


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "run" / PROGRESS).mkdir(parents=True)  # killed before it had begun
    (tmp_path / "run" / PROGRESS / "lock").touch()
    (tmp_path / "run" / f"{CONFIG}.partial").touch()
    with run_place(tmp_path / "run", resume=False, overwrite=False) as folder:
        write(folder, "new")
    assert name(tmp_path / "run") == "new"


@pytest.mark.parametrize("flag", [None, "resume", "overwrite"])
@pytest.mark.parametrize("where", ["run", "run.new"])
def test_what_is_no_run_is_never_touched(tmp_path: Path, flag: str | None, where: str) -> None:
    (tmp_path / where).mkdir()
    (tmp_path / where / "mine").touch()
    (tmp_path / "file").write_text("mine")
    flags = {"resume": flag == "resume", "overwrite": flag == "overwrite"}
    if where == "run":
        (tmp_path / "run" / PROGRESS).mkdir()
        (tmp_path / "run" / PROGRESS / "mine").touch()
        (tmp_path / "run" / "mine").unlink()
    for out in ("run", "file"):
        with pytest.raises(DataError, match="exists and is not a run directory"):
            run_place(tmp_path / out, **flags).__enter__()
    assert contents(tmp_path) == {where, "file"}
    assert [path.name for path in (tmp_path / where).rglob("mine")] == ["mine"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for text in ("old", "new"):
        with run_place(tmp_path / "run", resume=False, overwrite=True) as folder:
            write(folder, text)
    assert (tmp_path / "run").is_symlink()
    assert name(tmp_path / "disk") == "new"
    assert contents(tmp_path) == {"disk", "run"}


def test_a_relative_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with run_place(Path("run"), resume=False, overwrite=False) as folder:
        write(folder, "new")
    assert contents(tmp_path / "run") == {CONFIG}
