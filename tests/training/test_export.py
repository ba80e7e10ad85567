"""From a run to a bundle that answers as the run did, and grows as if it had known every class from the start."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import model.preprocess
import training.features.decoding
from model.bundle import Bundle
from model.classes import ClassEntry
from model.errors import BundleError, DataError
from model.head import logits
from model.manifest import Example
from service.classes.registrar import Registrar
from service.classes.snapshot import Snapshot
from service.inference import decoding
from service.inference.engine import OnnxEngine
from service.registry.database import Database, database_url
from service.registry.log import ChangeLog
from tests.training.tiny import COLOURS, names
from training.datasets.dataset import Dataset
from training.datasets.opening import open_data, reopen
from training.evaluation import fit_chosen_head, run_task
from training.exporting import graphs
from training.exporting.export import export
from training.features.store import FeatureStore
from training.method.heads import embed
from training.method.novelty import NOVELTY_SCORES, TEACHER, NoveltyScore, familiarity
from training.metrics import gzsl_scores
from training.runs.contents import Trained
from training.runs.fit import novelty_reference


@pytest.fixture(scope="module")
def bundle(exported: Path) -> Bundle:
    return Bundle.load(exported)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OnnxEngine:
    return OnnxEngine(bundle, threads=1)


def photos(store_dir: Path) -> list[bytes]:
    store = FeatureStore.load(store_dir)
    return [(Path(store.data_root) / image.path).read_bytes() for image in store.images]


def inputs(store_dir: Path, bundle: Bundle) -> NDArray[np.float32]:
    spec = bundle.manifest.preprocess
    decoded = [decoding.decode(d, spec, max_bytes=10**6, max_pixels=10**6) for d in photos(store_dir)]
    return np.stack([one.image for one in decoded])


# --- what is in it --------------------------------------------------------------------------------


def test_manifest(bundle: Bundle, trained: Trained, data: Dataset, store_dir: Path) -> None:
    manifest, store = bundle.manifest, FeatureStore.load(store_dir)
    assert [c.name for c in manifest.classes] == ["brick", "moss", "sea", "chalk", "coal", "sand", "Violet", "Lime"]
    assert all(c.attributes == COLOURS[c.name][1] for c in manifest.classes)
    assert [c.kind for c in manifest.classes] == ["seen"] * 6 + ["unseen"] * 2
    assert manifest.vocabulary == data.vocabulary
    assert manifest.preprocess == store.spec
    assert (manifest.backbone.fingerprint, manifest.backbone.feature_dim) == (store.fingerprint, 8)
    assert manifest.calibration == trained.selected.calibration
    assert trained.selected.photos is not None
    assert manifest.head.to_json() == {
        "kind": "lda",
        "dimension": 8,
        "samples": 10,
        "noise_dimension": 3,
        "shrinkage": trained.selected.head.shrinkage,
        "noise": "matched",
        "photos": trained.selected.photos.to_json(),
    }
    np.testing.assert_array_equal(bundle.novelty_reference, trained.novelty_reference)
    assert manifest.training["config"] == json.loads(json.dumps(trained.config.to_json()))
    assert manifest.training["data"]["data_hash"] == store.data_hash
    assert set(manifest.metrics) >= {"protocol", "lda", "student", "novelty", "validation"}


def test_no_path_of_this_machine_is_in_it(exported: Path, store_dir: Path) -> None:
    here = [str(Path(__file__).parents[2]).encode(), str(store_dir.parent).encode()]
    for file in exported.iterdir():
        assert not any(path in file.read_bytes() for path in here), file.name


@pytest.mark.usefixtures("exported_anew")
def test_exporting_again_gives_the_same_bundle(exported: Path, trained: Trained, data: Dataset, tmp_path: Path) -> None:
    written = export(data, trained, tmp_path / "again")
    assert written["bundle_id"] == Bundle.load(exported).manifest.bundle_id
    assert {p.name: p.read_bytes() for p in exported.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()
    }


def test_examples(trained: Trained, data: Dataset, tmp_path: Path, store_dir: Path) -> None:
    example = Example(file="examples/violet.png", class_id="violet", name="Violet")
    export(data, trained, tmp_path / "b", examples={example: photos(store_dir)[0]})
    assert Bundle.load(tmp_path / "b").manifest.examples == (example,)
    assert (tmp_path / "b" / "examples" / "violet.png").read_bytes() == photos(store_dir)[0]


# --- it answers as the run did --------------------------------------------------------------------


@torch.no_grad()
def test_the_trunk_answers_as_torch(
    bundle: Bundle, engine: OnnxEngine, trained: Trained, data: Dataset, store_dir: Path
) -> None:
    """From the photos, through the service's decoding and engine, to 1e-4 of the largest value."""
    embedded = engine.embed(inputs(store_dir, bundle))
    scaled = torch.from_numpy(trained.scaler.apply(data.features))
    head = fit_chosen_head(data, trained, key="")
    z = trained.networks.student.embedding(scaled).numpy() - head.centre
    scores = trained.networks.teacher.score(scaled).numpy()
    if (score := trained.selected.novelty) not in (None, TEACHER):
        scores = familiarity(score, head, data.seen, trained.networks.student.embedding(scaled).numpy())
    np.testing.assert_allclose(embedded.embedding, z, rtol=0, atol=1e-4 * np.abs(z).max())
    np.testing.assert_allclose(embedded.teacher_score, scores, rtol=0, atol=1e-4 * np.abs(scores).max())


@pytest.mark.parametrize("score", [score for score in NOVELTY_SCORES if score != TEACHER])
def test_the_trunk_gives_the_novelty_score_that_was_chosen(
    trained: Trained, data: Dataset, store_dir: Path, tmp_path: Path, score: NoveltyScore
) -> None:
    selected = dataclasses.replace(trained.selected, novelty=score)
    reference = novelty_reference(trained.networks, run_task(data, trained), trained.config, selected)
    chosen = dataclasses.replace(trained, selected=selected, novelty_reference=reference)
    export(data, chosen, tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.manifest.novelty == score
    np.testing.assert_array_equal(bundle.novelty_reference, reference)
    head, z = fit_chosen_head(data, chosen, key=""), embed(trained.networks, scaled_rows(data, trained))
    expected = familiarity(score, head, data.seen, z)
    found = OnnxEngine(bundle, threads=1).embed(inputs(store_dir, bundle)).teacher_score
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    assert bundle.manifest.metrics["novelty"]["score"] == score


def test_a_run_without_a_novelty_score(trained: Trained, data: Dataset, tmp_path: Path) -> None:
    selected = dataclasses.replace(trained.selected, novelty=None)
    export(data, dataclasses.replace(trained, selected=selected, novelty_reference=None), tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.manifest.novelty is None
    assert bundle.novelty_reference is None
    assert bundle.manifest.metrics["novelty"]["auroc"] is None


def scaled_rows(data: Dataset, trained: Trained) -> torch.Tensor:
    return torch.from_numpy(trained.scaler.apply(data.features))


def test_training_and_service_preprocess_with_the_same_functions(
    store_dir: Path, bundle: Bundle, tmp_path: Path
) -> None:
    assert training.features.decoding.preprocess is model.preprocess.preprocess
    assert decoding.read_image is model.preprocess.read_image
    assert decoding.raster_input is model.preprocess.raster_input
    store = FeatureStore.load(store_dir)
    files = [training.features.decoding.image_file(Path(store.data_root), image.path) for image in store.images]
    (batch,) = training.features.decoding.decoded_batches(
        Path(store.data_root), files, store.spec, batch_size=len(files), workers=1
    )
    np.testing.assert_array_equal(batch.pixels, inputs(store_dir, bundle))


def test_seen_rows_are_those_of_the_run(bundle: Bundle, trained: Trained, data: Dataset) -> None:
    head = fit_chosen_head(data, trained, key="whatever")
    order = [next(i for i, c in enumerate(data.classes) if c.id == entry.id) for entry in bundle.manifest.classes[:6]]
    np.testing.assert_array_equal(bundle.weight[:6], head.weight[order])
    np.testing.assert_array_equal(bundle.bias[:6], head.bias[order])


def test_unseen_rows_are_what_the_service_would_make(bundle: Bundle, engine: OnnxEngine) -> None:
    """Exactly: the same noise, graph and head."""
    for index in (6, 7):
        z = bundle.manifest.class_embeddings(engine.synthesize, bundle.manifest.classes[index])
        row = bundle.head.row(z)
        np.testing.assert_array_equal(bundle.weight[index], row.weight)
        assert bundle.bias[index] == np.float32(row.bias)


def test_a_scale_of_described_classes_is_in_their_rows_and_in_those_to_come(
    bundle: Bundle, trained: Trained, data: Dataset, tmp_path: Path
) -> None:
    """The rows of seen classes stay; the others are what the service makes of the factor in the bank."""
    head = dataclasses.replace(trained.selected.head, unseen_scale=1.25)
    selected = dataclasses.replace(trained.selected, head=head)
    export(data, dataclasses.replace(trained, selected=selected), tmp_path / "bundle")
    scaled = Bundle.load(tmp_path / "bundle")
    assert scaled.manifest.head == dataclasses.replace(bundle.manifest.head, unseen_scale=1.25)
    assert scaled.manifest.bundle_id != bundle.manifest.bundle_id
    np.testing.assert_array_equal(scaled.weight[:6], bundle.weight[:6])
    np.testing.assert_array_equal(scaled.bias[:6], bundle.bias[:6])
    engine = OnnxEngine(scaled, threads=1)
    for index in (6, 7):
        z = scaled.manifest.class_embeddings(engine.synthesize, scaled.manifest.classes[index])
        row = scaled.head.row(z)
        np.testing.assert_array_equal(scaled.weight[index], row.weight)
        np.testing.assert_allclose(row.weight, 1.25 * bundle.head.row(z).weight, rtol=1e-4, atol=1e-5)
        assert row.bias == pytest.approx(1.25 * bundle.head.row(z).bias, rel=1e-4)


def test_metrics_are_those_of_the_bundles_own_rows(
    bundle: Bundle, engine: OnnxEngine, data: Dataset, store_dir: Path
) -> None:
    """Measured again with what the service holds: decoding, graph, rows, calibration."""
    z = engine.embed(inputs(store_dir, bundle)[data.test]).embedding
    place = {entry.id: i for i, entry in enumerate(bundle.manifest.classes)}
    labels = np.array([place[data.classes[label].id] for label in data.labels[data.test].tolist()])
    seen = np.array([entry.kind == "seen" for entry in bundle.manifest.classes])
    scores = bundle.manifest.calibration.scores(logits(z, bundle.weight, bundle.bias), seen)
    measured = gzsl_scores(scores, labels, seen).to_json()
    assert {name: bundle.manifest.metrics["lda"][name] for name in measured} == pytest.approx(measured, abs=1e-6)


def test_without_test_rows_there_is_validation_only(trained_on_all: Trained, tmp_path: Path) -> None:
    export(reopen(trained_on_all.data), trained_on_all, tmp_path / "bundle")
    metrics = Bundle.load(tmp_path / "bundle").manifest.metrics
    assert set(metrics) == {"validation"}
    assert "candidates" not in metrics["validation"]


# --- alone and in a batch -------------------------------------------------------------------------


def test_an_image_alone_and_in_a_batch_of_32(bundle: Bundle, engine: OnnxEngine, store_dir: Path) -> None:
    session = graphs.open_session(bundle.trunk.read_bytes())
    images = inputs(store_dir, bundle)[:32]
    seen = np.array([entry.kind == "seen" for entry in bundle.manifest.classes])

    def outputs(batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        features, z, score = session.run(["features", "embedding", "teacher_score"], {"image": batch})
        scores = logits(z, bundle.weight, bundle.bias)
        return [features, z, score, bundle.manifest.calibration.probabilities(scores, seen)]

    together = outputs(images)
    for place in (0, 13, 31):
        for name, alone, whole in zip(
            ("features", "z", "score", "probabilities"), outputs(images[place : place + 1]), together, strict=True
        ):
            largest = 1 if name == "probabilities" else np.abs(whole).max()
            np.testing.assert_allclose(alone[0], whole[place], rtol=0, atol=1e-4 * largest, err_msg=name)
            assert whole.std(axis=0).max() > 1e-3 * largest  # the images differ, so that a mix-up would show


# --- classes known from the start and registered later --------------------------------------------


def registered(bundle: Bundle, entries: Sequence[ClassEntry], folder: Path) -> Snapshot:
    """The snapshot of a service on the bundle once the classes have been registered in this order."""
    log = ChangeLog(
        Database(database_url(folder, None)),
        bundle_id=bundle.manifest.bundle_id,
        dimension=bundle.manifest.head.dimension,
        vocabulary=bundle.manifest.vocabulary.names,
    )
    try:
        registrar = Registrar(bundle, OnnxEngine(bundle, threads=1), log)
        for entry in entries:
            registrar.create(entry)
        return registrar.snapshot
    finally:
        log.close()


def test_a_class_held_back_and_registered_later_has_the_same_row(
    trained: Trained, store_dir: Path, tmp_path: Path
) -> None:
    """One export knows two unseen classes, another none; registered there they get the very same rows."""
    everything, _ = open_data(store_dir, test_fraction=0, split_seed=0)
    held_back = dataclasses.replace(
        everything,
        classes=tuple(entry for entry in everything.classes if entry.kind == "seen"),
        labels=(np.cumsum(everything.seen) - 1)[everything.labels],
        test=everything.test[:0],  # rows of the unseen classes
    )
    export(everything, trained, tmp_path / "knew")
    export(held_back, trained, tmp_path / "learns")
    knew, learns = Bundle.load(tmp_path / "knew"), Bundle.load(tmp_path / "learns")
    assert knew.manifest.bundle_id == learns.manifest.bundle_id
    assert len(learns.manifest.classes) == 6
    entries = {entry.id: entry for entry in everything.classes}
    entries["other"] = ClassEntry(id="other", name="Other", kind="unseen", attributes=(1.0, 50.0, 99.0))
    for number, order in enumerate((("violet", "lime"), ("lime", "violet"), ("lime", "other", "violet"))):
        snapshot = registered(learns, [entries[name] for name in order], tmp_path / str(number))
        for index, entry in enumerate(knew.manifest.classes):
            row = snapshot.row(entry.id)
            np.testing.assert_array_equal(row.weight, knew.weight[index])
            assert row.bias == float(knew.bias[index])


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["trunk", "synthesizer"])
def test_a_graph_beyond_tolerance_fails_the_export(
    trained: Trained, data: Dataset, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    """And what was there before stays."""
    shutil.copytree(exported, tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    check = graphs.check_parity

    def perturbed(what: str, actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        off = np.float32(2e-4) * np.abs(expected).max() if what.startswith(graph) else np.float32(0)
        check(what, actual + off, expected)

    monkeypatch.setattr(graphs, "check_parity", perturbed)
    with pytest.raises(BundleError, match=rf"{graph}\.onnx embedding differs from torch by"):
        export(data, trained, tmp_path / "bundle", overwrite=True)
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before
    with pytest.raises(BundleError, match="differs from torch"):
        export(data, trained, tmp_path / "new")
    assert names(tmp_path) == ["bundle"]


def test_another_backbone_than_that_of_the_features(
    trained: Trained, data: Dataset, store_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(store_dir, tmp_path / "store")
    file = tmp_path / "store" / "backbone.onnx"
    file.write_bytes(file.read_bytes() + b"\x0a\x00")
    moved = reopen(trained.data, moved_to=tmp_path / "store")
    with pytest.raises(
        DataError, match=r"backbone\.onnx: expected the backbone that made the features, sha256 \w+, got"
    ):
        export(moved, trained, tmp_path / "bundle")
    assert names(tmp_path) == ["store"]


def test_features_without_a_backbone(trained: Trained, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="these features come without a backbone"):
        export(dataclasses.replace(data, backbone=None), trained, tmp_path / "bundle")
    assert names(tmp_path) == []


def test_existing_places(trained: Trained, data: Dataset, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "bundle")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(BundleError, match="exists already; choose another place or pass --overwrite"):
        export(data, trained, tmp_path / "bundle")
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        export(data, trained, tmp_path / "folder", overwrite=True)
    (tmp_path / "bundle" / "extra").touch()
    export(data, trained, tmp_path / "bundle", overwrite=True)
    assert "extra" not in names(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle", "folder"]
