"""CSV tables as spreadsheets write them: with a mark before the text, and with empty rows and columns at the end."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError, Problem
from model.outside.names import clean_name, name_fault


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A row that is not empty.

    Attributes:
        line: the line of the file on which it ends, from 1.
        cells: the text of each column, without spaces around it.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table with a header.

    Attributes:
        columns: names in order, each once, in normal form C.
        rows: those that are not empty.
    """

    columns: tuple[str, ...]
    rows: tuple[SheetRow, ...]


def read_sheet(
    path: Path,
    problems: list[Problem],
    *,
    name: str,
    optional: frozenset[str] = frozenset(),
    rows_are: str = "class",
) -> Sheet:
    """Read a table; rows without text, and columns without name and text, are passed over.

    Args:
        path: a CSV file in UTF-8, with or without a byte order mark, and with commas.
        problems: what is wrong is appended; a row that is too short keeps the cells that it has.
        name: what the file is called in problems.
        optional: columns whose cells may be missing at the end of a row.
        rows_are: what a row stands for.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        detail = f"expected UTF-8 text, byte {error.start} is something else"
        problems.append(Problem(pointer=name, detail=detail))
        return Sheet(columns=(), rows=())
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        problems.append(Problem(pointer=f"{name} line {reader.line_num}", detail=f"not readable as CSV: {error}"))
        return Sheet(columns=(), rows=())
    if not lines:
        problems.append(
            Problem(pointer=name, detail=f"expected a header and one row per {rows_are}, the file is empty")
        )
        return Sheet(columns=(), rows=())
    (first, header), *rest = lines
    width = max(_end(cells) for _, cells in lines)  # what spreadsheets write beyond it is empty
    columns = [clean_name(column) for column in header[:width]]
    problems += _header_faults(columns, f"{name} line {first}")
    rows = []
    for line, cells in rest:
        given = cells[: max(_end(cells), len(columns))]
        if len(given) > len(columns) or not {*optional, ""}.issuperset(columns[len(given) :]):
            detail = f"expected {len(columns)} cells as in line {first}, found {len(given)}"
            problems.append(Problem(pointer=f"{name} line {line}", detail=detail))
        else:
            given += [""] * (len(columns) - len(given))
        rows.append(SheetRow(line=line, cells={c: text for c, text in zip(columns, given, strict=False) if c}))
    return Sheet(columns=tuple(filter(None, columns)), rows=tuple(rows))


def read_number(cell: str) -> float | None:
    """A finite number as people and spreadsheets write it, with a point; None for anything else."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _end(cells: list[str]) -> int:
    """How many cells there are without empty ones at the end."""
    return max((i + 1 for i, cell in enumerate(cells) if cell), default=0)


def _header_faults(columns: list[str], where: str) -> Iterator[Problem]:
    if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
        yield Problem(pointer=where, detail="expected columns separated by commas")
        return
    for column, count in Counter(columns).items():
        if not column:
            places = ", ".join(str(i + 1) for i, name in enumerate(columns) if not name)
            yield Problem(pointer=where, detail=f"expected a name for every column, found none for column {places}")
        elif count > 1:
            yield Problem(pointer=where, detail=f"expected every column once, found {column!r} {count} times")
        elif (fault := name_fault(column)) is not None:
            yield Problem(pointer=f"{where}, column {column!r}", detail=fault)
