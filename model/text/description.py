"""The text of a class with the vector that an encoder made of it.

T: dimension of the encoder's vectors.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SENTENCES = 20
"""Most texts of one class."""
MAX_SENTENCE_LENGTH = 4000
"""Most characters of one text, whatever the encoder reads."""


@dataclass(frozen=True, kw_only=True)
class ClassText:
    """What a class is described by in words; two are equal where their words are.

    Attributes:
        sentences: the texts in the order in which they were given, at least one.
        vector: mean of the sentences' vectors, little-endian float32 [T].
        encoder: identity of the encoder that made it, see :func:`model.text.encoder.encoder_id`.
    """

    sentences: tuple[str, ...]
    vector: bytes = field(compare=False, repr=False)
    encoder: str = field(compare=False)

    @property
    def numbers(self) -> NDArray[np.float32]:
        """The vector, float32 [T]."""
        return np.frombuffer(self.vector, dtype="<f4").astype(np.float32, copy=False)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "sentences": list(self.sentences),
            "vector": base64.b64encode(self.vector).decode(),
            "encoder": self.encoder,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClassText:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        sentences = fields["sentences"]
        if not isinstance(sentences, list) or not sentences or not all(isinstance(s, str) for s in sentences):
            raise ValueError("text: expected sentences, at least one")
        try:
            text = cls(
                sentences=tuple(sentences),
                vector=base64.b64decode(fields["vector"], validate=True),
                encoder=str(fields["encoder"]),
            )
        except binascii.Error as error:
            raise ValueError(f"text: the vector is not base64: {error}") from None
        if len(text.vector) % 4 or not np.isfinite(text.numbers).all():
            raise ValueError("text: expected a vector of finite float32 numbers")
        return text
