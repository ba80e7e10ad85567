"""The public benchmarks with their sizes, to recognise them by and to check them against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
