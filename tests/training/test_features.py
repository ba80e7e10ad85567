"""Extraction and the feature store: right rows, nothing lost to a kill, nothing stale used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.errors import DataError
from model.preprocess import preprocess
from tests.training.photos import CLASSES, write_backbone, write_data, write_photo, write_table
from training.features import decoding, extraction
from training.features.backbone import Backbone, load_backbone
from training.features.decoding import decoded_batches, image_file
from training.features.extraction import Extraction, extract, partial_folder
from training.features.journal import FeatureJournal
from training.features.own_photos import read_own_photos
from training.features.store import FeatureStore

REPOSITORY = Path(__file__).parents[2]
ANIMALS = REPOSITORY.parent / "shared" / "data" / "animals"
MOBILENET = REPOSITORY.parent / "shared" / "data" / "backbones" / "mobilenet_v1_224.onnx"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", per_class=5)


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return load_backbone(write_backbone(tmp_path / "b.onnx"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "features"


def run(root: Path, backbone: Backbone, out: Path, **options: Any) -> Extraction:
    return extract(read_own_photos(root), backbone, out, **{"batch_size": 4, "workers": 2, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(images: int) -> Callable[[int, int], None]:
    """A progress function that interrupts the extraction once so many images are done."""

    def progress(done: int, _total: int) -> None:
        if done >= images:
            raise KeyboardInterrupt

    return progress


# --- what is computed -----------------------------------------------------------------------------


def test_rows_are_those_of_the_images_one_by_one(root: Path, backbone: Backbone, out: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = run(root, backbone, out, progress=lambda count, total: seen.append((count, total)))
    assert (done.extracted, done.reused, done.changed) == (15, 0, True)
    assert seen == [(0, 15), (4, 15), (8, 15), (12, 15), (15, 15)]
    store = FeatureStore.load(out, expect_backbone=backbone)
    session = backbone.session()
    for row, image, label in zip(store.features, store.images, store.labels, strict=True):
        assert image.path.split("/")[1] == list(CLASSES)[label]
        pixels = preprocess((root / image.path).read_bytes(), backbone.spec)
        np.testing.assert_allclose(row, backbone.run(session, pixels[None])[0], atol=1e-6)
    assert store.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert store.attributes.tolist() == [list(values) for _, values in CLASSES.values()]
    assert store.seen.tolist() == [True, True, False]
    assert store.attribute_names == ("furry", "wet")
    assert store.skipped == ()
    assert sorted(p.name for p in out.parent.iterdir()) == ["b.json", "b.onnx", "data", "features"]


def test_store_holds_its_backbone(root: Path, backbone: Backbone, out: Path) -> None:
    store = run(root, backbone, out).store
    backbone.path.unlink()
    copy = load_backbone(store.backbone_path)
    assert (copy.fingerprint, copy.spec, copy.card) == (backbone.fingerprint, backbone.spec, backbone.card)
    store.refuse_other_backbone(copy)
    assert store.backbone_source == str(backbone.path)
    assert store.data_root == str(root)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 100}, {"workers": 1}, {"workers": 9}])
def test_batch_size_and_workers_change_nothing_that_matters(
    root: Path, backbone: Backbone, out: Path, options: dict[str, int]
) -> None:
    reference = run(root, backbone, out).store
    other = run(root, backbone, out.with_name("other"), **options).store
    np.testing.assert_allclose(other.features, reference.features, atol=1e-6)
    assert other.data_hash == reference.data_hash
    assert other.images == reference.images


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_sizes_below_one(root: Path, backbone: Backbone, out: Path, options: dict[str, int]) -> None:
    with pytest.raises(DataError, match="must be at least 1"):
        run(root, backbone, out, **options)


def test_decoding_stays_a_little_ahead_only(root: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: of many batches only a few are decoded before the first is used."""
    started: list[str] = []
    decode = decoding._decode

    def counted(root: Path, file: Any, spec: Any) -> Any:
        started.append(file.path)
        return decode(root, file, spec)

    monkeypatch.setattr(decoding, "_decode", counted)
    files = [image_file(root, path) for path, _ in read_own_photos(root).images]
    batches = decoded_batches(root, files, backbone.spec, batch_size=2, workers=2)
    first = next(batches)
    assert [image.path for image in first.images] == [file.path for file in files[:2]]
    assert len(started) <= 2 * (decoding._AHEAD + 1)
    assert sum(len(batch) for batch in batches) == len(files) - 2
    assert len(started) == len(files)


def test_features_that_are_not_finite_are_refused(root: Path, tmp_path: Path, out: Path) -> None:
    bad = load_backbone(write_backbone(tmp_path / "sqrt.onnx", function="Sqrt"))  # finite for the grey trial image
    with pytest.raises(DataError, match=r"the backbone gives features of images/ape/.* that are not finite numbers"):
        run(root, bad, out)
    assert not out.exists()


# --- killed and resumed ---------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos

def progress(done, total):
    if done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

root, backbone, out = map(Path, sys.argv[1:4])
extract(read_own_photos(root), load_backbone(backbone), out, batch_size=4, workers=2, progress=progress)
"""


def test_killed_extraction_goes_on_and_ends_the_same(root: Path, backbone: Backbone, out: Path) -> None:
    run(root, backbone, out.with_name("reference"))
    arguments = [str(root), str(backbone.path), str(out), "8"]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=REPOSITORY, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not out.exists()
    seen: list[int] = []
    done = run(root, backbone, out, progress=lambda count, _total: seen.append(count))
    assert (done.extracted, done.reused) == (7, 8)
    assert seen == [8, 12, 15]
    assert contents(out) == contents(out.with_name("reference"))
    assert not partial_folder(out).exists()


@pytest.mark.parametrize("damage", ["cut line", "cut rows", "extra rows", "noise line", "half header", "half store"])
def test_damage_a_kill_or_power_cut_can_leave(root: Path, backbone: Backbone, out: Path, damage: str) -> None:
    run(root, backbone, out.with_name("reference"))
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, progress=stop_after(8))
    journal, rows = partial_folder(out) / "journal.jsonl", partial_folder(out) / "rows.f32"
    assert rows.stat().st_size == 8 * 5 * 4
    kept = 8
    match damage:
        case "cut line":
            journal.write_bytes(journal.read_bytes()[:-5])
            kept = 4
        case "cut rows":
            rows.write_bytes(rows.read_bytes()[:-3])
            kept = 4
        case "extra rows":
            rows.write_bytes(rows.read_bytes() + b"\x01" * 50)
        case "noise line":
            with journal.open("ab") as file:
                file.write(b"\0\0\0\0\n")
        case "half header":
            journal.write_bytes(journal.read_bytes()[:20])
            kept = 0
        case "half store":
            (partial_folder(out) / "store").mkdir()
            (partial_folder(out) / "store" / "features.npy").write_bytes(b"half")
    done = run(root, backbone, out)
    assert (done.extracted, done.reused) == (15 - kept, kept)
    assert contents(out) == contents(out.with_name("reference"))


def test_killed_twice(root: Path, backbone: Backbone, out: Path) -> None:
    run(root, backbone, out.with_name("reference"))
    for images in (4, 12):
        with pytest.raises(KeyboardInterrupt):
            run(root, backbone, out, progress=stop_after(images))
    assert run(root, backbone, out).extracted == 3
    assert contents(out) == contents(out.with_name("reference"))


def test_image_changed_between_kill_and_resume(root: Path, backbone: Backbone, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, progress=stop_after(8))
    changed = root / "images" / "ape" / "00.png"
    write_photo(changed, seed=999, size=(30, 30))
    done = run(root, backbone, out)
    assert (done.extracted, done.reused) == (8, 7)
    fresh = run(root, backbone, out.with_name("fresh")).store
    np.testing.assert_allclose(done.store.features, fresh.features, atol=1e-6)
    assert done.store.data_hash == fresh.data_hash


def test_killed_between_the_two_steps_of_replacing(root: Path, backbone: Backbone, out: Path) -> None:
    run(root, backbone, out)
    before = contents(out)
    out.rename(out.with_name("features.replaced.partial"))
    assert not run(root, backbone, out).changed
    assert contents(out) == before


def test_two_extractions_into_one_store(root: Path, backbone: Backbone, out: Path) -> None:
    with (
        FeatureJournal(partial_folder(out), backbone),
        pytest.raises(DataError, match="another extraction into the same store is running"),
    ):
        run(root, backbone, out)
    run(root, backbone, out)


def test_backbone_that_fails_leaves_nothing(
    root: Path, backbone: Backbone, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Backbone, "run", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run(root, backbone, out)
    assert not partial_folder(out).exists()


# --- a store that is there already ----------------------------------------------------------------


def test_complete_store_is_left_alone(root: Path, backbone: Backbone, out: Path) -> None:
    run(root, backbone, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    done = run(root, backbone, out)
    assert (done.extracted, done.reused, done.changed) == (0, 15, False)
    assert done.store.features.shape == (15, 5)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert not partial_folder(out).exists()


def test_new_removed_and_changed_images(root: Path, backbone: Backbone, out: Path) -> None:
    run(root, backbone, out)
    write_photo(root / "images" / "ape" / "00a.png", seed=77)
    write_photo(root / "images" / "fox" / "01.jpg", seed=78, size=(50, 40))
    (root / "images" / "Blue Whale" / "00.png").unlink()
    done = run(root, backbone, out)
    assert (done.extracted, done.reused, done.changed) == (2, 13, True)
    fresh = run(root, backbone, out.with_name("fresh")).store
    np.testing.assert_allclose(done.store.features, fresh.features, atol=1e-6)
    assert done.store.data_hash == fresh.data_hash
    assert done.store.labels.tolist() == [0] * 6 + [1] * 4 + [2] * 5


def test_touched_images_are_not_computed_again(root: Path, backbone: Backbone, out: Path) -> None:
    first = run(root, backbone, out).store
    for path in (root / "images").rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    done = run(root, backbone, out)
    assert (done.extracted, done.reused) == (0, 15)
    assert done.store.data_hash == first.data_hash
    assert not run(root, backbone, out).changed


def test_changed_bytes_of_equal_length_are_noticed(root: Path, backbone: Backbone, out: Path) -> None:
    path = root / "images" / "ape" / "photo.bmp"
    write_photo(path, seed=1)
    size = path.stat().st_size
    first = run(root, backbone, out).store
    write_photo(path, seed=2)
    os.utime(path, ns=(1, 1))
    assert path.stat().st_size == size
    done = run(root, backbone, out)
    assert done.extracted == 1
    differs = (done.store.features != first.features).any(axis=1)
    assert [image.path for image, new in zip(done.store.images, differs, strict=True) if new] == [
        "images/ape/photo.bmp"
    ]


def test_changed_table_computes_nothing(root: Path, backbone: Backbone, out: Path) -> None:
    first = run(root, backbone, out).store
    write_table(root, {**CLASSES, "fox": ("seen", (0.75, 0.5))})
    done = run(root, backbone, out)
    assert (done.extracted, done.changed) == (0, True)
    assert done.store.seen.all()
    assert done.store.attributes[2].tolist() == [0.75, 0.5]
    assert done.store.data_hash != first.data_hash
    assert np.array_equal(done.store.features, first.features)


def other_backbone(tmp_path: Path, kind: str) -> Backbone:
    if kind == "weights":
        return load_backbone(write_backbone(tmp_path / "other.onnx", seed=1))
    return load_backbone(write_backbone(tmp_path / "other.onnx", card={"mean": [0.1, 0.2, 0.3]}))


@pytest.mark.parametrize("kind", ["weights", "preprocessing"])
def test_stale_features_are_refused(root: Path, backbone: Backbone, out: Path, tmp_path: Path, kind: str) -> None:
    run(root, backbone, out)
    before = contents(out)
    other = other_backbone(tmp_path, kind)
    both = (
        [backbone.fingerprint, other.fingerprint]
        if kind == "weights"
        else [json.dumps(b.spec.to_json()) for b in (backbone, other)]
    )
    for attempt in (
        lambda: FeatureStore.load(out, expect_backbone=other),
        lambda: run(root, other, out),
    ):
        with pytest.raises(DataError, match="stale features") as caught:
            attempt()
        assert all(text in str(caught.value) for text in both)
    assert "--overwrite" in str(caught.value)
    assert contents(out) == before
    done = run(root, other, out, overwrite=True)
    assert done.extracted == 15
    assert FeatureStore.load(out, expect_backbone=other).spec == other.spec


@pytest.mark.parametrize("kind", ["weights", "preprocessing"])
def test_unfinished_work_of_another_backbone_is_refused(
    root: Path, backbone: Backbone, out: Path, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, progress=stop_after(8))
    other = other_backbone(tmp_path, kind)
    with pytest.raises(DataError, match=r"features\.partial: stale features.*--overwrite"):
        run(root, other, out)
    done = run(root, other, out, overwrite=True)
    assert (done.extracted, done.reused) == (15, 0)
    fresh = run(root, other, out.with_name("fresh")).store
    assert np.array_equal(done.store.features, fresh.features)


def test_killed_overwriting_goes_on_too(root: Path, backbone: Backbone, out: Path, tmp_path: Path) -> None:
    run(root, backbone, out)
    other = other_backbone(tmp_path, "weights")
    with pytest.raises(KeyboardInterrupt):
        run(root, other, out, overwrite=True, progress=stop_after(8))
    assert FeatureStore.load(out).fingerprint == backbone.fingerprint
    assert run(root, other, out, overwrite=True).extracted == 7
    assert FeatureStore.load(out).fingerprint == other.fingerprint


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_no_store_is_never_touched(root: Path, backbone: Backbone, out: Path, overwrite: bool) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match="exists and is no feature store"):
        run(root, backbone, out, overwrite=overwrite)
    assert contents(out) == {"thesis.txt": b"precious"}


def test_empty_folder_is_used(root: Path, backbone: Backbone, out: Path) -> None:
    out.mkdir()
    assert run(root, backbone, out).changed


# --- unreadable images ----------------------------------------------------------------------------


@pytest.fixture
def broken(root: Path) -> list[str]:
    """Paths of four unreadable images, in several batches and for several reasons."""
    cut = root / "images" / "ape" / "01.jpg"
    cut.write_bytes(cut.read_bytes()[:40])
    (root / "images" / "Blue Whale" / "notes.txt").write_text("no image")
    (root / "images" / "fox" / "00.png").write_bytes(b"")
    (root / "images" / "fox" / "link.png").symlink_to("nowhere.png")
    return [
        "images/Blue Whale/notes.txt",
        "images/ape/01.jpg",
        "images/fox/00.png",
        "images/fox/link.png",
    ]


def test_every_unreadable_image_is_named(root: Path, backbone: Backbone, out: Path, broken: list[str]) -> None:
    with pytest.raises(DataError, match=r"4 images cannot be read.*--skip-bad") as caught:
        run(root, backbone, out)
    assert [problem.pointer for problem in caught.value.problems] == broken
    assert "No such file" in caught.value.problems[-1].detail
    assert not out.exists()


def test_unreadable_images_can_be_skipped(root: Path, backbone: Backbone, out: Path, broken: list[str]) -> None:
    done = run(root, backbone, out, skip_bad=True)
    assert [image.path for image in done.store.skipped] == broken
    assert all(image.reason for image in done.store.skipped)
    assert len(done.store.images) == 13
    assert not {image.path for image in done.store.images} & set(broken)
    for row, image in zip(done.store.features, done.store.images, strict=True):
        pixels = preprocess((root / image.path).read_bytes(), backbone.spec)
        np.testing.assert_allclose(row, backbone.run(backbone.session(), pixels[None])[0], atol=1e-6)
    assert not run(root, backbone, out, skip_bad=True).changed
    with pytest.raises(DataError, match="4 images cannot be read"):
        run(root, backbone, out)


def test_killed_while_skipping_ends_the_same(root: Path, backbone: Backbone, out: Path, broken: list[str]) -> None:
    run(root, backbone, out.with_name("reference"), skip_bad=True)
    with pytest.raises(KeyboardInterrupt):
        run(root, backbone, out, skip_bad=True, progress=stop_after(8))
    run(root, backbone, out, skip_bad=True)
    assert contents(out) == contents(out.with_name("reference"))


def test_mended_images_are_computed_alone(root: Path, backbone: Backbone, out: Path, broken: list[str]) -> None:
    run(root, backbone, out, skip_bad=True)
    (root / broken[0]).unlink()
    (root / broken[3]).unlink()
    write_photo(root / broken[1], seed=5)
    write_photo(root / broken[2], seed=6)
    done = run(root, backbone, out)
    assert (done.extracted, done.reused, len(done.store.skipped)) == (2, 13, 0)


def test_work_before_an_unreadable_image_is_not_lost(root: Path, backbone: Backbone, out: Path) -> None:
    bad = root / "images" / "fox" / "zz.png"
    bad.write_bytes(b"x")
    with pytest.raises(DataError, match="one image cannot be read"):
        run(root, backbone, out)
    bad.unlink()
    assert run(root, backbone, out).reused == 12  # three whole batches came before it


def test_no_readable_image_at_all(root: Path, backbone: Backbone, out: Path) -> None:
    for path in (root / "images").rglob("*.*"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="no image can be read"):
        run(root, backbone, out, skip_bad=True)
    assert sorted(p.name for p in out.parent.iterdir()) == ["b.json", "b.onnx", "data"]


# --- reading a store ------------------------------------------------------------------------------


def change_meta(out: Path, change: Callable[[Any], None]) -> None:
    meta = json.loads((out / "meta.json").read_text())
    change(meta)
    (out / "meta.json").write_text(json.dumps(meta))


def test_equal_data_elsewhere_has_an_equal_hash(root: Path, backbone: Backbone, out: Path, tmp_path: Path) -> None:
    first = run(root, backbone, out).store
    shutil.copytree(root, tmp_path / "copy")
    second = run(tmp_path / "copy", backbone, out.with_name("second")).store
    assert second.data_hash == first.data_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda meta: meta.update(schema="d3gzsl-features/9"),
            "expected schema 'd3gzsl-features/1', found 'd3gzsl-fea",
        ),
        (lambda meta: meta.pop("labels"), "a field is missing or has another form: KeyError"),
        (lambda meta: meta["labels"].pop(), "expected 14 x 5 features as in meta.json, found 15 x 5"),
        (lambda meta: meta["images"].pop(), "expected 15 x 5 features"),
        (lambda meta: meta["images"][0].pop("sha256"), "a field is missing or has another form: TypeError"),
        (lambda meta: meta["labels"].__setitem__(0, 3), "a label is not an index of one of the 3 classes"),
        (lambda meta: meta["labels"].__setitem__(0, -1), "a label is not an index of one of the 3 classes"),
        (lambda meta: meta["labels"].__setitem__(0, 1), "do not give the data hash"),
        (lambda meta: meta["classes"][0]["attributes"].pop(), "a class has not 2 attributes"),
        (lambda meta: meta["classes"][0].update(kind="known"), "kind must be seen or unseen"),
        (lambda meta: meta["backbone"]["preprocessing"].update(size=16, resize=16), "do not give the data hash"),
    ],
)
def test_meta_that_does_not_fit(
    root: Path, backbone: Backbone, out: Path, change: Callable[[Any], None], message: str
) -> None:
    run(root, backbone, out)
    change_meta(out, change)
    with pytest.raises(DataError, match=message):
        FeatureStore.load(out)


def test_features_that_do_not_fit(root: Path, backbone: Backbone, out: Path) -> None:
    features = run(root, backbone, out).store.features
    features[7, 2] = np.nan
    for array, message in (
        (features, r"row 7 \(images/Blue Whale/02.png\) is not finite"),
        (features[:, :4], "expected 15 x 5 features as in meta.json, found 15 x 4"),
        (features.astype(np.float64), "expected a float32 matrix, found float64"),
        (np.array([{"a": 1}], dtype=object), "not readable as an array: Object arrays cannot be loaded"),
    ):
        np.save(out / "features.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            FeatureStore.load(out)
    (out / "features.npy").write_bytes((out / "features.npy").read_bytes()[:50])
    with pytest.raises(DataError, match="not readable as an array"):
        FeatureStore.load(out)


@pytest.mark.parametrize("name", ["meta.json", "features.npy", "backbone.onnx"])
def test_missing_file(root: Path, backbone: Backbone, out: Path, name: str) -> None:
    run(root, backbone, out)
    (out / name).unlink()
    with pytest.raises(DataError, match=name):
        FeatureStore.load(out)


# --- real photos, real network --------------------------------------------------------------------


@pytest.mark.skipif(not (ANIMALS.exists() and MOBILENET.exists()), reason="../shared/data is not here")
def test_photos_of_animals_through_mobilenet(tmp_path: Path) -> None:
    """Three photos per class: features of a real network tell the classes apart by nearest neighbour."""
    root = tmp_path / "animals"
    for folder in sorted((ANIMALS / "images").iterdir()):
        (root / "images" / folder.name).mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:3]:
            (root / "images" / folder.name / photo.name).symlink_to(photo)
    shutil.copyfile(ANIMALS / "classes.csv", root / "classes.csv")
    done = extraction.extract(read_own_photos(root), load_backbone(MOBILENET), tmp_path / "features")
    store = done.store
    assert store.features.shape == (54, 1024)
    assert (store.attributes.shape, int(store.seen.sum())) == ((18, 85), 13)
    unit = store.features / np.linalg.norm(store.features, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -1)
    hits = store.labels[likeness.argmax(axis=1)] == store.labels
    assert hits.mean() > 0.5  # chance is 2 in 53
