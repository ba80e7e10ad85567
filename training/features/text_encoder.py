"""A text encoder in files: an ONNX graph, with a JSON that says how it is used and its tokenizer beside it.

L: tokens of a sentence, T: text vector.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.bundle import TextEncoderFiles
from model.errors import BundleError, DataError
from model.guards.graphs import check_graph, read_graph
from model.guards.tokenizers import check_tokenizer
from model.text.description import ClassText
from model.text.encoder import EncoderSpec, TextEncoder, Tokens
from training.files import renamed
from training.onnx_files import open_session

SEPARATOR = "|"
"""Stands between the sentences of one cell."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderSource:
    """The files that made the vectors of a data set's texts, which export puts into the bundle."""

    path: Path
    identity: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SentenceEncoder:
    """A text encoder that has been opened, checked and tried.

    Attributes:
        path: the ONNX file.
        files: what the bundle will hold of it.
        encoder: describes classes.
    """

    path: Path
    files: TextEncoderFiles
    encoder: TextEncoder

    def describe(self, cell: str, pointer: str) -> ClassText:
        """The text of a class from a cell, in which `|` separates sentences; TextError where one cannot be encoded."""
        sentences = [part for part in map(str.strip, cell.split(SEPARATOR)) if part] or [""]
        return self.encoder.describe(sentences, [pointer] * len(sentences))


def beside(path: Path) -> tuple[Path, Path]:
    """Where the JSON of a text encoder and its tokenizer lie."""
    return path.with_suffix(".json"), path.with_suffix(".tokenizer.json")


def load_text_encoder(path: Path, *, identity: str | None = None) -> SentenceEncoder:
    """Open a text encoder as `d3gzsl-train text-encoder` writes it.

    Args:
        path: the ONNX file, token ids int64 [N, L] to token embeddings float32 [N, L, T]. The JSON beside it has the
            fields of :class:`model.text.encoder.EncoderSpec`.
        identity: what it must be, see :func:`model.text.encoder.encoder_id`; None for any.

    Raises:
        DataError: a file is missing, not readable or not allowed, or they do not fit each other.
        MissingDependencyError: `tokenizers` is not installed.
    """
    card, tokenizer = beside(path)
    try:
        graph, words, fields = path.read_bytes(), tokenizer.read_bytes(), json.loads(card.read_bytes())
        spec = EncoderSpec.from_json(fields)
    except OSError as error:
        raise DataError(
            f"{error.filename}: expected a text encoder made by `d3gzsl-train text-encoder`: {error.strerror}"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{card}: a field is missing or has another form: {error}") from None
    files = TextEncoderFiles(graph=graph, tokenizer=words, spec=spec)
    if identity is not None and files.identity != identity:
        raise DataError(f"{path}: expected the text encoder {identity}, whose vectors are used, got {files.identity}")
    try:
        check_graph(read_graph(graph, str(path)), str(path), inputs={"input_ids": (2, spec.max_tokens)})
        check_tokenizer(words, str(tokenizer))
        tokens = Tokens(words, str(tokenizer))
    except BundleError as error:
        raise DataError(str(error)) from None
    encoder = TextEncoder(spec, tokens, _Running(graph, path), identity=files.identity)
    _try(encoder, tokens, path)
    return SentenceEncoder(path=path, files=files, encoder=encoder)


def write_text_encoder(files: TextEncoderFiles, path: Path) -> None:
    """Write a text encoder's three files; each is written beside and then renamed, the graph last."""
    card, tokenizer = beside(path)
    contents = {card: (json.dumps(files.spec.to_json(), indent=1) + "\n").encode(), tokenizer: files.tokenizer}
    for file, data in {**contents, path: files.graph}.items():
        with renamed(file) as draft:
            draft.write_bytes(data)


class _Running:
    """Runs the graph."""

    def __init__(self, graph: bytes, path: Path) -> None:
        try:
            self._session: onnxruntime.InferenceSession = open_session(graph)
        except Exception as error:  # ONNX Runtime has no common class of errors
            raise DataError(f"{path}: cannot be loaded: {' '.join(str(error).split())[:300]}") from None
        self._path = path

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        try:
            return np.asarray(self._session.run(["token_embeddings"], {"input_ids": ids})[0], dtype=np.float32)
        except Exception as error:
            raise DataError(f"{self._path}: does not run: {' '.join(str(error).split())[:300]}") from None


def _try(encoder: TextEncoder, tokens: Tokens, path: Path) -> None:
    """The longest sentence of the largest token id gives as many embeddings of the announced dimension."""
    spec = encoder.spec
    shapes: Sequence[Any] = encoder.run(np.full((1, spec.max_tokens), tokens.largest_id)).shape
    if tuple(shapes) != (1, spec.max_tokens, spec.dimension):
        raise DataError(
            f"{path}: expected token embeddings of the shape (1, {spec.max_tokens}, {spec.dimension}), got {shapes}"
        )
