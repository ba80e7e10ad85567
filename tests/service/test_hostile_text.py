"""Text encoders made to harm whoever loads them, and those that do not fit their bundle, with every hash right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from model.bundle import Bundle
from model.errors import BundleError
from service.inference.text_encoder import open_text_encoder
from tests.model import tiny_text
from tests.service.hostile import seal
from tests.service.processes import command
from tests.service.text_bundle import text_bundle, with_encoder


def rewritten(bundle: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(bundle / "text_encoder.onnx")
    change(model)
    (bundle / "text_encoder.onnx").write_bytes(model.SerializeToString())
    seal(bundle)


def contributed(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(helper.make_node("Gelu", ["plain"], ["token_embeddings"], domain="com.microsoft"))


def large(model: onnx.ModelProto) -> None:
    """The embeddings of all tokens, multiplied with each other until they take 14 GB."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 60_000), np.float32), "row"))
    nodes = [
        helper.make_node("Transpose", ["row"], ["column"]),
        helper.make_node("Mul", ["row", "column"], ["extra"]),
        helper.make_node("ReduceMax", ["extra"], ["largest"], keepdims=0),
        helper.make_node("Add", ["sum", "largest"], ["more"]),
    ]
    last = model.graph.node.pop()
    last.input[0] = "more"
    model.graph.node.extend([*nodes, last])


def tokenizer(**changes: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        (bundle / "tokenizer.json").write_bytes(tiny_text.tokenizer(**changes))
        seal(bundle)

    return change


REGEX = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a contributed operator": (lambda b: rewritten(b, contributed), "com.microsoft.Gelu is not allowed"),
    "14 GB by broadcasting": (lambda b: rewritten(b, large), "14400000000 bytes"),
    "a regular expression": (tokenizer(pre_tokenizer=REGEX), "a regular expression in pre_tokenizer"),
    "no tokenizer": (tokenizer(normalizer={"type": "Lowercase", "x": 1}, model={"type": "WordLevel"}), "tokenizer"),
    "tokens beyond the graph": (
        tokenizer(model={"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 9999}, "unk_token": "[UNK]"}),
        "does not take its token 9999",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_encoder_is_refused_before_it_is_loaded(tmp_path: Path, kind: str) -> None:
    change, words = KINDS[kind]
    change(text_bundle(tmp_path / "bundle"))
    with pytest.raises(BundleError, match=words):
        open_text_encoder(Bundle.load(tmp_path / "bundle"), threads=1)


def test_verify_tries_the_encoder(tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "bundle")
    assert command("bundle", "verify", bundle).returncode == 0
    KINDS["tokens beyond the graph"][0](bundle)
    refused = command("bundle", "verify", bundle)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "does not take its token 9999" in refused.stderr


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (tiny_text.graph(dimension=5), "token_embeddings"),
        (onnx.helper.make_model(helper.make_graph([], "x", [], [])).SerializeToString(), "text_encoder.onnx"),
    ],
)
def test_encoder_of_another_form(tmp_path: Path, graph: bytes, words: str) -> None:
    bundle = text_bundle(tmp_path / "bundle")
    (bundle / "text_encoder.onnx").write_bytes(graph)
    seal(bundle)
    with pytest.raises(BundleError, match=words):
        open_text_encoder(Bundle.load(bundle), threads=1)


def test_encoder_without_its_files_is_refused(tmp_path: Path) -> None:
    bundle = text_bundle(tmp_path / "bundle")
    fields = json.loads((bundle / "manifest.json").read_bytes())
    del fields["files"]["tokenizer.json"]
    (bundle / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"does not list tokenizer\.json"):
        Bundle.load(bundle)


def test_encoder_gives_what_it_gave_when_the_bundle_was_made(tmp_path: Path) -> None:
    bundle = Bundle.load(text_bundle(tmp_path / "bundle", encoder=with_encoder()))
    encoder = open_text_encoder(bundle, threads=1)
    assert encoder is not None
    for entry in bundle.manifest.classes:
        assert entry.text is not None
        sentences = entry.text.sentences
        assert encoder.describe(sentences, tiny_text.pointers(sentences)).vector == entry.text.vector
