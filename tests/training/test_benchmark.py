from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from model.classes import slug
from model.errors import DataError
from tests.training.matfiles import NAMES, SEEN, UNSEEN, cells, contents, write
from tests.training.tiny import config
from training.datasets.benchmark import is_benchmark, load_benchmark, unique_ids
from training.datasets.benchmark_rules import KNOWN, recognise
from training.datasets.opening import open_data, reopen
from training.evaluation import evaluate
from training.runs.contents import Trained
from training.runs.fit import fit

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
Change = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "B", *contents())


# --- what is read -----------------------------------------------------------------------------------------------------


def test_everything_is_where_the_file_says(folder: Path) -> None:
    features, splits = contents()
    made = load_benchmark(folder)
    assert made.features.dtype == np.float32
    assert made.labels.dtype == np.int64
    np.testing.assert_array_equal(made.features, features["features"].T.astype(np.float32))
    np.testing.assert_array_equal(made.labels, features["labels"][:, 0].astype(int) - 1)
    wanted = {key: set((splits[key][:, 0].astype(int) - 1).tolist()) for key in splits if key.endswith("_loc")}
    assert set(made.trainval.tolist()) == wanted["trainval_loc"]
    assert set(made.test.tolist()) == wanted["test_seen_loc"] | wanted["test_unseen_loc"]
    assert len(made.test) + len(made.trainval) == len(made.labels)
    assert [entry.name for entry in made.classes] == list(NAMES)
    assert [entry.id for entry in made.classes] == [
        "grizzly-bear",
        "blue-whale",
        "001.black_albatross",
        "cat",
        "zubr",
    ]
    assert np.flatnonzero(made.seen).tolist() == list(SEEN)
    np.testing.assert_array_equal([entry.attributes for entry in made.classes], splits["att"].T)
    centred = splits["att"].T - splits["att"].T[list(SEEN)].mean(axis=0)
    np.testing.assert_allclose(made.attributes, centred / np.linalg.norm(centred, axis=1)[:, None], rtol=1e-5)
    assert made.vocabulary.names == ("a1", "a2", "a3", "a4")
    assert made.backbone is None


def test_the_split_says_what_was_found(folder: Path) -> None:
    split = load_benchmark(folder).split
    assert json.loads(json.dumps(split)) == split
    assert split == {
        "rule": "att_splits.mat: trained on trainval_loc, tested on test_seen_loc and test_unseen_loc",
        "benchmark": None,
        "file": "att_splits.mat",
        "splits": "att",
        "rows": {"trainval": 18, "test_seen": 6, "test_unseen": 16},
        "classes": {"seen": 3, "unseen": 2},
        "classes_without_rows": 0,
        "features": {"count": 3, "stored_as": "float64"},
        "attributes": {"count": 4, "lengths": [1.0, 1.0], "unit_length": True},
        "leak": {},
        "validation_classes": 0,
        "ignored": {"res101.mat": ["image_files"], "att_splits.mat": []},
        "notes": [],
    }


def test_the_two_files_of_attributes(folder: Path) -> None:
    features, splits = contents(attributes=7)
    splits["att"] *= np.linspace(16.5, 22.5, 5)
    write(folder, features, splits, file="sent_splits.mat")
    first = load_benchmark(folder)
    assert (first.split["file"], first.attributes.shape) == ("att_splits.mat", (5, 4))
    assert first.split["notes"] == ["att_splits.mat and sent_splits.mat are both there; att_splits.mat is used"]
    other = load_benchmark(folder, splits="sent")
    assert (other.split["file"], other.split["splits"], other.attributes.shape) == ("sent_splits.mat", "sent", (5, 7))
    assert other.split["attributes"] == {"count": 7, "lengths": [16.5, 22.5], "unit_length": False}
    (note,) = other.split["notes"]
    assert note.startswith("sent_splits.mat: attribute vectors are not normalised, their lengths are 16.5 to 22.5")
    np.testing.assert_allclose(np.linalg.norm(other.attributes, axis=1), 1, rtol=1e-6)
    assert other.data_hash != first.data_hash
    (folder / "att_splits.mat").unlink()
    alone = load_benchmark(folder)
    assert (alone.split["splits"], alone.data_hash) == ("sent", other.data_hash)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_features_of_any_type_become_float32(tmp_path: Path, dtype: type) -> None:
    features, splits = contents()
    features["features"] = (features["features"] * 50).astype(dtype)
    made = load_benchmark(write(tmp_path / "B", features, splits))
    assert made.features.dtype == np.float32
    assert made.features.max() > 200  # nothing wrapped round
    np.testing.assert_array_equal(made.features, features["features"].T.astype(np.float32))
    assert made.split["features"]["stored_as"] == np.dtype(dtype).name


def test_lists_and_labels_of_any_type_and_direction(folder: Path, tmp_path: Path) -> None:
    features, splits = contents()
    features["labels"] = features["labels"].astype(np.float64).T
    splits = {key: value.astype(np.float64).T if key.endswith("_loc") else value for key, value in splits.items()}
    made, first = load_benchmark(write(tmp_path / "other", features, splits)), load_benchmark(folder)
    np.testing.assert_array_equal(made.labels, first.labels)
    assert made.data_hash == first.data_hash


def test_label_one_is_class_zero_in_an_unsigned_type(tmp_path: Path) -> None:
    """Subtracting before casting would give 65535 for rows and 255 for classes where the files hold 0 next to 1."""
    features, splits = contents()
    features["labels"] = features["labels"].astype(np.uint8)
    made = load_benchmark(write(tmp_path / "B", features, splits))
    assert made.labels.min() == 0
    assert made.labels.max() == 4
    assert {int(made.trainval.min()), int(made.test.min())} == {0, 1}


def test_the_leak_of_the_old_lists_is_counted_and_not_used(folder: Path, tmp_path: Path) -> None:
    features, splits = contents()
    trainval, test_seen = splits["trainval_loc"], splits["test_seen_loc"]
    splits["train_loc"] = np.concatenate([trainval[:10], test_seen[:4]])
    splits["val_loc"] = np.concatenate([trainval[10:], test_seen[4:5]])
    made = load_benchmark(write(tmp_path / "leaky", features, splits))
    assert made.split["leak"] == {"train_loc": 4, "val_loc": 1}
    assert any(
        "rows of test_seen_loc are in its old lists, 4 in train_loc and 1 in val_loc" in n for n in made.split["notes"]
    )
    inside = features["labels"][trainval[10:, 0].astype(int) - 1]
    assert made.split["validation_classes"] == len(np.unique(inside))
    first = load_benchmark(folder)
    np.testing.assert_array_equal(made.trainval, first.trainval)
    np.testing.assert_array_equal(made.test, first.test)
    assert made.data_hash == first.data_hash


def test_validation_classes_are_those_of_val_loc_within_trainval(tmp_path: Path) -> None:
    features, splits = contents()
    labels = features["labels"][:, 0]
    of_class = {c: [r for r in splits["trainval_loc"][:, 0] if labels[r - 1] == c + 1] for c in SEEN}
    leaked = [r for r in splits["test_seen_loc"][:, 0] if labels[r - 1] == SEEN[2] + 1]
    splits["val_loc"] = np.array(of_class[SEEN[0]] + of_class[SEEN[1]] + leaked)[:, None]
    split = load_benchmark(write(tmp_path / "B", features, splits)).split
    assert (split["validation_classes"], split["leak"]) == (2, {"val_loc": 2})


def test_extra_keys_are_ignored_and_named(tmp_path: Path) -> None:
    features, splits = contents()
    splits |= {"wv": np.ones((3, 5)), "tunseen_train_loc": np.array([[70000]]), "original_att": splits["att"] * 100}
    made = load_benchmark(write(tmp_path / "B", features, splits))
    assert made.split["ignored"]["att_splits.mat"] == ["original_att", "tunseen_train_loc", "wv"]


def test_names_that_are_absent_or_padded_or_alike(tmp_path: Path) -> None:
    features, splits = contents()
    del splits["allclasses_names"]
    made = load_benchmark(write(tmp_path / "absent", features, splits))
    assert [(entry.id, entry.name) for entry in made.classes][:2] == [("class-1", "class 1"), ("class-2", "class 2")]
    splits["allclasses_names"] = np.array(["ape", "lion cub", "ox", "Ox", "owl"])  # a padded matrix of characters
    made = load_benchmark(write(tmp_path / "padded", features, splits))
    assert [entry.name for entry in made.classes] == ["ape", "lion cub", "ox", "Ox", "owl"]
    assert [entry.id for entry in made.classes] == ["ape", "lion-cub", "ox", "ox-2", "owl"]


def test_ids_are_unique_slugs() -> None:
    assert unique_ids(("a", "A", "a-2", "象", "a")) == ("a", "a-2", "a-2-2", slug("象"), "a-3")
    long = unique_ids(("x" * 80, "x" * 80))
    assert [len(identity) for identity in long] == [64, 64]
    assert len(set(long)) == 2


def test_a_class_without_rows_is_unseen(tmp_path: Path) -> None:
    features, splits = contents()
    splits["att"] = np.c_[splits["att"], [0.5, 0.5, 0.5, 0.5]]
    splits["allclasses_names"] = cells((*NAMES, "unicorn"))
    made = load_benchmark(write(tmp_path / "B", features, splits))
    assert made.classes[5].kind == "unseen"
    assert made.split["classes"] == {"seen": 3, "unseen": 3}
    assert made.split["classes_without_rows"] == 1


def hash_after(tmp_path: Path, change: Change) -> str:
    features, splits = contents()
    change(features, splits)
    return load_benchmark(write(tmp_path / "changed", features, splits)).data_hash


def test_the_hash_follows_what_matters(folder: Path, tmp_path: Path) -> None:
    first = load_benchmark(folder).data_hash

    def one_feature(features: dict[str, Any], _: dict[str, Any]) -> None:
        features["features"][0, 0] += 0.01

    def one_attribute(_: dict[str, Any], splits: dict[str, Any]) -> None:
        splits["att"][0, 0] += 1e-9

    def one_name(_: dict[str, Any], splits: dict[str, Any]) -> None:
        splits["allclasses_names"][0, 0] = "polar+bear"

    def one_row(_: dict[str, Any], splits: dict[str, Any]) -> None:
        splits["test_seen_loc"] = np.r_[splits["test_seen_loc"], splits["trainval_loc"][:1]]
        splits["trainval_loc"] = splits["trainval_loc"][1:]

    def the_order(_: dict[str, Any], splits: dict[str, Any]) -> None:
        splits["trainval_loc"] = splits["trainval_loc"][::-1]

    hashes = [hash_after(tmp_path, change) for change in (one_feature, one_attribute, one_name, one_row)]
    assert len({first, *hashes}) == 5
    assert hash_after(tmp_path, the_order) == first


# --- what is refused --------------------------------------------------------------------------------------------------


def drop(file: int, key: str) -> Change:
    return lambda *files: files[file].pop(key)


def put(file: int, key: str, value: Callable[[Any], Any]) -> Change:
    def change(*files: dict[str, Any]) -> None:
        files[file][key] = value(files[file][key])

    return change


def at(index: int | tuple[int, int], new: float) -> Callable[[Any], Any]:
    def value(old: Any) -> Any:
        changed = old.astype(np.float64)
        changed[index] = new
        return changed

    return value


R, S = 0, 1  # res101.mat, att_splits.mat

REFUSED: dict[str, tuple[Change, str, str]] = {
    "no labels": (
        drop(R, "labels"),
        "res101.mat, labels",
        "expected this variable, found features, image_files",
    ),
    "no list": (
        drop(S, "test_seen_loc"),
        "att_splits.mat, test_seen_loc",
        "expected this variable, found allclasses_names, att, test_unseen_loc, trainval_loc",
    ),
    "features transposed": (
        put(R, "features", np.transpose),
        "res101.mat, features",
        "expected one column per label, D x 40, found 40 x 3; it looks transposed",
    ),
    "features too short": (
        put(R, "features", lambda f: f[:, :-1]),
        "res101.mat, features",
        "expected one column per label, D x 40, found 3 x 39",
    ),
    "features of three axes": (
        put(R, "features", lambda f: f[:, :, None].repeat(2, axis=2)),
        "res101.mat, features",
        "expected a full matrix of real numbers, found float64 3 x 40 x 2",
    ),
    "features sparse": (
        put(R, "features", scipy.sparse.csc_matrix),
        "res101.mat, features",
        "expected a full matrix of real numbers, found csc_matrix",
    ),
    "features empty": (
        put(R, "features", lambda f: f[:0]),
        "res101.mat, features",
        "expected a matrix of numbers, found an empty one, 0 x 40",
    ),
    "features not finite": (
        put(R, "features", lambda f: at((1, 30), np.inf)(at((2, 6), np.nan)(f))),
        "res101.mat, features",
        "expected finite numbers within float32, found others in row 7, 31",
    ),
    "features beyond float32": (
        put(R, "features", at((0, 0), 1e39)),
        "res101.mat, features",
        "expected finite numbers within float32, found others in row 1",
    ),
    "labels of another shape": (
        put(R, "labels", lambda v: v.reshape(8, 5)),
        "res101.mat, labels",
        "expected a list, k x 1, found 8 x 5",
    ),
    "labels not whole": (
        put(R, "labels", lambda v: at((2, 0), np.nan)(at((4, 0), 1.5)(v))),
        "res101.mat, labels",
        "expected whole numbers, found nan at entry 3, 1.5 at entry 5",
    ),
    "labels from 0": (
        put(R, "labels", lambda v: v - 1),
        "res101.mat, labels",
        "expected columns of att, 1..5, found 0 in row 1, 0 in row 6, 0 in row 11, 0 in row 16, 0 in row 21 and 3 more",
    ),
    "labels too large": (
        put(R, "labels", at((3, 0), 6)),
        "res101.mat, labels",
        "expected columns of att, 1..5, found 6 in row 4",
    ),
    "attributes transposed": (
        put(S, "att", np.transpose),
        "att_splits.mat, allclasses_names",
        "expected one name per column of att (4), found 5; att looks transposed",
    ),
    "attributes not finite": (
        put(S, "att", at((1, 2), np.nan)),
        "att_splits.mat, att",
        "expected finite numbers of at most 1e+12, found others in column 3",
    ),
    "class without attributes": (
        put(S, "att", lambda a: a * np.array([1, 0, 1, 1, 0])),
        "att_splits.mat, att",
        "expected attributes for every class, found zeros only in column 2, 5",
    ),
    "name empty": (
        put(S, "allclasses_names", lambda n: cells(("ape", "", "x" * 201, "ox", "owl"))),
        "att_splits.mat, allclasses_names",
        "expected texts of 1 to 200 characters, found something else at entry 2, 3",
    ),
    "names as numbers": (
        put(S, "allclasses_names", lambda n: np.ones((5, 1))),
        "att_splits.mat, allclasses_names",
        "expected a cell array of texts, found float64 5 x 1",
    ),
    "index out of range": (
        put(S, "trainval_loc", lambda v: np.r_[v, [[0]], [[41]]]),
        "att_splits.mat, trainval_loc",
        "expected rows of res101.mat, 1..40, found 0 at entry 19, 41 at entry 20",
    ),
    "index of an old list out of range": (
        lambda _, splits: splits.update(val_loc=np.array([[1], [50]])),
        "att_splits.mat, val_loc",
        "expected rows of res101.mat, 1..40, found 50 at entry 2",
    ),
    "list empty": (
        put(S, "test_seen_loc", lambda v: v[:0]),
        "att_splits.mat, test_seen_loc",
        "expected a matrix of numbers, found an empty one, 0 x 1",
    ),
}


@pytest.mark.parametrize(("change", "pointer", "detail"), REFUSED.values(), ids=REFUSED)
def test_refused_with_file_key_rule_and_rows(tmp_path: Path, change: Change, pointer: str, detail: str) -> None:
    features, splits = contents()
    change(features, splits)
    with pytest.raises(DataError, match="a benchmark") as caught:
        load_benchmark(write(tmp_path / "B", features, splits))
    assert (pointer, detail) in [(problem.pointer, problem.detail) for problem in caught.value.problems]
    assert str(caught.value).startswith(f"{tmp_path / 'B'} breaks ")


def problems_of(tmp_path: Path, change: Change) -> dict[str, str]:
    features, splits = contents()
    change(features, splits)
    with pytest.raises(DataError) as caught:
        load_benchmark(write(tmp_path / "B", features, splits))
    return {problem.pointer: problem.detail for problem in caught.value.problems}


def test_the_lists_must_hold_every_row_once(tmp_path: Path) -> None:
    _, splits = contents()
    twice, shared, gone = (int(splits["trainval_loc"][i, 0]) for i in (0, 1, 2))

    def change(_: dict[str, Any], splits: dict[str, Any]) -> None:
        splits["trainval_loc"] = np.r_[splits["trainval_loc"][[0]], np.delete(splits["trainval_loc"], 2, axis=0)]
        splits["test_seen_loc"] = np.r_[splits["test_seen_loc"], [[shared]]]

    assert problems_of(tmp_path, change) == {
        "att_splits.mat, trainval_loc": f"expected every row once, found row {twice} more than once",
        "att_splits.mat, test_seen_loc": f"expected no row of trainval_loc, found 1: row {shared}",
        "att_splits.mat, trainval_loc, test_seen_loc, test_unseen_loc": (
            f"expected each of the 40 rows in one of these lists, 1 are in none: row {gone}"
        ),
    }


def test_seen_and_unseen_classes_are_disjoint(tmp_path: Path) -> None:
    moved = int(contents()[1]["test_unseen_loc"][0, 0])

    def change(features: dict[str, Any], splits: dict[str, Any]) -> None:
        features["labels"][moved - 1] = SEEN[0] + 1

    found = problems_of(tmp_path, change)
    label = SEEN[0] + 1
    assert found == {
        "att_splits.mat, test_unseen_loc": (
            f"expected no row of a class in trainval_loc, found 1: row {moved} of label {label}"
        )
    }


def test_seen_test_rows_are_of_classes_that_are_trained_on(tmp_path: Path) -> None:
    moved = int(contents()[1]["test_seen_loc"][3, 0])

    def change(features: dict[str, Any], splits: dict[str, Any]) -> None:
        features["labels"][moved - 1] = UNSEEN[0] + 1

    assert problems_of(tmp_path, change) == {
        "att_splits.mat, test_seen_loc": (
            f"expected rows of classes in trainval_loc, found 1 others: row {moved} of label {UNSEEN[0] + 1}"
        )
    }


def test_a_class_with_too_few_rows_to_train_on(tmp_path: Path) -> None:
    def change(features: dict[str, Any], splits: dict[str, Any]) -> None:
        labels = features["labels"][:, 0]
        of_class = [r for r in splits["trainval_loc"][:, 0] if labels[r - 1] == SEEN[1] + 1]
        splits["trainval_loc"] = np.setdiff1d(splits["trainval_loc"], of_class[:3])[:, None]
        splits["test_seen_loc"] = np.r_[splits["test_seen_loc"], np.array(of_class[:3])[:, None]]

    assert problems_of(tmp_path, change) == {
        "att_splits.mat, trainval_loc": (
            f"expected at least 4 rows of every class in it, found 3 of label {SEEN[1] + 1}"
        )
    }


def test_every_broken_rule_is_named_at_once(tmp_path: Path) -> None:
    def change(features: dict[str, Any], splits: dict[str, Any]) -> None:
        features["labels"] = at((0, 0), 9)(features["labels"])
        splits["att"][:, 1] = np.nan

    assert set(problems_of(tmp_path, change)) == {"res101.mat, labels", "att_splits.mat, att"}


def test_files_that_cannot_be_read(folder: Path) -> None:
    splits = folder / "att_splits.mat"
    whole = splits.read_bytes()
    for head in (b"\x89HDF\r\n\x1a\n", b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"):
        splits.write_bytes(head + bytes(100))
        with pytest.raises(DataError, match=r"found MATLAB 7\.3 \(HDF5\).*save\('att_splits\.mat', '-v7'\)"):
            load_benchmark(folder)
    for content in (b"", b"<html>not found</html>", whole[:300], whole[: len(whole) // 2], bytes(2000)):
        splits.write_bytes(content)
        with pytest.raises(DataError, match=f"{re.escape(str(splits))}: not readable as a MATLAB file"):
            load_benchmark(folder)


def test_folders_that_are_no_benchmark(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"expected a benchmark folder with res101\.mat and att_splits\.mat or .* no such"
    ):
        load_benchmark(tmp_path / "gone")
    with pytest.raises(DataError, match=r"and sent_splits\.mat, found res101\.mat, att_splits\.mat"):
        load_benchmark(folder, splits="sent")
    with pytest.raises(DataError, match="splits: expected att or sent, got 'word'"):
        load_benchmark(folder, splits="word")
    (folder / "res101.mat").unlink()
    assert is_benchmark(folder)
    with pytest.raises(DataError, match=r"with res101.mat and .*, found att_splits.mat"):
        load_benchmark(folder)
    assert not is_benchmark(tmp_path)


# --- DATA on the command line -----------------------------------------------------------------------------------------


def test_a_benchmark_is_data(folder: Path) -> None:
    made, described = open_data(folder, test_fraction=0.3, split_seed=0)
    assert described == {"kind": "benchmark", "path": str(folder.resolve()), "splits": "att"}
    assert made.data_hash == load_benchmark(folder).data_hash
    with pytest.raises(DataError, match=r"and sent_splits\.mat, found"):
        open_data(folder, test_fraction=0.3, split_seed=0, splits="sent")


def test_features_have_no_splits_to_choose(store_dir: Path) -> None:
    with pytest.raises(DataError, match="expected a benchmark folder with the splits 'att', found features"):
        open_data(store_dir, test_fraction=0.3, split_seed=0, splits="att")


def test_a_run_on_a_benchmark_finds_its_data_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "B", *contents(classes=8))
    made, described = open_data(folder, test_fraction=0.3, split_seed=0)
    out = tmp_path / "run"
    out.mkdir()
    fit(made, config(), out, data=described, device=torch.device("cpu"))
    trained = Trained.load(out)
    # The other attributes appear later: the run stays with those it was trained on.
    write(folder, *contents(classes=8, attributes=6), file="sent_splits.mat")
    again = reopen(trained.data)
    assert again.split["file"] == "att_splits.mat"
    results = evaluate(again, trained)
    assert results["protocol"]["rows"] == {"trainval": 36, "test_seen": 12, "test_unseen": 16}
    moved = folder.rename(tmp_path / "moved")
    np.testing.assert_array_equal(reopen(trained.data, moved_to=moved).test, made.test)
    with pytest.raises(DataError, match="no such folder"):
        reopen(trained.data)
    features, splits = contents(classes=8)
    features["features"][0, 0] += 1
    write(moved, features, splits)
    with pytest.raises(DataError, match="the data have changed since the run"):
        reopen(trained.data, moved_to=moved)
    lost = dataclasses.replace(trained, data={"kind": "benchmark", "data_hash": "x"})
    with pytest.raises(DataError, match="data lacks path, splits"):
        reopen(lost.data)


# --- the public benchmarks --------------------------------------------------------------------------------------------

LEAKS = {
    "AWA1": {"train_loc": 3404, "val_loc": 1554},
    "AWA2": {"train_loc": 4031, "val_loc": 1851},
    "CUB": {"train_loc": 1173, "val_loc": 591},
    "SUN": {"train_loc": 2320, "val_loc": 260},
    "FLO": {"train_loc": 1173, "val_loc": 230},
    "APY": {"train_loc": 0, "val_loc": 0},
}
ATTRIBUTES = {"AWA1": 85, "AWA2": 85, "CUB": 1024, "SUN": 102, "FLO": 1024, "APY": 64}


def generated(name: str, folder: Path, *, unseen_ids: frozenset[int]) -> Path:
    """The real splits of a benchmark beside generated features, and labels that agree with them."""
    path = DATA / "xlsa17" / name
    if not path.is_dir():
        pytest.skip("../shared/data is not here")
    (splits,) = path.glob("*_splits.mat")
    lists = scipy.io.loadmat(splits, variable_names=["trainval_loc", "test_seen_loc", "test_unseen_loc"])
    known = KNOWN[name]
    seen_ids = np.setdiff1d(np.arange(known.seen + known.unseen), sorted(unseen_ids))
    labels = np.zeros(known.images, dtype=np.uint16)
    for key, ids in (("trainval_loc", seen_ids), ("test_seen_loc", seen_ids), ("test_unseen_loc", sorted(unseen_ids))):
        rows = lists[key][:, 0].astype(int) - 1
        labels[rows] = np.resize(ids, len(rows)) + 1
    features = np.random.default_rng(0).integers(0, 255, (4, known.images), dtype=np.uint8)
    folder.mkdir()
    scipy.io.savemat(folder / "res101.mat", {"features": features, "labels": labels[:, None]})
    (folder / splits.name).symlink_to(splits.resolve())
    return folder


@pytest.mark.parametrize("name", KNOWN)
def test_the_real_splits(name: str, tmp_path: Path) -> None:
    known = KNOWN[name]
    unseen_ids = known.unseen_ids or frozenset(range(known.seen, known.seen + known.unseen))
    made = load_benchmark(generated(name, tmp_path / "B", unseen_ids=unseen_ids))
    split = made.split
    assert split["benchmark"] == name
    assert split["rows"] == {
        "trainval": known.trainval,
        "test_seen": known.test_seen,
        "test_unseen": known.test_unseen,
    }
    assert made.features.shape == (known.images, 4)
    assert len(made.trainval) + len(made.test) == known.images
    assert split["classes"] == {"seen": known.seen, "unseen": known.unseen}
    assert set(np.flatnonzero(~made.seen).tolist()) == unseen_ids
    assert made.attributes.shape == (known.seen + known.unseen, ATTRIBUTES[name])
    assert np.isfinite(made.attributes).all()
    assert split["leak"] == LEAKS[name]
    assert split["attributes"]["unit_length"] == (name != "CUB")
    assert 0 < split["validation_classes"] <= known.seen  # the labels are generated, so no more can be said
    noted = " ".join(split["notes"])
    assert ("old lists" in noted) == (name != "APY")
    assert ("not normalised" in noted) == (name == "CUB")
    names = {entry.id for entry in made.classes if entry.kind == "unseen"}
    if name in ("AWA1", "AWA2"):
        animals = "horse blue-whale sheep seal bat giraffe rat bobcat walrus dolphin"
        assert names == set(animals.split())
    if name == "APY":
        assert split["ignored"]["att_splits.mat"] == [
            "original_att",
            "test_allclass_loc",
            "train_allclass_loc",
            "tunseen_test_loc",
            "tunseen_train_loc",
        ]


def test_a_benchmark_whose_labels_are_of_another_order_is_refused(tmp_path: Path) -> None:
    shifted = frozenset(i + 1 for i in KNOWN["AWA2"].unseen_ids)
    folder = generated("AWA2", tmp_path / "B", unseen_ids=frozenset(i % 50 for i in shifted))
    with pytest.raises(DataError) as caught:
        load_benchmark(folder)
    (problem,) = caught.value.problems
    assert problem.pointer == "res101.mat, labels"
    assert problem.detail == (
        "by its sizes this is AWA2, whose unseen classes have other labels than the rows of test_unseen_loc: "
        "expected also 7, 9, 23, 30, 34 and 3 more, found also 1, 8, 10, 25, 32 and 3 more; "
        "labels and splits are of different files"
    )


def test_known_sizes_add_up() -> None:
    for known in KNOWN.values():
        assert known.trainval + known.test_seen + known.test_unseen == known.images
        assert len(known.unseen_ids) in (0, known.unseen)
        assert all(0 <= i < known.seen + known.unseen for i in known.unseen_ids)
        sizes = {"trainval": known.trainval, "test_seen": known.test_seen, "test_unseen": known.test_unseen}
        assert recognise(classes=known.seen + known.unseen, **sizes) is known
        assert recognise(classes=known.seen + known.unseen + 1, **sizes) is None
    assert not [known.name for known in KNOWN.values() if known.name != "FLO" and not known.unseen_ids]


@pytest.mark.parametrize(
    ("name", "shape", "classes", "attributes"), [("TIN150", (21900, 1024), 150, 384), ("AWA40", (19832, 2048), 40, 85)]
)
def test_the_sets_for_development(name: str, shape: tuple[int, int], classes: int, attributes: int) -> None:
    folder = DATA / "gzsl" / name
    if not folder.is_dir():
        pytest.skip("../shared/data is not here")
    made = load_benchmark(folder)
    assert made.features.shape == shape
    assert made.features.max() <= 255
    assert made.attributes.shape == (classes, attributes)
    assert made.split["benchmark"] is None
    assert made.split["features"]["stored_as"] == "uint8"
    assert made.split["leak"] == {"train_loc": 0, "val_loc": 0}
