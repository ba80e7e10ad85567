"""`attributes.csv` beside `classes.csv`: what attributes mean and in which unit they are, for people."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import Problem
from model.outside.names import clean_name, text_fault
from model.outside.similar import MAX_GUESSED_NAME
from model.outside.spreadsheets import SheetRow, read_sheet
from model.vocabulary import AttributeWords

TABLE = "attributes.csv"
_NAME, _DESCRIPTION, _UNIT = COLUMNS = ("name", "description", "unit")
_MOST_GUESSED = 20
_LONGEST = {_DESCRIPTION: 1000, _UNIT: 50}


def read_attribute_words(
    path: Path, attributes: Sequence[str], problems: list[Problem]
) -> Mapping[str, AttributeWords]:
    """Descriptions and units by the names of attributes; attributes without a row have none.

    Args:
        path: the table, a CSV file with the column `name` and the columns `description` and `unit` or one of them.
        attributes: names of the attributes that there are; with none, names are not checked.
        problems: what is wrong is appended.

    Raises:
        DataError: the file cannot be read.
    """
    sheet = read_sheet(path, problems, name=TABLE, optional=frozenset((_DESCRIPTION, _UNIT)), rows_are="attribute")
    where = f"{TABLE} line 1"
    for column in sheet.columns:
        if column not in COLUMNS:
            detail = f"expected the columns {_NAME}, {_DESCRIPTION} and {_UNIT}, found {column!r}"
            problems.append(Problem(pointer=where, detail=detail))
    if not sheet.columns:
        return {}
    if not {_DESCRIPTION, _UNIT} & {*sheet.columns}:
        detail = f"expected a column {_DESCRIPTION!r} or {_UNIT!r}, found neither"
        problems.append(Problem(pointer=where, detail=detail))
    if _NAME not in sheet.columns:
        problems.append(Problem(pointer=where, detail=f"expected a column {_NAME!r}, found none"))
        return {}
    words: dict[str, AttributeWords] = {}
    lines: dict[str, int] = {}
    for row in sheet.rows:
        name = clean_name(row.cells.get(_NAME, ""))
        if (fault := _fault(name, attributes, lines, guess=len(problems) < _MOST_GUESSED)) is not None:
            problems.append(Problem(pointer=f"{TABLE} line {row.line}", detail=fault))
        lines.setdefault(name, row.line)
        words[name] = AttributeWords(description=_text(row, _DESCRIPTION, problems), unit=_text(row, _UNIT, problems))
    return words


def _fault(name: str, attributes: Sequence[str], lines: Mapping[str, int], *, guess: bool) -> str | None:
    """What is wrong with the name in a row, or None."""
    if not name:
        return "expected the name of an attribute, found an empty cell"
    if name in lines:
        return f"expected every attribute once, {name!r} is also in line {lines[name]}"
    if attributes and name not in attributes:
        close = difflib.get_close_matches(name, attributes, n=3) if guess and len(name) <= MAX_GUESSED_NAME else []
        similar = f"; did you mean {', '.join(close)}?" if close else ""
        return f"expected an attribute of classes.csv, found {name!r}{similar}"
    return None


def _text(row: SheetRow, column: str, problems: list[Problem]) -> str:
    """A cell with its line breaks as spaces."""
    text = " ".join(row.cells.get(column, "").split())
    if (fault := text_fault(text, longest=_LONGEST[column])) is not None:
        problems.append(Problem(pointer=f"{TABLE} line {row.line}, column {column!r}", detail=fault))
    return text
