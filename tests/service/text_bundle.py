"""The tiny bundle with a text encoder: classes are described by colours and text, or by text alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model.bundle import TextEncoderFiles
from model.classes import ClassEntry
from model.head import HeadSpec
from model.vocabulary import TextBlock, Vocabulary
from service.service import Service
from service.settings import Settings
from tests.model import tiny_text
from tests.service import tiny
from tests.service.tiny import A, Z

TEXTS = {
    "reddish": ("a red stone", "a photo of red"),
    "greenish": ("green leaves",),
    "bluish": ("the blue sky",),
}
W_TZ = (0.3 * np.random.default_rng(11).standard_normal((tiny_text.T, Z))).astype(np.float32)


def weights(*, named: bool) -> np.ndarray[Any, Any]:
    """What the synthesizer multiplies a description by, float32 [A + T, Z]."""
    return np.concatenate([tiny.W_DZ[:A], W_TZ]) if named else W_TZ


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
    return tiny.write(
        out, entries, vocabulary, weight=weights(named=named), trunk_bytes=trunk, text_encoder=encoder, spec=spec
    )


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
