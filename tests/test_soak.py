"""The soak for a minute, and that it would notice what it looks for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.faults.asking import Asking, Tally, WrongAnswerError
from benchmarks.faults.changing import Changes
from benchmarks.faults.soak import FLAGS, Plan, soak
from benchmarks.faults.soak_report import draw, words
from tests.service.processes import serving


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_of_mixed_load(tmp_path: Path) -> None:
    plan = Plan(seconds=60, warm_up=25, every=10, rate=15, changes=2)
    with serving(None, tmp_path / "data", "--threads", "1", *FLAGS) as server:
        found = soak(server, plan)
    assert found["failures"] == []
    assert found["errors_in_log"] == []
    assert found["requests"] > 100
    assert {"photo", "gone_in_the_body", "slow_body", "bad"} <= found["by_kind"].keys()
    assert found["files"]["most"] - found["files"]["least"] <= 3
    assert found["resident_mb"]["most"] <= 1.1 * found["resident_mb"]["least"]  # a minute is less than its warm-up
    found |= {"command": "soak", "machine": {"system": "", "cpus": 2, "python": ""}, "load_before": 0.0}
    assert "| open files |" in words(found, "soak")
    draw(found, tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").stat().st_size > 1000


def test_a_class_that_is_lost_is_noticed() -> None:
    """A service that forgets what it acknowledged."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(201, headers={"registry-version": "1"}, json={})
        listed: dict[str, Any] = {"classes": [], "next_cursor": None}
        return httpx.Response(200, json=listed)

    async def run() -> None:
        asking = Asking("http://localhost", Tally())
        asking._client = httpx.AsyncClient(base_url="http://localhost", transport=httpx.MockTransport(answer))
        changes = Changes(asking, [], dict.fromkeys("abcdefgh", (0.0, 1.0)), seed=1)
        assert await changes.step() == "register"
        with pytest.raises(WrongAnswerError, match="expected"):
            await changes.look()
        await asking.close()

    asyncio.run(run())
