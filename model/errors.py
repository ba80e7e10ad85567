"""Every error of the project that a user can cause, without a word about HTTP or exit statuses.

D3GZSLError
├── InvalidInputError            a value is wrong; `problems` says where, what was expected, what came
│   ├── AttributesError          attributes that do not fit the vocabulary, of whatever kind
│   │   ├── AttributeCountError
│   │   └── UnknownAttributeError
│   ├── TextError                a class's text that cannot be encoded, or that the bundle does not take
│   └── DataError                a data set, features or a training command's arguments
├── ImageError
│   ├── UnsupportedImageError    not a format that is read here
│   ├── ImageTooLargeError       more bytes or pixels than allowed
│   └── UnreadableImageError     the right format, but damaged
├── BundleError                  a bundle that does not fit; names the file and what was expected
└── MissingDependencyError       an extra that is not installed; says how to install it
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with an input.

    Attributes:
        pointer: where: a JSON pointer (``/attributes/3``), or a file and line for files on disk.
        detail: what was expected and what came.
    """

    pointer: str
    detail: str

    def __str__(self) -> str:
        return f"{self.pointer}: {self.detail}" if self.pointer else self.detail


def pointer_part(key: object) -> str:
    """A key as it stands in a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


class D3GZSLError(Exception):
    """Base of every error that is reported to a user without a traceback."""


class InvalidInputError(D3GZSLError):
    """A value that cannot be accepted.

    Args:
        message: one sentence.
        problems: every single thing that is wrong, so that a user mends all of them at once.
    """

    def __init__(self, message: str, problems: Iterable[Problem] = ()) -> None:
        self.message = message
        self.problems = tuple(problems)
        super().__init__("\n".join([message, *(f"  {p}" for p in self.problems)]))


class AttributesError(InvalidInputError):
    """An attribute vector that does not fit the vocabulary."""


class AttributeCountError(AttributesError):
    """More or fewer numbers than the vocabulary has attributes."""


class UnknownAttributeError(AttributesError):
    """Names that the vocabulary does not have, and nothing else wrong."""


class TextError(InvalidInputError):
    """A text of a class that the encoder cannot take, or one for a bundle without an encoder."""


class DataError(InvalidInputError):
    """A data set, a feature file or a training argument that breaks a rule."""


class ImageError(D3GZSLError):
    """An image that cannot be used."""


class UnsupportedImageError(ImageError):
    """The bytes are not an image in a format that is read here."""


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than allowed."""


class UnreadableImageError(ImageError):
    """The image has a known format but is damaged."""


class BundleError(D3GZSLError):
    """A bundle that is damaged, incomplete or of another schema version."""


class MissingDependencyError(D3GZSLError):
    """An optional dependency that is needed is not installed.

    Args:
        message: what is needed, and what for.
        extras: of this project, each of which brings it; the message ends with how to install them.
    """

    def __init__(self, message: str, *extras: str) -> None:
        if extras:
            named = " or ".join(f"`{extra}`" for extra in extras)
            commands = ", or ".join(f"pip install 'd3gzsl[{extra}]'" for extra in extras)
            message = f"{message}; install d3gzsl with the extra {named}: {commands}"
        super().__init__(message)
