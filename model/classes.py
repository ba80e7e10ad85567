"""One class of the classifier: its id, name, kind and description by attributes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model.errors import InvalidInputError, Problem

Kind = Literal["seen", "unseen"]

CLASS_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_CLASS_ID = re.compile(CLASS_ID_PATTERN)
MAX_NAME_LENGTH = 200


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """A class, seen in training or only described.

    Attributes:
        id: slug, unique in a class table (see `CLASS_ID_PATTERN`).
        name: what people call it, 1 to 200 characters.
        kind: `seen` (trained on images) or `unseen` (described by attributes only).
        attributes: A numbers on the scale of the vocabulary's ranges.
        description: free text.
        metadata: free JSON object.
    """

    id: str
    name: str
    kind: Kind
    attributes: tuple[float, ...]
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if not is_class_id(self.id):
            problems.append(Problem(pointer="/id", detail=f"expected a slug like 'blue-whale', got {self.id!r}"))
        if not 1 <= len(self.name) <= MAX_NAME_LENGTH:
            problems.append(
                Problem(pointer="/name", detail=f"expected 1 to {MAX_NAME_LENGTH} characters, got {len(self.name)}")
            )
        if problems:
            raise InvalidInputError("the class is not valid", problems)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "attributes": list(self.attributes),
            "description": self.description,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClassEntry:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        if fields["kind"] not in ("seen", "unseen"):
            raise ValueError(f"kind must be seen or unseen, got {fields['kind']!r}")
        return cls(
            id=str(fields["id"]),
            name=str(fields["name"]),
            kind=fields["kind"],
            attributes=tuple(map(float, fields["attributes"])),
            description=str(fields.get("description", "")),
            metadata=dict(fields.get("metadata", {})),
        )


def is_class_id(text: str) -> bool:
    """Whether a text can be the id of a class."""
    return _CLASS_ID.fullmatch(text) is not None


def slug(name: str) -> str:
    """A class id made from a name: `Blue Whale` becomes `blue-whale`; empty where no letter or digit is left."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9._]+", "-", ascii_name).strip("-._")[:64].rstrip("-._")
