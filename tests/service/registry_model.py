"""What the registry must be, as a plain model: a list of versions, each of them a dict of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

from model.errors import AttributesError, D3GZSLError, InvalidInputError
from service.errors import (
    BatchConflictError,
    ClassExistsError,
    InvalidBatchError,
    InvalidExamplesError,
    LastExampleError,
    PreconditionError,
    SeenClassError,
    UnknownClassError,
    UnknownExampleError,
    UnknownVersionError,
)

HUGE = (1e30, 0.0, 0.0)
"""Attributes of which no finite row can be made."""
MOST_PHOTOS = 3
Condition = Literal["none", "is there", "is this", "is another", "is not there", "is not this", "is not another"]
Kind = Literal["create", "put", "describe", "add", "take back", "remove"]
Refusal = type[D3GZSLError]
_rows = count(1)


@dataclass(frozen=True, kw_only=True)
class ModelClass:
    """A class: what was said of it, the version that changed it last, and which making of its row it has.

    `row` is None for the bundle's own; two classes have one row where a rollback or new words kept it.
    """

    name: str
    attributes: tuple[float, ...] | None
    photos: frozenset[int] = frozenset()
    description: str = ""
    metadata: tuple[tuple[str, int], ...] = ()
    seen: bool = False
    row: int | None = None
    changed: int = 0

    def same_as(self, other: ModelClass | None) -> bool:
        """Whether both say the same, whenever it was said."""
        return other is not None and self.words == other.words

    @property
    def words(self) -> tuple[object, ...]:
        return (self.name, self.attributes, self.photos, self.description, self.metadata, self.seen)


@dataclass(frozen=True, kw_only=True)
class ModelEdit:
    """One change that a client asks for; which fields count depends on the kind."""

    kind: Kind
    class_id: str
    wanted: ModelClass | None = None
    words: Mapping[str, Any] = field(default_factory=dict)
    photos: frozenset[int] = frozenset()
    condition: Condition = "none"


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """What the history says of a version."""

    operation: str
    class_ids: frozenset[str]
    source: int | None = None


@dataclass(kw_only=True)
class ModelRegistry:
    """A registry: its versions, beginning with the bundle alone.

    Attributes:
        bundles: classes of every bundle that may own it.
        owner: which of them does.
        versions: the classes at each version.
        history: what made each version from 1 on.
        base: versions up to this one belong to a former owner.
    """

    bundles: Sequence[Mapping[str, ModelClass]]
    owner: int = 0
    versions: list[Mapping[str, ModelClass]] = field(default_factory=list)
    history: list[ModelVersion] = field(default_factory=list)
    base: int = 0

    def __post_init__(self) -> None:
        self.versions = self.versions or [self.bundles[self.owner]]

    @property
    def now(self) -> Mapping[str, ModelClass]:
        return self.versions[-1]

    @property
    def last(self) -> int:
        return len(self.versions) - 1

    def copy(self) -> ModelRegistry:
        return replace(self, versions=[*self.versions], history=[*self.history])

    def edit(self, edit: ModelEdit) -> Refusal | None:
        """Make one change; returns what it is refused by."""
        made = self._decide(edit)
        if isinstance(made, type):
            return made
        if isinstance(made, ModelClass) and made.attributes == HUGE:
            return AttributesError
        operation = {"describe": "describe", "remove": "remove"}.get(edit.kind, "put")
        if made != "as it is":
            self._append(operation, {edit.class_id: None if made == "gone" else made})
        return None

    def batch(self, edits: Sequence[ModelEdit]) -> Refusal | None:
        """Make many changes as one version, or none."""
        refusals: list[Refusal] = []
        made: dict[str, ModelClass | None] = {}
        taken: set[str] = set()
        for edit in edits:
            decided = ClassExistsError if edit.class_id in taken else self._decide(edit)
            taken.add(edit.class_id)
            if isinstance(decided, type):
                refusals.append(decided)
            elif decided != "as it is":
                made[edit.class_id] = None if decided == "gone" else decided
        if refusals:
            return InvalidBatchError if all(issubclass(r, InvalidInputError) for r in refusals) else BatchConflictError
        if any(one is not None and one.attributes == HUGE for one in made.values()):
            return InvalidBatchError
        if made:
            self._append("batch", made)
        return None

    def roll_back(self, version: int, *, expected: int | None = None) -> Refusal | None:
        """Append a version with a former one's classes."""
        if expected is not None and expected != self.last:
            return PreconditionError
        if not 0 <= version <= self.last or 0 < version <= self.base:
            return UnknownVersionError
        then = self.bundles[self.owner] if version == 0 else self.versions[version]
        made: dict[str, ModelClass | None] = {}
        for class_id in {*then, *self.now}:
            wanted, known = then.get(class_id), self.now.get(class_id)
            if wanted is None or not wanted.same_as(known) or known is None or known.row != wanted.row:
                made[class_id] = wanted
        self._append("rollback", made, source=version)
        return None

    def adopt(self, owner: int) -> None:
        """Give the registry to another bundle with another trunk, which has no use for the photos."""
        own = self.bundles[owner]
        touched = {i for version in self.history[self.base :] for i in version.class_ids}
        made: dict[str, ModelClass | None] = {}
        for class_id in touched:
            known, bundled = self.now.get(class_id), own.get(class_id)
            if known is None:
                if bundled is not None:
                    made[class_id] = None
            elif known.row is None and bundled is not None:
                words = {"name": known.name, "description": known.description, "metadata": known.metadata}
                made[class_id] = replace(bundled, **words)
            elif known.attributes is not None:
                made[class_id] = replace(known, photos=frozenset(), row=next(_rows))
        self.owner, self.base = owner, self.last
        self._append("adopt", made, beginning=own)

    def _decide(self, edit: ModelEdit) -> ModelClass | Refusal | Literal["gone", "as it is"]:
        known = self.now.get(edit.class_id)
        if edit.kind == "create":
            return ClassExistsError if known is not None else _new_row(edit.wanted)
        if edit.kind != "put" and known is None:
            return UnknownClassError
        if not _holds(edit.condition, known):
            return PreconditionError
        if known is not None and known.seen:
            return SeenClassError
        if edit.kind == "put":
            assert edit.wanted is not None
            return "as it is" if edit.wanted.same_as(known) else _new_row(edit.wanted)
        assert known is not None
        if edit.kind == "remove":
            return "gone"
        if edit.kind == "describe":
            described = replace(known, **edit.words)
            return "as it is" if described.same_as(known) else described
        if edit.kind == "add":
            together = known.photos | edit.photos
            if together == known.photos:
                return "as it is"
            return InvalidExamplesError if len(together) > MOST_PHOTOS else _new_row(replace(known, photos=together))
        if not edit.photos <= known.photos:
            return UnknownExampleError
        if known.photos == edit.photos and known.attributes is None:
            return LastExampleError
        return _new_row(replace(known, photos=known.photos - edit.photos))

    def _append(
        self,
        operation: str,
        made: Mapping[str, ModelClass | None],
        *,
        source: int | None = None,
        beginning: Mapping[str, ModelClass] | None = None,
    ) -> None:
        version, after = self.last + 1, dict(self.now if beginning is None else beginning)
        for class_id, one in made.items():
            if one is None:
                after.pop(class_id, None)
            else:
                after[class_id] = replace(one, changed=version)
        self.versions.append(after)
        self.history.append(ModelVersion(operation=operation, class_ids=frozenset(made), source=source))


def _new_row(wanted: ModelClass | None) -> ModelClass:
    assert wanted is not None
    return replace(wanted, row=next(_rows))


def _holds(condition: Condition, known: ModelClass | None) -> bool:
    there = known is not None
    return {
        "none": True,
        "is there": there,
        "is this": there,
        "is another": False,
        "is not there": not there,
        "is not this": not there,
        "is not another": True,
    }[condition]
