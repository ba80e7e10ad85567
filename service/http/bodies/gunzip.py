"""Bodies with `Content-Encoding: gzip`, unpacked piece by piece."""

from __future__ import annotations

import zlib

from service.errors import ContentEncodingError, MalformedBodyError

_PIECE = 256_000
"""Bytes that are unpacked at a time, in about a millisecond."""
_GZIP = 16 + zlib.MAX_WBITS


def is_gzip(encoding: str) -> bool:
    """Whether a header `Content-Encoding` says gzip rather than nothing; ContentEncodingError where it says more."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return False
    if name in ("gzip", "x-gzip"):
        return True
    raise ContentEncodingError(f"expected a body without a content encoding or with gzip, got {encoding[:100]!r}")


class Gunzip:
    """Unpacks one gzip file of one or more members."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self._packed = b""
        self._begun = self._given = False

    def feed(self, packed: bytes) -> None:
        """Bytes have come; those before them have been unpacked."""
        self._packed += packed
        self._begun = self._begun or bool(packed)

    def piece(self) -> bytes:
        """The next bytes; none where more have to come first.

        Raises:
            ContentEncodingError: it is no gzip.
            MalformedBodyError: it is damaged.
        """
        while self._packed or self._member.unconsumed_tail:
            if self._member.eof:
                self._member = zlib.decompressobj(_GZIP)
            try:
                piece = self._member.decompress(self._packed, _PIECE)
            except zlib.error as error:
                if not self._given:
                    raise ContentEncodingError(
                        f"expected a body compressed as its Content-Encoding gzip says, got one that is not: {error}"
                    ) from None
                raise MalformedBodyError(f"the body's gzip is damaged: {error}") from None
            self._given = self._given or bool(piece)
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if piece:
                return piece
        return b""

    def end(self) -> None:
        """Nothing more comes; MalformedBodyError where the file ends too early."""
        if self._begun and not self._member.eof:
            raise MalformedBodyError("the body's gzip ends too early")
