"""Near-duplicates are found with a look at a part of each row, and are those that a look at all of it finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.head import Float32, Row
from service.classes.class_table import KnownClass
from service.classes.neighbours import NEAR_DUPLICATE, Neighbours
from service.classes.snapshot import Snapshot
from tests.service.test_registrar import unseen

Z = 256


def unit(vector: Float32) -> Float32:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


@pytest.mark.parametrize("looked_at_first", [True, False], ids=["alike at first", "alike at last"])
def test_near_duplicates_are_those_of_whole_rows(bundle_dir: Path, looked_at_first: bool) -> None:
    """Rows at cosines around the bound, with what tells them apart among the first numbers or behind them."""
    bundle, random = Bundle.load(bundle_dir), np.random.default_rng(3)
    one = unit(random.standard_normal(Z).astype(np.float32))
    weights = [*random.standard_normal((300, Z)).astype(np.float32), np.zeros(Z, dtype=np.float32)]
    for cosine in (0.9, 0.98, 0.9895, 0.9905, 0.995, 0.9999):
        away = np.zeros(Z, dtype=np.float32)
        away[Z // 2 :] = random.standard_normal(Z // 2)
        if not looked_at_first:
            away = away[::-1].copy()
        away = unit(away - (away @ one) * one)
        weights.append(np.float32(7) * (np.float32(cosine) * one + np.float32((1 - cosine**2) ** 0.5) * away))
    # Nothing is near by attributes: each has a direction of its own but for the one in question.
    known = [
        KnownClass(entry=replace(unseen(f"k{i}"), attributes=tuple(random.random(3))), registry_version=0)
        for i in range(len(weights))
    ]
    snapshot = Snapshot.build(0, known, [Row(weight, 0.0) for weight in weights], dimension=Z)
    asked = replace(unseen("asked"), attributes=None)
    found = Neighbours(bundle.manifest.vocabulary).near_duplicates(snapshot, [(asked, Row(one, 0.0))])[0]
    cosines = {known[i].id: float(unit(weight) @ one) for i, weight in enumerate(weights) if weight.any()}
    expected = sorted((i for i in cosines if cosines[i] >= NEAR_DUPLICATE), key=lambda i: -cosines[i])
    assert len(expected) == 3
    assert [neighbour.known.id for neighbour in found] == expected
    assert [neighbour.row_cosine for neighbour in found] == pytest.approx([cosines[i] for i in expected], abs=1e-6)


def test_classes_that_come_later_are_looked_at_too(bundle_dir: Path) -> None:
    bundle, random = Bundle.load(bundle_dir), np.random.default_rng(0)
    neighbours = Neighbours(bundle.manifest.vocabulary)
    snapshot = Snapshot.build(0, [], [], dimension=Z)
    neighbours.prepare(snapshot)
    rows = [Row(random.standard_normal(Z).astype(np.float32), 0.0) for _ in range(3)]
    for version, row in enumerate(rows, start=1):
        entry = replace(unseen(f"k{version}"), attributes=None)
        known = KnownClass(entry=entry, registry_version=version)
        snapshot = snapshot.with_changes(version, [(known.id, (known, row))])
        twin = Row(row.weight * np.float32(2), 0.0)
        (near,) = neighbours.near_duplicates(snapshot, [(replace(entry, id="twin"), twin)])
        assert [neighbour.known.id for neighbour in near] == [known.id]
