"""Random changes of the registry, made by two processes, against a plain model; on SQLite, and on PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from model.bundle import Bundle
from model.classes import ClassEntry
from service.classes.edits import Find, Put
from tests.service import tiny
from tests.service.photos import PRIOR
from tests.service.postgres import Postgres, postgres_server
from tests.service.registry_machine import RegistryMachine

IN_CI = "CI" in os.environ
"""Fewer and always the same sequences: what chance finds belongs into a run of its own, not into somebody's change."""


def run(
    machine: type[RegistryMachine],
    *,
    examples: int,
    steps: int,
    derandomize: bool,
    phases: Sequence[Phase] = tuple(Phase),
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            print_blob=True,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two bundles that take photos and have one vocabulary, and trunks of their own."""
    folder, spec = tmp_path_factory.mktemp("bundles"), replace(tiny.HEAD, photos=PRIOR)
    first = tiny.tiny_bundle(folder / "first", spec=spec)
    second = tiny.tiny_bundle(folder / "second", spec=spec, trunk_bytes=tiny.trunk(free=True))
    return Bundle.load(first), Bundle.load(second)


@pytest.fixture
def on_sqlite(bundles: tuple[Bundle, Bundle]) -> type[RegistryMachine]:
    return type("OnSqlite", (RegistryMachine,), {"owners": bundles, "new_url": staticmethod(lambda place: None)})


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as started:
        yield started


@pytest.fixture
def on_postgres(bundles: tuple[Bundle, Bundle], postgres: Postgres) -> type[RegistryMachine]:
    new_url = staticmethod(lambda place: postgres.database())
    return type("OnPostgres", (RegistryMachine,), {"owners": bundles, "new_url": new_url})


def test_changes_on_sqlite(on_sqlite: type[RegistryMachine]) -> None:
    run(on_sqlite, examples=25, steps=20, derandomize=True)


def test_changes_on_postgresql(on_postgres: type[RegistryMachine]) -> None:
    run(on_postgres, examples=10, steps=20, derandomize=True)


def test_a_registry_that_forgets_is_found_out(
    on_sqlite: type[RegistryMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests here could not fail."""
    decide = Put.decide

    def forgetful(self: Put, find: Find) -> ClassEntry | None:
        entry = decide(self, find)
        return None if entry is None else replace(entry, metadata={})

    monkeypatch.setattr(Put, "decide", forgetful)
    with pytest.raises(AssertionError):
        run(on_sqlite, examples=100, steps=20, derandomize=True, phases=[Phase.generate])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_changes_on_sqlite(on_sqlite: type[RegistryMachine]) -> None:
    run(on_sqlite, examples=30 if IN_CI else 120, steps=50, derandomize=IN_CI)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_changes_on_postgresql(on_postgres: type[RegistryMachine]) -> None:
    run(on_postgres, examples=10 if IN_CI else 40, steps=50, derandomize=IN_CI)
