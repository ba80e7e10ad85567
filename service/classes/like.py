"""Classes that others are described by: found by id or name, in one snapshot."""

from __future__ import annotations

import difflib
from collections import defaultdict
from functools import cached_property

from model.classes import ClassEntry
from model.errors import Problem
from model.outside.names import fold_name
from model.outside.similar import MAX_GUESSED_NAME
from service.classes.snapshot import Snapshot
from service.errors import InvalidRequestError

POINTER = "/like"
_MOST_COMPARED = 1000  # words that are held against an unknown one, which takes some milliseconds
_MOST_GUESSED = 20  # unknown ones of a request for which similar ones are looked up
_MOST_NAMED = 5


class ClassesToBeLike:
    """The classes of a snapshot, to be named by those who describe others; of one request, in one thread.

    Args:
        snapshot: where they are.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._guessed = 0

    def find(self, wanted: str) -> ClassEntry:
        """The class with an id or, where none has it, with a name in whatever case.

        Raises:
            InvalidRequestError: there is none, several have the name, or it has no attributes.
        """
        known = self._snapshot.get(wanted)
        if known is not None:
            return _with_attributes(known.entry)
        ids = self._by_name.get(fold_name(wanted), [])
        if not ids:
            raise _unusable(f"expected the id or the name of a class, got {wanted[:100]!r}{self._similar(wanted)}")
        if len(ids) > 1:
            named = ", ".join(ids[:_MOST_NAMED])
            raise _unusable(f"expected the id of one class, got a name that {len(ids)} classes have: {named}")
        return _with_attributes(self._snapshot.there(ids[0]).entry)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Ids of the classes by their names as they are searched."""
        ids = defaultdict(list)
        for known in self._snapshot.classes:
            ids[known.folded_name].append(known.entry.id)
        return dict(ids)

    def _similar(self, wanted: str) -> str:
        """Words about ids that may be meant by one that is unknown; none where no id or name is like it."""
        folded = fold_name(wanted)
        if self._guessed >= _MOST_GUESSED or not 0 < len(folded) <= MAX_GUESSED_NAME:
            return ""
        self._guessed += 1
        ids = {word: class_id for name, ids in self._by_name.items() for class_id in ids for word in (name, class_id)}
        if len(ids) > _MOST_COMPARED:
            ids = {word: class_id for word, class_id in ids.items() if word[0] == folded[0]}
        close = difflib.get_close_matches(folded, [*ids][:_MOST_COMPARED], n=3)
        named = [*dict.fromkeys(ids[word] for word in close)]
        return f"; did you mean {', '.join(named)}?" if named else ""


def _with_attributes(entry: ClassEntry) -> ClassEntry:
    if not entry.attributes:
        raise _unusable(f"expected a class with attributes, got {entry.id!r}, which has none")
    return entry


def _unusable(detail: str) -> InvalidRequestError:
    return InvalidRequestError("the class to be like cannot be used", [Problem(pointer=POINTER, detail=detail)])
