"""The most probable of many classes, against a plain sort of all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.classes import ClassEntry
from model.head import Row
from service.classes.class_table import KnownClass
from service.classes.ranking import RankOptions, rank_logits
from service.classes.snapshot import Snapshot

CLASSES = 3000


def snapshot() -> Snapshot:
    known = [
        KnownClass(entry=ClassEntry(id=f"c{i}", name=f"c{i}", kind="unseen", attributes=()), registry_version=0)
        for i in range(CLASSES)
    ]
    return Snapshot.build(0, known, [Row(np.zeros(1, dtype=np.float32), 0.0)] * CLASSES, dimension=1)


def logits(kind: str) -> np.ndarray:
    random = np.random.default_rng(3)
    scores = {
        "spread": random.standard_normal(CLASSES),
        "mostly too small for a number": 500 * random.standard_normal(CLASSES),
        "all equal": np.ones(CLASSES),
        "few values": random.integers(0, 4, CLASSES),
        "rising": np.linspace(-3, 3, CLASSES),
        "falling": np.linspace(3, -3, CLASSES),
        "largest side by side": np.where(np.arange(CLASSES) // 20 == 70, 5.0, random.standard_normal(CLASSES)),
    }
    return scores[kind].astype(np.float32)[None]


@pytest.mark.parametrize("top_k", [1, 5, 11, 12, 300, CLASSES, 2 * CLASSES])
@pytest.mark.parametrize(
    "kind",
    [
        "spread",
        "mostly too small for a number",
        "all equal",
        "few values",
        "rising",
        "falling",
        "largest side by side",
    ],
)
def test_the_best_are_those_of_a_plain_sort(bundle_dir: Path, kind: str, top_k: int) -> None:
    bundle, known, scores = Bundle.load(bundle_dir), snapshot(), logits(kind)
    (ranked,) = rank_logits(bundle, known, known.rows, scores, RankOptions(top_k=top_k))
    (whole,) = bundle.manifest.calibration.probabilities(scores, known.seen_share_at(known.rows))
    order = sorted(range(CLASSES), key=lambda i: (-whole[i], i))[:top_k]
    assert [(one.entry.id, one.probability) for one in ranked] == [(f"c{i}", whole[i]) for i in order]
