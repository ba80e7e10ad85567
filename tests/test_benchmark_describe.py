"""What the benchmark of descriptions and photos draws, and what it says of its rows."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import numpy as np

from tests.training.tiny import dataset

path = sys.path[0]
from benchmarks.describe import draw_photos  # noqa: E402
from benchmarks.describe_table import draw, table  # noqa: E402

sys.path[0] = path  # which the benchmark, a script, sets for itself


def test_what_is_drawn_is_not_tested() -> None:
    data = dataset(seen=4, unseen=3, rows=5, test_rows=6)
    drawn, tested = draw_photos(data, 2, seed=0)
    assert list(drawn) == [4, 5, 6]
    for index, rows in drawn.items():
        assert len(set(rows)) == 2
        assert (data.labels[rows] == index).all()
    everything = [row for rows in drawn.values() for row in rows] + tested
    assert sorted(everything) == sorted(data.test.tolist())
    assert np.bincount(data.labels[tested]).tolist() == [6, 6, 6, 6, 4, 4, 4]
    assert draw_photos(data, 2, seed=0) == (drawn, tested)
    assert draw_photos(data, 2, seed=1)[0] != drawn


def row(draw: int, photos: int, described: bool, h: float, form: str = "pictures") -> dict[str, object]:
    what = {"data": "FLO", "seed": 0, "form": form, "draw": draw, "photos": photos, "described": described}
    prior = {"described": 4.0, "undescribed": 2.0, "fade": 8.0}
    chosen = {
        "prior": prior,
        "seen_penalty": 0.5,
        "bundle": "b" * 64,
        "recipe": "quick",
        "backbone": "net",
        "commit": "c0ffee",
    }
    return {**what, "U": 0.5, "S": 0.25, "H": h, "test_rows": 7, **chosen}


ROWS = [
    *(row(0, 0, True, 0.50), row(0, 1, True, 0.80), row(0, 1, False, 0.60)),
    *(row(1, 0, True, 0.52), row(1, 1, True, 0.84), row(1, 1, False, 0.62)),
    *(row(0, 0, True, 0.501, "photos"), row(0, 1, True, 0.798, "photos")),
]


def test_table() -> None:
    text = table(ROWS, "the command", "drawing")
    both = "| 1 | 50.00 ± 0.00 | 25.00 ± 0.00 | 82.00 ± 2.00 | 61.00 ± 1.00 | 51.00 ± 1.00 | +21.00 ± 1.00 |"
    assert f"{both} +31.00 ± 1.00 |\n" in text
    assert "Target with one photo: H 76, reached with 82.00.\n" in text
    assert "Target with 2" not in text
    assert "in 2 states of draw 0, H differs by at most 0.20 points." in text
    assert "| FLO | 0 | photos | 0 | 1 | yes | 50.00 | 25.00 | 79.80 | bbbbbbbbbbbb | c0ffee |\n" in text
    assert "more than a standard error to either alone: none.\n" in text
    missed = table([row(0, 0, True, 0.5), row(0, 1, True, 0.7), row(0, 1, False, 0.71)], "the command", "drawing")
    assert "more than a standard error to either alone: 1.\n" in missed
    assert "Target with one photo: H 76, missed with 70.00.\n" in missed


def test_drawing() -> None:
    svg = ElementTree.fromstring(draw(ROWS))
    space = "{http://www.w3.org/2000/svg}"
    lines = [line.attrib["points"].split() for line in svg.iter(f"{space}polyline")]
    assert [len(points) for points in lines] == [2, 1]  # without a description there are no classes of no photos
    heights = [float(point.split(",")[1]) for points in lines for point in points]
    described, with_photo, photo_alone = heights
    assert with_photo < photo_alone < described  # downwards
