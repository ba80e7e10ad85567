"""The error tree."""

from __future__ import annotations

from model import errors
from model.errors import D3GZSLError, InvalidInputError, Problem


def test_every_error_is_one_of_ours_and_in_the_drawing() -> None:
    drawn = errors.__doc__ or ""
    classes = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(classes) > 5
    for error in classes:
        assert issubclass(error, D3GZSLError)
        assert error.__name__ in drawn


def test_an_invalid_input_prints_each_problem_on_its_line() -> None:
    error = InvalidInputError("bad", [Problem(pointer="/a/0", detail="expected x"), Problem(pointer="", detail="y")])
    assert str(error) == "bad\n  /a/0: expected x\n  y"
    assert error.message == "bad"


def test_problems_may_come_from_a_generator() -> None:
    error = InvalidInputError("bad", (Problem(pointer=f"/{i}", detail="no") for i in range(3)))
    assert [p.pointer for p in error.problems] == ["/0", "/1", "/2"]
