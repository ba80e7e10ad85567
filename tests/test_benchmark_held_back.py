"""What the benchmark of held-back classes builds on: features as pictures, and a data set that lacks classes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from model.preprocess import decode_image, to_input
from tests.training.tiny import dataset

path = sys.path[0]
from benchmarks.held_back import without  # noqa: E402
from benchmarks.held_back_table import table  # noqa: E402
from benchmarks.pixel_backbone import with_pixel_backbone  # noqa: E402
from training.features.backbone import load_backbone  # noqa: E402

sys.path[0] = path  # which the benchmark, a script, sets for itself


@pytest.mark.parametrize("dim", [3, 9, 12])
def test_features_come_back_from_their_pictures(tmp_path: Path, dim: int) -> None:
    """Through the bytes of an image file and the very preprocessing that training and service share."""
    data, code = with_pixel_backbone(dataset(dim=dim), tmp_path)
    assert data.backbone is not None
    assert code.side == {3: 2, 9: 3, 12: 4}[dim]
    backbone = load_backbone(data.backbone.path)
    images = [to_input(decode_image(code.picture(row)), backbone.spec) for row in data.features]
    read = backbone.run(backbone.session(1), np.stack(images))
    np.testing.assert_allclose(read, data.features, rtol=0, atol=3e-7 * np.ptp(data.features))
    assert len({tuple(row) for row in read.tolist()}) == len({tuple(row) for row in data.features.tolist()})


def test_a_data_set_without_classes_knows_nothing_of_them() -> None:
    data = dataset(seen=4, unseen=3, rows=5, test_rows=2)
    less = without(data, np.array([4, 6]))
    assert [c.id for c in less.classes] == ["class-0", "class-1", "class-2", "class-3", "class-5"]
    names = [data.classes[label].id for label in data.labels.tolist()]
    for rows in (less.trainval, less.test):
        assert [less.classes[label].id for label in less.labels[rows].tolist()] == [names[row] for row in rows.tolist()]
    assert len(data.test) - len(less.test) == 4
    kept = np.array([c.attributes for c in less.classes])
    assert [a.max for a in less.vocabulary.attributes] == kept.max(axis=0).tolist()
    assert less.vocabulary.offset == data.vocabulary.offset
    np.testing.assert_array_equal(less.attributes, data.attributes[[0, 1, 2, 3, 5]])
    assert less.data_hash != data.data_hash


def test_table() -> None:
    def row(seed: int, known: float, later: float) -> dict[str, object]:
        def scores(h: float) -> dict[str, object]:
            return {"U": 0.5, "S": 0.25, "H": h, "validation_H": 0.3, "choice": "x/0.1"}

        return {
            "data": "set",
            "seed": seed,
            "held_back": ["a", "b"],
            "test_rows": 7,
            "commit": "c0ffee",
            "knew": scores(known),
            "registered": scores(later),
        }

    lines = table([row(0, 0.30, 0.31), row(1, 0.40, 0.43)], "the command").splitlines()
    assert "| set | 2 | 50.00 | 25.00 | 35.00 | 50.00 | 25.00 | 37.00 | +2.00 ± 1.00 | 30.00 |" in lines
    assert "| set | 1 | 40.00 | 43.00 | x/0.1 | 2 | 7 | c0ffee |" in lines
