from __future__ import annotations

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def _imports_out_of_sight() -> None:
    """What has been imported stays: each start of the service collects garbage, and need not look at torch for it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let go of what was frozen, so that libraries which count their objects at the end find none left."""
    gc.unfreeze()
    gc.collect()
