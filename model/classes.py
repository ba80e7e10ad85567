"""One class of the classifier: its id, name, kind and description by attributes and text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.errors import InvalidInputError, Problem
from model.outside.names import MAX_ID_LENGTH, clean_name, name_fault
from model.outside.names import MAX_NAME_LENGTH as MAX_NAME_LENGTH  # belong to classes, for whoever reads about these
from model.outside.names import slug as slug
from model.text.description import ClassText

Kind = Literal["seen", "unseen"]

CLASS_ID_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,{MAX_ID_LENGTH - 1}}}$"
_CLASS_ID = re.compile(CLASS_ID_PATTERN)


@dataclass(frozen=True, kw_only=True)
class ExamplePhoto:
    """A photo that a class was given as evidence; what is kept of it is its embedding, not its pixels.

    Two are equal where their pixels are.

    Attributes:
        id: hash of the pixels that the networks see, so that the same photo counts once.
        width: of the photo as it was sent.
        height: likewise.
        added_at: when, in UTC, as ISO 8601.
        trunk: SHA-256 of the trunk that made the embedding; no other trunk's embeddings compare with it.
        digest: SHA-256 of the embedding, little-endian float32.
        position: of the logged change that stored the embedding; None before it is stored.
    """

    id: str
    width: int = field(compare=False)
    height: int = field(compare=False)
    added_at: str = field(compare=False)
    trunk: str = field(compare=False)
    digest: str = field(compare=False)
    position: int | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ExamplePhoto:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        return cls(
            id=str(fields["id"]),
            width=int(fields["width"]),
            height=int(fields["height"]),
            added_at=str(fields["added_at"]),
            trunk=str(fields["trunk"]),
            digest=str(fields["digest"]),
            position=int(fields["position"]),
        )


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """A class, seen in training or only described.

    Attributes:
        id: slug, unique in a class table (see `CLASS_ID_PATTERN`).
        name: what people call it, as :func:`model.outside.names.name_fault` allows it; kept in normal form C.
        kind: `seen` (trained on images) or `unseen` (described by attributes or text, by example photos, or by both).
        attributes: A numbers on the scale of the vocabulary's ranges; None for a class without a description, which has
            example photos.
        description: free text.
        metadata: free JSON object.
        examples: photos that it was given, no two with one id, in the order of ids.
        like: id of the class whose attributes, as they were then, filled what was not given; None for no such one.
        text: what describes it in words beside the attributes, for a bundle with a text encoder.
    """

    id: str
    name: str
    kind: Kind
    attributes: tuple[float, ...] | None
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[ExamplePhoto, ...] = ()
    like: str | None = None
    text: ClassText | None = None

    @property
    def text_vector(self) -> NDArray[np.float32] | None:
        """The vector of its text, float32 [T]; None where it has no text."""
        return None if self.text is None else self.text.numbers

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", clean_name(self.name))
        problems = []
        if not is_class_id(self.id):
            problems.append(Problem(pointer="/id", detail=f"expected a slug like 'blue-whale', got {self.id!r}"))
        if (fault := name_fault(self.name)) is not None:
            problems.append(Problem(pointer="/name", detail=fault))
        if problems:
            raise InvalidInputError("the class is not valid", problems)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "attributes": None if self.attributes is None else list(self.attributes),
            "description": self.description,
            "metadata": dict(self.metadata),
            **({"examples": [photo.to_json() for photo in self.examples]} if self.examples else {}),
            **({} if self.like is None else {"like": self.like}),
            **({"text": self.text.to_json()} if self.text else {}),
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
            attributes=None if fields["attributes"] is None else tuple(map(float, fields["attributes"])),
            description=str(fields.get("description", "")),
            metadata=dict(fields.get("metadata", {})),
            examples=tuple(map(ExamplePhoto.from_json, fields.get("examples", ()))),
            like=str(fields["like"]) if "like" in fields else None,
            text=ClassText.from_json(fields["text"]) if "text" in fields else None,
        )


def is_class_id(text: str) -> bool:
    """Whether a text can be the id of a class."""
    return _CLASS_ID.fullmatch(text) is not None
