"""Which attributes spoke for a class: against a plain recomputation, and against what really changes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle, Precision
from model.calibration import Calibration
from model.classes import ClassEntry
from model.noise import class_noise
from service.inference.explanation import SAMPLES, Explainer
from tests.service import tiny
from tests.service.conftest import Client, Running
from tests.service.test_classes import DOCUMENT, IMAGE, problem

EXPLAIN = {"explain": "attributes"}


class Counting:
    """The synthesizer in NumPy; counts its calls."""

    precision: Precision = "fp32"

    def __init__(self) -> None:
        self.rows: list[int] = []

    def embed(self, images):
        raise AssertionError("no image is embedded here")

    def synthesize(self, noise, attributes):
        self.rows.append(len(noise))
        return np.tanh(tiny.synthesize(noise, attributes))  # bent, so that nothing is right by being linear


@pytest.fixture
def bundle(bundle_dir: Path) -> Bundle:
    """The tiny bundle with another temperature and attributes of length 1."""
    loaded = Bundle.load(bundle_dir)
    calibration = Calibration(seen_penalty=0.3, temperature=2.5)
    vocabulary = replace(loaded.manifest.vocabulary, unit_length=True, offset=(0.1, 0.2, 0.3), scale=(1.0, 2.0, 0.5))
    return replace(loaded, manifest=replace(loaded.manifest, calibration=calibration, vocabulary=vocabulary))


def plain(bundle: Bundle, entry: ClassEntry, z: np.ndarray) -> dict[str, float]:
    """One attribute and one sample after another, in float64."""
    manifest = bundle.manifest
    samples = min(SAMPLES, manifest.head.samples)
    noise = class_noise(manifest.bundle_id, entry.id, manifest.head.samples, manifest.head.noise_dimension)

    def score(attributes: list[float]) -> float:
        described = manifest.vocabulary.normalise(attributes)
        total = np.zeros(manifest.head.dimension)
        for sample in range(samples):
            total += np.tanh(tiny.synthesize(noise[sample], described)).astype(np.float64)
        mean = total / samples
        covariance = 0.2 * np.eye(tiny.Z) @ (0.2 * np.eye(tiny.Z)).T  # the tiny bundle's factor is 0.2 I
        weight = np.linalg.solve(covariance, mean)
        return float(weight @ z - 0.5 * weight @ mean)

    found = {}
    for i, attribute in enumerate(manifest.vocabulary.attributes):
        ordinary = list(entry.attributes)
        ordinary[i] = attribute.mean
        found[attribute.name] = (score(list(entry.attributes)) - score(ordinary)) / manifest.calibration.temperature
    return found


@pytest.mark.parametrize("attributes", [(0.9, 0.0, 0.9), (0.2, 1.4, -0.3), (1 / 3, 0.5, 1.0)])
def test_contributions_equal_a_plain_recomputation(bundle: Bundle, attributes: tuple[float, ...]) -> None:
    entry = ClassEntry(id="x", name="X", kind="unseen", attributes=attributes)
    z = np.random.default_rng(3).standard_normal(tiny.Z).astype(np.float32)
    supporting, opposing = Explainer(bundle, Counting()).explain(entry, z, most=10)
    expected = plain(bundle, entry, z)
    for c in (*supporting, *opposing):
        assert c.contribution == pytest.approx(expected.pop(c.attribute), rel=1e-4, abs=1e-5)
        a = bundle.manifest.vocabulary.attributes[bundle.manifest.vocabulary.names.index(c.attribute)]
        assert (c.value, c.mean) == (attributes[bundle.manifest.vocabulary.names.index(c.attribute)], a.mean)
    assert all(value == 0 for value in expected.values())  # at its mean, an attribute says nothing
    assert all(c.contribution > 0 for c in supporting)
    assert all(c.contribution < 0 for c in opposing)
    for side in (supporting, opposing):
        assert [abs(c.contribution) for c in side] == sorted((abs(c.contribution) for c in side), reverse=True)


def test_the_synthesizer_runs_once_per_class(bundle: Bundle) -> None:
    engine = Counting()
    explainer = Explainer(bundle, engine)
    entry = ClassEntry(id="x", name="X", kind="unseen", attributes=(0.9, 0.0, 0.9))
    z = np.ones(tiny.Z, dtype=np.float32)
    first = explainer.explain(entry, z, most=3)
    assert engine.rows == [(tiny.A + 1) * SAMPLES]  # the description and one variant per attribute, in one call
    assert explainer.explain(replace(entry, name="Y", description="the same row"), z, most=3) == first
    assert len(engine.rows) == 1
    explainer.explain(replace(entry, attributes=(0.8, 0.0, 0.9)), z, most=3)
    assert len(engine.rows) == 2


def test_the_memory_for_classes_is_bounded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.explanation._CACHE_BYTES", 2 * 4 * tiny.A * (tiny.Z + 1))
    engine = Counting()
    explainer = Explainer(bundle, engine)
    entries = [ClassEntry(id=i, name=i, kind="unseen", attributes=(0.9, 0.0, 0.9)) for i in "abc"]
    for i in (0, 1, 0, 2, 0, 1):  # c drives b out, which was used longest ago
        explainer.effects(entries[i])
    assert len(engine.rows) == 4


@pytest.mark.anyio
async def test_predictions_are_explained_where_asked(client: Client) -> None:
    await client.post("/classes", json=DOCUMENT)
    without = (await client.post("/classify", **IMAGE)).json()["results"][0]
    assert all("explanation" not in p for p in without["predictions"])
    explained = (await client.post("/classify", params=EXPLAIN, **IMAGE)).json()["results"][0]
    assert [{k: v for k, v in p.items() if k != "explanation"} for p in explained["predictions"]] == without[
        "predictions"
    ]
    violet = explained["predictions"][0]
    assert violet["class_id"] == "deep-violet"
    assert {c["attribute"] for c in violet["explanation"]["supporting"]} == {"red", "green", "blue"}
    assert violet["explanation"]["opposing"] == []
    red = next(p for p in explained["predictions"] if p["class_id"] == "reddish")["explanation"]  # seen in training
    by_name = {c["attribute"]: c for c in (*red["supporting"], *red["opposing"])}
    assert by_name["red"]["contribution"] > 0
    assert by_name["blue"]["contribution"] < 0  # it has none of what the image is full of
    assert by_name["blue"]["value"] == 0
    assert by_name["blue"]["mean"] == pytest.approx(1 / 3)
    again = (await client.post("/classify", params=EXPLAIN, **IMAGE)).json()["results"][0]
    assert again == explained


@pytest.mark.anyio
async def test_a_contribution_is_what_the_attribute_is_worth(client: Client) -> None:
    """Take the attribute away for good, and the log-odds fall by about its contribution."""

    async def log_odds() -> float:
        answer = (await client.post("/classify", params={"classes": "v,bluish"}, **IMAGE)).json()
        p = {q["class_id"]: q["probability"] for q in answer["results"][0]["predictions"]}
        return math.log(p["v"] / p["bluish"])

    attributes = [0.6, 0.2, 0.7]
    await client.put("/classes/v", json={"name": "v", "attributes": attributes})
    before = await log_odds()
    query = {**EXPLAIN, "classes": "v"}
    explanation = (await client.post("/classify", params=query, **IMAGE)).json()["results"][0]["predictions"][0]
    for c in (*explanation["explanation"]["supporting"], *explanation["explanation"]["opposing"]):
        changed = list(attributes)
        changed[tiny.NAMES.index(c["attribute"])] = c["mean"]
        await client.put("/classes/v", json={"name": "v", "attributes": changed})
        assert before - await log_odds() == pytest.approx(c["contribution"], rel=0.05, abs=0.02)


@pytest.mark.anyio
async def test_the_number_of_classes_and_attributes_is_limited(running: Running) -> None:
    async with running(max_explained=2) as client:
        query = {**EXPLAIN, "top_attributes": 1}
        predictions = (await client.post("/classify", params=query, **IMAGE)).json()["results"][0]["predictions"]
        assert ["explanation" in p for p in predictions] == [True, True, False]
        for p in predictions[:2]:
            assert len(p["explanation"]["supporting"]) <= 1
            assert len(p["explanation"]["opposing"]) <= 1
        for wrong in ({"explain": "pixels"}, {"top_attributes": 0}, {"top_attributes": 101}):
            assert problem(await client.post("/classify", params=wrong, **IMAGE)) == (422, "invalid-request")


@pytest.mark.anyio
async def test_images_that_cannot_be_read_leave_the_others_explained(client: Client) -> None:
    files: list[Any] = [("images", ("a", b"nothing")), ("images", ("b", IMAGE["content"]))]
    bad, good = (await client.post("/classify", params=EXPLAIN, files=files)).json()["results"]
    assert "error" in bad
    assert "explanation" in good["predictions"][0]
    assert json.dumps(good)
