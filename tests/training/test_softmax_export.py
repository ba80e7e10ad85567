"""A run with the `softmax` head: measured beside `lda`, exported, served, and grown to what a refit would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgi_lifespan import LifespanManager
from httpx import ASGITransport, AsyncClient

from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import DataError
from model.head import logits
from model.softmax import SoftmaxHead, bank_rows
from model.synthesis import class_embeddings
from service.app import create_app
from service.inference.decoding import decode
from service.inference.engine import OnnxEngine
from service.service import Service
from service.settings import Settings
from tests.training.tiny import write_run
from training.commands.results import table
from training.datasets.dataset import Dataset
from training.datasets.opening import reopen
from training.evaluation import evaluate_run, fit_chosen_heads, run_key
from training.experiment import write_results
from training.exporting.export import export
from training.features.store import FeatureStore
from training.reporting.report import report
from training.runs.contents import Trained

BOTH = ('selection.heads=["lda", "softmax"]', "selection.penalty=[0.1, 0.01]", "selection.samples=9")
NEW = {"id": "plum", "name": "Plum", "attributes": [45, 10, 35]}


@pytest.fixture(scope="module")
def run(store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(store_dir, tmp_path_factory.mktemp("both") / "run", *BOTH)


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return Trained.load(run)


@pytest.fixture(scope="module")
def data(trained: Trained) -> Dataset:
    return reopen(trained.data)


@pytest.fixture(scope="module")
def exported(trained: Trained, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("softmax") / "bundle"
    export(data, trained, out, head="softmax")
    return out


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def embeddings(bundle: Bundle, engine: OnnxEngine, entry: ClassEntry) -> Any:
    return class_embeddings(
        engine.synthesize,
        bundle_id=bundle.manifest.bundle_id,
        class_id=entry.id,
        attributes=entry.attributes,
        vocabulary=bundle.manifest.vocabulary,
        head=bundle.manifest.head,
    )


def test_both_forms_are_measured_and_reported(run: Path, trained: Trained, data: Dataset) -> None:
    metrics = write_results(run, data, trained)
    assert metrics["served"] == trained.selected.kind
    heads = fit_chosen_heads(data, trained, key=run_key(trained))
    assert {kind: head.head.kind for kind, head in heads.items()} == {"lda": "lda", "softmax": "softmax"}
    for kind, best in trained.selected.heads.items():
        assert metrics[kind]["temperature"] == best.calibration.temperature
        assert metrics[kind] == evaluate_run(data, trained, heads={kind: heads[kind]})[kind]
    assert metrics["lda"] != metrics["softmax"]
    served, other = trained.selected.kind, "lda" if trained.selected.kind == "softmax" else "softmax"
    lines = table(metrics).splitlines()
    assert lines[1].startswith(f"{served} on E_s (served)")
    assert lines[2].startswith(f"{other} on E_s ")
    page = report(run)
    for said in (f"{served} on E_s (served)", f"{other} on E_s<", "H on validation", f"best {other} of all lengths"):
        assert said in page
    for best in trained.selected.heads.values():
        assert f"{best.H:.3f}" in page


def test_the_bundle(exported: Path, trained: Trained, data: Dataset) -> None:
    """Its bank is real and synthetic rows in the manifest's order, and its rows are the solution of just that."""
    bundle = Bundle.load(exported)
    bundle.verify_head()
    spec, best = bundle.manifest.head, trained.selected.heads["softmax"]
    assert (spec.kind, spec.samples, spec.noise_form) == ("softmax", 9, "matched")
    assert bundle.manifest.calibration == best.calibration
    assert bundle.manifest.metrics["served"] == "softmax"
    assert "lda" not in bundle.manifest.metrics
    counts = bundle.head.bank()["counts"].tolist()
    rows = np.split(bundle.head.bank()["rows"], np.cumsum(counts)[:-1])
    engine = OnnxEngine(bundle, threads=1)
    for entry, of_class in zip(bundle.manifest.classes, rows, strict=True):
        if entry.kind == "unseen":
            np.testing.assert_array_equal(of_class, bank_rows(embeddings(bundle, engine, entry)))
        else:
            index = next(i for i, c in enumerate(data.classes) if c.id == entry.id)
            assert len(of_class) == (data.labels[data.trainval] == index).sum()
    lengths = [np.square(z.astype(float)).sum(axis=1).mean() for z in rows[:6]]
    assert spec.penalty == pytest.approx(best.choice.strength * np.mean(lengths), rel=1e-3)


def test_exports_differ_in_the_head_only(exported: Path, trained: Trained, data: Dataset, tmp_path: Path) -> None:
    export(data, trained, tmp_path / "lda", head="lda")
    one, other = Bundle.load(exported).manifest, Bundle.load(tmp_path / "lda").manifest
    assert other.head.kind == "lda"
    assert other.calibration == trained.selected.heads["lda"].calibration
    assert one.files["trunk.onnx"] == other.files["trunk.onnx"]
    assert one.bundle_id != other.bundle_id
    export(data, trained, tmp_path / "chosen")
    assert Bundle.load(tmp_path / "chosen").manifest.head.kind == trained.selected.kind
    with pytest.raises(DataError, match="--head: expected lda or softmax, which validation measured, got 'ridge'"):
        export(data, trained, tmp_path / "x", head="ridge")


@pytest.mark.anyio
async def test_served_and_grown(exported: Path, store_dir: Path, tmp_path: Path) -> None:
    """A class registered over HTTP: the exact answer is that of fitting the bank and the class's rows from nothing."""
    bundle = Bundle.load(exported)
    engine, store = OnnxEngine(bundle, threads=1), FeatureStore.load(store_dir)
    photo = (Path(store.data_root) / store.images[0].path).read_bytes()
    image = decode(photo, bundle.manifest.preprocess, max_bytes=10**6, max_pixels=10**6).image
    z = engine.embed(image[None]).embedding
    seen = np.array([entry.kind == "seen" for entry in bundle.manifest.classes])
    app = create_app(Service.open(Settings(bundle=exported, data_dir=tmp_path, threads=1)))
    async with LifespanManager(app), AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http:

        async def ask() -> dict[str, float]:
            headers = {"Content-Type": "image/png"}
            answer = await http.post("/classify?top_k=20", content=photo, headers=headers)
            fields = answer.json()
            assert (answer.status_code, fields["head"]) == (200, "exact")
            return {p["class_id"]: p["probability"] for p in fields["results"][0]["predictions"]}

        expected = bundle.manifest.calibration.probabilities(logits(z, bundle.weight, bundle.bias), seen)[0]
        before = await ask()
        assert before == pytest.approx(
            dict(zip([c.id for c in bundle.manifest.classes], expected, strict=True)), abs=1e-5
        )
        answer = await http.post("/classes?wait=exact", json=NEW)
        assert answer.status_code == 201, answer.text
        after = await ask()

    plum = ClassEntry(id="plum", name="Plum", kind="unseen", attributes=tuple(map(float, NEW["attributes"])))
    bank, spec = bundle.head.bank(), bundle.manifest.head
    rows = np.concatenate([bank["rows"], bank_rows(embeddings(bundle, engine, plum))])
    labels = np.repeat(np.arange(9), [*bank["counts"], spec.samples])
    assert spec.penalty is not None
    refit = SoftmaxHead.fit(rows, labels, penalty=spec.penalty)
    expected = bundle.manifest.calibration.probabilities(logits(z, refit.weight, refit.bias), np.append(seen, False))[0]
    ids = [*(c.id for c in bundle.manifest.classes), "plum"]
    assert after == pytest.approx(dict(zip(ids, expected, strict=True)), abs=2e-3)
    assert max(abs(after[name] - before[name]) for name in before) > 2e-3  # every row has moved
