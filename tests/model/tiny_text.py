"""The smallest text encoder: a tokenizer of words, and a graph with random weights whose tokens see each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from model.bundle import TextEncoderFiles
from model.text.encoder import EncoderSpec, TextEncoder, Tokens

T = 6
_WORDS = "a photo of big small grey red green blue violet sky animal with trunk and the leaves stone"
WORDS = tuple(_WORDS.split())
SPECIAL = ("[UNK]", "[CLS]", "[SEP]")
SPEC = EncoderSpec(dimension=T, max_tokens=12)


def tokenizer(**changes: Any) -> bytes:
    """A `tokenizer.json` that knows `WORDS`; `changes` replace its parts."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    cls, sep = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    fields: dict[str, Any] = {
        "version": "1.0",
        "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **added} for i, token in enumerate(SPECIAL)],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep],
            "pair": [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep],
            "special_tokens": {
                token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    return json.dumps({**fields, **changes}).encode()


def graph(*, seed: int = 0, rows: int | None = None, dimension: int = T) -> bytes:
    """input_ids int64 [N, L] -> token_embeddings [N, L, T]: each token's own numbers and some of all of them."""
    random = np.random.default_rng(seed)
    weights = {
        "table": random.standard_normal((rows or len(SPECIAL) + len(WORDS), dimension)).astype(np.float32),
        "mix": random.standard_normal((dimension, dimension)).astype(np.float32),
        "middle": np.array([1]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["own"]),
        helper.make_node("ReduceMean", ["own", "middle"], ["shared"], keepdims=1),
        helper.make_node("MatMul", ["shared", "mix"], ["mixed"]),
        helper.make_node("Add", ["own", "mixed"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["token_embeddings"]),
    ]
    body = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "L"])],
        [helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ["N", "L", dimension])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def files(**changes: Any) -> TextEncoderFiles:
    """The encoder's files, to be changed at will."""
    return TextEncoderFiles(**{"graph": graph(), "tokenizer": tokenizer(), "spec": SPEC, **changes})


def encoder(of: TextEncoderFiles | None = None) -> TextEncoder:
    """The encoder, run by ONNX Runtime."""
    of = of or files()
    session = onnxruntime.InferenceSession(of.graph, providers=["CPUExecutionProvider"])

    def run(ids: Any) -> Any:
        return session.run(["token_embeddings"], {"input_ids": ids})[0]

    return TextEncoder(of.spec, Tokens(of.tokenizer, "tokenizer.json"), run, identity=of.identity)


def pointers(sentences: Sequence[str]) -> list[str]:
    return [f"/text/{i}" for i in range(len(sentences))]
