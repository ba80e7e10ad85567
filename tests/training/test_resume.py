"""A run that is stopped, killed or broken off goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import DataError
from tests.training.tiny import SETTINGS, TINY, as_options, config, dataset, same
from training.config import TrainConfig
from training.console import OnStep
from training.datasets.dataset import Dataset
from training.method import trainer as trainer_module
from training.method.trainer import DivergedError, Trainer
from training.runs.checkpoints import LOG, PROGRESS, STATE, Interrupted, Interruption, interruptible
from training.runs.contents import CHECKPOINT, CONFIG, METRICS, Trained, read_json
from training.runs.fit import FitOptions, fit

REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")
SOME = ("epochs=4", "selection.evaluations=2")


@pytest.fixture(autouse=True, scope="module")
def _ctrl_c_is_heard() -> Iterator[None]:
    """Here and in processes that are started; it is ignored where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset(seen=5, unseen=2, rows=8, dim=8)


def train(
    data: Dataset, out: Path, settings: TrainConfig, *, progress: OnStep = lambda _: None, **options: Any
) -> Trained:
    out.mkdir(exist_ok=True)
    chosen = FitOptions(**{"checkpoint_seconds": 0, **options})
    return fit(data, settings, out, data={"kind": "made up"}, device=CPU, progress=progress, options=chosen)


def resolved(run: Path) -> dict[str, Any]:
    """`config.json` with the hash of the checkpoint, without the commit, which may change under a test."""
    fields = read_json(run / CONFIG)
    del fields["data"]["commit"]
    return fields


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    assert all(line.pop("seconds") >= 0 for line in lines)
    return lines


def assert_same_runs(one: Path, other: Path) -> None:
    assert resolved(one) == resolved(other)
    assert (one / CHECKPOINT).read_bytes() == (other / CHECKPOINT).read_bytes()
    assert log(one) == log(other)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


@pytest.fixture(scope="module")
def undisturbed(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the settings `SOME` that nothing stopped; not to be changed."""
    out = tmp_path_factory.mktemp("undisturbed") / "whole"
    train(data, out, config(*SOME))
    return out


# --- stopped after every epoch --------------------------------------------------------------------


@pytest.mark.parametrize(("method", "epochs"), [("wgan", 4), ("cegzsl", 2), ("tfvaegan", 2), ("diffusion", 2)])
@pytest.mark.parametrize("protocol", ["validation", "test-best"])
def test_a_run_stopped_after_every_epoch_is_the_run_that_never_stopped(
    data: Dataset, tmp_path: Path, method: str, epochs: int, protocol: str
) -> None:
    settings = config(
        f"epochs={epochs}",
        "selection.evaluations=2",
        f"generator.method={method}",
        f"selection.protocol={protocol}",
        "contrastive.projection=4",
    )
    whole = train(data, tmp_path / "whole", settings)
    parts, stops = train_in_parts(data, tmp_path / "parts", settings, fewer_than=50)
    assert stops >= (epochs if protocol == "test-best" else 2 * epochs + whole.selected.epochs)
    assert same(parts.networks, whole.networks)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_a_run_stopped_after_every_epoch_ends_where_its_patience_does(data: Dataset, tmp_path: Path) -> None:
    settings = config("epochs=32", "selection.evaluations=6", "selection.patience=1")
    whole = train(data, tmp_path / "whole", settings)
    epochs = {fold: [line["epoch"] for line in of_fold(tmp_path / "whole", fold)] for fold in range(2)}
    assert max(epochs[0]) < 32
    assert epochs[0] == epochs[1] == list(range(1, max(epochs[0]) + 1))
    parts, _ = train_in_parts(data, tmp_path / "parts", settings, fewer_than=2 * 32 + 32)
    assert same(parts.networks, whole.networks)
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def train_in_parts(data: Dataset, out: Path, settings: TrainConfig, *, fewer_than: int) -> tuple[Trained, int]:
    """A run that is stopped after every epoch and continued, and how often it was stopped."""
    for stops in range(fewer_than):
        asked = Interruption()
        with suppress(Interrupted):
            parts = train(
                data, out, settings, interruption=asked, progress=lambda step, asked=asked: stop(asked, step.done)
            )
            return parts, stops
    raise AssertionError(f"stopped {fewer_than} times")


def of_fold(run: Path, fold: int) -> list[dict[str, Any]]:
    return [line for line in log(run) if line.get("fold") == fold]


def stop(asked: Interruption, done: int) -> None:
    """Ask to stop after every epoch; the call before the first one is not after an epoch."""
    if done:
        asked.signal = signal.SIGINT


def test_a_crash_in_the_second_fold(
    data: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(*SOME)
    made: list[Trainer] = []

    class Crashing(Trainer):
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            if len(made) == 2:
                raise MemoryError
            super().__init__(*arguments)

    monkeypatch.setattr(trainer_module, "Trainer", Crashing)
    with pytest.raises(MemoryError):
        train(data, tmp_path / "parts", settings, checkpoint_seconds=1e9)
    with (tmp_path / "parts" / LOG).open("a") as written_after_the_checkpoint:
        written_after_the_checkpoint.write("more\n")
    train(data, tmp_path / "parts", settings)
    assert len(made) == 4  # the first fold is not trained again
    assert_same_runs(tmp_path / "parts", undisturbed)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    data: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = config(*SOME), tmp_path / "parts"
    write, calls = torch.save, []

    def full(content: Any, file: Path) -> None:
        calls.append(file)
        if len(calls) == 3:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(file))
        write(content, file)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            train(data, out, settings)
    assert torch.load(out / PROGRESS / STATE, weights_only=True)["trainer"]["epoch"] == 2
    train(data, out, settings)
    assert_same_runs(out, undisturbed)


# --- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 1e9])
def test_divergence_names_the_last_good_checkpoint(
    data: Dataset, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float
) -> None:
    settings, out = config(*SOME), tmp_path / "run"
    epochs: list[int] = []
    run_epoch = Trainer.run_epoch

    def diverging(self: Trainer) -> dict[str, float]:
        epochs.append(self.epoch)
        if len(epochs) == 7:
            raise DivergedError("the training diverged in epoch 3, outer step 1 of 3: cls not finite")
        return run_epoch(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run_epoch", diverging)
        with pytest.raises(DivergedError) as error:
            train(data, out, settings, checkpoint_seconds=every)
    last = "after epoch 2 of fold 2 of 2" if every == 0 else "before fold 2 of 2"
    assert str(error.value) == (
        "fold 2 of 2: the training diverged in epoch 3, outer step 1 of 3: cls not finite; "
        f"the last good checkpoint, {last}, is {out / PROGRESS / STATE}"
    )
    train(data, out, settings)
    assert_same_runs(out, undisturbed)


def test_divergence_before_any_checkpoint(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"^fold 1 of 2: .* outer step 1 of .*; there is no checkpoint yet$"):
        train(data, tmp_path / "run", config("learning_rate=1e30"))


# --- what does not fit is refused -----------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after three epochs; not to be changed."""
    out, asked = tmp_path_factory.mktemp("stopped") / "run", Interruption()
    with pytest.raises(Interrupted):
        train(data, out, config(*SOME), interruption=asked, progress=lambda step: stop(asked, step.done == 3))
    return out


@pytest.fixture
def begun(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "run")


def test_other_settings_are_named(data: Dataset, begun: Path) -> None:
    before = (begun / CONFIG).read_bytes()
    with pytest.raises(DataError, match="begun with other settings or data") as error:
        train(data, begun, config(*SOME, "d3.ood_target=class", "selection.shrinkage=[0.3]", seed=4))
    assert [(p.pointer, p.detail) for p in error.value.problems] == [
        ("seed", "the run has 0, this command 4"),
        ("d3.ood_target", "the run has 'domain', this command 'class'"),
        ("selection.shrinkage", "the run has [0.3, 0.7], this command [0.3]"),
    ]
    assert (begun / CONFIG).read_bytes() == before


def test_other_data_are_named(begun: Path) -> None:
    import dataclasses

    other = dataclasses.replace(dataset(seen=5, unseen=2, rows=8, dim=8), data_hash="1" * 64, split={"rule": "other"})
    with pytest.raises(DataError) as error:
        train(other, begun, config(*SOME))
    assert {p.pointer for p in error.value.problems} == {"data.data_hash", "data.split.rule"}


def test_notes_on_the_data_may_differ(begun: Path, data: Dataset) -> None:
    """They say how the data were asked for: without `--splits`, that there is another file."""
    import dataclasses

    noted = dataclasses.replace(data, split={**data.split, "notes": ["both are there"]})
    assert train(noted, begun, config(*SOME)).data["split"]["notes"] == ["both are there"]


def test_a_finished_run_is_not_trained_again(data: Dataset, tmp_path: Path) -> None:
    train(data, tmp_path, config())
    with pytest.raises(DataError, match="the run has finished"):
        train(data, tmp_path, config())


@pytest.mark.parametrize(
    ("name", "damage"), [(STATE, b"x"), (STATE, b""), ("stage-0-epoch-2.npz", b"x"), ("stage-0-epoch-2.npz", b"")]
)
def test_damaged_progress(data: Dataset, begun: Path, name: str, damage: bytes) -> None:
    (begun / PROGRESS / name).write_bytes(damage)
    with pytest.raises(DataError, match=rf"{name}: damaged: .*begin anew with --overwrite"):
        train(data, begun, config(*SOME))


def test_a_log_that_was_cut(data: Dataset, begun: Path) -> None:
    (begun / LOG).write_text("")
    with pytest.raises(DataError, match=r"log\.jsonl: expected at least \d+ bytes, as when the run was left, got 0"):
        train(data, begun, config(*SOME))


def test_an_unfinished_run_is_no_result(begun: Path) -> None:
    from training.reporting.report import report

    for use in (Trained.load, report):
        with pytest.raises(DataError, match=r"the run has not finished; continue it with `d3gzsl-train fit DATA --out"):
            use(begun)


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible() as asked:
        assert asked.signal is None
        os.kill(os.getpid(), number)
        assert asked.signal == number
        assert signal.getsignal(number) == before
    assert signal.getsignal(number) == before
    with pytest.raises(Interrupted) as stopped:
        asked.raise_if_asked("here")
    assert stopped.value.status == 128 + number


def interrupt_twice() -> None:
    with interruptible():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_right_after_the_look_for_one_waits_until_the_state_is_saved(data: Dataset, tmp_path: Path) -> None:
    class Late(Interruption):
        looks = 0

        def __init__(self) -> None:
            pass

        @property
        def signal(self) -> int | None:  # type: ignore[override]
            self.looks += 1
            return None if self.looks == 1 else signal.SIGTERM

    with pytest.raises(Interrupted, match="the last good checkpoint, after epoch 2 of fold 1 of 2"):
        train(data, tmp_path / "run", config(*SOME), interruption=Late(), checkpoint_seconds=1e9)


def test_ctrl_c_twice() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as asked:
            os.kill(os.getpid(), signal.SIGINT)
        assert asked.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


# --- real processes -------------------------------------------------------------------------------

NURSERY = """
import os, sys, time
import torch._dynamo, torch._inductor  # what optimisers import when they are first used takes seconds
import training.exporting.export, training.experiment, training.datasets.opening
from model.outside import threads
from training import cli
from training.runs.log import RunLog

threads.available_cpus = lambda: 1
write = RunLog.write

def write_and_wait(log, **fields):
    write(log, **fields)
    while os.path.exists("GATE"):
        time.sleep(0.01)

RunLog.write = write_and_wait
for line in sys.stdin:
    said, *words = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if pid == 0:
        target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.argv = ["d3gzsl-train", *words]
        try:
            cli.main()
        except SystemExit as stopped:
            os._exit(int(stopped.code or 0))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nursery:
    """Processes of `d3gzsl-train`, one at a time, forked from one that has imported torch already.

    Where the file `gate` exists, they wait behind the next line of their log until it is gone.
    """

    def __init__(self, folder: Path) -> None:
        self._said, self.gate = folder / "said.txt", folder / "gate"
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY.replace("GATE", str(self.gate))],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *words: object) -> int:
        """Start a process; returns its id."""
        assert self._process.stdin is not None
        self._process.stdin.write("\t".join(map(str, (self._said, *words))) + "\n")
        self._process.stdin.flush()
        return self._number()

    def wait(self) -> tuple[int, str]:
        """Exit status of the process, negative for a signal, and what it printed, as one line."""
        return self._number(), " ".join(self._said.read_text().split())

    def _number(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


LONG = as_options(*SETTINGS, "epochs=8", "selection.evaluations=2", "steps=12")


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def wait_for_line(run: Path, *, before: int) -> None:
    """Wait until the log is longer than it was."""
    for _ in range(6000):
        if size(run / LOG) > before:
            return
        time.sleep(0.01)
    raise AssertionError("the log does not grow")


def test_killed_at_random_and_resumed_until_done(nursery: Nursery, store_dir: Path, tmp_path: Path) -> None:
    whole, out, moments = tmp_path / "whole", tmp_path / "run", random.Random(3)
    command = ("fit", store_dir, *LONG, "--checkpoint-seconds", 0)
    nursery.start(*command, "--out", whole)
    status, said = nursery.wait()
    assert status == 0, said
    kills, status = 0, -1
    while status != 0:
        before = size(out / LOG)
        process = nursery.start(*command, "--out", out, "--resume")
        if kills < 4:
            if kills:  # the first time anywhere, even before there is anything
                wait_for_line(out, before=before)
            time.sleep(moments.uniform(0, 0.3))
            os.kill(process, signal.SIGKILL)
        status, said = nursery.wait()
        assert status in (0, -signal.SIGKILL), said
        kills += status != 0
    assert kills >= 3
    assert_same_runs(out, whole)
    mended, clean = read_json(out / METRICS), read_json(whole / METRICS)
    for metrics in (mended, clean):
        del metrics["protocol"]["commit"]
    assert mended == clean
    assert {path.name for path in tmp_path.iterdir()} == {"run", "whole"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(nursery: Nursery, store_dir: Path, tmp_path: Path, number: signal.Signals) -> None:
    out, command = tmp_path / "run", ("fit", store_dir, *TINY, "--checkpoint-seconds", 1e9)
    nursery.gate.touch()
    process = nursery.start(*command, "--out", out)
    wait_for_line(out, before=0)
    os.kill(process, number)
    nursery.gate.unlink()
    status, said = nursery.wait()
    assert status == 128 + number
    assert "Traceback" not in said
    assert "warning: stopped; the last good checkpoint, " in said
    assert "The same command with --resume goes on from there" in said
    lines = (out / LOG).read_bytes()
    assert torch.load(out / PROGRESS / STATE, weights_only=True)["log_bytes"] == len(lines) > 0

    for words, answer in (
        ((*command, "--out", out), "has not finished; pass --resume to continue it or --overwrite to begin anew"),
        ((*command, "--out", out, "--resume", "--set", "epochs=3"), "epochs: the run has 2, this command 3"),
        (("evaluate", out), "the run has not finished; continue it with"),
        (("export", out, "--out", tmp_path / "bundle"), "the run has not finished; continue it with"),
        (("report", out), "the run has not finished; continue it with"),
    ):
        nursery.start(*words)
        status, said = nursery.wait()
        assert status == 2
        assert answer in said
    assert {path.name for path in tmp_path.iterdir()} == {"run"}

    nursery.start(*command, "--out", out, "--resume")
    status, said = nursery.wait()
    assert status == 0, said
    assert (out / LOG).read_bytes().startswith(lines)
    Trained.load(out)
