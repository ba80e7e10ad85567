"""Similar names against the standard library's search through all of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import pytest

from model.outside.similar import MAX_GUESSED_NAME, SimilarNames

COLOURS = ("black", "blue", "brown", "buff", "green", "grey", "iridescent", "olive", "orange", "purple", "red", "white")
NAMES = tuple(f"has_{part}_color::{colour}" for part in ("wing", "bill", "crown", "tail", "eye") for colour in COLOURS)
SIMILAR = SimilarNames(NAMES)


@pytest.mark.parametrize("place", range(0, len(NAMES), 7))
@pytest.mark.parametrize(
    "wrong", [lambda n: n[:-1], lambda n: n.replace("_", ""), lambda n: n[4:], lambda n: n + "ish"]
)
def test_the_closest_is_the_closest_of_all(place: int, wrong: Callable[[str], str]) -> None:
    name = wrong(NAMES[place])
    assert SIMILAR.to(name)[0] == difflib.get_close_matches(name, NAMES, n=1)[0]


@pytest.mark.parametrize("name", ["", "xyz", "0" * 20, "has_wing_color::red" + "d" * MAX_GUESSED_NAME])
def test_nothing_is_like_what_is_like_nothing(name: str) -> None:
    assert SIMILAR.to(name) == []


def test_short_names_are_found_by_their_first_letter() -> None:
    assert SimilarNames(["x", "y", "zz"]).to("x") == ["x"]
    assert SimilarNames(["sky", "red", "rod"]).to("rd", most=2) == ["rod", "red"]
