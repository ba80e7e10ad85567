"""What clients ask of the class table, and what is to be logged for it on the newest state of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from model.classes import ClassEntry, ExamplePhoto
from model.errors import Problem
from model.head import Float32
from model.outside.names import fold_name, id_candidates
from service.classes.class_table import KnownClass
from service.errors import (
    ClassExistsError,
    InvalidExamplesError,
    LastExampleError,
    PreconditionError,
    SeenClassError,
    UnknownClassError,
    UnknownExampleError,
)
from service.registry.change import Change

Find = Callable[[str], KnownClass | None]
"""The class with an id, or None."""

Embeddings = Mapping[str, Float32]
"""Embeddings of example photos by their ids, float32 [Z]."""


@dataclass(frozen=True, kw_only=True)
class Precondition:
    """What a client expects of the class, as entity tags; ``("*",)`` stands for any class at all.

    Attributes:
        match: the class must have one of these tags.
        none_match: the class must have none of them.
    """

    match: tuple[str, ...] = ()
    none_match: tuple[str, ...] = ()

    def check(self, class_id: str, known: KnownClass | None) -> None:
        """Raise PreconditionError where it does not hold."""
        if self.match and not _matches(self.match, known):
            found = "no such class" if known is None else f"the tag {known.etag}"
            raise PreconditionError(f"class {class_id!r}: expected {' or '.join(self.match)}, found {found}")
        if self.none_match and known is not None and _matches(self.none_match, known):
            raise PreconditionError(f"class {class_id!r} exists with the tag {known.etag}")


ANY = Precondition()


@dataclass(frozen=True, kw_only=True)
class Create:
    """Register a class whose id is free, with the embeddings of its example photos by id."""

    entry: ClassEntry
    embeddings: Embeddings = field(default_factory=dict)

    @property
    def class_id(self) -> str:
        """Id of the class."""
        return self.entry.id

    def decide(self, find: Find) -> ClassEntry:
        """The class whose row is needed; ClassExistsError where the id is taken."""
        before = find(self.entry.id)
        if before is not None and before.entry.kind == "seen":
            raise ClassExistsError(
                f"a class with the id {self.entry.id!r} exists and was seen in training, so that nothing can replace "
                "it; choose another id"
            )
        if before is not None:
            raise ClassExistsError(f"a class with the id {self.entry.id!r} exists; use PUT to replace it")
        return self.entry


@dataclass(frozen=True, kw_only=True)
class Put:
    """Create or replace a class, with the embeddings of its example photos by id."""

    entry: ClassEntry
    condition: Precondition = ANY
    embeddings: Embeddings = field(default_factory=dict)

    @property
    def class_id(self) -> str:
        """Id of the class."""
        return self.entry.id

    def decide(self, find: Find) -> ClassEntry | None:
        """The class whose row is needed, None where it is there as it is; PreconditionError, SeenClassError."""
        before = find(self.entry.id)
        self.condition.check(self.entry.id, before)
        if before is not None:
            _refuse_seen(before)
        return None if before is not None and before.entry == self.entry else self.entry


@dataclass(frozen=True, kw_only=True)
class Describe:
    """Change a class's name, description or metadata; its row stays."""

    class_id: str
    words: Mapping[str, Any] = field(default_factory=dict)
    condition: Precondition = ANY

    def decide(self, find: Find) -> Change | None:
        """The change; UnknownClassError, PreconditionError, SeenClassError."""
        known = _changeable(find, self.class_id, self.condition)
        entry = replace(known.entry, **self.words)
        if entry == known.entry:
            return None
        return Change(operation="describe", class_id=self.class_id, entry=entry, row_at=known.row_at)


@dataclass(frozen=True, kw_only=True)
class AddExamples:
    """Give a class example photos beside those that it has; a photo that it has already counts once."""

    class_id: str
    examples: tuple[ExamplePhoto, ...]
    embeddings: Embeddings
    most: int
    condition: Precondition = ANY

    def decide(self, find: Find) -> ClassEntry | None:
        """The class whose row is needed, None where it has them all.

        Raises:
            UnknownClassError, PreconditionError, SeenClassError: as for other changes.
            InvalidExamplesError: it would have more than `most`.
        """
        entry = _changeable(find, self.class_id, self.condition).entry
        there = {example.id: example for example in entry.examples}
        together = {example.id: example for example in self.examples} | there
        if len(together) == len(there):
            return None
        check_number(len(together), self.most)
        return replace(entry, examples=tuple(together[i] for i in sorted(together)))


@dataclass(frozen=True, kw_only=True)
class RemoveExample:
    """Take an example photo back."""

    class_id: str
    example_id: str
    condition: Precondition = ANY

    def decide(self, find: Find) -> ClassEntry:
        """The class whose row is needed; UnknownExampleError, LastExampleError, and the errors of other changes."""
        entry = _changeable(find, self.class_id, self.condition).entry
        kept = tuple(example for example in entry.examples if example.id != self.example_id)
        if len(kept) == len(entry.examples):
            raise UnknownExampleError(f"class {self.class_id!r} has no example with the id {self.example_id!r}")
        if not kept and entry.attributes is None:
            raise LastExampleError(
                f"class {self.class_id!r} has no description, so that it needs this photo; describe it with PUT, "
                "give it another photo first, or remove the class"
            )
        return replace(entry, examples=kept)


def check_number(examples: int, most: int) -> None:
    """Raise InvalidExamplesError where a class would have too many example photos."""
    if examples > most:
        raise InvalidExamplesError(
            "the class has too many example photos",
            [Problem(pointer="/examples", detail=f"expected at most {most} of a class, got {examples}")],
        )


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove a class."""

    class_id: str
    condition: Precondition = ANY

    def decide(self, find: Find) -> Change:
        """The change; UnknownClassError, PreconditionError, SeenClassError."""
        _changeable(find, self.class_id, self.condition)
        return Change(operation="remove", class_id=self.class_id)


Edit = Create | Put | Describe | AddExamples | RemoveExample | Remove


def with_free_ids(entries: Sequence[tuple[ClassEntry, bool]], find: Find) -> list[ClassEntry]:
    """Classes with their ids; one that was made from a name is passed over where a class of another name has it.

    A class of the same name keeps its id, so that it is found there, or refused, and not stored a second time.

    Args:
        entries: classes, each with whether its id was made from its name; those before have precedence.
        find: the class with an id.
    """
    names: dict[str, str] = {}
    chosen = []
    for entry, made in entries:
        own = fold_name(entry.name)
        if not made:
            names[entry.id] = own
            chosen.append(entry)
            continue
        for candidate in id_candidates(entry.name):
            known = find(candidate)
            if names.get(candidate, own) == own and (known is None or known.folded_name == own):
                names[candidate] = own
                chosen.append(replace(entry, id=candidate))
                break
    return chosen


def _matches(tags: tuple[str, ...], known: KnownClass | None) -> bool:
    return known is not None and ("*" in tags or known.etag in tags)


def _changeable(find: Find, class_id: str, condition: Precondition) -> KnownClass:
    known = find(class_id)
    if known is None:
        raise UnknownClassError(f"no class has the id {class_id!r}")
    condition.check(class_id, known)
    _refuse_seen(known)
    return known


def _refuse_seen(known: KnownClass) -> None:
    if known.entry.kind == "seen":
        raise SeenClassError(
            f"class {known.entry.id!r} was seen in training and cannot be changed; give another class another id"
        )
