from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.errors import BundleError
from model.noise import class_noise
from service.engine import OnnxEngine
from tests.service import tiny


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.load(bundle_dir)


def test_the_trunk_embeds(bundle: Bundle) -> None:
    images = np.random.default_rng(0).random((5, 3, tiny.S, tiny.S), dtype=np.float32)
    mean, largest = images.mean(axis=(2, 3)), images.max(axis=(2, 3))
    expected = np.concatenate([mean, largest - mean], axis=1) @ tiny.W_DZ

    embedded = OnnxEngine(bundle, threads=1).embed(images)

    np.testing.assert_allclose(embedded.embedding, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(embedded.teacher_score, -expected.mean(axis=1), rtol=1e-5, atol=1e-6)


def test_the_synthesizer_makes_embeddings(bundle: Bundle) -> None:
    noise = class_noise("b", "c", 20, tiny.K)
    attributes = np.tile(np.array(tiny.VIOLET, dtype=np.float32), (20, 1))
    made = OnnxEngine(bundle, threads=1).synthesize(noise, attributes)
    np.testing.assert_allclose(made, tiny.synthesize(noise, attributes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("trunk", "words"),
    [
        (tiny.trunk(size=16), r"'image' is tensor\(float\) \['N', 3, 16, 16\]; expected float32 \[N, 3, 8, 8\]"),
        (tiny.trunk(dimension=3), r"'embedding' is .*3\]; expected float32 \[N, 4\]"),
        (tiny.trunk(embedding="z"), "outputs are z, teacher_score, features; expected embedding, teacher_score"),
        (tiny.trunk(batch=1), r"'image' is .*\[1, 3, 8, 8\]; expected float32 \[N, 3, 8, 8\]"),
        (tiny.trunk(free=True, dimension=3), r"'embedding' gave \(2, 3\) for two rows, expected \(2, 4\)"),
        (b"no graph", "cannot be loaded"),
    ],
)
def test_a_graph_that_the_manifest_does_not_promise_is_refused(
    bundle: Bundle, tmp_path: Path, trunk: bytes, words: str
) -> None:
    other = dataclasses.replace(bundle, path=tmp_path)
    (tmp_path / "trunk.onnx").write_bytes(trunk)
    (tmp_path / "synthesizer.onnx").write_bytes(tiny.synthesizer())
    with pytest.raises(BundleError, match=words) as caught:
        OnnxEngine(other, threads=1)
    assert "trunk.onnx" in str(caught.value)


def test_a_synthesizer_of_other_inputs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = dataclasses.replace(bundle, path=tmp_path)
    for name in ("trunk.onnx", "synthesizer.onnx"):
        (tmp_path / name).write_bytes(tiny.trunk())
    with pytest.raises(BundleError, match=r"synthesizer\.onnx: inputs are image; expected noise, attributes"):
        OnnxEngine(other, threads=1)
