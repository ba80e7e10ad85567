"""Images as programs hand them over: paths, bytes, or bytes with an id."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError
from model.outside.folders import printable

ImageSource = str | os.PathLike[str] | bytes | tuple[str, bytes]
"""A path; or the bytes of an image file; or an id with bytes."""

Images = ImageSource | Iterable[ImageSource]
"""One image or several."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One image that is to be sent.

    Attributes:
        id: what its result is called: the path, the given id, or the place among the images.
        given: where its bytes are, or they themselves.
    """

    id: str
    given: Path | bytes

    @classmethod
    def of(cls, image: ImageSource, place: int) -> Source:
        """The source of an image; TypeError where it is none."""
        if isinstance(image, tuple):
            return cls(id=image[0], given=image[1])
        if isinstance(image, bytes | bytearray | memoryview):
            return cls(id=str(place), given=bytes(image))
        if isinstance(image, str | os.PathLike):
            return cls(id=printable(str(Path(image))), given=Path(image))
        raise TypeError(f"expected a path, bytes, or an id with bytes, got {type(image).__name__}")

    @property
    def size(self) -> int:
        """Bytes; 0 where that cannot be told."""
        try:
            return len(self.given) if isinstance(self.given, bytes) else self.given.stat().st_size
        except OSError:
            return 0

    def read(self) -> bytes:
        """The bytes; OSError where the file cannot be read."""
        return self.given if isinstance(self.given, bytes) else self.given.read_bytes()

    def must_read(self) -> bytes:
        """The bytes; DataError, which names the file, where it cannot be read."""
        try:
            return self.read()
        except OSError as error:
            raise DataError(f"{self.id}: {error.strerror}") from None


def sources(images: Images) -> tuple[Source, ...]:
    """The sources of one image or of several, in order."""
    one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or is_named(images)
    several: Iterable[ImageSource] = [images] if one else images  # type: ignore[list-item,assignment]
    return tuple(Source.of(image, place) for place, image in enumerate(several))


def is_named(images: object) -> bool:
    """Whether this is one image with its id, not two images."""
    return (
        isinstance(images, tuple) and len(images) == 2 and isinstance(images[0], str) and isinstance(images[1], bytes)
    )
