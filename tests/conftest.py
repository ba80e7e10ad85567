from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.service.nursery import Nursery


@pytest.fixture(autouse=True, scope="module")
def _imports_out_of_sight() -> None:
    """What has been imported stays: each start of the service collects garbage, and need not look at torch for it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts services in a fraction of the time that their imports take."""
    from tests.service.nursery import Nursery  # with the service, which tests of the training need not import

    started = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield started
    started.close()


def pytest_sessionfinish() -> None:
    """Let go of what was frozen, so that libraries which count their objects at the end find none left."""
    gc.unfreeze()
    gc.collect()
