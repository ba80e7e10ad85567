"""The split of one's own images, and what a data set says of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.classes import ClassEntry
from model.errors import DataError
from model.preprocess import PreprocessSpec
from tests.training.tiny import COLOURS
from training.datasets.dataset import from_store
from training.datasets.opening import open_data, reopen
from training.features.store import FeatureStore, ImageRecord
from training.runs.contents import Trained


def store_of(paths_by_class: list[list[str]], kinds: list[str]) -> FeatureStore:
    """A store in memory; rows in the order of the paths, as extraction leaves them."""
    listed = sorted((path, label) for label, paths in enumerate(paths_by_class) for path in paths)
    labels = np.array([label for _, label in listed], dtype=np.int64)
    return FeatureStore(
        path=Path("nowhere"),
        features=np.arange(len(listed), dtype=np.float32)[:, None],
        labels=labels,
        classes=tuple(
            ClassEntry(id=f"c{i}", name=f"C {i}", kind=kind, attributes=(float(i), 1.0))  # type: ignore[arg-type]
            for i, kind in enumerate(kinds)
        ),
        attribute_names=("a", "b"),
        images=tuple(ImageRecord(path=path, size=1, mtime_ns=1, sha256="0" * 64) for path, _ in listed),
        skipped=(),
        data_root="data",
        backbone_source="/somewhere/net.onnx",
        fingerprint="f" * 64,
        spec=PreprocessSpec(size=8, resize=8),
        backbone_card={"feature_dim": 1},
    )


def names(label: int, count: int) -> list[str]:
    return [f"images/c{label}/{i:03d}.jpg" for i in range(count)]


def paths_of(store: FeatureStore, rows: np.ndarray) -> set[str]:
    return {store.images[row].path for row in rows}


@pytest.mark.parametrize(("fraction", "seed"), [(0.3, 0), (0.5, 7), (0.0, 0), (0.05, 0), (0.6, 1)])
def test_the_first_share_of_every_seen_class_by_hash(fraction: float, seed: int) -> None:
    paths = [names(0, 10), names(1, 11), names(2, 5)]
    store = store_of(paths, ["seen", "seen", "unseen"])
    made = from_store(store, test_fraction=fraction, split_seed=seed)
    expected = set(paths[2])
    for own in paths[:2]:
        ordered = sorted(own, key=lambda path: hashlib.sha256(f"{seed}/{path}".encode()).hexdigest())
        expected |= set(ordered[: round(fraction * len(own))])
    assert paths_of(store, made.test) == expected
    assert sorted([*made.trainval.tolist(), *made.test.tolist()]) == list(range(26))
    assert made.seen[made.labels[made.trainval]].all()
    assert made.split["test_fraction"] == fraction
    assert made.split["split_seed"] == seed


@given(st.integers(5, 40), st.floats(0, 0.9), st.integers(0, 5))
def test_an_added_image_moves_at_most_one_other(count: int, fraction: float, seed: int) -> None:
    kinds = ["seen", "seen"]
    first, second = names(0, count), names(1, 60)
    try:
        before_store = store_of([first, second], kinds)
        before = from_store(before_store, test_fraction=fraction, split_seed=seed)
        after_store = store_of([[*first, "images/c0/new.jpg"], second], kinds)
        after = from_store(after_store, test_fraction=fraction, split_seed=seed)
    except DataError:
        return
    was, now = paths_of(before_store, before.test), paths_of(after_store, after.test)
    moved = (was ^ now) - {"images/c0/new.jpg"}
    assert len(moved) <= 1
    assert not {path for path in moved if path.startswith("images/c1/")}  # other classes stay as they are


def test_the_place_of_a_row_does_not_matter() -> None:
    paths = [names(0, 12), names(1, 12)]
    store = store_of(paths, ["seen", "seen"])
    order = np.random.default_rng(0).permutation(24)
    shuffled = dataclasses.replace(
        store,
        features=store.features[order],
        labels=store.labels[order],
        images=tuple(store.images[i] for i in order.tolist()),
    )
    split = [paths_of(s, from_store(s, test_fraction=0.3, split_seed=2).test) for s in (store, shuffled)]
    assert split[0] == split[1]


@pytest.mark.parametrize("fraction", [-0.1, 0.91, 1, float("nan")])
def test_fractions_that_are_none(fraction: float) -> None:
    with pytest.raises(DataError, match=r"the test fraction must lie in 0\.\.0\.9"):
        from_store(store_of([names(0, 9), names(1, 9)], ["seen", "seen"]), test_fraction=fraction, split_seed=0)


def test_every_class_that_is_too_small_is_named() -> None:
    store = store_of([names(0, 5), names(1, 20), names(2, 1), names(3, 1)], ["seen", "seen", "seen", "unseen"])
    with pytest.raises(DataError, match="too few images of seen classes") as error:
        from_store(store, test_fraction=0.5, split_seed=0)
    assert [(problem.pointer, problem.detail) for problem in error.value.problems] == [
        ("class c0", "expected at least 4 images to train on, got 3"),
        ("class c2", "expected at least 4 images to train on, got 1"),
    ]


def test_attributes_are_centred_on_seen_classes_and_of_length_one(store_dir: Path) -> None:
    made, described = open_data(store_dir, test_fraction=0.25, split_seed=3)
    values = np.array([colour for _, colour in COLOURS.values()], dtype=np.float64)
    assert [entry.name for entry in made.classes] == list(COLOURS)
    centred = values - values[made.seen].mean(axis=0)
    np.testing.assert_allclose(made.attributes, centred / np.linalg.norm(centred, axis=1)[:, None], rtol=1e-6)
    assert [attribute.max for attribute in made.vocabulary.attributes] == values.max(axis=0).tolist()
    assert made.backbone is not None
    assert made.backbone.description.name == "backbone.onnx"
    assert made.backbone.description.feature_dim == made.features.shape[1] == 8
    assert described == {"kind": "features", "path": str(store_dir.resolve()), "test_fraction": 0.25, "split_seed": 3}


# --- DATA -----------------------------------------------------------------------------------------


def test_data_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "file").write_text("x")
    for name, found in {"no": "no such folder", ".": "a folder without features", "file": "no such folder"}.items():
        with pytest.raises(DataError, match=f"DATA .*made by `d3gzsl-train extract`, found {found}"):
            open_data(tmp_path / name, test_fraction=0.3, split_seed=0)


def test_reopen_finds_the_data_and_refuses_changed_ones(run_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    trained = Trained.load(run_dir)
    again = reopen(trained.data)
    first, _ = open_data(store_dir, test_fraction=0.25, split_seed=0)
    np.testing.assert_array_equal(again.test, first.test)
    np.testing.assert_array_equal(again.features, first.features)
    moved = tmp_path / "moved"
    shutil.copytree(store_dir, moved)
    np.testing.assert_array_equal(reopen(trained.data, moved_to=moved).test, first.test)
    other = dataclasses.replace(trained, data={**trained.data, "data_hash": "0" * 64})
    with pytest.raises(DataError) as error:
        reopen(other.data)
    expected = f"expected data hash {'0' * 64}, got {FeatureStore.load(store_dir).data_hash}"
    assert str(error.value) == f"{store_dir}: the data have changed since the run: {expected}"
    with pytest.raises(DataError, match="no such folder"):
        reopen(trained.data, moved_to=tmp_path / "gone")
    lost = dataclasses.replace(trained, data={"kind": "demo", "data_hash": "x"})
    with pytest.raises(DataError, match="data lacks path, test_fraction, split_seed"):
        reopen(lost.data)
