"""Bundles with two trunks: which one runs, who says so, and what the registry keeps of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.bundle import TRUNK, TRUNK_INT8, Bundle, Precision, sha256_of
from model.errors import BundleError
from model.manifest import MANIFEST
from model.preprocess import preprocess
from service.errors import SettingsError
from service.inference.engine import OnnxEngine, _faster
from service.service import Service
from service.settings import Settings
from tests.service import tiny
from tests.service.conftest import Running
from tests.service.hostile import seal
from tests.service.photos import ORANGE, PHOTOS, PRIOR, in_json
from tests.service.processes import command

pytestmark = pytest.mark.anyio
BOTH: tuple[Precision, ...] = ("fp32", "int8")
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def two_trunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that takes photos, with a second trunk whose weights are rounded."""
    spec = replace(tiny.HEAD, photos=PRIOR)
    rounded = tiny.trunk(weight=tiny.ROUNDED_DZ)
    return tiny.tiny_bundle(tmp_path_factory.mktemp("two") / "bundle", trunk_int8=rounded, spec=spec)


# --- which one runs ---------------------------------------------------------------------------------------------------


class Clock:
    """Time that goes on only while a trunk runs."""

    def __init__(self, seconds: Mapping[Precision, list[float]]) -> None:
        self.now, self._seconds = 0.0, {name: list(times) for name, times in seconds.items()}
        self.runs: list[Precision] = []

    def __call__(self) -> float:
        return self.now

    def trunk(self, which: Precision) -> Any:
        def run(_inputs: Any, _outputs: Any) -> None:
            times = self._seconds[which]
            self.now += times.pop(0) if len(times) > 1 else times[0]
            self.runs.append(which)

        return SimpleNamespace(run=run)


@pytest.mark.parametrize(
    ("fp32", "int8", "chosen"),
    [
        ([0.10], [0.05], "int8"),
        ([0.10], [0.095], "fp32"),  # a gain of less than a tenth
        ([0.10], [0.20], "fp32"),
        ([0.30, 0.10], [0.095], "fp32"),  # the first run was disturbed
        ([0.10], [0.40, 0.05], "int8"),
    ],
)
def test_the_faster_trunk_is_taken(fp32: list[float], int8: list[float], chosen: Precision) -> None:
    clock = Clock({"fp32": fp32, "int8": int8})
    assert _faster({which: clock.trunk(which) for which in BOTH}, (3, 8, 8), clock=clock) == chosen
    assert clock.runs[:2] == ["fp32", "int8"]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.01, 5), (0.2, 2), (4.0, 1)])
def test_the_trial_takes_a_second_or_one_image_each(seconds: float, rounds: int) -> None:
    clock = Clock({"fp32": [seconds], "int8": [seconds]})
    _faster({which: clock.trunk(which) for which in BOTH}, (3, 8, 8), clock=clock)
    assert len(clock.runs) == 2 * rounds


@pytest.mark.parametrize("precision", BOTH)
def test_a_precision_that_is_asked_for_runs(two_trunks: Path, precision: Precision) -> None:
    bundle = Bundle.load(two_trunks)
    images = np.random.default_rng(0).random((3, 3, tiny.S, tiny.S), dtype=np.float32)
    engine = OnnxEngine(bundle, threads=1, precision=precision)
    mean, largest = images.mean(axis=(2, 3)), images.max(axis=(2, 3))
    weight = {"fp32": tiny.W_DZ, "int8": tiny.ROUNDED_DZ}[precision]
    expected = np.concatenate([mean, largest - mean], axis=1) @ weight
    assert engine.precision == precision
    np.testing.assert_allclose(engine.embed(images).embedding, expected, rtol=1e-5, atol=1e-6)
    assert OnnxEngine(bundle, threads=1).precision in BOTH


def test_a_precision_that_is_not_there_is_an_error(bundle_dir: Path, two_trunks: Path) -> None:
    with pytest.raises(SettingsError, match="precision int8: the bundle has a trunk in fp32 only"):
        OnnxEngine(Bundle.load(bundle_dir), threads=1, precision="int8")
    with pytest.raises(SettingsError, match=r"precision int8: .* made for CPUs; provider cuda takes fp32"):
        OnnxEngine(Bundle.load(two_trunks), threads=1, provider="cuda", precision="int8")


# --- the bundle -------------------------------------------------------------------------------------------------------


def test_the_id_is_also_of_the_second_trunk(two_trunks: Path, tmp_path: Path) -> None:
    spec = replace(tiny.HEAD, photos=PRIOR)
    alone = Bundle.load(tiny.tiny_bundle(tmp_path / "alone", spec=spec))
    both = Bundle.load(two_trunks)
    assert (alone.precisions, both.precisions) == (("fp32",), BOTH)
    assert alone.manifest.bundle_id != both.manifest.bundle_id
    assert [both.trunk_of(which).name for which in BOTH] == [TRUNK, TRUNK_INT8]
    assert sha256_of(alone.trunk) == sha256_of(both.trunk)


def test_a_bundle_of_the_time_of_one_trunk_says_that_it_is_in_int8(bundle_dir: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    fields = json.loads((old / MANIFEST).read_bytes())
    fields["metrics"]["int8"] = {"lost_points_of_H": 0.1}
    (old / MANIFEST).write_text(json.dumps(fields))
    engine = OnnxEngine(Bundle.load(old), threads=1, precision="int8")
    assert (engine.precision, OnnxEngine(Bundle.load(old), threads=1).precision) == ("int8", "int8")
    with pytest.raises(SettingsError, match="precision fp32: the bundle has a trunk in int8 only"):
        OnnxEngine(Bundle.load(old), threads=1, precision="fp32")


def test_a_second_trunk_that_was_changed_is_found(two_trunks: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(two_trunks, tmp_path / "bundle"))
    (bundle / TRUNK_INT8).write_bytes(tiny.trunk(weight=tiny.ROUNDED_DZ + 1))
    with pytest.raises(BundleError, match=r"trunk_int8\.onnx is damaged or changed"):
        Bundle.load(bundle)
    fields = json.loads((bundle / MANIFEST).read_bytes())
    fields["files"][TRUNK_INT8] = sha256_of(bundle / TRUNK_INT8)
    (bundle / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=r"has bundle_id .*, its contents give"):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tiny.trunk(dimension=3), r"trunk_int8\.onnx: 'embedding' is .*3\]; expected float32 \[N, 4\]"),
        (b"no graph", r"trunk_int8\.onnx: .*cannot be loaded"),
    ],
)
def test_a_second_trunk_is_checked_like_the_first(two_trunks: Path, tmp_path: Path, content: bytes, words: str) -> None:
    bundle = Path(shutil.copytree(two_trunks, tmp_path / "bundle"))
    (bundle / TRUNK_INT8).write_bytes(content)
    seal(bundle)
    with pytest.raises(BundleError, match=words):
        OnnxEngine(Bundle.load(bundle), threads=1)
    refused = command("bundle", "verify", bundle)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert OnnxEngine(Bundle.load(bundle), threads=1, precision="fp32").precision == "fp32"  # the other is not loaded


# --- who says so ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", BOTH)
async def test_every_answer_says_which_trunk_it_is_of(running: Running, two_trunks: Path, precision: Precision) -> None:
    async with running(bundle=two_trunks, precision=precision) as client:
        answer = (await client.post("/classify", content=tiny.photo(3), headers=PNG)).json()
        about = (await client.get("/version")).json()
        numbers = (await client.get("/metrics")).text
        inputs = [{"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192}]
        inferred = (await client.post("/v2/models/d3gzsl/infer", json={"inputs": inputs})).json()
    assert answer["precision"] == about["precision"] == inferred["parameters"]["precision"] == precision
    assert f'precision="{precision}"' in numbers
    bundle = Bundle.load(two_trunks)
    here = command(
        "classify", two_trunks / "examples/red.png", "--bundle", two_trunks, "--precision", precision, "--json"
    )
    assert json.loads(here.stdout)["precision"] == precision
    assert json.loads(here.stdout)["bundle"] == answer["bundle"] == bundle.manifest.bundle_id


def test_a_run_over_a_folder_has_one_precision(two_trunks: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(tiny.photo(1))
    arguments = ("classify", tmp_path / "in", "--bundle", two_trunks, "--out", tmp_path / "out.parquet")
    done = command(*arguments, D3GZSL_PRECISION="int8")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out.parquet")["precision"].to_pylist() == ["int8"]
    other = command(*arguments, "--resume", "--precision", "fp32")
    assert (other.returncode, "exists already" in other.stderr) == (2, True)
    assert command(*arguments, "--overwrite").returncode == 0
    assert pq.read_table(tmp_path / "out.parquet")["precision"].to_pylist()[0] in BOTH


def test_a_service_has_its_own_precision() -> None:
    refused = command("classify", "x.png", "--url", "http://localhost:1", "--precision", "int8")
    assert refused.returncode == 2
    assert "--url and --precision exclude each other" in refused.stderr


# --- the registry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", BOTH)
async def test_a_registry_opens_with_either_trunk(running: Running, two_trunks: Path, first: Precision) -> None:
    """A row is what was computed when its class was registered, whichever trunk reads it."""
    second: Precision = "int8" if first == "fp32" else "fp32"
    rows, stored = {}, {}
    for precision in (first, second):
        async with running(bundle=two_trunks, precision=precision) as client:
            service: Service = client._transport.app.state.service  # type: ignore[attr-defined]
            if precision == first:
                created = await client.post("/classes", json={**ORANGE, "examples": in_json(PHOTOS[:2])})
                assert created.status_code == 201, created.text
            known = service.snapshot.get("orange")
            assert known is not None
            rows[precision] = service.snapshot.row("orange")
            trunks = {example.trunk for example in known.entry.examples}
            stored[precision] = service.registrar._log.embeddings(known.entry.examples)
    assert rows[first].bias == rows[second].bias
    np.testing.assert_array_equal(rows[first].weight, rows[second].weight)
    bundle = Bundle.load(two_trunks)
    assert trunks == {sha256_of(bundle.trunk_of("fp32"))}  # photos of a class are embedded in float32 by either
    inputs = np.stack([preprocess(photo, bundle.manifest.preprocess) for photo in PHOTOS[:2]])
    exact = OnnxEngine(bundle, threads=1, precision="fp32").embed(inputs).embedding
    for found in stored.values():
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(exact, axis=0), rtol=1e-6, atol=1e-7)


def test_described_classes_have_the_same_row_with_either_trunk(two_trunks: Path) -> None:
    """Rows come from the synthesizer, which is the same."""
    made = {
        which: OnnxEngine(Bundle.load(two_trunks), threads=1, precision=which).synthesize(
            np.ones((4, tiny.K), dtype=np.float32), np.ones((4, tiny.A), dtype=np.float32)
        )
        for which in BOTH
    }
    np.testing.assert_array_equal(made["fp32"], made["int8"])


def test_the_setting_is_a_variable_and_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3GZSL_PRECISION", "int8")
    assert Settings().precision == "int8"
    monkeypatch.delenv("D3GZSL_PRECISION")
    assert Settings().precision == "auto"
