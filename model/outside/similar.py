"""Names that are like one that is unknown, found among hundreds without holding each against it."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence

MAX_GUESSED_NAME = 100
"""Longest name for which similar ones are looked up."""
_MOST_COMPARED = 12


class SimilarNames:
    """The names that one may be meant by: of those that share most pairs of letters, the closest.

    Args:
        names: to be found.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._of_pair: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            for pair in _pairs(name):
                self._of_pair[pair].append(name)

    def to(self, name: str, *, most: int = 3) -> list[str]:
        """At most `most` names that are like one, the closest first; none for one that is too long."""
        if len(name) > MAX_GUESSED_NAME:
            return []
        shared = Counter(other for pair in _pairs(name) for other in self._of_pair.get(pair, ()))
        candidates = [other for other, _ in shared.most_common(_MOST_COMPARED)]
        return difflib.get_close_matches(name, candidates, n=most)


def _pairs(name: str) -> set[str]:
    """Every two letters that follow each other, with blanks around the name."""
    padded = f" {name} "
    return {padded[i : i + 2] for i in range(len(padded) - 1)}
