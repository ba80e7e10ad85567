"""Classes and attributes as people write them: flags, JSON files, CSV tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.errors import DataError, Problem
from model.outside.spreadsheets import SheetRow, read_number, read_sheet

_WORDS = frozenset({"id", "name", "class", "description", "split", "like"})


def read_attributes(text: str) -> Any:
    """The attributes of a flag: JSON, @ and a file with JSON, or name=number pairs.

    Raises:
        DataError: it is neither.
    """
    if text.startswith("@"):
        return _read_json(Path(text[1:]))
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise DataError(f"--attributes is not JSON: {error}") from None
    values, problems = {}, []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = pair.rpartition("=")
        value = read_number(number) if equals else None
        if value is None:
            problems.append(Problem(pointer="--attributes", detail=f"expected name=number, got {pair!r}"))
        else:
            values[name.strip()] = value
    if problems:
        raise DataError("the attributes cannot be read", problems)
    return values


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected finite numbers, got {name}")


def read_documents(file: Path, *, by_text: bool = False) -> list[dict[str, Any]]:
    """The classes of a JSON list or of a CSV file like the training's `classes.csv`.

    Args:
        file: JSON or CSV.
        by_text: whether the column `description` of a CSV file describes the classes, `|` between its sentences, as it
            does in a training with a text encoder.

    Raises:
        DataError: the file cannot be read; names each line that is wrong.
    """
    if file.suffix.lower() == ".json":
        found = _read_json(file)
        if not isinstance(found, list) or not all(isinstance(item, dict) and "name" in item for item in found):
            raise DataError(f"{file}: expected a JSON list of objects with a name")
        return found
    problems: list[Problem] = []
    sheet = read_sheet(file, problems, name=str(file), optional=_WORDS - {"class", "name"})
    if sheet.columns and not {"name", "class"} & set(sheet.columns):
        raise DataError(f"{file}: expected a header with the column class or name, and a row per class", problems)
    if not sheet.rows and not problems:
        raise DataError(f"{file}: expected a header with the column class or name, and a row per class")
    documents = [_from_row(row, f"{file} line {row.line}", problems, by_text=by_text) for row in sheet.rows]
    if problems:
        raise DataError("the classes cannot be read", problems)
    return documents


def _from_row(row: SheetRow, where: str, problems: list[Problem], *, by_text: bool) -> dict[str, Any]:
    name = row.cells.get("name") or row.cells.get("class", "")
    if not name:
        problems.append(Problem(pointer=where, detail="expected a class name, found an empty cell"))
    attributes = {}
    for column, cell in row.cells.items():
        if column in _WORDS:
            continue
        if not cell and row.cells.get("like"):
            continue
        value = read_number(cell)
        if value is None:
            found = repr(cell) if cell else "an empty cell"
            detail = f"expected a finite number of class {name!r}, found {found}"
            problems.append(Problem(pointer=f"{where}, column {column!r}", detail=detail))
        else:
            attributes[column] = value
    description = row.cells.get("description") or None
    text = [part for part in map(str.strip, description.split("|")) if part] if by_text and description else None
    return {
        "id": row.cells.get("id") or None,
        "name": name,
        "description": description,
        "text": text or None,
        "attributes": attributes or (None if text or row.cells.get("like") else {}),
        "like": row.cells.get("like") or None,
    }
