"""Photos that are trained on mirrored, too: their features, and what holds rows out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.errors import DataError
from tests.training.photos import CLASSES, write_backbone, write_data, write_table
from tests.training.test_features import contents, stop_after
from tests.training.tiny import config, task
from training.datasets.dataset import from_store, make_task
from training.features.backbone import Backbone, load_backbone
from training.features.extraction import Extraction, extract, partial_folder, remaining
from training.features.own_photos import read_own_photos
from training.features.scaler import Scaler
from training.features.store import MIRRORED, FeatureStore
from training.generators.ridge_choice import PseudoUnseenClasses
from training.generators.ridge_prior import within_class_factor
from training.runs.fit import held_out_rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", per_class=6)


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return load_backbone(write_backbone(tmp_path / "b.onnx"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features"


def run(root: Path, backbone: Backbone, out: Path, **options: Any) -> Extraction:
    return extract(read_own_photos(root), backbone, out, **{"batch_size": 4, "workers": 2, **options})


def matrix(store: FeatureStore) -> np.ndarray:
    assert store.mirrored is not None
    return store.mirrored


# --- features -------------------------------------------------------------------------------------


def test_features_are_those_of_mirrored_files(root: Path, backbone: Backbone, out: Path, tmp_path: Path) -> None:
    for path in root.glob("images/*/*.jpg"):  # JPEG would change more than left and right
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    store = run(root, backbone, out).store
    other = tmp_path / "mirrored"
    for path in root.glob("images/*/*.png"):
        copy = other / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(copy)
    write_table(other)
    expected = run(other, backbone, tmp_path / "expected", mirrored=False).store
    assert [image.path for image in expected.images] == [image.path for image in store.images]
    seen = store.seen[store.labels]
    np.testing.assert_allclose(matrix(store)[seen], expected.features[seen], atol=1e-6)
    assert np.isnan(matrix(store)[~seen]).all()
    assert np.abs(matrix(store)[seen] - store.features[seen]).max() > 0.01


def test_a_store_stays_as_it_is_unless_asked(root: Path, backbone: Backbone, out: Path) -> None:
    plain = run(root, backbone, out, mirrored=False)
    assert (plain.store.mirrored, (out / MIRRORED).exists(), plain.store.meta().get("mirrored")) == (None, False, None)
    assert not run(root, backbone, out).changed  # as one that was made before photos were mirrored
    asked = run(root, backbone, out, mirrored=True)
    assert (asked.extracted, asked.reused, asked.changed) == (12, 6, True)  # those of seen classes
    np.testing.assert_allclose(asked.store.features, plain.store.features, atol=1e-6)
    assert asked.store.data_hash != plain.store.data_hash
    fresh = run(root, backbone, out.with_name("fresh")).store
    np.testing.assert_allclose(matrix(asked.store), matrix(fresh), atol=1e-6)
    assert not run(root, backbone, out).changed
    again = run(root, backbone, out, mirrored=False)
    assert (again.extracted, again.changed, again.store.data_hash) == (0, True, plain.store.data_hash)
    assert not (out / MIRRORED).exists()


def test_a_class_that_becomes_a_seen_one_is_mirrored_then(root: Path, backbone: Backbone, out: Path) -> None:
    first = run(root, backbone, out).store
    write_table(root, {**CLASSES, "fox": ("seen", (0.5, 0.25))})
    left = remaining(read_own_photos(root), backbone, out)
    assert {image.path.split("/")[1] for image in left.images} == {"fox"}
    done = run(root, backbone, out)
    assert (done.extracted, done.reused) == (6, 12)
    assert np.isfinite(matrix(done.store)).all()
    np.testing.assert_array_equal(matrix(done.store)[:12], matrix(first)[:12])


def test_a_class_that_became_a_seen_one_between_kill_and_resume(root: Path, backbone: Backbone, out: Path) -> None:
    write_table(root, {**CLASSES, "ape": ("unseen", (1.0, 0.0)), "fox": ("seen", (0.5, 0.25))})
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, progress=stop_after(12))
    write_table(root)
    assert len(remaining(read_own_photos(root), backbone, out).images) == 12
    done = run(root, backbone, out)
    assert (done.extracted, done.reused) == (12, 6)
    fresh = run(root, backbone, out.with_name("fresh")).store
    np.testing.assert_allclose(matrix(done.store)[:12], matrix(fresh)[:12], atol=1e-6)


def test_a_killed_extraction_goes_on_and_ends_the_same(root: Path, backbone: Backbone, out: Path) -> None:
    run(root, backbone, out.with_name("reference"))
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, progress=stop_after(8))
    assert run(root, backbone, out).reused == 8
    assert contents(out) == contents(out.with_name("reference"))


def test_unfinished_work_without_mirrored_photos_is_begun_anew(root: Path, backbone: Backbone, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, mirrored=False, progress=stop_after(8))
    assert len(remaining(read_own_photos(root), backbone, out, mirrored=False).images) == 10
    done = run(root, backbone, out)
    assert (done.extracted, done.reused) == (18, 0)
    assert not partial_folder(out).exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[:-1], r"mirrored\.npy: expected 18 x 5 features as in meta\.json, found 17 x 5"),
        (lambda rows: rows.astype(np.float64), r"mirrored\.npy: expected a float32 matrix, found float64"),
        (lambda rows: np.full_like(rows, np.inf), r"mirrored\.npy: row 0 \(images/.*\) is not finite"),
    ],
)
def test_damaged_features_are_refused(root: Path, backbone: Backbone, out: Path, damage: Any, message: str) -> None:
    run(root, backbone, out)
    np.save(out / MIRRORED, damage(np.load(out / MIRRORED)))
    with pytest.raises(DataError, match=message):
        FeatureStore.load(out)
    (out / MIRRORED).unlink()
    with pytest.raises(DataError, match=r"mirrored\.npy: not readable as an array"):
        FeatureStore.load(out)


def test_an_image_whose_mirrored_features_are_not_finite_is_named(
    root: Path, backbone: Backbone, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = Backbone.run, []

    def second_fails(self: Backbone, session: Any, pixels: Any) -> Any:
        calls.append(len(pixels))
        rows = plain(self, session, pixels)
        return rows * np.float32(np.nan) if len(calls) == 2 else rows

    monkeypatch.setattr(Backbone, "run", second_fails)
    with pytest.raises(DataError, match=r"the backbone gives features of images/.* that are not finite numbers"):
        run(root, backbone, out)


# --- training -------------------------------------------------------------------------------------


def test_a_task_has_both_views_of_its_rows(root: Path, backbone: Backbone, out: Path) -> None:
    store = run(root, backbone, out).store
    dataset = from_store(store, test_fraction=0.3, split_seed=0)
    assert dataset.split["training_images"] == "as they are and mirrored"
    scaler = Scaler.fit(dataset.features[dataset.trainval], "range")
    rows = dataset.trainval[1:]
    made = make_task(dataset, rows, np.arange(3), scaler, torch.device("cpu"))
    assert (made.views, made.images) == (2, len(rows))
    expected = np.concatenate([scaler.apply(store.features[rows]), scaler.apply(matrix(store)[rows])])
    np.testing.assert_array_equal(made.features.numpy(), expected)
    assert made.labels.tolist() == 2 * store.labels[rows].tolist()
    plain = from_store(dataclasses.replace(store, mirrored=None), test_fraction=0.3, split_seed=0)
    assert "training_images" not in plain.split
    assert make_task(plain, rows, np.arange(3), scaler, torch.device("cpu")).views == 1


def test_views_need_the_same_labels() -> None:
    one = task(seen=5, unseen=2, rows=8, dim=8)
    with pytest.raises(ValueError, match="expected 2 equal parts of labels, one for each view of the images"):
        dataclasses.replace(one, labels=one.labels.flip(0), views=2)


def both_views(one: Any, other: torch.Tensor) -> Any:
    return dataclasses.replace(one, features=torch.cat([one.features, other]), labels=one.labels.repeat(2), views=2)


def test_what_is_held_out_is_held_out_in_both_views() -> None:
    one = task(seen=5, unseen=2, rows=8, dim=8)
    settings = config("selection.novelty_folds=3")
    parts = list(held_out_rows(one, settings))
    twice = list(held_out_rows(both_views(one, one.features), settings))
    assert len(parts) == len(twice) == 3
    for part, rows in zip(parts, twice, strict=True):
        assert torch.equal(rows, part.repeat(2))


def test_the_map_is_judged_by_images_that_its_means_do_not_hold() -> None:
    """A second view that is the same again changes no mean; were it split from the first, the scores would differ."""
    one = task(seen=5, unseen=2, rows=8, dim=8)
    factor = within_class_factor(one, 0.5)
    alone = PseudoUnseenClasses.of(one, factor)
    twice = PseudoUnseenClasses.of(both_views(one, one.features), factor)
    assert torch.equal(alone.labels, twice.labels)
    torch.testing.assert_close(alone.scores, twice.scores)
    torch.testing.assert_close(alone.gram, twice.gram)
    moved = PseudoUnseenClasses.of(both_views(one, one.features + 1), factor)
    torch.testing.assert_close(moved.gram, alone.gram, rtol=1e-4, atol=1e-5)  # every mean moved by a half
