"""What goes wrong inside the libraries that decode, as errors of images."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import ImageTooLargeError, UnreadableImageError

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's parsers have been seen to raise, or say in their source that they raise, on damaged bytes."""

_MEMORY = re.compile("out of memory|memory allocation", re.IGNORECASE)  # as libavif and libheif say it
_NO_MEMORY = "there is not enough memory to decode the image"


@contextmanager
def damage_named() -> Iterator[None]:
    """Raise UnreadableImageError for what damaged bytes lead to in libraries, and what :func:`memory_named` raises."""
    try:
        with memory_named():
            yield
    except DAMAGE as error:
        if _MEMORY.search(str(error)):
            raise ImageTooLargeError(_NO_MEMORY) from None
        raise UnreadableImageError(f"the image is damaged: {error}") from None


@contextmanager
def memory_named() -> Iterator[None]:
    """Raise ImageTooLargeError where memory runs out: it is this image that fails, and no other."""
    try:
        yield
    except MemoryError:
        raise ImageTooLargeError(_NO_MEMORY) from None
