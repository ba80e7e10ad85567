"""A folder of one's own photos: `images/<class>/*` and `classes.csv` with one row of attributes per class."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from model.classes import MAX_NAME_LENGTH, ClassEntry, Kind, slug
from model.errors import DataError, Problem
from model.vocabulary import LARGEST_VALUE

TABLE = "classes.csv"
IMAGES = "images"
_FIXED_COLUMNS = ("class", "split")
_SPLITS = ("seen", "unseen")
_DESKTOP_FILES = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True, kw_only=True)
class OwnPhotos:
    """A data folder that has been read and found sound; the images themselves are not opened yet.

    Attributes:
        root: the folder that holds `images` and `classes.csv`.
        classes: the C classes in the order of the table; an id is the slug of the name.
        attribute_names: the A attribute columns in order.
        images: path relative to `root` with forward slashes, and index into `classes`; sorted by class, then path.
        warnings: sentences about what is allowed but probably not meant.
    """

    root: Path
    classes: tuple[ClassEntry, ...]
    attribute_names: tuple[str, ...]
    images: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    line: int
    name: str
    split: str
    entry: ClassEntry | None  # None where the row has a problem


def read_own_photos(root: Path, *, ignore_unlisted: bool = False) -> OwnPhotos:
    """Read a data folder and report everything that is wrong with it at once.

    Args:
        root: the folder that holds `images` and `classes.csv`.
        ignore_unlisted: leave out image folders that `classes.csv` does not name, with a warning, instead of failing.

    Raises:
        DataError: with one problem per fault: columns, rows, values, splits, classes without images, images
            without class.

    Example:
        >>> from training import read_own_photos
        >>> photos = read_own_photos(PHOTOS)
        >>> len(photos.images), photos.attribute_names
        (64, ('red', 'green', 'blue'))
    """
    missing = [
        Problem(pointer=shown(root / name), detail=f"expected a {what}, found none")
        for name, what, there in (
            (TABLE, "table of classes", (root / TABLE).is_file()),
            (IMAGES, "folder with one folder of images per class", (root / IMAGES).is_dir()),
        )
        if not there
    ]
    if missing:
        raise DataError(f"{shown(root)} is not a data folder", missing)
    problems: list[Problem] = []
    names, rows = _read_table(root / TABLE, problems)
    folders = _read_folders(root, problems)
    warnings = _match(rows, folders, problems, ignore_unlisted=ignore_unlisted)
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{shown(root)} cannot be used: {count}", problems)
    classes = tuple(row.entry for row in rows if row.entry is not None)
    position = {entry.id: index for index, entry in enumerate(classes)}
    images = sorted(
        (position[slug(folder)], path)
        for folder, paths in folders.items()
        if slug(folder) in position
        for path in paths
    )
    return OwnPhotos(
        root=root,
        classes=classes,
        attribute_names=names,
        images=tuple((path, index) for index, path in images),
        warnings=(*warnings, *_doubtful_attributes(classes, names)),
    )


def shown(path: Path | str) -> str:
    """A path as it can be printed: control characters and undecodable bytes are written as escapes."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def _read_table(path: Path, problems: list[Problem]) -> tuple[tuple[str, ...], list[_Row]]:
    """The attribute names and the rows of the table; what is wrong is appended to `problems`."""
    try:
        reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except UnicodeDecodeError as error:
        problems.append(Problem(pointer=TABLE, detail=f"expected UTF-8 text, byte {error.start} is something else"))
        return (), []
    except csv.Error as error:
        problems.append(Problem(pointer=f"{TABLE} line {reader.line_num}", detail=f"not readable as CSV: {error}"))
        return (), []
    if not lines:
        problems.append(Problem(pointer=TABLE, detail="expected a header and one row per class, the file is empty"))
        return (), []
    header = lines[0][1]
    names = tuple(column for column in header if column not in _FIXED_COLUMNS)
    faults = list(_header_faults(header))
    problems += faults
    if any(column not in header for column in _FIXED_COLUMNS):
        return names, []
    rows = [_read_row(line, header, cells, problems) for line, cells in lines[1:]]
    _check_classes(rows, problems)
    return names, rows


def _header_faults(header: list[str]) -> Iterator[Problem]:
    where = f"{TABLE} line 1"
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        yield Problem(pointer=where, detail="expected columns separated by commas")
        return
    for column in _FIXED_COLUMNS:
        if column not in header:
            yield Problem(pointer=where, detail=f"expected a column {column!r}, found none")
    for column, count in Counter(header).items():
        if not column:
            places = ", ".join(str(i + 1) for i, name in enumerate(header) if not name)
            yield Problem(pointer=where, detail=f"expected a name for every column, found none for column {places}")
        elif count > 1:
            yield Problem(pointer=where, detail=f"expected every column once, found {column!r} {count} times")
    if not set(header) - {*_FIXED_COLUMNS, ""}:
        yield Problem(pointer=where, detail="expected at least one attribute column, found none")


def _read_row(line: int, header: list[str], cells: list[str], problems: list[Problem]) -> _Row:
    where = f"{TABLE} line {line}"
    faults: list[Problem] = []
    if len(cells) != len(header):
        faults.append(Problem(pointer=where, detail=f"expected {len(header)} cells as in line 1, found {len(cells)}"))
    row = dict(zip(header, cells, strict=False))
    name, split = row.get("class", ""), row.get("split", "")
    if not name:
        faults.append(Problem(pointer=where, detail="expected a class name, found an empty cell"))
    elif not slug(name):
        faults.append(
            Problem(pointer=where, detail=f"expected a class name with Latin letters or digits, found {name!r}")
        )
    elif len(name) > MAX_NAME_LENGTH:
        faults.append(
            Problem(
                pointer=where, detail=f"expected a class name of 1 to {MAX_NAME_LENGTH} characters, found {len(name)}"
            )
        )
    if split not in _SPLITS:
        faults.append(Problem(pointer=where, detail=f"expected split 'seen' or 'unseen', found {split!r}"))
    values = []
    for column, cell in zip(header, cells, strict=False):
        if column in _FIXED_COLUMNS:
            continue
        value = _number(cell)
        if value is None:
            found = f"{cell!r}" if cell else "an empty cell"
            what = f" of class {name!r}" if name else ""
            faults.append(
                Problem(pointer=f"{where}, column {column!r}", detail=f"expected a finite number{what}, found {found}")
            )
        elif abs(value) > LARGEST_VALUE:
            detail = f"expected a number of at most {LARGEST_VALUE:g} in size, found {cell}"
            faults.append(Problem(pointer=f"{where}, column {column!r}", detail=detail))
        else:
            values.append(value)
    problems += faults
    if faults:
        return _Row(line, name, split, None)
    entry = ClassEntry(id=slug(name), name=name, kind=cast("Kind", split), attributes=tuple(values))
    return _Row(line, name, split, entry)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _check_classes(rows: list[_Row], problems: list[Problem]) -> None:
    """Faults that need the whole table: names and ids used twice, too few seen classes."""
    first: dict[str, _Row] = {}
    for row in rows:
        identity = slug(row.name)
        before = first.setdefault(identity, row) if identity else row
        if before is row:
            continue
        if before.name == row.name:
            detail = f"expected every class once, {row.name!r} is also in line {before.line}"
        else:
            detail = f"{row.name!r} and {before.name!r} of line {before.line} both give the id {identity!r}"
        problems.append(Problem(pointer=f"{TABLE} line {row.line}", detail=detail))
    seen = sum(row.split == "seen" for row in rows)
    if seen < 2 and all(row.split in _SPLITS for row in rows):  # otherwise mending the rows may mend this too
        problems.append(Problem(pointer=TABLE, detail=f"expected at least 2 classes with split 'seen', found {seen}"))


def _read_folders(root: Path, problems: list[Problem]) -> dict[str, list[str]]:
    """Names of the class folders, and the files in each, as paths relative to the root."""
    folders: dict[str, list[str]] = {}
    for folder in _visible(root / IMAGES):
        where = f"{IMAGES}/{shown(folder.name)}"
        if not folder.is_dir():
            problems.append(Problem(pointer=where, detail="expected a folder per class here, found a file"))
            continue
        files = _visible(folder)
        problems += [
            Problem(pointer=f"{where}/{shown(file.name)}", detail="expected an image here, found a folder")
            for file in files
            if file.is_dir()
        ]
        folders[folder.name] = [f"{IMAGES}/{folder.name}/{file.name}" for file in files]
    return folders


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden files and what file managers leave behind."""
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name.lower() not in _DESKTOP_FILES)


def _match(
    rows: list[_Row], folders: dict[str, list[str]], problems: list[Problem], *, ignore_unlisted: bool
) -> list[str]:
    """Check that seen classes have images and that images have a class; returns warnings."""
    warnings: list[str] = []
    by_id: dict[str, str] = {}
    listed = {slug(row.name) for row in rows}
    for folder, paths in folders.items():
        where, identity = f"{IMAGES}/{shown(folder)}", slug(folder)
        before = by_id.setdefault(identity, folder)
        if before != folder and identity in listed:
            detail = f"this folder and {IMAGES}/{shown(before)} both belong to the class with the id {identity!r}"
            problems.append(Problem(pointer=where, detail=detail))
        if rows and identity not in listed:
            if ignore_unlisted:
                warnings.append(f"{where} is left out: {TABLE} has no such class ({len(paths)} images)")
            else:
                detail = f"expected a row for this class in {TABLE}, found none ({len(paths)} images)"
                problems.append(Problem(pointer=where, detail=detail))
    for row in rows:
        if not slug(row.name) or folders.get(by_id.get(slug(row.name), "")):
            continue
        if row.split == "seen":
            detail = f"expected images of the seen class {row.name!r} in {IMAGES}/{row.name}, found none"
            problems.append(Problem(pointer=f"{TABLE} line {row.line}", detail=detail))
        elif row.split == "unseen":
            warnings.append(f"the unseen class {row.name!r} has no images, so it cannot be tested")
    return warnings


def _doubtful_attributes(classes: Iterable[ClassEntry], names: tuple[str, ...]) -> Iterator[str]:
    """Warnings about descriptions that cannot do their work."""
    entries = list(classes)
    if all(entry.kind == "seen" for entry in entries):
        yield "no class is unseen, so nothing unseen can be tested"
    constant = [
        name
        for name, column in zip(names, zip(*(e.attributes for e in entries), strict=True), strict=True)
        if len(set(column)) == 1
    ]
    if constant:
        yield f"the same value for every class, so of no use: {', '.join(constant)}"
    first: dict[tuple[float, ...], str] = {}
    for entry in entries:
        before = first.setdefault(entry.attributes, entry.name)
        if before != entry.name:
            yield f"{entry.name!r} has the very attributes of {before!r}; nothing can tell them apart by description"
