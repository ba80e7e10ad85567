"""A GZSL benchmark in its own files: `res101.mat` beside `att_splits.mat` or `sent_splits.mat`.

N: rows, D: features, C: classes, A: attributes, k: rows of a list. Rows and labels in the files, and in errors, count
from 1.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.errors import DataError
from model.outside.names import id_candidates
from model.vocabulary import Vocabulary
from training.datasets.benchmark_rules import (
    OLD,
    USED,
    Benchmark,
    SplitRows,
    check_classes,
    check_columns,
    check_known,
    check_rows,
    recognise,
)
from training.datasets.dataset import Dataset
from training.datasets.matfile import MatFile, first

FEATURES = "res101.mat"
SPLITS = {"att": "att_splits.mat", "sent": "sent_splits.mat"}
_UNIT = 1e-3  # how far a length may be from 1 to count as 1


def is_benchmark(folder: Path) -> bool:
    """Whether a folder holds at least one of a benchmark's files."""
    return any((folder / name).is_file() for name in (FEATURES, *SPLITS.values()))


def load_benchmark(folder: Path, *, splits: str | None = None) -> Dataset:
    """Read a benchmark and hold it against every rule that training and testing rely on.

    Args:
        folder: holds `res101.mat` and `att_splits.mat` or `sent_splits.mat`.
        splits: `att` or `sent`, for a folder that holds both; by default `att` where it is there.

    Returns:
        Features float32 [N, D] in the order of the file; seen are the classes of trainval_loc, unseen the others;
        `split` says what was found, with a sentence in `split["notes"]` for what a user should know.

    Raises:
        DataError: a file is missing or unreadable, or a rule is broken: names rule, file, key and first rows.

    Example:
        >>> from training import load_benchmark
        >>> dataset = load_benchmark(BENCHMARK)
        >>> dataset.features.shape, int(dataset.seen.sum()), dataset.split["rows"]["trainval"]
        ((40, 3), 3, 18)
    """
    chosen, notes = _choose(folder, splits)
    rows_file = MatFile.read(folder / FEATURES, keys=("features", "labels"))
    split_file = MatFile.read(folder / SPLITS[chosen], keys=("att", *USED), optional=("allclasses_names", *OLD))
    stored = rows_file.matrix("features")
    labels = rows_file.whole_numbers("labels")
    attributes_AC = split_file.matrix("att")
    names = split_file.names("allclasses_names")
    lists = {key: split_file.whole_numbers(key) for key in (*USED, *OLD)}
    _refuse(folder, rows_file, split_file)
    # Nothing is None from here on but what the file may lack.
    stored, labels = cast("NDArray[Any]", stored), cast("NDArray[np.int64]", labels)
    attributes = np.ascontiguousarray(cast("NDArray[Any]", attributes_AC).T, dtype=np.float64)
    check_columns(rows_file, split_file, stored, labels, attributes, names)
    _refuse(folder, rows_file, split_file)
    rows = check_rows(split_file, {key: value for key, value in lists.items() if value is not None}, len(labels))
    _refuse(folder, rows_file, split_file)
    labels = labels - 1
    check_classes(rows_file, split_file, rows, labels)
    known = recognise(
        classes=len(attributes),
        trainval=len(rows.trainval),
        test_seen=len(rows.test_seen),
        test_unseen=len(rows.test_unseen),
    )
    if known is not None:
        check_known(rows_file, known, labels[rows.test_unseen])
    _refuse(folder, rows_file, split_file)
    features = _as_float32(rows_file, stored)
    _refuse(folder, rows_file, split_file)

    found = _Found(
        chosen=chosen, known=known, rows=rows, labels=labels, attributes=attributes, files=(rows_file, split_file)
    )
    names = names or tuple(f"class {i + 1}" for i in range(len(attributes)))
    seen = found.seen
    classes = tuple(
        ClassEntry(id=identity, name=name, kind="seen" if is_seen else "unseen", attributes=tuple(values))
        for identity, name, is_seen, values in zip(
            unique_ids(names), names, seen.tolist(), attributes.tolist(), strict=True
        )
    )
    return Dataset(
        features=features,
        labels=labels,
        classes=classes,
        vocabulary=Vocabulary.from_classes(
            [f"a{i + 1}" for i in range(attributes.shape[1])],
            attributes,
            offset=attributes[seen].mean(axis=0),
            scale=1.0,
            unit_length=True,
        ),
        trainval=rows.trainval,
        test=np.sort(np.concatenate([rows.test_seen, rows.test_unseen])),
        split={**found.described(stored), "notes": [*notes, *found.notes()]},
        data_hash=_hash(features, labels, attributes, rows, classes),
        backbone=None,
    )


def unique_ids(names: tuple[str, ...]) -> tuple[str, ...]:
    """Slugs of the names; a second class of the same slug gets `-2`."""
    taken: dict[str, None] = {}
    for name in names:
        taken[next(i for i in id_candidates(name) if i not in taken)] = None
    return tuple(taken)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """What is worth saying about a benchmark that keeps the rules."""

    chosen: str
    known: Benchmark | None
    rows: SplitRows
    labels: NDArray[np.int64]
    attributes: NDArray[np.float64]
    files: tuple[MatFile, MatFile]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which classes have rows to train on, bool [C]."""
        return np.isin(np.arange(len(self.attributes)), self.labels[self.rows.trainval])

    @property
    def lengths(self) -> tuple[float, float]:
        """The shortest and the longest attribute vector."""
        norms = np.linalg.norm(self.attributes, axis=1)
        return float(norms.min()), float(norms.max())

    @property
    def unit(self) -> bool:
        """Whether the attribute vectors are stored with length 1."""
        return max(abs(length - 1) for length in self.lengths) <= _UNIT

    def described(self, stored: NDArray[Any]) -> dict[str, Any]:
        """The split as JSON values; `stored` are the features as they are in the file."""
        rows, file = self.rows, SPLITS[self.chosen]
        what = f"{self.known.name}, {file}" if self.known else file
        with_rows = len(np.unique(self.labels))
        return {
            "rule": f"{what}: trained on trainval_loc, tested on test_seen_loc and test_unseen_loc",
            "benchmark": self.known.name if self.known else None,
            "file": file,
            "splits": self.chosen,
            "rows": {
                "trainval": len(rows.trainval),
                "test_seen": len(rows.test_seen),
                "test_unseen": len(rows.test_unseen),
            },
            "classes": {"seen": int(self.seen.sum()), "unseen": int((~self.seen).sum())},
            "classes_without_rows": len(self.attributes) - with_rows,
            "features": {"count": stored.shape[0], "stored_as": str(stored.dtype)},
            "attributes": {
                "count": self.attributes.shape[1],
                "lengths": [round(length, 4) for length in self.lengths],
                "unit_length": self.unit,
            },
            "leak": rows.leak,
            "validation_classes": len(np.unique(self.labels[rows.validation])),
            "ignored": {mat.path.name: list(mat.ignored) for mat in self.files},
        }

    def notes(self) -> list[str]:
        """A sentence for each thing that a user should know."""
        file, notes = SPLITS[self.chosen], []
        leaked = {key: count for key, count in self.rows.leak.items() if count}
        if leaked:
            counts = " and ".join(f"{count} in {key}" for key, count in leaked.items())
            notes.append(
                f"{file} is of the first version: rows of test_seen_loc are in its old lists, {counts}; unused"
            )
        if not self.unit:
            low, high = self.lengths
            notes.append(
                f"{file}: attribute vectors are not normalised, their lengths are {low:.4g} to {high:.4g}; "
                "they are centred and scaled to length 1 like all"
            )
        if self.known and self.attributes.shape[1] not in self.known.attributes:
            usual = " or ".join(map(str, self.known.attributes))
            notes.append(f"{file}: {self.attributes.shape[1]} attributes, where {self.known.name} has {usual}")
        return notes


def _choose(folder: Path, splits: str | None) -> tuple[Literal["att", "sent"], list[str]]:
    """Which file of attributes and splits to read, and what to say about it."""
    if splits is not None and splits not in SPLITS:
        raise DataError(f"splits: expected {' or '.join(SPLITS)}, got {splits!r}")
    there = [kind for kind, name in SPLITS.items() if (folder / name).is_file()]
    if not there or not (folder / FEATURES).is_file() or (splits is not None and splits not in there):
        wanted = SPLITS[splits] if splits else " or ".join(SPLITS.values())
        held = [name for name in (FEATURES, *SPLITS.values()) if (folder / name).is_file()]
        found = (", ".join(held) or "neither") if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: expected a benchmark folder with {FEATURES} and {wanted}, found {found}")
    chosen = splits or there[0]
    notes = []
    if splits is None and len(there) > 1:
        notes.append(f"{' and '.join(SPLITS[kind] for kind in there)} are both there; {SPLITS[chosen]} is used")
    return cast("Literal['att', 'sent']", chosen), notes


def _refuse(folder: Path, *files: MatFile) -> None:
    problems = [problem for file in files for problem in file.problems]
    if problems:
        count = "one rule" if len(problems) == 1 else f"{len(problems)} rules"
        raise DataError(f"{folder} breaks {count} of a benchmark", problems)


def _as_float32(file: MatFile, stored_DN: NDArray[Any]) -> NDArray[np.float32]:
    """The features as rows, float32 [N, D]."""
    with np.errstate(over="ignore"):  # what overflows is not finite then, and refused as such
        features = np.ascontiguousarray(stored_DN.T, dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(wrong):
        file.problem("features", f"expected finite numbers within float32, found others in row {first(wrong + 1)}")
    return features


def _hash(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    attributes: NDArray[np.float64],
    rows: SplitRows,
    classes: tuple[ClassEntry, ...],
) -> str:
    """sha256 over features, labels, attributes, splits and names, equal on every machine."""
    names = [(entry.id, entry.name) for entry in classes]
    hasher = hashlib.sha256(json.dumps({"features": features.shape, "classes": names}).encode())
    hasher.update(features.astype("<f4", copy=False).data)
    for numbers in (labels, rows.trainval, rows.test_seen, rows.test_unseen):
        hasher.update(np.ascontiguousarray(numbers, dtype="<i8").data)
    hasher.update(attributes.astype("<f8", copy=False).data)
    return hasher.hexdigest()
