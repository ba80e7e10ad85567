"""The benchmark of words on the tiny data set: what training knew by a text, the service makes of the same text."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

from tests.model import tiny_text
from tests.training.tiny import config, dataset

path = sys.path[0]
from benchmarks.pixel_backbone import with_pixel_backbone  # noqa: E402
from benchmarks.words import READY, described, read_lemmas, registered, table, texts_of  # noqa: E402
from training.exporting.export import export  # noqa: E402
from training.features.text_encoder import load_text_encoder, write_text_encoder  # noqa: E402
from training.runs.fit import fit  # noqa: E402

sys.path[0] = path  # which the benchmark, a script, sets for itself


def test_class_registered_by_text_has_the_row_that_training_exported(tmp_path: Path) -> None:
    """Fit, export, serve, remove every unseen class, and register it by its text over HTTP."""
    write_text_encoder(tiny_text.files(), tmp_path / "text.onnx")
    encoder = load_text_encoder(tmp_path / "text.onnx")
    ready, _ = with_pixel_backbone(dataset(), tmp_path)
    words = tiny_text.WORDS
    texts = [
        [f"a photo of {word}", f"the {word} and {words[i]}"] for i, word in enumerate(words[3 : 3 + len(ready.classes)])
    ]
    data = described(ready, texts, encoder)
    assert data.vocabulary.names == ()
    np.testing.assert_allclose(np.linalg.norm(data.attributes, axis=1), 1, rtol=1e-6)
    (tmp_path / "run").mkdir()
    trained = fit(data, config(), tmp_path / "run", data={"kind": "benchmark"}, device=torch.device("cpu"))
    export(data, trained, tmp_path / "bundle")
    found = asyncio.run(registered(tmp_path / "bundle", tmp_path / "registry"))
    assert found["registered_classes"] == 3
    assert found["largest_row_difference"] < 1e-5


def test_sentences_of_classes_and_their_names(tmp_path: Path) -> None:
    lemmas = "n1\tgoldfish, Carassius auratus\nn2\tcrane\nn3\tcrane, hoist\nn4\tunused\n"
    (tmp_path / "imagenet_synset_to_lemma.txt").write_text(lemmas)
    (tmp_path / "imagenet_synsets.txt").write_text("n1\nn2\nn3\n")
    synonyms = read_lemmas(tmp_path)
    assert synonyms == {"goldfish": "goldfish, Carassius auratus"}
    data = dataset(seen=2, unseen=1)
    names = ("goldfish", "crane", "sea_slug")
    classes = tuple(dataclasses.replace(entry, name=name) for entry, name in zip(data.classes, names, strict=True))
    texts = texts_of(dataclasses.replace(data, classes=classes), ("{names}", "a photo of a {name}"), synonyms)
    assert texts == [
        ["goldfish, Carassius auratus", "a photo of a goldfish"],
        ["crane", "a photo of a crane"],
        ["sea slug", "a photo of a sea slug"],
    ]


def test_table_compares_with_the_ready_vectors() -> None:
    common = {"U": 0.2, "S": 0.4, "classes": 3, "recipe": "r", "commit": "c", "seconds": 1}
    made = {"vectors_as_ready": 2, "largest_row_difference": 2e-7, "register_ms": 9.6}
    rows = [
        {"described by": READY, "seed": 0, "H": 0.25, **common},
        {"described by": "photo", "seed": 0, "H": 0.253, **common, **made},
        {"described by": "photo", "seed": 1, "H": 0.3, **common, **made},
    ]
    text = table(rows, "python x")
    assert "| ready vectors | 1 | 0.2000 | 0.4000 | 0.2500 | - | - | - | - | - |" in text
    assert "| photo | 2 | 0.2000 | 0.4000 | 0.2765 | +0.0030 | +0.0030 | 2 of 3 | 2.0e-07 | 10 |" in text
