from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """What has been imported stays: each start of the service collects garbage, and need not look at torch for it."""
    gc.collect()
    gc.freeze()
