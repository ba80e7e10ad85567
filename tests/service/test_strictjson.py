from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedBodyError, TooLargeError
from service.http.bodies.strictjson import MAX_DEPTH, MAX_VALUES, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc/~é", max_size=3), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_can_say_comes_back(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "line 1, column 1"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": NaN}', "/a: expected a finite number, got NaN"),
        (b'{"a/b": [0, Infinity]}', "/a~1b/1: expected a finite number"),
        (b"[-Infinity]", "/0: expected a finite number"),
        (b"[1e999, 2, -1e999]", "(?s)/0: .*/2: "),
        (b"[1" + b"0" * 400 + b"]", "/0: expected a finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' twice"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'"a\\u0000b"', r"U\+0000"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        ("[1]".encode("utf-16"), "not UTF-8"),
        (b"[" + b"9" * 5000 + b"]", "not JSON that can be read"),
        (b"[" * 50_000 + b"]" * 50_000, "deeper"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deeper"),
    ],
)
def test_what_is_not_proper_json_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(MalformedBodyError, match=words):
        loads(body)


@given(
    st.lists(
        st.tuples(st.text('a:"\\\\', max_size=2), st.sampled_from([1, "x:y", "::", {"k:": []}, None])), max_size=4
    ),
    st.booleans(),
)
def test_a_key_that_stands_twice_is_found_whatever_colons_there_are(
    pairs: list[tuple[str, object]], hide: bool
) -> None:
    body = "{" + ",".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"
    if hide:  # an escaped colon is one in the text and none in the body
        body = body.replace("x:y", "x\\u003ay").replace('"::"', '":\\u003A"')
    if len(dict(pairs)) == len(pairs):
        assert loads(body.encode()) == dict(pairs)
    else:
        with pytest.raises(MalformedBodyError, match="twice"):
            loads(body.encode())


@given(VALUES)
def test_numbers_keep_their_kind_and_sign(value: object) -> None:
    assert repr(loads(json.dumps(value).encode())) == repr(value)


def test_depth_up_to_the_limit_is_taken() -> None:
    assert loads(b"[" * (MAX_DEPTH - 1) + b"1" + b"]" * (MAX_DEPTH - 1))


def test_many_values_are_refused_before_they_take_memory() -> None:
    with pytest.raises(TooLargeError, match="values"):
        loads(b"[" + b"0," * MAX_VALUES + b"0]")
