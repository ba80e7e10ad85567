"""Texts of classes: vectors, what is refused of a text or a tokenizer, and bundles with an encoder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import BundleError, TextError
from model.guards.tokenizers import check_tokenizer
from model.text.description import MAX_SENTENCE_LENGTH, MAX_SENTENCES, ClassText
from model.text.encoder import EncoderSpec, Tokens
from model.vocabulary import TextBlock, Vocabulary
from tests.model import tiny, tiny_text


def test_vector_is_the_normalised_mean_of_pooled_sentences() -> None:
    encoder = tiny_text.encoder()
    of = {s: encoder.describe([s], ["/text"]).numbers.astype(np.float64) for s in ("a red stone", "the sky")}
    both = encoder.describe(list(of), ["/text/0", "/text/1"]).numbers
    mean = sum(of.values()) / 2
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean), atol=1e-6)
    assert np.linalg.norm(both) == pytest.approx(1, abs=1e-6)
    assert np.abs(of["a red stone"] - of["the sky"]).max() > 0.1


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling(pooling: Any) -> None:
    spec = EncoderSpec(dimension=2, max_tokens=5, pooling=pooling, normalise=False)
    expected = {"mean": [2, 0], "cls": [1, -6], "max": [3, 6]}[pooling]
    assert spec.pool(np.array([[1, -6], [2, 0], [3, 6]], dtype=np.float32)).tolist() == expected


def test_template_surrounds_every_sentence() -> None:
    plain, framed = (
        tiny_text.encoder(),
        tiny_text.encoder(tiny_text.files(spec=replace(tiny_text.SPEC, template="a photo of {}"))),
    )
    assert framed.describe(["the sky"], ["/text"]).vector == plain.describe(["a photo of the sky"], ["/text"]).vector
    assert framed.describe(["the sky"], ["/text"]).sentences == ("the sky",)


def test_text_has_the_same_bits_in_any_company() -> None:
    encoder = tiny_text.encoder()
    alone = encoder.describe(["a grey animal"], ["/text"]).vector
    encoder.describe(["the sky and the stone and leaves", "a grey animal", "red"], tiny_text.pointers("abc"))
    assert encoder.describe([" a grey animal\n"], ["/text"]).vector == alone


def test_long_text_is_refused_with_its_tokens_not_cut() -> None:
    encoder = tiny_text.encoder()
    encoder.describe(["a " * 10], ["/text"])  # and two special tokens: as many as it reads
    with pytest.raises(TextError) as caught:
        encoder.describe(["sky", "a " * 11, "", "x" * (MAX_SENTENCE_LENGTH + 1)], tiny_text.pointers("abcd"))
    found = {problem.pointer: problem.detail for problem in caught.value.problems}
    assert set(found) == {"/text/1", "/text/2", "/text/3"}
    assert "at most 12 tokens" in found["/text/1"]
    assert "got 13" in found["/text/1"]
    assert "empty" in found["/text/2"]
    assert f"got {MAX_SENTENCE_LENGTH + 1}" in found["/text/3"]


@pytest.mark.parametrize("text", ["zzz qqq", "[CLS]", "☃"])
def test_text_of_unknown_words_alone_is_refused(text: str) -> None:
    with pytest.raises(TextError, match="words that the text encoder knows"):
        tiny_text.encoder().describe([text], ["/text"])


def test_number_of_texts_is_limited() -> None:
    with pytest.raises(TextError, match=f"1 to {MAX_SENTENCES} texts"):
        tiny_text.encoder().describe(["sky"] * (MAX_SENTENCES + 1), tiny_text.pointers("x" * (MAX_SENTENCES + 1)))


def test_class_with_text_survives_json_and_equals_by_words() -> None:
    text = tiny_text.encoder().describe(["a red stone", "the sky"], ["/text/0", "/text/1"])
    entry = ClassEntry(id="a", name="A", kind="unseen", attributes=(), text=text)
    back = ClassEntry.from_json(json.loads(json.dumps(entry.to_json())))
    assert back == entry
    assert back.text is not None
    assert back.text.vector == text.vector
    assert back.text.encoder == text.encoder
    assert entry == replace(entry, text=replace(text, vector=b"\0" * 24))
    assert entry != replace(entry, text=replace(text, sentences=("the sky",)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sentences": []}, "at least one"),
        ({"vector": "&"}, "base64"),
        ({"vector": "AAA="}, "finite"),
        ({"vector": "AADAfw=="}, "finite"),
    ],
)
def test_damaged_text_is_refused(change: dict[str, Any], words: str) -> None:
    fields = tiny_text.encoder().describe(["sky"], ["/text"]).to_json()
    with pytest.raises(ValueError, match=words):
        ClassText.from_json({**fields, **change})


def test_vocabulary_of_attributes_and_text() -> None:
    block = TextBlock(offset=(0.5, 0.0), scale=2.0)
    vocabulary = Vocabulary.from_classes(["red"], [[0.0], [10.0]], offset=4, scale=2, unit_length=False, text=block)
    text = ClassText(sentences=("x",), vector=np.array([1, 3], "<f4").tobytes(), encoder="e")
    with_text = ClassEntry(id="a", name="A", kind="unseen", attributes=(8.0,), text=text)
    without = replace(with_text, text=None)
    assert vocabulary.dimension == 3
    assert vocabulary.described([with_text, without]).tolist() == [[2, 0.25, 1.5], [2, 0, 0]]
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


def test_vocabulary_of_text_alone() -> None:
    vocabulary = Vocabulary(
        attributes=(), offset=(), scale=(), unit_length=True, text=TextBlock(offset=(0.0, 0.0), scale=1)
    )
    text = ClassText(sentences=("x",), vector=np.array([3, 4], "<f4").tobytes(), encoder="e")
    entry = ClassEntry(id="a", name="A", kind="unseen", attributes=(), text=text)
    np.testing.assert_allclose(vocabulary.described([entry]), [[0.6, 0.8]], rtol=1e-6)
    with pytest.raises(BundleError, match="empty"):
        Vocabulary(attributes=(), offset=(), scale=(), unit_length=True)


REGEX = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "not readable as JSON"),
        (b"[]", "no model"),
        (b"[" * 100_000, "levels"),
        (tiny_text.tokenizer(pre_tokenizer=REGEX), "regular expression in pre_tokenizer"),
        (tiny_text.tokenizer(normalizer={"type": "Sequence", "normalizers": [GROWING]}), "more than 16 characters"),
        (tiny_text.tokenizer(model={"type": "Loop"}), "model of the type 'Loop'"),
        (tiny_text.tokenizer(run="x"), "'run' is not allowed"),
    ],
)
def test_tokenizers_without_bounds_are_refused(data: bytes, words: str) -> None:
    check_tokenizer(tiny_text.tokenizer(), "tokenizer.json")
    with pytest.raises(BundleError, match=re.escape(words)):
        check_tokenizer(data, "tokenizer.json")


def test_tokenizer_that_the_library_does_not_read() -> None:
    with pytest.raises(BundleError, match="not readable as a tokenizer"):
        Tokens(tiny_text.tokenizer(pre_tokenizer={"type": "Whitespaces"}), "tokenizer.json")


def text_bundle(out: Path, **changes: Any) -> str:
    """The tiny bundle whose classes have texts beside their attributes."""
    encoder = tiny_text.encoder()
    classes = tuple(replace(entry, text=encoder.describe(["a red stone"], ["/text"])) for entry in tiny.CLASSES)
    block = TextBlock(offset=(0.0,) * tiny_text.T, scale=1.0)
    arguments = {
        "classes": classes,
        "vocabulary": replace(tiny.vocabulary(), text=block),
        "text_encoder": tiny_text.files(),
        **changes,
    }
    return tiny.write(out, **arguments)


def test_bundle_with_an_encoder(tmp_path: Path) -> None:
    identity = text_bundle(tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.manifest.text_encoder == tiny_text.SPEC
    assert bundle.manifest.vocabulary.dimension == tiny.ATTRIBUTES + tiny_text.T
    assert bundle.encoder_identity == tiny_text.files().identity
    assert {entry.text.sentences for entry in bundle.manifest.classes if entry.text} == {("a red stone",)}
    other = tiny_text.files(spec=replace(tiny_text.SPEC, template="the {}"))
    assert text_bundle(tmp_path / "other", text_encoder=other) != identity


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_encoder": None}, "6 numbers of text, the text encoder makes 0"),
        ({"vocabulary": tiny.vocabulary()}, "0 numbers of text, the text encoder makes 6"),
        ({"text_encoder": tiny_text.files(spec=replace(tiny_text.SPEC, dimension=5))}, "makes 5"),
    ],
)
def test_bundle_whose_parts_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        text_bundle(tmp_path / "b", **changes)


def test_changed_tokenizer_is_found(tmp_path: Path) -> None:
    text_bundle(tmp_path / "b")
    (tmp_path / "b" / "tokenizer.json").write_bytes(tiny_text.tokenizer(normalizer=None))
    with pytest.raises(BundleError, match=r"tokenizer\.json is damaged or changed"):
        Bundle.load(tmp_path / "b")
