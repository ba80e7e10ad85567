"""What commands print of their progress where nobody watches."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from training import console
from training.console import Lines, Step, counts, duration, steps


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, as a file; every look at the clock takes ten seconds."""
    out = io.StringIO()
    monkeypatch.setattr(console, "ERRORS", Console(file=out, width=200))
    clock: Iterator[int] = iter(range(0, 10_000, 10))
    monkeypatch.setattr("training.console.time.monotonic", lambda: float(next(clock)))
    return out


def epoch(done: int, stage: str = "training", total: int = 3, **fields: object) -> Step:
    return Step(stage=stage, done=done, total=total, **fields)  # type: ignore[arg-type]


def test_one_line_for_each_epoch(written: io.StringIO) -> None:
    scores = ("pseudo", {"U": 0.5, "S": 0.75, "H": 0.6})
    with steps() as shown:
        assert isinstance(shown, Lines)
        tell = shown.of("")
        for done in range(4):
            tell(epoch(done, "selection", detail="fold 1/1", scores=scores if done == 2 else None))
        tell(epoch(0))
        tell(epoch(3))
    assert written.getvalue().splitlines() == [
        "selection epoch 1 of 3  fold 1/1  about 20 seconds left",
        "selection epoch 2 of 3  fold 1/1  pseudo U 0.50 S 0.75 H 0.60  about 10 seconds left",
        "selection epoch 3 of 3  fold 1/1",
        "training epoch 3 of 3",
    ]


def test_what_an_earlier_part_did_is_no_speed_and_another_training_begins_anew(written: io.StringIO) -> None:
    tell = Lines().of("seed 1 ")
    for done in (40, 41, 0, 1):
        tell(epoch(done, total=43))
    assert written.getvalue().splitlines() == [
        "seed 1 training epoch 41 of 43  about 20 seconds left",
        "seed 1 training epoch 1 of 43  about 7 minutes left",
    ]


def test_counts_have_a_line_for_every_tenth(written: io.StringIO) -> None:
    with counts() as tell:
        for done in range(61):
            tell("photos", done, 60)
        tell("bytes", 5, None)
    said = [line.split("  ")[0] for line in written.getvalue().splitlines()]
    assert said == [f"photos {done} of 60" for done in range(6, 61, 6)]


def test_quiet_says_nothing(written: io.StringIO) -> None:
    with counts(quiet=True) as tell, steps(quiet=True) as shown:
        tell("photos", 0, 3)
        tell("photos", 3, 3)
        shown.of("")(epoch(1))
    assert written.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 second"),
        (40.4, "40 seconds"),
        (100, "2 minutes"),
        (3600, "1 hour"),
        (7500, "2 hours 5 minutes"),
    ],
)
def test_times_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
