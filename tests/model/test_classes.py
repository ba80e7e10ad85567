"""Class entries, and class ids made from names."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.classes import CLASS_ID_PATTERN, ClassEntry, slug
from model.errors import InvalidInputError


def entry(**fields) -> ClassEntry:
    return ClassEntry(**{"id": "zebra", "name": "Zebra", "kind": "unseen", "attributes": (1.0, 2.0), **fields})


@pytest.mark.parametrize("class_id", ["a", "7", "blue-whale", "a.b_c-d", "x" * 64])
def test_slugs_are_ids(class_id: str) -> None:
    assert entry(id=class_id).id == class_id


@pytest.mark.parametrize(
    "class_id", ["", "A", "-a", ".a", "_a", "a b", "a/b", "ä", "x" * 65, "zebra\n", "a\0", "..", "a%2f"]
)
def test_anything_else_is_no_id(class_id: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        entry(id=class_id)
    assert [p.pointer for p in caught.value.problems] == ["/id"]
    assert repr(class_id) in caught.value.problems[0].detail


@pytest.mark.parametrize("length", [0, 201])
def test_names_have_a_length(length: int) -> None:
    with pytest.raises(InvalidInputError, match=f"expected 1 to 200 characters, got {length}"):
        entry(name="n" * length)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        entry(id="?", name="")
    assert [p.pointer for p in caught.value.problems] == ["/id", "/name"]


def test_it_survives_json() -> None:
    zebra = entry(description="striped", metadata={"source": {"page": 3}})
    assert ClassEntry.from_json(json.loads(json.dumps(zebra.to_json()))) == zebra


def test_description_and_metadata_may_be_left_out() -> None:
    fields = entry().to_json()
    del fields["description"], fields["metadata"]
    assert ClassEntry.from_json(fields) == entry()


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be seen or unseen, got 'known'"):
        ClassEntry.from_json({**entry().to_json(), "kind": "known"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Blue Whale", "blue-whale"),
        ("  giant+panda!! ", "giant-panda"),
        ("Bär", "bar"),
        ("snow_leopard", "snow_leopard"),
        ("v1.2", "v1.2"),
        ("--x--", "x"),
        ("x" * 100, "x" * 64),
        ("y" * 63 + " z", "y" * 63),
        ("斑马", ""),
        ("", ""),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


@given(st.text())
def test_a_slug_is_an_id_or_empty_and_stays_what_it_is(name: str) -> None:
    made = slug(name)
    assert made == "" or re.fullmatch(CLASS_ID_PATTERN[1:-1], made)
    assert slug(made) == made
