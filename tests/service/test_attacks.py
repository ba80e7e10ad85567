"""Costly images against a real service: others are answered, memory stays and comes back, SIGTERM ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.image_attacks import Body, attack, cases
from tests.service.processes import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GRACE = 31 + 10  # seconds: what the server gives to requests, and what a busy machine takes to end
PHOTOS = "16 ordinary photos"


@pytest.fixture(scope="module")
def attacks() -> dict[str, list[Body]]:
    return cases()


@pytest.fixture(scope="module")
def of_photos(attacks: dict[str, list[Body]], tmp_path_factory: pytest.TempPathFactory) -> float:
    """MB that an ordinary batch takes."""
    with serving(None, tmp_path_factory.mktemp("photos")) as server:
        return float(attack(server, attacks[PHOTOS])["resident_mb"]["peak_rise"])


@pytest.mark.parametrize(
    ("name", "answered"),
    [
        ("64 copies of a PNG of 7,000 x 7,000", [64]),
        ("64 such PNGs, no two alike", [20]),  # what the budget of pixels allows, where the deadline does
        ("2 JPEGs of 20,000 scans", [0, 0]),
        ("4 WebPs of 2 KB", [0] * 4),
        ("4 PNGs of 16 bits", [1] * 4),
    ],
)
def test_others_are_answered_and_memory_comes_back(
    name: str, answered: list[int], attacks: dict[str, list[Body]], of_photos: float, tmp_path: Path
) -> None:
    with serving(None, tmp_path / "data") as server:
        found = attack(server, attacks[name])
    assert found["during"]["failed"] == 0
    assert found["during"]["requests"] > 0
    assert found["resident_mb"]["peak_rise"] <= (of_photos + 150 if name.startswith("64 copies") else 300)
    assert found["resident_mb"]["rise_12_s_later"] <= 100
    assert found["seconds_to_end_on_sigterm"] <= GRACE
    given = [answer["answered"] for answer in found["answers"] if answer.get("status") != 503]
    assert given == answered[: len(given)]
