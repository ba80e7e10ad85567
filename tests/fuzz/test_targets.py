"""Every target takes its seeds, what once broke it, and random changes of both."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, mutated

FOUND = Path(__file__).parent / "found"
"""Inputs that once broke a target, in a folder for each."""


def inputs(name: str) -> list[bytes]:
    return [*TARGETS[name].seeds(), *(file.read_bytes() for file in sorted((FOUND / name).glob("*")))]


def run(name: str, data: bytes) -> None:
    """Run a target; what it raises has a note with the input, which belongs into `found`."""
    try:
        TARGETS[name].run(data)
    except BaseException as error:
        error.add_note(f"the target {name} got, in base64: {base64.b64encode(data).decode()}")
        raise


def run_mutations(name: str, chance: random.Random, number: int) -> None:
    known = inputs(name)
    for _ in range(number):
        run(name, mutated(chance.choice(known), chance, TARGETS[name].words))


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_once_broke_it(name: str) -> None:
    for data in [b"", b"\0", *inputs(name)]:
        run(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    run_mutations(name, random.Random(name), 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutations(name: str) -> None:
    run_mutations(name, random.Random(f"many of {name}"), 2000)
