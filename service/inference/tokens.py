"""The tokenizer of a text encoder, checked and held against the encoder's graph.

L: tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.bundle import MAX_TOKENIZER_BYTES
from model.errors import BundleError
from model.guards.files import read_plain
from model.guards.tokenizers import check_tokenizer
from model.text.description import MAX_SENTENCE_LENGTH
from model.text.encoder import Tokens
from service.inference.graph import Graph

_PROBE = "A photo of a grey animal, 3 m tall. "


def read_tokens(file: Path) -> Tokens:
    """The tokenizer in a file.

    Raises:
        BundleError: it is not allowed, or cannot be read.
        MissingDependencyError: `tokenizers` is not installed.
    """
    data = read_plain(file, limit=MAX_TOKENIZER_BYTES)
    check_tokenizer(data, str(file))
    return Tokens(data, str(file))


def try_tokenizer(file: Path, graph: Graph) -> None:
    """Have a tokenizer read the longest text, and the graph its largest token id.

    Raises:
        BundleError: one of them cannot.
        MissingDependencyError: `tokenizers` is not installed.
    """
    tokens = read_tokens(file)
    tokens.of((_PROBE * MAX_SENTENCE_LENGTH)[:MAX_SENTENCE_LENGTH])
    try:
        graph.run({"input_ids": np.full((1, 3), tokens.largest_id, dtype=np.int64)}, ("token_embeddings",))
    except BundleError as error:
        raise BundleError(f"{file}: the graph does not take its token {tokens.largest_id}: {error}") from None
