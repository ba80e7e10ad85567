"""The text encoder of a bundle in ONNX Runtime.

L: tokens of a sentence, T: text vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.head import Float32
from model.text.encoder import TextEncoder
from service.inference.graph import Graph, encoder_graph
from service.inference.sessions import SessionConfig
from service.inference.trial import read_tokens, try_graphs


def open_text_encoder(bundle: Bundle, *, threads: int) -> TextEncoder | None:
    """The encoder that a bundle brings, tried in a process of its own before it is loaded; None where it brings none.

    It runs on the CPU, one sentence at a time without padding, so that a sentence has one vector in any
    company.

    Args:
        bundle: verified bundle.
        threads: threads that the graph may use.

    Raises:
        BundleError: graph or tokenizer is not allowed, does not load or run, or takes too much memory or time.
        MissingDependencyError: ONNX Runtime or `tokenizers` is not installed.
    """
    promised, spec, identity = encoder_graph(bundle), bundle.manifest.text_encoder, bundle.encoder_identity
    if promised is None or spec is None or identity is None or promised.tokenizer is None:
        return None
    try_graphs(promised)
    graph = Graph(promised, SessionConfig(threads=threads))

    def run(ids: NDArray[np.int64]) -> Float32:
        return graph.run({"input_ids": ids}, ("token_embeddings",))[0]

    return TextEncoder(spec, read_tokens(promised.tokenizer), run, identity=identity)
