"""Descriptions of classes by attributes: what is taken, what is filled in, and every problem named at once."""

from __future__ import annotations

import json
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from model.errors import AttributesError, BundleError
from model.vocabulary import Attribute, Vocabulary


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.from_classes(
        ["stripes", "hooves", "ocean"],
        [[0, 10, 100], [100, 30, 100], [50, 20, 40]],
        offset=0.0,
        scale=100.0,
        unit_length=False,
    )


def problems(vocabulary: Vocabulary, given: object) -> dict[str, str]:
    with pytest.raises(AttributesError) as caught:
        vocabulary.resolve(given)  # type: ignore[arg-type]
    return {p.pointer: p.detail for p in caught.value.problems}


def test_ranges_and_means_are_those_of_the_classes(vocabulary: Vocabulary) -> None:
    assert vocabulary.names == ("stripes", "hooves", "ocean")
    assert len(vocabulary) == 3
    assert vocabulary.attributes == (
        Attribute(name="stripes", min=0, max=100, mean=50),
        Attribute(name="hooves", min=10, max=30, mean=20),
        Attribute(name="ocean", min=40, max=100, mean=80),
    )


def test_a_list_is_taken_in_order(vocabulary: Vocabulary) -> None:
    values, filled = vocabulary.resolve([1, 2.5, np.float32(3)])
    assert values.tolist() == [1, 2.5, 3]
    assert values.dtype == np.float64
    assert filled == ()


def test_an_object_is_taken_by_name_and_filled_with_means(vocabulary: Vocabulary) -> None:
    values, filled = vocabulary.resolve({"ocean": 7})
    assert values.tolist() == [50, 20, 7]
    assert filled == ("stripes", "hooves")


def test_values_outside_the_range_are_named_not_refused(vocabulary: Vocabulary) -> None:
    values, _ = vocabulary.resolve([-1, 30, 101])
    assert vocabulary.out_of_range(values) == ("stripes", "ocean")


@pytest.mark.parametrize("length", [0, 2, 4])
def test_a_list_of_another_length_is_refused(vocabulary: Vocabulary, length: int) -> None:
    assert problems(vocabulary, [1] * length) == {
        "/attributes": f"expected 3 numbers in vocabulary order, got {length}"
    }


NOT_NUMBERS = [True, "7", None, [1], {}, b"1", 1j, np.complex64(1), np.bool_(True)]
NOT_FINITE = [math.nan, math.inf, -math.inf, np.float32("inf"), 10**400, -(10**5000)]
TOO_LARGE = [1e13, -1e300, 10**20]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        *((v, "expected a number, got") for v in NOT_NUMBERS),
        *((v, "expected a finite number, got") for v in NOT_FINITE),
        *((v, "expected a number of at most 1e+12 in size, got") for v in TOO_LARGE),
    ],
    ids=lambda v: repr(v)[:20] if not isinstance(v, int) or abs(v) < 10**21 else "huge",
)
def test_what_is_no_usable_number_is_named(vocabulary: Vocabulary, value: object, complaint: str) -> None:
    found = problems(vocabulary, [1, value, 2])
    assert list(found) == ["/attributes/1"]
    assert found["/attributes/1"].startswith(complaint)
    found = problems(vocabulary, {"hooves": value})
    assert list(found) == ["/attributes/hooves"]
    assert found["/attributes/hooves"].startswith(complaint)


def test_every_problem_is_named_at_once(vocabulary: Vocabulary) -> None:
    assert list(problems(vocabulary, [math.nan, "x", True])) == ["/attributes/0", "/attributes/1", "/attributes/2"]
    found = problems(vocabulary, {"strips": 1, "hooves": None, "ocean": 5, "a/b~c": 2})
    assert found == {
        "/attributes/strips": "no such attribute in the vocabulary; did you mean stripes?",
        "/attributes/hooves": "expected a number, got NoneType",
        "/attributes/a~1b~0c": "no such attribute in the vocabulary",
    }


@pytest.mark.parametrize("given", ["1,2,3", b"123", 5, None, {1, 2, 3}], ids=str)
def test_neither_list_nor_object_is_refused(vocabulary: Vocabulary, given: object) -> None:
    found = problems(vocabulary, given)
    assert found == {"/attributes": f"expected a list or an object, got {type(given).__name__}"}


def test_an_empty_object_is_refused(vocabulary: Vocabulary) -> None:
    assert problems(vocabulary, {}) == {"/attributes": "expected at least one named attribute, got none"}


def test_the_pointer_prefix_is_the_callers(vocabulary: Vocabulary) -> None:
    with pytest.raises(AttributesError) as caught:
        vocabulary.resolve({"x": 1}, pointer="/classes/4/attributes")
    assert caught.value.problems[0].pointer == "/classes/4/attributes/x"


def test_normalising_is_offset_then_scale() -> None:
    vocabulary = Vocabulary(
        attributes=tuple(Attribute(name=n, min=0, max=1, mean=0) for n in "ab"),
        offset=(1.0, -2.0),
        scale=(2.0, 4.0),
        unit_length=False,
    )
    normalised = vocabulary.normalise([[5, 6], [1, -2]])
    assert normalised.dtype == np.float32
    assert normalised.tolist() == [[2, 2], [0, 0]]


@given(st.lists(st.floats(-1e12, 1e12), min_size=3, max_size=3))
def test_unit_length_divides_by_the_length(values: list[float]) -> None:
    vocabulary = Vocabulary.from_classes(["a", "b", "c"], np.eye(3), offset=0, scale=1, unit_length=True)
    length = math.sqrt(sum(v * v for v in values))
    assume(length > 1e-6)
    np.testing.assert_allclose(vocabulary.normalise(values), [v / length for v in values], rtol=1e-6, atol=1e-30)


def test_the_zero_vector_stays_zero() -> None:
    vocabulary = Vocabulary.from_classes(["a", "b"], np.eye(2), offset=0, scale=1, unit_length=True)
    assert vocabulary.normalise([0, 0]).tolist() == [0, 0]


def test_it_survives_json(vocabulary: Vocabulary) -> None:
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_whole_numbers_have_one_json_form() -> None:
    """The bundle id is a hash of this JSON: 1 and 1.0 must not give two ids."""
    ints = Vocabulary(
        attributes=(Attribute(name="a", min=0, max=1, mean=0),), offset=(0,), scale=(1,), unit_length=False
    )
    floats = Vocabulary(
        attributes=(Attribute(name="a", min=0.0, max=1.0, mean=0.0),), offset=(0.0,), scale=(1.0,), unit_length=False
    )
    assert json.dumps(ints.to_json()) == json.dumps(floats.to_json())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"attributes": []}, "empty"),
        ({"attributes": [{"name": "a", "min": 0, "max": 1, "mean": 0}] * 2}, "a name twice"),
        ({"offset": [0]}, "other lengths"),
        ({"scale": [1, 1, 1]}, "other lengths"),
        ({"scale": [1, 0]}, "above 0"),
        ({"scale": [1, -1]}, "above 0"),
        ({"scale": [1, math.nan]}, "not finite"),
        ({"offset": [1, math.inf]}, "not finite"),
    ],
    ids=str,
)
def test_a_vocabulary_that_makes_no_sense_is_refused(change: dict[str, object], complaint: str) -> None:
    fields = {
        "attributes": [{"name": n, "min": 0, "max": 1, "mean": 0} for n in "ab"],
        "offset": [0, 0],
        "scale": [1, 1],
        "unit_length": False,
    }
    with pytest.raises(BundleError, match=complaint):
        Vocabulary.from_json({**fields, **change})


def test_attributes_are_found_in_either_normal_form() -> None:
    vocabulary = Vocabulary.from_classes(["größe", "red"], np.eye(2), offset=0, scale=1, unit_length=False)
    decomposed = unicodedata.normalize("NFD", "größe")
    values, filled = vocabulary.resolve({decomposed: 1.0})
    assert (values.tolist(), filled) == ([1.0, 0.5], ("red",))
    with pytest.raises(AttributesError, match="in two spellings"):
        vocabulary.resolve({decomposed: 1.0, "größe": 1.0})
