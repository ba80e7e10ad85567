"""The embedded demo bundle does what the README says of it, on drawings that nobody has seen before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.classes import ClassEntry
from model.preprocess import PreprocessSpec, preprocess
from service.classes.class_table import KnownClass
from service.classes.snapshot import Snapshot
from service.inference.engine import OnnxEngine
from training.demo.dataset import draw_jpeg
from training.demo.world import EXTRA, SEEN, UNSEEN, VisualClass
from training.metrics import GzslScores, gzsl_scores

BUNDLE = Path(__file__).parent.parent / "service" / "demo_bundle"
FRESH_SEED = 20_261_123  # neither pre-training, nor fitting, nor the examples use it
PER_CLASS = 12
THUMBNAIL = PreprocessSpec(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(BUNDLE)


@pytest.fixture(scope="module")
def drawings() -> dict[str, list[bytes]]:
    """Fresh drawings of each class of the bundle."""
    return {kind.id: drawn(kind) for kind in (*SEEN, *UNSEEN)}


def drawn(kind: VisualClass) -> list[bytes]:
    return [draw_jpeg(kind, seed=(FRESH_SEED, number)) for number in range(PER_CLASS)]


def test_it_is_small_and_has_the_classes_of_the_world(bundle: Bundle) -> None:
    assert sum(file.stat().st_size for file in BUNDLE.rglob("*") if file.is_file()) <= 8_000_000
    kinds = {entry.id: entry.kind for entry in bundle.manifest.classes}
    assert {k.id for k in SEEN} == {name for name, kind in kinds.items() if kind == "seen"}
    assert {k.id for k in UNSEEN} == {name for name, kind in kinds.items() if kind == "unseen"}
    assert len(SEEN) >= 28
    assert len(SEEN) + len(UNSEEN) >= 40
    assert len(UNSEEN) >= 12


def test_examples_cover_every_kind_of_class(bundle: Bundle) -> None:
    examples = bundle.manifest.examples
    names = {e.class_id for e in examples}
    assert names & {k.id for k in SEEN}
    assert names & {k.id for k in UNSEEN}
    new = [e for e in examples if e.attributes is not None]
    assert {e.class_id for e in new} <= {k.id for k in EXTRA}
    assert new


def test_harmonic_mean_on_fresh_drawings(bundle: Bundle, drawings: dict[str, list[bytes]]) -> None:
    scores = fresh_scores(bundle, Snapshot.of_bundle(bundle), drawings)
    assert scores.H >= 0.80, scores


def test_nearest_class_mean_on_small_pixels_fails_on_the_seen_classes(drawings: dict[str, list[bytes]]) -> None:
    """Recognising these classes takes more than comparing thumbnails, each with the means of all the others."""
    thumbnails = [preprocess(image, THUMBNAIL).ravel() for kind in SEEN for image in drawings[kind.id]]
    rows, labels = np.stack(thumbnails).astype(np.float64), np.repeat(np.arange(len(SEEN)), PER_CLASS)
    means = rows.reshape(len(SEEN), PER_CLASS, -1).mean(axis=1)
    squares = (rows**2).sum(axis=1, keepdims=True) - 2 * rows @ means.T + (means**2).sum(axis=1)
    squares[np.arange(len(rows)), labels] *= (PER_CLASS / (PER_CLASS - 1)) ** 2  # from the mean without the row itself
    accuracy = (squares.argmin(axis=1) == labels).mean()
    assert accuracy < 0.4


def test_registered_classes_are_recognised(bundle: Bundle) -> None:
    """Classes that the bundle does not know, registered by their attributes, win most of their own fresh drawings."""
    engine = OnnxEngine(bundle, threads=2)
    snapshot = Snapshot.of_bundle(bundle)
    for version, kind in enumerate(EXTRA, 1):
        attributes = tuple(kind.attributes().tolist())
        entry = ClassEntry(id=kind.id, name=kind.name, kind="unseen", attributes=attributes)
        embeddings = bundle.manifest.class_embeddings(engine.synthesize, entry)
        known = KnownClass(entry=entry, registry_version=version)
        snapshot = snapshot.with_changes(version, [(kind.id, (known, bundle.head.row(embeddings)))])
    accuracies = [fresh_accuracy(engine, bundle, snapshot, kind) for kind in EXTRA]
    assert np.mean(accuracies) >= 0.6, dict(zip([k.id for k in EXTRA], accuracies, strict=True))


def fresh_accuracy(engine: OnnxEngine, bundle: Bundle, snapshot: Snapshot, kind: VisualClass) -> float:
    images = [preprocess(image, bundle.manifest.preprocess) for image in drawn(kind)]
    logits = engine.embed(np.stack(images)).embedding @ snapshot.weight.T + snapshot.bias
    probabilities = bundle.manifest.calibration.probabilities(logits, snapshot.seen)
    ids = [known.entry.id for known in snapshot.classes]
    return float((probabilities.argmax(axis=1) == ids.index(kind.id)).mean())


def fresh_scores(bundle: Bundle, snapshot: Snapshot, drawings: dict[str, list[bytes]]) -> GzslScores:
    """U, S, H of the served probabilities on newly drawn images."""
    engine = OnnxEngine(bundle, threads=2)
    ids = [known.entry.id for known in snapshot.classes]
    images = [preprocess(image, bundle.manifest.preprocess) for of_class in drawings.values() for image in of_class]
    labels = [ids.index(name) for name, of_class in drawings.items() for _ in of_class]
    embeddings = np.concatenate(
        [engine.embed(np.stack(images[i : i + 32])).embedding for i in range(0, len(images), 32)]
    )
    logits = embeddings @ snapshot.weight.T + snapshot.bias
    probabilities = bundle.manifest.calibration.probabilities(logits, snapshot.seen)
    return gzsl_scores(probabilities, np.array(labels), snapshot.seen)
