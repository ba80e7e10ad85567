"""The tiny bundle with a text encoder: classes are described by colours and text, or by text alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from model.bundle import TextEncoderFiles, sha256_bytes, write_bundle
from model.calibration import Calibration
from model.classes import ClassEntry
from model.head import HeadSpec
from model.lda import LdaHead
from model.manifest import BackboneInfo, bundle_id
from model.synthesis import class_embeddings
from model.vocabulary import TextBlock, Vocabulary
from service.service import Service
from service.settings import Settings
from tests.model import tiny_text
from tests.service import tiny
from tests.service.tiny import A, D, K, Z

TEXTS = {
    "reddish": ("a red stone", "a photo of red"),
    "greenish": ("green leaves",),
    "bluish": ("the blue sky",),
}
W_TZ = (0.3 * np.random.default_rng(11).standard_normal((tiny_text.T, Z))).astype(np.float32)


def weights(*, named: bool) -> np.ndarray[Any, Any]:
    """What the synthesizer multiplies a description by, float32 [A + T, Z]."""
    return np.concatenate([tiny.W_DZ[:A], W_TZ]) if named else W_TZ


def synthesizer(*, named: bool) -> bytes:
    """noise [N,K], attributes [N,A+T] -> embedding [N,Z]."""
    nodes = [
        helper.make_node("MatMul", ["noise", "W_KZ"], ["jitter"]),
        helper.make_node("MatMul", ["attributes", "W_AZ"], ["centre"]),
        helper.make_node("Add", ["centre", "jitter"], ["embedding"]),
    ]
    matrix = weights(named=named)
    inputs = [("noise", ["N", K]), ("attributes", ["N", len(matrix)])]
    return tiny._model(nodes, inputs, [("embedding", ["N", Z])], {"W_KZ": tiny.W_KZ, "W_AZ": matrix})


def text_bundle(
    out: Path,
    *,
    named: bool = True,
    encoder: TextEncoderFiles | None = None,
    spec: HeadSpec = tiny.HEAD,
    trunk: bytes | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """Write a bundle with two seen classes and an unseen one, all with texts.

    Args:
        out: directory.
        named: whether there are named attributes beside the text.
        encoder: the text encoder's files.
        spec: of the head.
        trunk: its graph.
        without: ids of classes that the bundle does not have.
    """
    encoder = encoder or tiny_text.files()
    describe = tiny_text.encoder(encoder).describe
    entries = tuple(
        ClassEntry(
            id=name,
            name=name.capitalize(),
            kind="unseen" if name == "bluish" else "seen",
            attributes=tiny.COLOURS[name] if named else (),
            text=describe(texts, tiny_text.pointers(texts)),
        )
        for name, texts in TEXTS.items()
        if name not in without
    )
    offset = np.mean([entry.text_vector for entry in entries if entry.kind == "seen"], axis=0).tolist()
    vocabulary = Vocabulary.from_classes(
        tiny.NAMES if named else (),
        [entry.attributes for entry in entries],
        offset=0.0,
        scale=1.0,
        unit_length=False,
        text=TextBlock(offset=tuple(offset), scale=0.5),
    )
    graph, trunk = synthesizer(named=named), trunk or tiny.trunk()
    identity = bundle_id(sha256_bytes(trunk), sha256_bytes(graph), vocabulary, spec, encoder=encoder.identity)
    head = LdaHead(0.2 * np.eye(Z)).scaled(spec.unseen_scale)
    matrix = weights(named=named)

    def synthesize(noise: Any, attributes: Any) -> Any:
        return (noise @ tiny.W_KZ + attributes @ matrix).astype(np.float32)

    rows = [
        head.row(
            class_embeddings(
                synthesize,
                bundle_id=identity,
                class_id=entry.id,
                attributes=vocabulary.vectors([entry])[0],
                vocabulary=vocabulary,
                head=spec,
            )
        )
        for entry in entries
    ]
    write_bundle(
        out,
        trunk=trunk,
        synthesizer=graph,
        preprocess=tiny.SPEC,
        backbone=BackboneInfo(name="tiny.onnx", fingerprint="0" * 64, feature_dim=D),
        vocabulary=vocabulary,
        classes=entries,
        head_spec=spec,
        head=head,
        weight=np.stack([row.weight for row in rows]),
        bias=np.array([row.bias for row in rows], dtype=np.float32),
        novelty_reference=np.linspace(-1, 0, 11, dtype=np.float32),
        calibration=Calibration(seen_penalty=0.1, temperature=1.0),
        metrics={"test": {"H": 0.5}},
        training={},
        text_encoder=encoder,
    )
    return out


def with_encoder(**changes: Any) -> TextEncoderFiles:
    """The tiny encoder with some of its parts replaced."""
    return replace(tiny_text.files(), **changes)


def stored_row(bundle: Path, data_dir: Path, class_id: str) -> tuple[bytes, float, bytes]:
    """What a process that starts now serves for a class: weight, bias and the text's vector."""
    service = Service.open(Settings(bundle=bundle, data_dir=data_dir, threads=1))
    try:
        known, row = service.snapshot.there(class_id), service.snapshot.row(class_id)
        assert known.entry.text is not None
        return row.weight.tobytes(), row.bias, known.entry.text.vector
    finally:
        service.close()
