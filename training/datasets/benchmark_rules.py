"""The rules that the files of a benchmark must keep, and the sizes of the public ones, to know them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.vocabulary import LARGEST_VALUE
from training.datasets.dataset import MIN_TRAINING_ROWS
from training.datasets.matfile import MatFile, first, shape


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A public benchmark under the proposed split.

    Attributes:
        name: of its folder in xlsa17.
        images: rows of features.
        seen: seen classes.
        unseen: unseen classes.
        attributes: numbers of attributes of its published descriptions.
        trainval: rows to train on.
        test_seen: rows of seen classes to test on.
        test_unseen: rows of unseen classes.
        unseen_ids: 0-based labels of the unseen classes; empty where they are not published.
    """

    name: str
    images: int
    seen: int
    unseen: int
    attributes: tuple[int, ...]
    trainval: int
    test_seen: int
    test_unseen: int
    unseen_ids: frozenset[int]


def _ids(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split()))


_AWA = _ids("6 8 22 23 29 30 33 40 46 49")
_CUB = _ids(
    "6 18 20 28 33 35 49 55 61 67 68 71 78 79 86 87 90 94 97 99 103 107 115 119 121 123 124 128 138 140 141 149 151 "
    "156 158 159 165 166 170 173 175 178 181 184 186 188 190 191 192 194"
)
_SUN = _ids(
    "3 10 23 24 32 38 53 57 72 74 75 85 95 99 103 112 124 130 138 145 152 158 184 196 216 221 237 245 246 254 259 262 "
    "286 298 315 328 336 342 353 358 379 381 420 423 425 440 448 471 482 493 508 509 517 529 558 560 580 622 631 635 "
    "645 650 656 658 674 679 681 695 710 711 712 715"
)
_APY = _ids("9 12 13 14 15 16 18 19 20 22 24 28")


def _row(
    name: str,
    images: int,
    classes: tuple[int, int],
    attributes: tuple[int, ...],
    rows: tuple[int, int, int],
    ids: frozenset[int],
) -> Benchmark:
    return Benchmark(
        name=name,
        images=images,
        seen=classes[0],
        unseen=classes[1],
        attributes=attributes,
        trainval=rows[0],
        test_seen=rows[1],
        test_unseen=rows[2],
        unseen_ids=ids,
    )


KNOWN: Mapping[str, Benchmark] = {
    known.name: known
    for known in (
        _row("AWA1", 30475, (40, 10), (85,), (19832, 4958, 5685), _AWA),
        _row("AWA2", 37322, (40, 10), (85,), (23527, 5882, 7913), _AWA),
        _row("CUB", 11788, (150, 50), (312, 1024), (7057, 1764, 2967), _CUB),
        _row("SUN", 14340, (645, 72), (102,), (10320, 2580, 1440), _SUN),
        _row("APY", 15339, (20, 12), (64,), (5932, 1483, 7924), _APY),
        _row("FLO", 8189, (82, 20), (1024,), (5631, 1403, 1155), frozenset()),
    )
}


def recognise(*, classes: int, trainval: int, test_seen: int, test_unseen: int) -> Benchmark | None:
    """The benchmark with these numbers of classes and rows; None where it is another data set or split."""
    for known in KNOWN.values():
        sizes = (known.seen + known.unseen, known.trainval, known.test_seen, known.test_unseen)
        if sizes == (classes, trainval, test_seen, test_unseen):
            return known
    return None


USED = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
OLD = ("train_loc", "val_loc")  # in the first files they hold rows of test_seen_loc


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitRows:
    """The lists of a split, 0-based and ascending, int64 [k].

    Attributes:
        trainval: rows to train on.
        test_seen: rows of seen classes to test on.
        test_unseen: rows of unseen classes.
        validation: rows of val_loc that are in trainval; none where the file lacks val_loc.
        leak: for train_loc and val_loc, where the file has them, how many rows of test_seen they hold.
    """

    trainval: NDArray[np.int64]
    test_seen: NDArray[np.int64]
    test_unseen: NDArray[np.int64]
    validation: NDArray[np.int64]
    leak: dict[str, int]


def check_columns(
    rows_file: MatFile,
    split_file: MatFile,
    features_DN: NDArray[Any],
    labels: NDArray[np.int64],
    attributes_CA: NDArray[np.float64],
    names: tuple[str, ...] | None,
) -> None:
    """One label per column of features, one class per column of attributes; labels 1..C; every class described."""
    rows, classes = len(labels), len(attributes_CA)
    if features_DN.shape[1] != rows:
        turned = "; it looks transposed" if features_DN.shape[0] == rows else ""
        rule = f"expected one column per label, D x {rows}"
        rows_file.problem("features", f"{rule}, found {shape(features_DN)}{turned}")
    if names is not None and len(names) != classes:
        turned = "; att looks transposed" if attributes_CA.shape[1] == len(names) else ""
        rule = f"expected one name per column of att ({classes})"
        split_file.problem("allclasses_names", f"{rule}, found {len(names)}{turned}")
    if len(wrong := np.flatnonzero((labels < 1) | (labels > classes))):
        entries = first(f"{labels[i]} in row {i + 1}" for i in wrong)
        rows_file.problem("labels", f"expected columns of att, 1..{classes}, found {entries}")
    bad = ~(np.abs(attributes_CA) <= LARGEST_VALUE).all(axis=1)  # also where a value is not a number
    if bad.any():
        columns = first(np.flatnonzero(bad) + 1)
        split_file.problem(
            "att", f"expected finite numbers of at most {LARGEST_VALUE:g}, found others in column {columns}"
        )
    empty = ~bad & ~attributes_CA.any(axis=1)
    if empty.any():
        columns = first(np.flatnonzero(empty) + 1)
        split_file.problem("att", f"expected attributes for every class, found zeros only in column {columns}")


def check_rows(file: MatFile, lists: Mapping[str, NDArray[np.int64]], count: int) -> SplitRows:
    """Every list within 1..N; trainval_loc, test_seen_loc and test_unseen_loc hold every row exactly once."""
    inside: dict[str, NDArray[np.int64]] = {}
    for key, entries in lists.items():
        wrong = np.flatnonzero((entries < 1) | (entries > count))
        if len(wrong):
            found = first(f"{entries[i]} at entry {i + 1}" for i in wrong)
            file.problem(key, f"expected rows of res101.mat, 1..{count}, found {found}")
        inside[key] = np.unique(entries[(entries >= 1) & (entries <= count)] - 1)
    for key in USED:
        rows, times = np.unique(lists[key], return_counts=True)
        if (times > 1).any():
            file.problem(key, f"expected every row once, found row {first(rows[times > 1])} more than once")
    for index, key in enumerate(USED):
        for other in USED[:index]:
            both = np.intersect1d(inside[key], inside[other])
            if len(both):
                file.problem(key, f"expected no row of {other}, found {len(both)}: row {first(both + 1)}")
    uncovered = np.setdiff1d(np.arange(count), np.concatenate([inside[key] for key in USED]))
    if len(uncovered):
        rule = f"expected each of the {count} rows in one of these lists"
        file.problem(", ".join(USED), f"{rule}, {len(uncovered)} are in none: row {first(uncovered + 1)}")
    leak = {key: len(np.intersect1d(inside[key], inside["test_seen_loc"])) for key in OLD if key in inside}
    return SplitRows(
        trainval=inside["trainval_loc"],
        test_seen=inside["test_seen_loc"],
        test_unseen=inside["test_unseen_loc"],
        validation=np.intersect1d(inside.get("val_loc", np.empty(0, np.int64)), inside["trainval_loc"]),
        leak=leak,
    )


def check_classes(rows_file: MatFile, split_file: MatFile, rows: SplitRows, labels: NDArray[np.int64]) -> None:
    """Seen and unseen classes are disjoint, seen test classes are trained on, and with enough rows.

    Args:
        rows_file: holds the labels.
        split_file: holds the lists.
        rows: the lists.
        labels: 0-based, int64 [N].
    """
    seen, times = np.unique(labels[rows.trainval], return_counts=True)
    wrong = rows.test_unseen[np.isin(labels[rows.test_unseen], seen)]
    if len(wrong):
        found = f"{len(wrong)}: {first(_labelled(wrong, labels))}"
        split_file.problem("test_unseen_loc", f"expected no row of a class in trainval_loc, found {found}")
    wrong = rows.test_seen[~np.isin(labels[rows.test_seen], seen)]
    if len(wrong):
        found = f"{len(wrong)} others: {first(_labelled(wrong, labels))}"
        split_file.problem("test_seen_loc", f"expected rows of classes in trainval_loc, found {found}")
    if len(seen) < 2:
        rows_file.problem("labels", f"expected rows of at least 2 classes in trainval_loc, found {len(seen)}")
    few = times < MIN_TRAINING_ROWS
    if few.any():
        found = first(f"{n} of label {label + 1}" for label, n in zip(seen[few], times[few], strict=True))
        rule = f"expected at least {MIN_TRAINING_ROWS} rows of every class in it"
        split_file.problem("trainval_loc", f"{rule}, found {found}")


def check_known(file: MatFile, known: Benchmark, unseen: NDArray[np.int64]) -> None:
    """A benchmark that is recognised by its sizes has its own unseen classes; `unseen` are 0-based labels."""
    found = set(unseen.tolist())
    if known.unseen_ids and found != known.unseen_ids:
        file.problem(
            "labels",
            f"by its sizes this is {known.name}, whose unseen classes have other labels than the rows of "
            f"test_unseen_loc: expected also {first(sorted(i + 1 for i in known.unseen_ids - found)) or 'none'}, "
            f"found also {first(sorted(i + 1 for i in found - known.unseen_ids)) or 'none'}; "
            "labels and splits are of different files",
        )


def _labelled(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> list[str]:
    return [f"row {row + 1} of label {labels[row] + 1}" for row in rows.tolist()]
