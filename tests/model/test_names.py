"""The rule for names, search, and ids made from names."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.classes import CLASS_ID_PATTERN
from model.outside.names import clean_name, fold_name, id_candidates, name_fault, slug

GOOD = (
    "Blue Whale",
    "گربه\u200cسان",  # Persian needs the joiner that does not join
    "👩\u200d🚀",
    "Blue\u00a0Whale",
    "क्\u200dष",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "O'Brien's \"ape\" <b>",
    "\U0001fae8",  # newer than the tables of Python 3.11
)


@pytest.mark.parametrize("name", GOOD)
def test_names_of_all_scripts_are_names(name: str) -> None:
    assert name_fault(name) is None
    assert clean_name(f" {name}\u3000") == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "expected 1 to 200 characters, got 0"),
        ("a\nb", "without a control character, got U+000A as character 2"),
        ("a\x7f", "U+007F"),
        ("a\u2028b", "without a line break, got U+2028"),
        ("a\u202eb", "turns the direction of the text around, got U+202E"),
        ("\ufeffa", "stands for nothing, got U+FEFF"),
        ("\ufffe", "stands for nothing, got U+FFFE"),
        ("\ue000", "without a private character"),
        ("\ud800", "without half a character"),
        ("\u200d\u200c", "expected a name that can be seen"),
    ],
)
def test_anything_else_is_named_by_its_character(name: str, words: str) -> None:
    assert words in (name_fault(name) or "")


def test_the_length_is_that_of_the_normal_form() -> None:
    assert name_fault(clean_name("e\u0301" * 200)) is None
    assert name_fault(clean_name("e\u0301" * 201)) == "expected 1 to 200 characters, got 201"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CAFÉ", "cafe\u0301"),
        ("Straße", "STRASSE"),
        ("Blue\u00a0Whale", "blue whale"),
        ("گربه\u200cسان", "گربهسان"),
        ("❤\ufe0f", "❤"),
        ("Ｆｏｘ", "fox"),
    ],
)
def test_search_finds_either_form(one: str, other: str) -> None:
    assert fold_name(one) == fold_name(other)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Blue Whale", "blue-whale"),
        ("  giant+panda!! ", "giant-panda"),
        ("Bär", "bar"),
        ("Straße", "strasse"),
        ("Łoś", "los"),
        ("Smørrebrød", "smorrebrod"),
        ("Æ œ Đ ð Þ ı ħ ŧ", "ae-oe-d-d-th-i-h-t"),
        ("D’Artagnan", "dartagnan"),
        ("Zebra 🦓", "zebra"),
        ("snow_leopard", "snow_leopard"),
        ("v1.2", "v1.2"),
        ("--x--", "x"),
        ("x" * 100, "x" * 64),
        ("y" * 63 + " z", "y" * 63),
        ("", ""),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


@pytest.mark.parametrize(("name", "begins"), [("斑马", "class-"), ("---", "class-"), ("🦓", "class-"), ("猫 1", "1-")])
def test_a_name_that_ascii_cannot_write_gets_a_digest(name: str, begins: str) -> None:
    assert re.fullmatch(rf"{begins}[0-9a-f]{{8}}", slug(name))
    assert slug(name) == slug(unicodedata.normalize("NFD", f" {name}"))


def test_ids_of_other_scripts_differ_and_stay() -> None:
    assert (slug("猫 1"), slug("犬 1")) == ("1-884a4a37", "1-850926f4")


@given(st.text())
def test_a_slug_is_an_id_or_empty_and_stays_what_it_is(name: str) -> None:
    made = slug(name)
    assert (made == "") == (clean_name(name) == "")
    assert made == "" or re.fullmatch(CLASS_ID_PATTERN[1:-1], made)
    assert slug(made) == made


@given(st.text(), st.sampled_from(["NFC", "NFD"]))
def test_a_clean_name_stays_clean_and_is_found_in_either_form(name: str, form: str) -> None:
    clean = clean_name(name)
    assert clean_name(clean) == clean
    assert fold_name(unicodedata.normalize(form, clean)) == fold_name(clean)
    assert slug(unicodedata.normalize(form, clean)) == slug(clean)


@pytest.mark.parametrize("name", ["Blue Whale", "x" * 80])
def test_further_ids_of_one_name(name: str) -> None:
    made = [identity for identity, _ in zip(id_candidates(name), range(12), strict=False)]
    assert made[0] == slug(name)
    assert made[1].endswith("-2")
    assert len(set(made)) == 12
    more = [identity for identity, _ in zip(id_candidates(f"{name}#"), range(102), strict=False)]
    assert more[98].endswith("-99")
    assert re.search(r"-[0-9a-f]{8}$", more[99])
    assert len(set(more)) == 102
    assert all(re.fullmatch(CLASS_ID_PATTERN[1:-1], identity) for identity in made)
