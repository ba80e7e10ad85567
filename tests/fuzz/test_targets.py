"""Every target takes its seeds, what once broke it, and a few mutations of both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, mutated

FOUND = Path(__file__).parent / "found"
"""Inputs that once broke a target, in a folder for each."""


def inputs(name: str) -> list[bytes]:
    return [*TARGETS[name].seeds(), *(file.read_bytes() for file in sorted((FOUND / name).glob("*")))]


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_what_once_broke_it(name: str) -> None:
    for data in [b"", b"\0", *inputs(name)]:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations(name: str) -> None:
    chance, known, target = random.Random(name), inputs(name), TARGETS[name]
    for _ in range(200):
        target.run(mutated(chance.choice(known), chance, target.words))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_mutations(name: str) -> None:
    chance, known, target = random.Random(), inputs(name), TARGETS[name]
    for _ in range(5000):
        data = mutated(chance.choice(known), chance, target.words)
        try:
            target.run(data)
        except BaseException:
            (Path.cwd() / f"crash-{name}.partial").write_bytes(data)
            raise
