from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from model.bundle import Bundle
from model.errors import BundleError
from model.noise import class_noise
from service.errors import SettingsError
from service.inference.engine import OnnxEngine
from service.inference.graph import Graph, GraphFile
from service.inference.sessions import Provider, SessionConfig, is_out_of_memory
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


def test_a_provider_that_is_missing_is_an_error_that_names_those_there(bundle: Bundle) -> None:
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(SettingsError, match=f"provider {provider} is not in the installed .* which has: cpu;"):
            OnnxEngine(bundle, threads=1, provider=provider)


class FakeSession:
    """A session that runs on the CPU whatever it was asked for, and notes what that was."""

    def __init__(self, file: str, *, sess_options: Any, providers: list[Any]) -> None:
        self.asked = providers
        self._session = REAL_SESSION(file, sess_options=sess_options, providers=["CPUExecutionProvider"])
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.rows.append(len(next(iter(inputs.values()))))
        return self._session.run(outputs, inputs)


REAL_SESSION = ort.InferenceSession


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """An ONNX Runtime that says it has GPU providers."""
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    class Gpu(FakeSession):
        def get_providers(self) -> list[str]:
            return [p if isinstance(p, str) else p[0] for p in self.asked]

    monkeypatch.setattr(ort, "get_available_providers", lambda: names)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", Gpu)
    return Gpu


def test_a_provider_that_does_not_start_is_no_silent_fallback(
    bundle: Bundle, gpu: type[FakeSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "InferenceSession", FakeSession)
    with pytest.raises(SettingsError, match=r"cuda does not start .* would use CPUExecutionProvider instead"):
        OnnxEngine(bundle, threads=1, provider="cuda")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_sees_warmed_numbers_of_images_only(
    bundle: Bundle, gpu: type[FakeSession], provider: Provider, tmp_path: Path
) -> None:
    cpu = OnnxEngine(bundle, threads=1)
    engine = OnnxEngine(bundle, threads=1, provider=provider, batch_size=6, cache_dir=tmp_path / "cache")
    session = engine._trunk._session
    session.rows.clear()
    engine.warm_up()
    assert session.rows == [1, 2, 4, 6]
    for n in (1, 2, 3, 5, 6, 7, 13):
        images = np.random.default_rng(n).random((n, 3, tiny.S, tiny.S), dtype=np.float32)
        got, expected = engine.embed(images), cpu.embed(images)
        np.testing.assert_allclose(got.embedding, expected.embedding, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got.teacher_score, expected.teacher_score, rtol=1e-5, atol=1e-6)
    assert set(session.rows) == {1, 2, 4, 6}
    assert engine._synthesizer._session.asked == ["CPUExecutionProvider"]
    if provider == "tensorrt":
        ((name, options), *_) = session.asked
        assert (name, options["trt_profile_min_shapes"]) == ("TensorrtExecutionProvider", "image:1x3x8x8")
        assert options["trt_profile_max_shapes"] == "image:6x3x8x8"
        assert Path(options["trt_engine_cache_path"]).is_dir()


@pytest.mark.parametrize(("size", "buckets"), [(1, (1,)), (2, (1, 2)), (16, (1, 2, 4, 8, 16)), (5, (1, 2, 4, 5))])
def test_buckets_are_powers_of_two_up_to_the_batch_size(size: int, buckets: tuple[int, ...]) -> None:
    assert SessionConfig(threads=1, provider="cuda", batch_size=size).buckets == buckets
    assert SessionConfig(threads=1, batch_size=size).buckets == (size,)


def test_memory_that_runs_out_in_a_run_is_known_by_its_words(tmp_path: Path) -> None:
    """Of ONNX Runtime itself: N images make N x 10^12 numbers."""
    row = onnx.helper.make_tensor_value_info("row", onnx.TensorProto.FLOAT, ["N", 1])
    wide = onnx.helper.make_tensor_value_info("wide", onnx.TensorProto.FLOAT, ["N", None])
    size = onnx.helper.make_tensor("size", onnx.TensorProto.INT64, [2], [1, 10**12])
    nodes = [
        onnx.helper.make_node("Expand", ["row", "size"], ["large"]),
        onnx.helper.make_node("ReduceMax", ["large"], ["wide"], keepdims=1, axes=[1]),
    ]
    graph = onnx.helper.make_graph(nodes, "hungry", [row], [wide], [size])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=10)
    onnx.save(model, tmp_path / "hungry.onnx")
    promised = GraphFile(file=tmp_path / "hungry.onnx", sha256="", inputs={"row": (1,)}, outputs={"wide": (1,)})
    with pytest.raises(BundleError) as caught:
        Graph(promised, SessionConfig(threads=1))
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(BundleError("trunk.onnx: does not run: [ONNXRuntimeError] : 2 : INVALID_ARGUMENT"))
