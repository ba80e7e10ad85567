"""The bundle file format: what is written is read, and what does not fit is refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import bundle as bundle_module
from model.bundle import BANK, HEAD, REQUIRED, TRUNK, Bundle, read_manifest
from model.errors import BundleError
from model.head import HeadSpec
from model.manifest import MANIFEST
from tests.model import tiny

STORED = Path(__file__).parent / "data" / "bundle-v1"
FILES = (*REQUIRED, tiny.EXAMPLE.file, tiny.STRANGER.file)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    out = tmp_path / "bundle"
    tiny.write(out)
    return out


def edit_manifest(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((path / MANIFEST).read_text())
    edit(fields)
    (path / MANIFEST).write_text(json.dumps(fields))


def replace_file(path: Path, name: str, data: bytes) -> None:
    """Change a file and its hash, as a faulty writer (or a bad one) would."""
    (path / name).write_bytes(data)
    edit_manifest(path, lambda f: f["files"].update({name: hashlib.sha256(data).hexdigest()}))


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- round trip -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    given = tiny.contents()
    identity = tiny.write(tmp_path / "b")
    bundle = Bundle.load(tmp_path / "b")
    manifest = bundle.manifest
    assert manifest.bundle_id == identity
    for field in ("preprocess", "backbone", "vocabulary", "classes", "calibration", "metrics", "training"):
        assert getattr(manifest, field) == given[field]
    assert manifest.head == given["head_spec"]
    assert manifest.examples == (tiny.EXAMPLE, tiny.STRANGER)
    assert set(manifest.files) == set(FILES)
    np.testing.assert_array_equal(bundle.weight, given["weight"])
    np.testing.assert_array_equal(bundle.bias, given["bias"])
    np.testing.assert_array_equal(bundle.novelty_reference, np.sort(given["novelty_reference"]))
    fresh = np.random.default_rng(9).normal(size=(5, tiny.DIMENSION)).astype(np.float32)
    np.testing.assert_array_equal(bundle.head.row(fresh).weight, given["head"].row(fresh).weight)
    assert bundle.trunk.read_bytes() == given["trunk"]
    assert bundle.synthesizer.read_bytes() == given["synthesizer"]
    for example, data in given["examples"].items():
        assert (tmp_path / "b" / example.file).read_bytes() == data


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    assert tiny.write(tmp_path / "a") == tiny.write(tmp_path / "b")
    assert everything_below(tmp_path / "a") == everything_below(tmp_path / "b")


def test_whole_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    """Offset, scale and shrinkage given as ints give the id that their JSON gives when it is read again."""
    words = replace(tiny.vocabulary(), offset=(0, 0, 0), scale=(1, 1, 1))
    spec = HeadSpec(kind="lda", dimension=tiny.DIMENSION, samples=5, noise_dimension=tiny.NOISE, shrinkage=1)
    identity = tiny.write(tmp_path / "b", vocabulary=words, head_spec=spec)
    assert Bundle.load(tmp_path / "b").manifest.bundle_id == identity


def test_a_bundle_can_be_moved(path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "b"
    shutil.copytree(path, moved)
    assert Bundle.load(moved).trunk == moved / TRUNK


def test_others_may_read_it(path: Path) -> None:
    assert path.stat().st_mode & 0o755 == 0o755


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"trunk": b"another"}, False),
        ({"synthesizer": b"another"}, False),
        ({"vocabulary": replace(tiny.vocabulary(), unit_length=True)}, False),
        ({"head_spec": replace(tiny.contents()["head_spec"], samples=21)}, False),
        ({"weight": tiny.contents()["weight"] + 1}, True),
        ({"metrics": {}}, True),
        ({"examples": {}}, True),
        (
            {"classes": tiny.CLASSES[:3], "weight": tiny.contents()["weight"][:3], "bias": tiny.contents()["bias"][:3]},
            True,
        ),
    ],
    ids=lambda c: "+".join(c) if isinstance(c, dict) else str(c),
)
def test_the_id_covers_what_decides_a_row_and_nothing_else(
    tmp_path: Path, path: Path, change: dict[str, Any], same: bool
) -> None:
    changed = tiny.write(tmp_path / "changed", **change)
    assert (changed == read_manifest(path).bundle_id) is same


# --- the stored bundle ------------------------------------------------------------------------------------------------


def test_a_bundle_of_schema_version_1_still_loads() -> None:
    """Written once and never again: bundles that people have must keep loading, with the same id and rows."""
    bundle = Bundle.load(STORED)
    assert bundle.manifest.bundle_id == "a9b36ecde8b3e36020095fde84c7c4b7"
    assert bundle.manifest.classes == tiny.CLASSES
    assert bundle.manifest.examples == (tiny.EXAMPLE, tiny.STRANGER)
    assert bundle.weight.shape == (4, tiny.DIMENSION)
    row = bundle.head.row(np.array([[1, 2, 3, 4], [3, 2, 1, 0]], dtype=np.float32))
    np.testing.assert_allclose(row.weight, [225.078, 193.3216, 138.534, 159.6383], rtol=1e-5)
    assert row.bias == pytest.approx(-716.572, rel=1e-5)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_flipped_byte_is_found(path: Path, name: str, place: float) -> None:
    data = bytearray((path / name).read_bytes())
    data[-1 if place == -1 else int(place * len(data))] ^= 1
    (path / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=rf"{name} is damaged or changed: expected sha256 [0-9a-f]{{64}}, got"):
        Bundle.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(path)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_that_is_not_listed_is_named(path: Path, name: str) -> None:
    edit_manifest(path, lambda f: f["files"].pop(name))
    with pytest.raises(BundleError, match=f"{MANIFEST} does not list {name}"):
        Bundle.load(path)


def test_an_example_must_be_listed(path: Path) -> None:
    edit_manifest(path, lambda f: f["files"].pop(tiny.EXAMPLE.file))
    with pytest.raises(BundleError, match=f"example '{tiny.EXAMPLE.file}' is not listed"):
        Bundle.load(path)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=rf"no bundle at .*nowhere: expected a directory with {MANIFEST}"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=f"{MANIFEST} is missing"):
        Bundle.load(tmp_path / "empty")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"{}", b"\x80\x04N."])
def test_a_manifest_that_is_no_json_object_of_ours(path: Path, data: bytes) -> None:
    (path / MANIFEST).write_bytes(data)
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.load(path)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_schema_version_is_refused_by_number(path: Path, version: object) -> None:
    edit_manifest(path, lambda f: f.update(schema_version=version))
    with pytest.raises(BundleError, match=rf"{path}: {MANIFEST}: schema version {version!r}; .* reads 1"):
        Bundle.load(path)


FIELDS = [
    "schema_version", "bundle_id", "code_version", "files", "preprocess", "backbone", "vocabulary", "classes", "head",
    "calibration", "metrics", "training", "examples",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_named(path: Path, field: str) -> None:
    edit_manifest(path, lambda f: f.pop(field))
    with pytest.raises(BundleError, match=f"(?i){field.replace('_', '.')}"):
        Bundle.load(path)


def test_the_list_of_fields_above_is_complete(path: Path) -> None:
    optional = {"novelty"}  # older bundles have none
    assert [name for name in json.loads((path / MANIFEST).read_text()) if name not in optional] == FIELDS


@pytest.mark.parametrize(
    "edit",
    [
        lambda f: f["vocabulary"].update(unit_length=True),
        lambda f: f["vocabulary"]["attributes"][0].update(name="crimson"),
        lambda f: f["vocabulary"]["attributes"][0].update(max=101),
        lambda f: f["vocabulary"]["scale"].__setitem__(1, 99),
        lambda f: f["head"].update(samples=21),
        lambda f: f["head"].update(shrinkage=0.5),
        lambda f: f.update(bundle_id="0" * 32),
    ],
)
def test_what_decides_rows_cannot_be_changed_unnoticed(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_manifest(path, edit)
    with pytest.raises(BundleError, match=r"has bundle_id [0-9a-f]{32}, its contents give [0-9a-f]{32}"):
        Bundle.load(path)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda f: f["classes"].append(f["classes"][3]), "an id twice"),
        (lambda f: f["classes"].reverse(), "seen classes before the unseen"),
        (lambda f: f["classes"].clear(), "at least one class"),
        (lambda f: f["classes"][0]["attributes"].pop(), "class 'ruby' has 2 attributes, the vocabulary has 3"),
        (lambda f: f["classes"][0].update(kind="known"), "kind must be seen or unseen"),
        (lambda f: f["classes"][0].update(id="../x"), "slug"),
        (lambda f: f["classes"][1].update(name="two\nlines"), r"/classes/1/name: expected .* got U\+000A"),
        (lambda f: f["classes"][0].pop("name"), "'name' is missing"),
        (lambda f: f["classes"].pop(), "weight must be float32 3x4"),
        (lambda f: f["head"].update(kind="mystery"), "head kind must be lda, got 'mystery'"),
        (lambda f: f["head"].update(kind="softmax"), "head kind must be lda, got 'softmax'"),
        (lambda f: f["head"].update(kind=["lda"]), "head kind must be lda"),
        (lambda f: f["head"].update(dimension=1e999), "infinity"),
        (lambda f: f["head"].pop("samples"), "'samples' is missing"),
        (lambda f: f["calibration"].update(temperature=0), "temperature above 0"),
        (lambda f: f["calibration"].update(seen_penalty="much"), "could not convert"),
        (lambda f: f["preprocess"].update(size=0), "1 <= size <= resize"),
        (lambda f: f["preprocess"].pop("std"), "lacks the field 'std'"),
        (lambda f: f["vocabulary"]["attributes"].clear(), "empty"),
        (lambda f: f["vocabulary"]["scale"].__setitem__(0, float("nan")), "not finite"),
        (lambda f: f.update(files=["trunk.onnx"]), "items"),
        (lambda f: f.update(classes=3), "iterable"),
        (lambda f: f.update(backbone=None), "subscriptable"),
        (lambda f: f["examples"][0].pop("class_id"), "'class_id' is missing"),
    ],
)
def test_a_field_of_another_form_is_refused(
    path: Path, edit: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    edit_manifest(path, edit)
    with pytest.raises(BundleError, match=complaint):
        Bundle.load(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "examples/../../secret"])
def test_files_outside_the_bundle_are_not_touched(path: Path, name: str) -> None:
    secret = b"secret"
    (path.parent / "secret").write_bytes(secret)
    edit_manifest(path, lambda f: f["files"].update({name: hashlib.sha256(secret).hexdigest()}))
    with pytest.raises(BundleError, match=f"lists '{name}', which lies outside the bundle"):
        Bundle.load(path)


def test_a_link_out_of_the_bundle_is_not_followed(path: Path) -> None:
    outside = path.parent / "outside.onnx"
    (path / TRUNK).rename(outside)
    (path / TRUNK).symlink_to(outside)
    with pytest.raises(BundleError, match=f"lists '{TRUNK}', which lies outside the bundle"):
        Bundle.load(path)


def test_a_directory_in_place_of_a_file(path: Path) -> None:
    (path / TRUNK).unlink()
    (path / TRUNK).mkdir()
    with pytest.raises(BundleError, match=f"{TRUNK} is missing"):
        Bundle.load(path)


# --- arrays that do not fit -------------------------------------------------------------------------------------------


def good_head() -> dict[str, Any]:
    given = tiny.contents()
    return {k: given[k] for k in ("weight", "bias")} | {"novelty_reference": np.sort(given["novelty_reference"])}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": np.zeros((4, 5), np.float32)}, r"weight must be float32 4x4, got float32 \(4, 5\)"),
        ({"weight": np.zeros((5, 4), np.float32)}, "weight must be float32 4x4"),
        ({"weight": np.zeros((4, 4), np.float64)}, "weight must be float32 4x4, got float64"),
        ({"weight": np.full((4, 4), np.nan, np.float32)}, "weight holds values that are not finite"),
        ({"bias": np.zeros((4, 1), np.float32)}, "bias must be float32 4, got"),
        ({"bias": np.array([0, 0, 0, np.inf], np.float32)}, "bias holds values that are not finite"),
        ({"novelty_reference": np.array([2, 1], np.float32)}, "ascending"),
        ({"novelty_reference": np.zeros(0, np.float32)}, "at least one"),
        ({"novelty_reference": np.zeros((2, 2), np.float32)}, r"must be float32 \?"),
        ({"weight": None}, "the array 'weight' is missing"),
        ({"bias": None}, "the array 'bias' is missing"),
        ({"novelty_reference": None}, "the array 'novelty_reference' is missing"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_head_that_does_not_fit(path: Path, change: dict[str, Any], complaint: str) -> None:
    arrays = {k: v for k, v in {**good_head(), **change}.items() if v is not None}
    replace_file(path, HEAD, npz(**arrays))
    with pytest.raises(BundleError, match=f"{HEAD}: .*{complaint}"):
        Bundle.load(path)


def test_a_bank_beyond_40_mb_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_BANK_BYTES", 100)
    with pytest.raises(BundleError, match=rf"{BANK} has \d+ bytes; at most 100 are allowed"):
        Bundle.load(path)


@pytest.mark.parametrize(
    ("factor", "complaint"),
    [
        (np.eye(5, dtype=np.float32), "must be float32 4x4"),
        (np.zeros((4, 4), np.float32), "a diagonal above 0"),
        (np.full((4, 4), np.inf, np.float32), "not finite"),
        (np.eye(4), "must be float32 4x4, got float64"),
    ],
    ids=["shape", "zero", "infinite", "dtype"],
)
def test_a_bank_that_does_not_fit(path: Path, factor: Any, complaint: str) -> None:
    replace_file(path, BANK, npz(covariance_cholesky=factor))
    with pytest.raises(BundleError, match=f"{BANK}: .*{complaint}"):
        Bundle.load(path)


def test_a_head_without_a_bank(path: Path) -> None:
    replace_file(path, BANK, npz(other=np.eye(4)))
    with pytest.raises(BundleError, match="'covariance_cholesky' is missing"):
        Bundle.load(path)


class Trap:
    """Unpickling it creates the file `sprung` in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def pickled_npz() -> bytes:
    return npz(covariance_cholesky=np.array([Trap()], dtype=object))


def pickled_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Trap()], dtype=object))
    return stream.getvalue()


def plain_pickle() -> bytes:
    import pickle

    return pickle.dumps(Trap())


def plain_npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.eye(4, dtype=np.float32))
    return stream.getvalue()


@pytest.mark.parametrize("name", [HEAD, BANK])
@pytest.mark.parametrize(
    "make",
    [pickled_npz, pickled_npy, plain_pickle, plain_npy, lambda: b"", lambda: b"PK\x03\x04", lambda: b"no zip"],
)
def test_arrays_in_another_form_are_refused_and_nothing_is_unpickled(
    path: Path, name: str, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    replace_file(path, name, make())
    with pytest.raises(BundleError, match=f"{name} cannot be read"):
        Bundle.load(path)
    assert not (tmp_path / "sprung").exists()


# --- writing ----------------------------------------------------------------------------------------------------------


def test_parents_are_made(tmp_path: Path) -> None:
    tiny.write(tmp_path / "a" / "b" / "c")
    Bundle.load(tmp_path / "a" / "b" / "c")
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["c"]


def test_an_empty_directory_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    tiny.write(tmp_path / "b")
    Bundle.load(tmp_path / "b")


def test_a_bundle_is_replaced_only_when_told_to(path: Path, tmp_path: Path) -> None:
    before = everything_below(path)
    with pytest.raises(BundleError, match=r"exists already; choose another place or pass --overwrite"):
        tiny.write(path, metrics={"new": True})
    assert everything_below(path) == before
    tiny.write(path, metrics={"new": True}, examples={}, overwrite=True)
    assert Bundle.load(path).manifest.metrics == {"new": True}
    assert not (path / "examples").exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "mine"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("precious")
    before = everything_below(tmp_path)
    with pytest.raises(BundleError, match="exists and is not a bundle"):
        tiny.write(out, overwrite=True)
    assert everything_below(tmp_path) == before


def test_a_bundle_without_a_novelty_score_has_no_reference(tmp_path: Path) -> None:
    tiny.write(tmp_path / "b", novelty=None, novelty_reference=None)
    bundle = Bundle.load(tmp_path / "b")
    assert bundle.manifest.novelty is None
    assert bundle.novelty_reference is None
    assert json.loads((tmp_path / "b" / MANIFEST).read_text())["novelty"] is None


def test_the_novelty_score_of_an_older_bundle_is_the_teachers(path: Path) -> None:
    fields = json.loads((path / MANIFEST).read_text())
    assert fields.pop("novelty") == {"score": "teacher"}
    (path / MANIFEST).write_text(json.dumps(fields))
    bundle = Bundle.load(path)
    assert bundle.manifest.novelty == "teacher"
    assert bundle.novelty_reference is not None


@pytest.mark.parametrize("novelty", [{}, {"score": None}, {"score": "a b"}, {"score": 3}, "energy", [], 0])
def test_a_novelty_score_that_is_no_name(path: Path, novelty: object) -> None:
    fields = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**fields, "novelty": novelty}))
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.load(path)


@pytest.mark.parametrize("change", [{"novelty": None}, {"novelty_reference": None}])
def test_a_novelty_score_and_its_reference_go_together(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="go together"):
        tiny.write(tmp_path / "b", **change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": np.zeros((3, 4), np.float32)}, "weight must be"),
        ({"bias": np.full(4, np.nan, np.float32)}, "not finite"),
        ({"novelty_reference": np.zeros(0, np.float32)}, "at least one"),
        ({"classes": tiny.CLASSES[::-1]}, "seen classes before"),
        ({"classes": ()}, "at least one class"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_bundle_that_would_not_load_is_not_written(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BundleError, match=complaint):
        tiny.write(tmp_path / "b", **change)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_keeps_the_old_bundle(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything_below(tmp_path)
    with pytest.raises(BundleError):
        tiny.write(path, weight=np.zeros((3, 4), np.float32), overwrite=True)
    assert everything_below(tmp_path) == before

    rename = Path.replace

    def fail_at_the_last_step(source: Path, target: Path) -> Path:
        if Path(target) == path and (source / MANIFEST).is_file() and source.name != "old":
            raise OSError("disk on fire")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_last_step)
    with pytest.raises(OSError, match="disk on fire"):
        tiny.write(path, metrics={"new": True}, overwrite=True)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=str)
def test_nothing_is_left_behind_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    write_bytes = Path.write_bytes

    def fail_at_the_bank(file: Path, data: bytes) -> int:
        if file.name == BANK:
            raise error
        return write_bytes(file, data)

    monkeypatch.setattr(Path, "write_bytes", fail_at_the_bank)
    with pytest.raises(type(error)):
        tiny.write(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "file",
    [
        "../evil.png",
        "/tmp/evil.png",
        "examples/../../evil.png",
        HEAD,
        MANIFEST,
        "evil.png",
        "examples/",
        "examples/.x",
        "examples/x/../../evil.png",
        "examples/x.png\n",
    ],
)
def test_an_example_stays_among_the_examples(tmp_path: Path, file: str) -> None:
    with pytest.raises(BundleError, match="an example must be named like examples/"):
        tiny.write(tmp_path / "b", examples={replace(tiny.EXAMPLE, file=file): b"evil"})
    assert list(tmp_path.rglob("*")) == []


def test_a_bank_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_BANK_BYTES", 100)
    with pytest.raises(BundleError, match=rf"{BANK} would have \d+ bytes; at most 100 are allowed"):
        tiny.write(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_a_bundle_holds_a_pickle(path: Path) -> None:
    for name in (HEAD, BANK):
        with np.load(path / name, allow_pickle=False) as arrays:
            assert all(arrays[key].dtype == np.float32 for key in arrays)
    assert {p.suffix for p in path.rglob("*") if p.is_file()} == {".json", ".onnx", ".npz", ".png"}
