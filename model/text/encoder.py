"""Sentences to vectors, one sentence at a time, so that a text has the same bits in whatever company it comes.

L: tokens of a sentence, T: dimension of token embeddings and vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from model.errors import BundleError, MissingDependencyError, Problem, TextError
from model.text.description import MAX_SENTENCE_LENGTH, MAX_SENTENCES, ClassText

Pooling = Literal["mean", "cls", "max"]

MAX_TEMPLATE_LENGTH = 500
_LONGEST_READ = 4096  # tokens, far above what sentence encoders read

RunGraph = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Token ids int64 [1, L] to token embeddings float32 [1, L, T]."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """How a sentence becomes a vector.

    Attributes:
        dimension: T.
        max_tokens: most tokens of a sentence, special ones included.
        pooling: which vector stands for a sentence: the mean of its tokens' embeddings, that of the first token, or
            the largest value of each number.
        normalise: whether vectors are divided by their Euclidean length.
        template: what is encoded, with the sentence in place of `{}`.
    """

    dimension: int
    max_tokens: int
    pooling: Pooling = "mean"
    normalise: bool = True
    template: str = "{}"

    def __post_init__(self) -> None:
        if self.dimension < 1:
            raise ValueError(f"text encoder: expected a dimension above 0, got {self.dimension}")
        if not 3 <= self.max_tokens <= _LONGEST_READ:
            raise ValueError(f"text encoder: expected max_tokens in 3..{_LONGEST_READ}, got {self.max_tokens}")
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"text encoder: expected pooling {', '.join(get_args(Pooling))}, got {self.pooling!r}")
        if self.template.count("{}") != 1 or len(self.template) > MAX_TEMPLATE_LENGTH:
            raise ValueError(
                f"text encoder: expected a template of at most {MAX_TEMPLATE_LENGTH} characters with {{}} once, got "
                f"{self.template[:MAX_TEMPLATE_LENGTH]!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "dimension": self.dimension,
            "max_tokens": self.max_tokens,
            "pooling": self.pooling,
            "normalise": self.normalise,
            "template": self.template,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EncoderSpec:
        """Read the JSON of :meth:`to_json`; KeyError, TypeError or ValueError where it has another form."""
        if not isinstance(fields["normalise"], bool):
            raise TypeError(f"text encoder: normalise must be true or false, got {fields['normalise']!r}")
        return cls(
            dimension=int(fields["dimension"]),
            max_tokens=int(fields["max_tokens"]),
            pooling=fields["pooling"],
            normalise=fields["normalise"],
            template=str(fields["template"]),
        )

    def pool(self, embeddings_LT: NDArray[np.float32]) -> NDArray[np.float64]:
        """One vector, float64 [T], of a sentence's token embeddings."""
        embeddings = embeddings_LT.astype(np.float64)
        if self.pooling == "cls":
            return np.array(embeddings[0])
        return np.array(embeddings.mean(axis=0) if self.pooling == "mean" else embeddings.max(axis=0))

    def mean(self, vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Mean of sentences' vectors, each and the mean of length 1 where vectors are normalised, float64 [T]."""
        total = np.zeros(self.dimension)
        for vector in vectors:  # one after the other: a sum over an axis may pair them differently
            total += self._of_length(vector)
        return self._of_length(total / len(vectors))

    def _of_length(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        length = float(np.linalg.norm(vector)) if self.normalise else 1.0
        return vector / length if length > 0 else vector


def encoder_id(graph_sha256: str, tokenizer_sha256: str, spec: EncoderSpec) -> str:
    """Identity of everything that decides a text's vector, 32 hexadecimal digits."""
    identity = {"graph": graph_sha256, "tokenizer": tokenizer_sha256, "spec": spec.to_json()}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


class Tokens:
    """Sentences to token ids by a `tokenizer.json` as Hugging Face writes it; nothing is cut or padded.

    Args:
        data: the file.
        name: of the file, for errors.

    Raises:
        BundleError: the file cannot be read.
        MissingDependencyError: `tokenizers` is not installed.
    """

    def __init__(self, data: bytes, name: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingDependencyError("texts need `tokenizers`: install d3gzsl with the extra `text`") from None
        try:
            self._tokenizer = Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises bare exceptions
            raise BundleError(f"{name}: not readable as a tokenizer: {' '.join(str(error).split())[:300]}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "[SEP]" in a text is what it says, not the end of it
        self.largest_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if self.largest_id < 0:
            raise BundleError(f"{name}: the tokenizer knows no token")
        fields = json.loads(data)["model"]
        unknown = fields.get("unk_token")
        self._unknown = self._tokenizer.token_to_id(unknown) if isinstance(unknown, str) else fields.get("unk_id")

    def of(self, text: str) -> tuple[list[int], bool]:
        """Ids of a text's tokens, special ones included, and whether any token is known and not a special one."""
        encoding = self._tokenizer.encode(text)
        known = any(
            not special and token != self._unknown
            for token, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        )
        return encoding.ids, known


class TextEncoder:
    """Describes classes by text. Safe to call from many threads.

    Args:
        spec: how sentences become vectors.
        tokens: of the encoder's tokenizer.
        run: runs the encoder's graph.
        identity: see :func:`encoder_id`.
    """

    def __init__(self, spec: EncoderSpec, tokens: Tokens, run: RunGraph, *, identity: str) -> None:
        self.spec, self.identity = spec, identity
        self._tokens, self.run = tokens, run

    def describe(self, sentences: Sequence[str], pointers: Sequence[str]) -> ClassText:
        """The text of a class: v = mean of e(s) over its sentences s, of length 1 where vectors are normalised.

        e(s) pools the token embeddings of the template with s in it.

        Args:
            sentences: 1 to `MAX_SENTENCES` texts; space around them does not count.
            pointers: where each is, for errors.

        Raises:
            TextError: a text is empty, longer than the encoder reads, or has no word that it knows; names every one.
        """
        cleaned = tuple(sentence.strip() for sentence in sentences)
        problems: list[Problem] = []
        if not 1 <= len(cleaned) <= MAX_SENTENCES:
            detail = f"expected 1 to {MAX_SENTENCES} texts, got {len(cleaned)}"
            raise TextError(
                "the text cannot be encoded", [Problem(pointer=pointers[0] if pointers else "", detail=detail)]
            )
        ids: list[list[int]] = []
        for sentence, pointer in zip(cleaned, pointers, strict=True):
            found, fault = self._ids(sentence)
            ids.append(found)
            if fault:
                problems.append(Problem(pointer=pointer, detail=fault))
        if problems:
            raise TextError("the text cannot be encoded", problems)
        pooled = [self.spec.pool(self.run(np.array([one], dtype=np.int64))[0]) for one in ids]
        vector = self.spec.mean(pooled).astype("<f4")
        if not np.isfinite(vector).all():
            detail = "expected a text from which the encoder makes finite numbers"
            raise TextError("the text cannot be encoded", [Problem(pointer=pointers[0], detail=detail)])
        return ClassText(sentences=cleaned, vector=vector.tobytes(), encoder=self.identity)

    def _ids(self, sentence: str) -> tuple[list[int], str]:
        """Token ids, and what is wrong with the sentence, if anything is."""
        if not sentence:
            return [], "expected words, got an empty text"
        if len(sentence) > MAX_SENTENCE_LENGTH:
            return [], f"expected at most {MAX_SENTENCE_LENGTH} characters, got {len(sentence)}"
        ids, known = self._tokens.of(self.spec.template.replace("{}", sentence))
        if len(ids) > self.spec.max_tokens:
            return [], (
                f"expected at most {self.spec.max_tokens} tokens, which is what the text encoder reads, got "
                f"{len(ids)}; shorten the text or split it into several"
            )
        return ids, "" if known else "expected words that the text encoder knows, got none"
