"""A folder of one's own photos: `images/<class>/*` and `classes.csv`, each row of which describes a class."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from model.classes import CLASS_ID_PATTERN, ClassEntry, Kind, is_class_id
from model.errors import DataError, Problem, TextError
from model.outside.folders import is_left_behind
from model.outside.names import clean_name, escaped, id_candidates, name_fault, slug
from model.outside.spreadsheets import SheetRow, read_number, read_sheet
from model.text.description import ClassText
from model.vocabulary import LARGEST_VALUE, AttributeWords
from training.features.attribute_table import TABLE as ATTRIBUTE_TABLE
from training.features.attribute_table import read_attribute_words
from training.features.text_encoder import SentenceEncoder

TABLE = "classes.csv"
IMAGES = "images"
_FIXED_COLUMNS = ("class", "split")
_OPTIONAL_COLUMNS = ("id", "description")
_SPLITS = ("seen", "unseen")
_MOST_SHARED = 5  # photos in two classes that are named one by one


@dataclass(frozen=True, kw_only=True)
class OwnPhotos:
    """A data folder that has been read and found sound; the images themselves are not opened yet.

    Attributes:
        root: the folder that holds `images` and `classes.csv`.
        classes: the C classes in the order of the table, with the ids of the table or ones made from the names.
        attribute_names: the A attribute columns in order.
        attribute_words: descriptions and units by the names of attributes, from `attributes.csv` where there is one.
        images: path relative to `root` with forward slashes, and index into `classes`; sorted by class, then path.
        warnings: sentences about what is allowed but probably not meant.
        text_encoder: what made the vectors of the classes' texts; None where they have none.
    """

    root: Path
    classes: tuple[ClassEntry, ...]
    attribute_names: tuple[str, ...]
    images: tuple[tuple[str, int], ...]
    warnings: tuple[str, ...] = ()
    attribute_words: Mapping[str, AttributeWords] = field(default_factory=dict)
    text_encoder: SentenceEncoder | None = None


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A row of the table; without `attributes` it has a problem."""

    line: int
    name: str
    split: str
    id: str  # as it stands in the table; empty where it is made from the name
    description: str
    attributes: tuple[float, ...] | None
    text: ClassText | None


def read_own_photos(
    root: Path, *, ignore_unlisted: bool = False, text_encoder: SentenceEncoder | None = None
) -> OwnPhotos:
    """Read a data folder and report everything that is wrong with it at once.

    Args:
        root: the folder that holds `images` and `classes.csv`.
        ignore_unlisted: leave out image folders that `classes.csv` does not name, with a warning, instead of failing.
        text_encoder: makes the column `description` part of what describes the classes, or all of it where there are
            no attribute columns; `|` separates sentences in a cell.

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
    names, rows = _read_table(root / TABLE, problems, text_encoder)
    described = root / ATTRIBUTE_TABLE
    words = read_attribute_words(described, names, problems) if described.is_file() else {}
    ids = _choose_ids(rows)
    folders = _read_folders(root, problems)
    owners = _owners(folders, rows, ids)
    warnings = _match(rows, folders, owners, problems, ignore_unlisted=ignore_unlisted)
    if problems:
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(f"{shown(root)} cannot be used: {count}", problems)
    classes = tuple(_entry(row, identity) for row, identity in zip(rows, ids, strict=True))
    images = sorted((owners[folder], path) for folder, paths in folders.items() if folder in owners for path in paths)
    listed = tuple((path, index) for index, path in images)
    return OwnPhotos(
        root=root,
        classes=classes,
        attribute_names=names,
        attribute_words=words,
        images=listed,
        warnings=(
            *warnings,
            *_suffixed(classes, rows),
            *_shared_photos(root, listed, classes),
            *_doubtful_attributes(classes, names),
        ),
        text_encoder=text_encoder,
    )


def shown(path: Path | str) -> str:
    """A path as it can be printed: control characters and undecodable bytes are written as escapes."""
    return escaped(str(path))


def _read_table(
    path: Path, problems: list[Problem], text_encoder: SentenceEncoder | None
) -> tuple[tuple[str, ...], list[_Row]]:
    """The attribute names and the rows of the table; what is wrong is appended to `problems`."""
    sheet = read_sheet(path, problems, name=TABLE, optional=frozenset(_OPTIONAL_COLUMNS))
    if not sheet.columns:
        return (), []
    names = tuple(column for column in sheet.columns if column not in (*_FIXED_COLUMNS, *_OPTIONAL_COLUMNS))
    missing = [column for column in _FIXED_COLUMNS if column not in sheet.columns]
    if len(sheet.columns) > 1 or not problems:  # else the columns are not told apart, which has been said
        where = f"{TABLE} line 1"
        problems += [Problem(pointer=where, detail=f"expected a column {c!r}, found none") for c in missing]
        if text_encoder is not None and "description" not in sheet.columns:
            problems.append(Problem(pointer=where, detail="expected a column 'description' to encode, found none"))
        elif text_encoder is None and not names:
            described = "description" in sheet.columns
            hint = "; with a text encoder the column 'description' can take its place" if described else ""
            detail = f"expected at least one attribute column, found none{hint}"
            problems.append(Problem(pointer=where, detail=detail))
    if missing:
        return names, []
    rows = [_read_row(row, names, problems, text_encoder) for row in sheet.rows]
    _check_classes(rows, problems)
    return names, rows


def _read_row(
    row: SheetRow, names: Sequence[str], problems: list[Problem], text_encoder: SentenceEncoder | None
) -> _Row:
    where = f"{TABLE} line {row.line}"
    faults: list[Problem] = []
    name, split = clean_name(row.cells.get("class", "")), row.cells.get("split", "")
    if not name:
        faults.append(Problem(pointer=where, detail="expected a class name, found an empty cell"))
    elif (fault := name_fault(name)) is not None:
        faults.append(Problem(pointer=f"{where}, column 'class'", detail=fault))
    if split not in _SPLITS:
        faults.append(Problem(pointer=where, detail=f"expected split 'seen' or 'unseen', found {split!r}"))
    identity = row.cells.get("id", "")
    if identity and not is_class_id(identity):
        detail = f"expected an id that fits {CLASS_ID_PATTERN}, found {identity!r}"
        faults.append(Problem(pointer=f"{where}, column 'id'", detail=detail))
    values = []
    for column in names:
        if column not in row.cells:
            continue
        cell = row.cells[column]
        value = read_number(cell)
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
    text = None
    if text_encoder is not None and "description" in row.cells:
        try:
            text = text_encoder.describe(row.cells["description"], f"{where}, column 'description'")
        except TextError as error:
            faults += error.problems
    problems += faults
    return _Row(
        line=row.line,
        name=name,
        split=split,
        id=identity,
        description=row.cells.get("description", ""),
        attributes=None if faults or len(values) < len(names) else tuple(values),
        text=text,
    )


def _entry(row: _Row, identity: str) -> ClassEntry:
    assert row.attributes is not None
    return ClassEntry(
        id=identity,
        name=row.name,
        kind=cast("Kind", row.split),
        attributes=row.attributes,
        description=row.description,
        text=row.text,
    )


def _check_classes(rows: list[_Row], problems: list[Problem]) -> None:
    """Faults that need the whole table: names and ids used twice, too few seen classes."""
    names: dict[str, _Row] = {}
    ids: dict[str, _Row] = {}
    for row in rows:
        where = f"{TABLE} line {row.line}"
        if row.name and (before := names.setdefault(row.name, row)) is not row:
            detail = f"expected every class once, {row.name!r} is also in line {before.line}"
            problems.append(Problem(pointer=where, detail=detail))
        elif row.id and (before := ids.setdefault(row.id, row)) is not row:
            detail = f"expected an id of its own, {row.id!r} is also in line {before.line}"
            problems.append(Problem(pointer=where, detail=detail))
    seen = sum(row.split == "seen" for row in rows)
    if seen < 2 and all(row.split in _SPLITS for row in rows):  # otherwise mending the rows may mend this too
        problems.append(Problem(pointer=TABLE, detail=f"expected at least 2 classes with split 'seen', found {seen}"))


def _choose_ids(rows: list[_Row]) -> list[str]:
    """Id of each row: that of the table, or the first one made from the name that no other row has."""
    taken = {row.id for row in rows if row.id}
    ids = []
    for row in rows:
        identity = row.id or next(i for i in id_candidates(row.name) if i not in taken)
        taken.add(identity)
        ids.append(identity)
    return ids


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
    """What is in a folder, sorted, without hidden files and what desktops leave behind."""
    return sorted(path for path in folder.iterdir() if not is_left_behind(path.name))


def _owners(folders: Iterable[str], rows: list[_Row], ids: list[str]) -> dict[str, int]:
    """Index of the row that each folder belongs to: by its name, its id, or the id that is made from the folder's name.

    Folders of other names have none.
    """
    by_name = {row.name: index for index, row in reversed([*enumerate(rows)])}
    by_id = {identity: index for index, identity in enumerate(ids)}
    by_slug = {slug(row.name): index for index, row in reversed([*enumerate(rows)])}
    owners = {}
    for folder in folders:
        name = clean_name(folder)
        for known, key in ((by_name, name), (by_id, name), (by_id, slug(name)), (by_slug, slug(name))):
            if key and key in known:
                owners[folder] = known[key]
                break
    return owners


def _match(
    rows: list[_Row],
    folders: Mapping[str, list[str]],
    owners: Mapping[str, int],
    problems: list[Problem],
    *,
    ignore_unlisted: bool,
) -> list[str]:
    """Check that seen classes have images and that images have a class; returns warnings."""
    warnings: list[str] = []
    folder_of: dict[int, str] = {}
    for folder, paths in folders.items():
        where = f"{IMAGES}/{shown(folder)}"
        if folder in owners:
            before = folder_of.setdefault(owners[folder], folder)
            if before != folder:
                name = rows[owners[folder]].name
                detail = f"this folder and {IMAGES}/{shown(before)} both belong to the class {name!r}"
                problems.append(Problem(pointer=where, detail=detail))
        elif rows and ignore_unlisted:
            warnings.append(f"{where} is left out: {TABLE} has no such class ({len(paths)} images)")
        elif rows:
            detail = f"expected a row for this class in {TABLE}, found none ({len(paths)} images)"
            problems.append(Problem(pointer=where, detail=detail))
    named: set[str] = {""}
    for index, row in enumerate(rows):
        again = row.name in named  # which has been said
        named.add(row.name)
        if again or folders.get(folder_of.get(index, "")):
            continue
        if row.split == "seen":
            detail = f"expected images of the seen class {row.name!r} in {IMAGES}/{row.name}, found none"
            problems.append(Problem(pointer=f"{TABLE} line {row.line}", detail=detail))
        elif row.split == "unseen":
            warnings.append(f"the unseen class {row.name!r} has no images, so it cannot be tested")
    return warnings


def _suffixed(classes: Iterable[ClassEntry], rows: Iterable[_Row]) -> Iterator[str]:
    """Warnings about ids that are not the plain ones of their names, because other classes have those."""
    for entry, row in zip(classes, rows, strict=True):
        if not row.id and entry.id != slug(entry.name):
            yield f"the class {entry.name!r} gets the id {entry.id!r}, as another one has {slug(entry.name)!r}"


def _shared_photos(root: Path, images: Sequence[tuple[str, int]], classes: Sequence[ClassEntry]) -> Iterator[str]:
    """Warnings about photos that several classes have; only files of one size are read."""
    by_size: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for path, index in images:
        with contextlib.suppress(OSError):  # a broken link, which the extraction will name
            by_size[(root / path).stat().st_size].append((path, index))
    shared = []
    for size, alike in by_size.items():
        if size and len({index for _, index in alike}) > 1:
            by_content: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
            for path, index in alike:
                by_content[_digest(root / path)].append((path, index))
            shared += [same for same in by_content.values() if len({index for _, index in same}) > 1]
    for same in sorted(shared)[:_MOST_SHARED]:
        names = [repr(classes[i].name) for i in dict.fromkeys(index for _, index in same)]
        yield f"the same photo is in the classes {', '.join(names)}: {', '.join(shown(path) for path, _ in same)}"
    if len(shared) > _MOST_SHARED:
        yield f"and {len(shared) - _MOST_SHARED} more photos are in several classes"


def _digest(file: Path) -> bytes:
    """SHA-256 of a file; of its path where it cannot be read, which the extraction will say."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError:
        return str(file).encode("utf-8", "surrogateescape")


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
    first: dict[tuple[tuple[float, ...], ClassText | None], str] = {}
    for entry in entries:
        before = first.setdefault((entry.attributes or (), entry.text), entry.name)
        if before != entry.name:
            what = "attributes" if names else "text"
            yield f"{entry.name!r} has the very {what} of {before!r}; nothing can tell them apart by description"
