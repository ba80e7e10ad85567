"""The demo's drawings: repeatable, varied, too varied for pixels alone, and laid out as a data folder."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from model.errors import DataError
from model.preprocess import PreprocessSpec, to_input
from training.demo import dataset
from training.demo.dataset import draw_jpeg, render_dataset, render_inputs
from training.demo.render import IMAGE_SIDE, render, scene_of
from training.demo.world import ATTRIBUTES, EXTRA, SEEN, UNSEEN

SPEC = PreprocessSpec(size=32, resize=32)


def test_one_seed_gives_one_drawing_and_another_seed_another():
    for kind in (SEEN[0], UNSEEN[0], EXTRA[0]):
        first = render(kind, seed=4)
        assert first.shape == (IMAGE_SIDE, IMAGE_SIDE, 3)
        assert first.dtype == np.uint8
        np.testing.assert_array_equal(first, render(kind, seed=4))
        assert draw_jpeg(kind, seed=(4, 1)) == draw_jpeg(kind, seed=(4, 1))
        assert scene_of(kind, seed=4) == scene_of(kind, seed=4)
        difference = np.abs(first.astype(int) - render(kind, seed=5).astype(int))
        assert difference.mean() > 5


@pytest.mark.parametrize("size", [16, 48, 200])
def test_a_drawing_has_the_size_asked_for(size):
    assert render(SEEN[3], seed=0, size=size).shape == (size, size, 3)


def test_a_drawing_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 16 pixels, got 8"):
        render(SEEN[0], seed=0, size=8)


def test_drawings_are_neither_blank_nor_burnt_out():
    for number, kind in enumerate(SEEN):
        pixels = render(kind, seed=number)
        assert pixels.std() > 8, kind.id
        assert 15 < pixels.mean() < 245, kind.id


def test_inputs_are_the_images_of_the_data_folder_as_the_service_prepares_them(tmp_path):
    classes = (SEEN[0], UNSEEN[1])
    render_dataset(tmp_path / "data", per_class=3, seed=9, classes=classes, workers=1)
    drawings = render_inputs(classes, SPEC, per_class=3, seed=9, workers=1)
    assert drawings.classes == classes
    assert drawings.labels.tolist() == [0, 0, 0, 1, 1, 1]
    plain = PreprocessSpec(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1))
    for row, label in enumerate(drawings.labels):
        path = tmp_path / "data" / "images" / classes[label].id / f"{row % 3:04d}.jpg"
        with Image.open(path) as image:
            expected = to_input(np.asarray(image), plain).transpose(1, 2, 0) * 255
        np.testing.assert_allclose(drawings.pixels[row], expected, atol=0.51)
        shown = scene_of(classes[label], seed=(9, row % 3)).attributes()
        np.testing.assert_allclose(drawings.attributes[row], shown, rtol=1e-6)


def test_the_data_folder_has_its_table_and_one_folder_of_images_per_class(tmp_path):
    calls = []
    render_dataset(
        tmp_path / "data", per_class=1, seed=0, size=32, progress=lambda done, total: calls.append((done, total))
    )
    with (tmp_path / "data" / "classes.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "split", *ATTRIBUTES]
    assert [row[0] for row in rows] == [kind.name for kind in (*SEEN, *UNSEEN)]
    assert [row[1] for row in rows] == ["seen"] * len(SEEN) + ["unseen"] * len(UNSEEN)
    np.testing.assert_allclose(np.array(rows[-1][2:], dtype=float), UNSEEN[-1].attributes(), rtol=1e-5)
    images = sorted(path.parent.name for path in (tmp_path / "data").glob("images/*/*.jpg"))
    assert images == sorted(kind.id for kind in (*SEEN, *UNSEEN))
    assert calls[-1] == (len(images), len(images))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_existing_folder_is_left_alone(tmp_path):
    with pytest.raises(DataError, match="expected a new folder"):
        render_dataset(tmp_path, per_class=1, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=rf"at least one image of at least one class, got 0 of {len(SEEN) + len(UNSEEN)}"
    ):
        render_dataset(tmp_path / "data", per_class=0, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_draw_what_one_does(monkeypatch):
    monkeypatch.setattr(dataset, "_ALONE", 0)
    alone = render_inputs(SEEN[:2], SPEC, per_class=3, seed=5, workers=1)
    together = render_inputs(SEEN[:2], SPEC, per_class=3, seed=5, workers=2)
    np.testing.assert_array_equal(alone.pixels, together.pixels)
    np.testing.assert_array_equal(alone.labels, together.labels)
