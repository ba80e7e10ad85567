"""The vocabulary: which numbers describe a class, on which scale, and how the networks see them.

A: number of named attributes, T: dimension of the text encoder's vectors, 0 without one, C: classes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.errors import AttributeCountError, AttributesError, BundleError, Problem, UnknownAttributeError, pointer_part
from model.outside.names import clean_name
from model.outside.similar import SimilarNames

_EPSILON = 1e-12
MOST_GUESSED = 10
"""Most names of one description for which similar ones are looked up."""
_GUESSED_OF_MANY = 3
"""The same of a description with far more names than there are: these are not slips."""
MOST_UNKNOWN = 100
"""Most unknown names of one description of which each is named; of the others the number is."""
LARGEST_VALUE = 1e12  # far beyond any scale in use; squares and float32 networks stay finite below it


@dataclass(frozen=True, kw_only=True)
class AttributeWords:
    """What an attribute means and in which unit it is, for people; either may be empty."""

    description: str = ""
    unit: str = ""

    def to_json(self) -> dict[str, str]:
        """The fields that are not empty."""
        return {name: text for name, text in asdict(self).items() if text}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> AttributeWords:
        """Read the JSON of :meth:`to_json`; what else there is does not count."""
        return cls(description=str(fields.get("description", "")), unit=str(fields.get("unit", "")))


NO_WORDS = AttributeWords()


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute with its range and mean over the training classes, on the scale users write it in."""

    name: str
    min: float
    max: float
    mean: float
    words: AttributeWords = NO_WORDS


class Described(Protocol):
    """What describes a class: A named attributes, and perhaps the vector of a text, float32 [T]."""

    @property
    def attributes(self) -> tuple[float, ...] | None: ...  # noqa: D102  # the class says it

    @property
    def text_vector(self) -> NDArray[np.float32] | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class TextBlock:
    """How the vectors of texts stand beside the named attributes: (t - offset) / scale.

    Attributes:
        offset: T numbers, which are also what a class without text has.
        scale: one number above 0, by which both parts of a description count the same.
    """

    offset: tuple[float, ...]
    scale: float

    def __post_init__(self) -> None:
        if not self.offset or not all(map(math.isfinite, self.offset)) or not 0 < self.scale < math.inf:
            raise BundleError("the vocabulary's text needs finite offsets, at least one, and a scale above 0")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The named attributes in order, texts, or both, and the normalisation the generator was trained with.

    Normalisation of a vector a: (a - offset) / scale, then division by its Euclidean length where `unit_length` is set.

    Attributes:
        attributes: the A attributes in order; names are unique.
        offset: A numbers.
        scale: A numbers above 0.
        unit_length: whether normalised vectors have length 1 (the zero vector stays zero).
        text: the T numbers behind the attributes; None where classes are described by attributes alone.
    """

    attributes: tuple[Attribute, ...]
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    unit_length: bool
    text: TextBlock | None = None

    def __post_init__(self) -> None:
        if not self.attributes and self.text is None:
            raise BundleError("the attribute vocabulary is empty")
        if len(self._position) != len(self.attributes):
            raise BundleError("the attribute vocabulary holds a name twice")
        if len(self.offset) != len(self) or len(self.scale) != len(self):
            raise BundleError(f"the vocabulary has {len(self)} attributes but other lengths of offset or scale")
        numbers = [v for a in self.attributes for v in (a.min, a.max, a.mean)]
        if not all(map(math.isfinite, (*numbers, *self.offset, *self.scale))):
            raise BundleError("the vocabulary holds a number that is not finite")
        if min(self.scale, default=1.0) <= 0:
            raise BundleError("the vocabulary's scales must be above 0")

    def __len__(self) -> int:
        return len(self.attributes)

    @property
    def dimension(self) -> int:
        """A + T, the numbers that the generator takes."""
        return len(self) + (len(self.text.offset) if self.text else 0)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The attribute names in order."""
        return tuple(a.name for a in self.attributes)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {clean_name(name): i for i, name in enumerate(self.names)}

    @cached_property
    def _similar_names(self) -> SimilarNames:
        return SimilarNames(self.names)

    @classmethod
    def from_classes(
        cls,
        names: Sequence[str],
        values_CA: ArrayLike,
        *,
        offset: ArrayLike,
        scale: ArrayLike,
        unit_length: bool,
        text: TextBlock | None = None,
    ) -> Vocabulary:
        """A vocabulary whose ranges and means are those of the training classes.

        Args:
            names: A attribute names.
            values_CA: [C, A] attribute values as users write them.
            offset: subtracted from the attributes, [A] or one number.
            scale: divisor of the attributes, [A] or one number.
            unit_length: see the class.
            text: see the class.
        """
        values = np.asarray(values_CA, dtype=np.float64)
        columns = zip(names, values.min(axis=0), values.max(axis=0), values.mean(axis=0), strict=True)
        return cls(
            attributes=tuple(
                Attribute(name=name, min=float(low), max=float(high), mean=float(mean))
                for name, low, high, mean in columns
            ),
            offset=tuple(np.broadcast_to(np.asarray(offset, dtype=np.float64), len(names)).tolist()),
            scale=tuple(np.broadcast_to(np.asarray(scale, dtype=np.float64), len(names)).tolist()),
            unit_length=unit_length,
            text=text,
        )

    def with_words(self, words: Mapping[str, AttributeWords]) -> Vocabulary:
        """The same vocabulary with other descriptions and units by names; attributes without any have none."""
        attributes = tuple(replace(a, words=words.get(a.name, NO_WORDS)) for a in self.attributes)
        return replace(self, attributes=attributes)

    def resolve(
        self,
        given: Sequence[float] | Mapping[str, float],
        *,
        pointer: str = "/attributes",
        guesses: int = MOST_GUESSED,
        otherwise: Sequence[float] | None = None,
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """A user's description of a class as a full vector.

        Args:
            given: A numbers in vocabulary order, or names to numbers.
            pointer: prefix of the JSON pointers in errors.
            guesses: for how many unknown names errors name similar ones.
            otherwise: what names that are left out take, A numbers; the vocabulary's means where it is None.

        Returns:
            float64 [A] on the users' scale, and the names that were left out.

        Raises:
            AttributeCountError: wrong length.
            UnknownAttributeError: unknown names only.
            AttributesError: values that are no numbers, not finite or beyond 1e12; names every one.
        """
        if isinstance(given, Mapping):
            return self._resolve_named(given, pointer, guesses, otherwise)
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise AttributesError(
                "attributes must be a list of numbers or an object of names to numbers",
                [Problem(pointer=pointer, detail=f"expected a list or an object, got {type(given).__name__}")],
            )
        if len(given) != len(self):
            raise AttributeCountError(
                "wrong number of attributes",
                [
                    Problem(
                        pointer=pointer, detail=f"expected {len(self)} numbers in vocabulary order, got {len(given)}"
                    )
                ],
            )
        problems = [p for i, v in enumerate(given) if (p := _not_finite(f"{pointer}/{i}", v)) is not None]
        if problems:
            raise AttributesError("attributes must be finite numbers", problems)
        return np.asarray(given, dtype=np.float64), ()

    def _resolve_named(
        self, given: Mapping[str, float], pointer: str, guesses: int, otherwise: Sequence[float] | None
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        values = np.array([a.mean for a in self.attributes] if otherwise is None else otherwise, dtype=np.float64)
        # Names beyond these cannot all be right, and reading thousands would keep others waiting.
        read = list(islice(given, len(self) + MOST_UNKNOWN))
        places = {name: self._position.get(clean_name(str(name))) for name in read}
        unknown = [name for name, place in places.items() if place is None]
        if len(given) > len(read):
            guesses = min(guesses, _GUESSED_OF_MANY)
        problems = [
            Problem(
                pointer=f"{pointer}/{pointer_part(name)}",
                detail=f"no such attribute in the vocabulary{self._similar(str(name)) if i < guesses else ''}",
            )
            for i, name in enumerate(unknown[:MOST_UNKNOWN])
        ]
        if len(unknown) > MOST_UNKNOWN:
            more = len(unknown) - MOST_UNKNOWN
            problems.append(Problem(pointer=pointer, detail=f"{more} more names are not in the vocabulary"))
        if len(given) > len(read):
            detail = (
                f"expected at most {len(self)} names, got {len(given)}; those after the first {len(read)} were not read"
            )
            problems.append(Problem(pointer=pointer, detail=detail))
        of_unknown = len(problems)
        given_as: dict[int, str] = {}
        for name, place in places.items():
            if place is None:
                continue
            where = f"{pointer}/{pointer_part(name)}"
            if (problem := _not_finite(where, given[name])) is not None:
                problems.append(problem)
            elif given_as.setdefault(place, name) != name:
                problems.append(Problem(pointer=where, detail="expected an attribute once, got it in two spellings"))
            else:
                values[place] = given[name]
        if not given:
            problems.append(Problem(pointer=pointer, detail="expected at least one named attribute, got none"))
        if problems:
            kind = UnknownAttributeError if 0 < of_unknown == len(problems) else AttributesError
            raise kind("the attributes do not fit the vocabulary", problems)
        return values, tuple(name for i, name in enumerate(self.names) if i not in given_as)

    def _similar(self, name: str) -> str:
        """Words about names that may be meant by one that is unknown; none where no name is like it."""
        close = self._similar_names.to(name)
        return f"; did you mean {', '.join(close)}?" if close else ""

    def out_of_range(self, values_A: NDArray[np.float64]) -> tuple[str, ...]:
        """Names of the attributes whose value lies outside the range of the training classes."""
        pairs = zip(self.attributes, values_A.tolist(), strict=True)
        return tuple(a.name for a, value in pairs if not a.min <= value <= a.max)

    def others_than(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Which attributes are not among `names`, bool [A]."""
        left_out = set(names)
        return np.array([name not in left_out for name in self.names])

    def vectors(self, classes: Sequence[Described]) -> NDArray[np.float64]:
        """What describes each class, not normalised, float64 [C, A + T]; without a text it has the mean text."""
        named = np.array([described.attributes or () for described in classes], dtype=np.float64).reshape(
            len(classes), len(self)
        )
        if self.text is None:
            return named
        none = np.array(self.text.offset)
        texts = [none if (vector := described.text_vector) is None else vector for described in classes]
        return np.concatenate([named, np.array(texts, dtype=np.float64).reshape(len(classes), len(none))], axis=1)

    def described(self, classes: Sequence[Described]) -> NDArray[np.float32]:
        """What the generator takes of each class, float32 [C, A + T]."""
        return self.normalise(self.vectors(classes))

    def normalise(self, values: ArrayLike) -> NDArray[np.float32]:
        """Values as users write them, [..., A + T], to what the generator takes, float32 [..., A + T]."""
        text = self.text
        offset = np.array([*self.offset, *(text.offset if text else ())])
        scale = np.array([*self.scale, *([text.scale] * len(text.offset) if text else ())])
        scaled = (np.asarray(values, dtype=np.float64) - offset) / scale
        if self.unit_length:
            scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), _EPSILON)
        normalised: NDArray[np.float32] = scaled.astype(np.float32)
        return normalised

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "attributes": [
                {"name": a.name, "min": float(a.min), "max": float(a.max), "mean": float(a.mean), **a.words.to_json()}
                for a in self.attributes
            ],
            "offset": [float(v) for v in self.offset],
            "scale": [float(v) for v in self.scale],
            "unit_length": self.unit_length,
            **({"text": {"offset": list(self.text.offset), "scale": float(self.text.scale)}} if self.text else {}),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Vocabulary:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        return cls(
            attributes=tuple(
                Attribute(
                    name=str(a["name"]),
                    min=float(a["min"]),
                    max=float(a["max"]),
                    mean=float(a["mean"]),
                    words=AttributeWords.from_json(a),
                )
                for a in fields["attributes"]
            ),
            offset=tuple(float(v) for v in fields["offset"]),
            scale=tuple(float(v) for v in fields["scale"]),
            unit_length=bool(fields["unit_length"]),
            text=_read_text(fields["text"]) if "text" in fields else None,
        )


def _read_text(fields: Mapping[str, Any]) -> TextBlock:
    return TextBlock(offset=tuple(map(float, fields["offset"])), scale=float(fields["scale"]))


def _not_finite(pointer: str, value: object) -> Problem | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return Problem(pointer=pointer, detail=f"expected a number, got {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an int that no float can hold
        number = math.inf
    if not math.isfinite(number):
        return Problem(pointer=pointer, detail=f"expected a finite number, got {number}")
    if abs(number) > LARGEST_VALUE:
        return Problem(pointer=pointer, detail=f"expected a number of at most {LARGEST_VALUE:g} in size, got {number}")
    return None
