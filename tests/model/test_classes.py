"""Class entries, and class ids made from names."""

from __future__ import annotations

import json

import pytest

from model.classes import ClassEntry
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


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "\u202egnirts", "\u200d\u200d", "a\ud800"])
def test_names_without_text_are_refused_by_their_character(name: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        entry(name=name)
    assert [p.pointer for p in caught.value.problems] == ["/name"]


def test_a_name_is_kept_in_normal_form_c() -> None:
    made = entry(name="\u00a0Bla\u030angebjergs ")
    assert made.name == "Blångebjergs"
    assert ClassEntry.from_json({**made.to_json(), "name": "Bla\u030angebjergs"}) == made
