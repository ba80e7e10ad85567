"""Classes and attributes as people write them: flags, JSON files, CSV tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from model.errors import DataError, Problem

_WORDS = ("id", "name", "class", "description")


def read_attributes(text: str) -> Any:
    """The attributes of a flag: JSON, @ and a file with JSON, or name=number pairs.

    Raises:
        DataError: it is neither.
    """
    if text.startswith("@"):
        return _read_json(Path(text[1:]))
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise DataError(f"--attributes is not JSON: {error}") from None
    values, problems = {}, []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = pair.rpartition("=")
        try:
            values[name.strip()] = float(number) if equals else float("")
        except ValueError:
            problems.append(Problem(pointer="--attributes", detail=f"expected name=number, got {pair!r}"))
    if problems:
        raise DataError("the attributes cannot be read", problems)
    return values


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None


def read_documents(file: Path) -> list[dict[str, Any]]:
    """The classes of a JSON list or of a CSV file like the training's `classes.csv`.

    Raises:
        DataError: the file cannot be read; names each line that is wrong.
    """
    if file.suffix.lower() == ".json":
        found = _read_json(file)
        if not isinstance(found, list) or not all(isinstance(item, dict) and "name" in item for item in found):
            raise DataError(f"{file}: expected a JSON list of objects with a name")
        return found
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not CSV: {error}") from None
    if not rows or not {"name", "class"} & set(rows[0]):
        raise DataError(f"{file}: expected a header with the column class or name, and a row per class")
    problems: list[Problem] = []
    documents = [_from_row(row, f"{file}:{line}", problems) for line, row in enumerate(rows, 2)]
    if problems:
        raise DataError("the classes cannot be read", problems)
    return documents


def _from_row(row: dict[Any, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    if None in row or None in row.values():
        problems.append(Problem(pointer=where, detail="expected as many cells as the header has"))
        return {}
    attributes = {}
    for column, cell in row.items():
        if column in (*_WORDS, "split"):
            continue
        try:
            attributes[column] = float(cell)
        except ValueError:
            problems.append(Problem(pointer=where, detail=f"expected a number for {column}, got {cell!r}"))
    return {
        "id": row.get("id") or None,
        "name": row.get("name") or row["class"],
        "description": row.get("description"),
        "attributes": attributes,
    }
