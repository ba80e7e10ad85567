"""A folder into one Parquet file: every file once, whatever happens on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.bundle import Bundle, Precision
from model.errors import BundleError, DataError
from model.outside.folders import files_under, printable
from service.bulk import results, run
from service.bulk.classifier import Classifier
from service.bulk.job import (
    PART_SIZE,
    BulkRequest,
    Job,
    locked,
    read_class_table,
    read_part,
    write_class_table,
    write_listing,
)
from service.classes.snapshot import Snapshot
from service.inference.engine import OnnxEngine, TrunkOutput
from tests.service.conftest import Running
from tests.service.processes import command, d3gzsl, environment
from tests.service.tiny import NAMES, VIOLET, photo, png

Rows = list[dict[str, Any]]


def write_photos(root: Path, count: int) -> Path:
    """Rendered images, a third of them in a folder below, and a file that is none."""
    (root / "more").mkdir(parents=True)
    ending = {0: "jpg", 1: "png"}
    for i in range(count):
        name = f"{i:05}.{ending[i % 2]}"
        folder = root / "more" if i % 3 == 0 else root
        (folder / name).write_bytes(photo(i, side=10, form="JPEG" if i % 2 == 0 else "PNG"))
    (root / "broken.png").write_bytes(b"none")
    return root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """900 images and a broken one: four parts. Not to be changed."""
    return write_photos(tmp_path_factory.mktemp("many"), 900)


@pytest.fixture(scope="module")
def whole(many: Path, bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of `many` from a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "results.parquet"
    ran(many, out, bundle_dir)
    return rows_of(out)


def request_of(folder: Path, bundle: Bundle, *, top_k: int = 5) -> BulkRequest:
    """What a command asks for that says nothing else."""
    return BulkRequest(
        root=str(folder),
        bundle_id=bundle.manifest.bundle_id,
        registry="bundle",
        top_k=top_k,
        scope="all",
        precision="auto",
        max_bytes=20_000_000,
        max_pixels=50_000_000,
    )


def ran(folder: Path, out: Path, bundle: Path, *options: object) -> dict[str, Any]:
    done = command("classify", folder, "--out", out, "--bundle", bundle, "--json", *options)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def refused(*arguments: object) -> str:
    done = command("classify", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr


def rows_of(out: Path) -> Rows:
    rows: Rows = pq.read_table(out).to_pylist()
    return rows


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def same_but_for_rounding(left: Rows, right: Rows) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert {k: v for k, v in one.items() if k != "probability"} == {
            k: v for k, v in other.items() if k != "probability"
        }
        assert one["probability"] == (other["probability"] and pytest.approx(other["probability"], rel=1e-5))


# --- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_rows_are_what_the_service_answers(
    running: Running, bundle_dir: Path, tmp_path: Path, many: Path, whole: Rows
) -> None:
    assert sorted(row["path"] for row in whole) == files(many)
    async with running() as client:
        for row in (*whole[:3], *whole[-3:], next(row for row in whole if row["path"] == "broken.png")):
            sent = {"images": ((many / row["path"]).name, (many / row["path"]).read_bytes())}
            answer = (await client.post("/classify", files=sent)).json()
            if row["status"] == "error":
                assert row["path"] == "broken.png"
                assert row["error"] == answer["detail"]
                assert [row[name] for name in ("width", "height", "novelty", "class_id", "probability")] == [None] * 5
                continue
            (result,) = answer["results"]
            assert (row["width"], row["height"], row["error"]) == (10, 10, None)
            assert row["novelty"] == pytest.approx(result["novelty"])
            assert row["class_id"] == [p["class_id"] for p in result["predictions"]]
            assert row["name"] == [p["name"] for p in result["predictions"]]
            assert row["probability"] == pytest.approx([p["probability"] for p in result["predictions"]], rel=1e-5)
            assert (row["bundle_id"], row["registry_version"]) == (answer["bundle"], answer["registry_version"])


def test_top_k_and_scope(bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "red.png").write_bytes(png((255, 0, 0)))
    answer = ran(tmp_path / "in", tmp_path / "one.parquet", bundle_dir, "--top-k", 1)
    assert answer == {
        "out": str(tmp_path / "one.parquet"),
        "bundle": Bundle.load(bundle_dir).manifest.bundle_id,
        "files": 1,
        "ok": 1,
        "errors": 0,
        "already": 0,
        "registry_version": 0,
    }
    assert [row["class_id"] for row in rows_of(tmp_path / "one.parquet")] == [["reddish"]]
    said = command(
        "classify", tmp_path / "in", "--out", tmp_path / "two.parquet", "--bundle", bundle_dir, "--scope", "unseen"
    )
    assert said.stdout.endswith("two.parquet: 1 files: 1 classified, 0 could not be; classes of registry version 0\n")
    assert [row["class_id"] for row in rows_of(tmp_path / "two.parquet")] == [["bluish"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "one.parquet", "two.parquet"]


def test_what_counts_as_a_file(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("b/2.png", "b/1.png", "a.png", "z.png", "b/c/3.png", ".hidden/x.png", "b/.x.png", "out/part.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("Thumbs.db", "b/desktop.ini", "b/@eaDir/1.png", "__MACOSX/a.png"):  # left behind by desktops
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    (root / "link.png").symlink_to("a.png")
    (root / "broken.png").symlink_to("nothing")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.png")
    (root / os.fsdecode(b"caf\xe9.png")).touch()
    found = list(files_under(root, leave_out=(root / "out",)))
    assert found == [
        "a.png",
        "broken.png",
        os.fsdecode(b"caf\xe9.png"),
        "link.png",
        "z.png",
        "b/1.png",
        "b/2.png",
        "b/c/3.png",
    ]
    assert printable(found[2]) == "caf\\xe9.png"
    count, offsets = write_listing(tmp_path / "list", iter(found), part_size=3)
    assert (count, len(offsets)) == (8, 3)
    assert [name for offset in offsets for name in read_part(tmp_path / "list", offset, 3)] == found
    with pytest.raises(DataError, match="nowhere: cannot be read: No such file or directory"):
        list(files_under(root / "nowhere"))


def test_files_that_cannot_be_read_have_a_row_that_says_why(bundle_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (root / "large.png").write_bytes(png((255, 0, 0), (60, 60)) + bytes(3000))
    (root / "wide.png").write_bytes(png((255, 0, 0), (90, 20)))
    (root / "good.png").write_bytes(png((255, 0, 0)))
    (root / "gone.png").symlink_to("nothing")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(png((0, 255, 0)))
    limits = {"D3GZSL_MAX_IMAGE_BYTES": "3000", "D3GZSL_MAX_IMAGE_PIXELS": "1000"}
    out = tmp_path / "out.parquet"
    done = command("classify", root, "--out", out, "--bundle", bundle_dir, **limits)
    assert done.returncode == 0
    assert "5 files: 2 classified, 3 could not be" in done.stdout
    rows = {row["path"]: row for row in rows_of(out)}
    assert rows["good.png"]["class_id"][0] == "reddish"
    assert rows["caf\\xe9.png"]["class_id"][0] == "greenish"
    assert rows["gone.png"]["error"] == "No such file or directory"
    assert rows["large.png"]["error"] == "the image has 3001 bytes; at most 3000 are allowed"
    assert "90 x 20 pixels" in rows["wide.png"]["error"]


def test_a_result_says_what_was_asked_and_comes_in_row_groups(
    many: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Rows
) -> None:
    monkeypatch.setattr(results, "_GROUP", 300)
    out = tmp_path / "results.parquet"
    ran(many, out, bundle_dir)
    with pq.ParquetFile(out) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [512, 389]
        asked = json.loads(file.schema_arrow.metadata[b"d3gzsl"])
    assert (asked["root"], asked["top_k"], asked["files"], asked["registry"]) == (str(many), 5, 901, "bundle")
    assert rows_of(out) == whole


# --- the classes ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_registered_classes_take_part_where_a_registry_is_named(
    running: Running,
    bundle_dir: Path,
    tmp_path: Path,
) -> None:
    root, out = tmp_path / "in", tmp_path / "out.parquet"
    root.mkdir()
    (root / "violet.png").write_bytes(png((230, 0, 230)))
    document = {"name": "Violet", "attributes": dict(zip(NAMES, VIOLET, strict=True))}
    async with running() as client:
        assert (await client.post("/classes", json=document)).status_code == 201
        sent = {"content": png((230, 0, 230)), "headers": {"content-type": "image/png"}}
        answer = (await client.post("/classify", **sent)).json()
    assert answer["head"] == "exact"
    (predictions,) = (result["predictions"] for result in answer["results"])
    ran(root, out, bundle_dir, "--overwrite")
    assert "violet" not in rows_of(out)[0]["class_id"]
    found = command(
        "classify",
        root,
        "--out",
        out,
        "--bundle",
        bundle_dir,
        "--data-dir",
        tmp_path / "data",
        "--overwrite",
        D3GZSL_DATABASE_URL="sqlite:////nowhere/else",
    )
    assert found.returncode == 0, found.stderr
    (row,) = rows_of(out)
    assert row["class_id"] == [p["class_id"] for p in predictions]
    assert row["class_id"][0] == "violet"
    assert row["probability"] == pytest.approx([p["probability"] for p in predictions], rel=1e-4)
    assert row["registry_version"] == 1
    alone = command("classify", root / "violet.png", "--bundle", bundle_dir, "--data-dir", tmp_path / "data", "--json")
    (result,) = json.loads(alone.stdout)["results"]
    assert json.loads(alone.stdout)["registry_version"] == 1
    assert [p["class_id"] for p in result["predictions"]] == row["class_id"]


def test_a_class_table_survives_its_files(bundle_dir: Path, tmp_path: Path) -> None:
    snapshot = Snapshot.of_bundle(Bundle.load(bundle_dir))
    write_class_table(tmp_path, snapshot)
    again = read_class_table(tmp_path)
    assert again.classes == snapshot.classes
    assert again.weight.tobytes() == snapshot.weight.tobytes()
    assert again.bias.tobytes() == snapshot.bias.tobytes()
    assert (again.seen == snapshot.seen).all()


def test_a_registry_that_is_not_there(bundle_dir: Path, tmp_path: Path, many: Path) -> None:
    said = refused(many, "--out", tmp_path / "r.parquet", "--bundle", bundle_dir, "--data-dir", tmp_path / "none")
    assert "there is no registry at" in said
    both = ("--data-dir", tmp_path / "none", "--database-url", f"sqlite:///{tmp_path}/other")
    said = refused(many, "--out", tmp_path / "r.parquet", "--bundle", bundle_dir, *both)
    assert "both name a registry: give one of them" in said
    assert not list(tmp_path.glob("r.parquet*"))


# --- killed and taken up again ----------------------------------------------------------------------------------------


def kill_in_the_middle(arguments: list[object], folder: Path, more: int) -> None:
    """Start the command and kill it as soon as it has done some more parts."""
    before = len(parts(folder))
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        env=environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        while len(parts(folder)) < before + more:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def parts(folder: Path) -> dict[str, int]:
    """Finished parts, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}


def survive_kills(photos: Path, bundle: Path, out: Path, *, kills: int, more: int, batch: int) -> None:
    folder = run.partial_folder(out)
    arguments = ["classify", photos, "--out", out, "--bundle", bundle, "--batch", batch, "--resume"]
    kept: dict[str, int] = {}
    for _ in range(kills):
        kill_in_the_middle(arguments, folder, more)
        now = parts(folder)
        assert kept.items() <= now.items()  # what was done is not done again
        kept = now
        assert not out.exists()
    total = len(files(photos))
    assert len(kept) < -(-total // PART_SIZE)
    answer = ran(photos, out, bundle, "--resume")
    assert answer["already"] == PART_SIZE * len(kept)
    assert not folder.exists()


def test_kill_9_and_resume_gives_every_file_once(many: Path, bundle_dir: Path, tmp_path: Path, whole: Rows) -> None:
    out = tmp_path / "results.parquet"
    survive_kills(many, bundle_dir, out, kills=2, more=1, batch=2)
    found = rows_of(out)
    assert sorted(row["path"] for row in found) == files(many)
    same_but_for_rounding(found, whole)
    assert ran(many, out, bundle_dir, "--resume")["already"] == 901  # it is finished
    assert rows_of(out) == found


@pytest.mark.slow
def test_ten_thousand_images_and_kill_9(bundle_dir: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 10_000)
    out = tmp_path / "results.parquet"
    survive_kills(photos, bundle_dir, out, kills=5, more=3, batch=16)
    assert sorted(row["path"] for row in rows_of(out)) == files(photos)
    assert sum(row["status"] == "ok" for row in rows_of(out)) == 10_000


@pytest.fixture
def begun(bundle_dir: Path, tmp_path: Path) -> Path:
    """A run on three images of which nothing is done, as the result that it will have; the images are in `photos`."""
    photos, out = tmp_path / "photos", tmp_path / "results.parquet"
    photos.mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))):
        (photos / f"{name}.png").write_bytes(png(colour))
    bundle = Bundle.load(bundle_dir)
    folder = run.partial_folder(out)
    folder.mkdir()
    Job.begin(folder, request_of(photos, bundle), Snapshot.of_bundle(bundle), precision="fp32", out=out)
    return out


def test_the_files_are_those_of_the_beginning(begun: Path, bundle_dir: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "aa.png").write_bytes(png((9, 9, 9)))
    (photos / "b.png").unlink()
    ran(photos, begun, bundle_dir, "--resume")
    assert [(r["path"], r["status"]) for r in rows_of(begun)] == [("a.png", "ok"), ("b.png", "error"), ("c.png", "ok")]


def test_a_kill_before_the_run_was_written_down(begun: Path, bundle_dir: Path, tmp_path: Path) -> None:
    folder = run.partial_folder(begun)
    (folder / "plan.json").unlink()
    (tmp_path / "photos" / "d.png").write_bytes(png((9, 9, 9)))
    assert ran(tmp_path / "photos", begun, bundle_dir)["files"] == 4
    assert not folder.exists()


def test_a_kill_after_the_result_was_written(begun: Path, bundle_dir: Path, tmp_path: Path) -> None:
    photos, folder = tmp_path / "photos", run.partial_folder(begun)
    shutil.copytree(folder, tmp_path / "copy")
    ran(photos, begun, bundle_dir, "--resume")
    before = rows_of(begun)
    shutil.copytree(tmp_path / "copy", folder)
    ran(photos, begun, bundle_dir, "--resume")
    assert rows_of(begun) == before
    assert not folder.exists()


def test_an_unfinished_run_is_neither_lost_nor_mixed_with_another(
    begun: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    where = (photos, "--out", begun, "--bundle", bundle_dir)
    assert "results.parquet.partial: an unfinished run; go on with --resume, or begin anew with" in refused(*where)
    said = refused(*where, "--resume", "--top-k", 2, "--scope", "seen")
    assert "the run was begun otherwise" in said
    assert "  top_k: the run has 5, this command 2" in said
    assert "  scope: the run has 'all', this command 'seen'" in said
    assert "give one of them" in refused(*where, "--resume", "--overwrite")
    with locked(run.partial_folder(begun)):
        assert "another process is at work on this run" in refused(*where, "--resume")
    assert ran(photos, begun, bundle_dir, "--overwrite", "--top-k", 2)["already"] == 0
    assert len(rows_of(begun)[0]["class_id"]) == 2
    assert "results.parquet: exists already; choose another place or give --overwrite" in refused(*where)
    assert "exists already" in refused(*where, "--resume")  # it was asked with another top_k
    assert ran(photos, begun, bundle_dir, "--overwrite")["files"] == 3


def test_a_part_that_lacks_rows_is_not_joined(begun: Path, bundle_dir: Path, tmp_path: Path) -> None:
    folder = run.partial_folder(begun)
    results.write_part(folder / "part-00000000.parquet", [])
    said = refused(tmp_path / "photos", "--out", begun, "--bundle", bundle_dir, "--resume")
    assert "part-00000000.parquet: expected 3 rows, got 0; remove it" in said
    assert not begun.exists()


# --- the model, and memory --------------------------------------------------------------------------------------------


class Fussy:
    """An engine that fails on bright red images, gives nothing finite for bright green ones, and else does its work."""

    precision: Precision = "fp32"

    def __init__(self, bundle: Bundle) -> None:
        self._real = OnnxEngine(bundle, threads=1)
        self.batches: list[int] = []

    def embed(self, images: Any) -> TrunkOutput:
        self.batches.append(len(images))
        colour = images.mean(axis=(2, 3))
        if (colour[:, 0] > 0.9).any():
            raise BundleError("it does not run")
        found = self._real.embed(images)
        found.embedding[colour[:, 1] > 0.9] = np.nan
        return found

    def synthesize(self, noise: Any, attributes: Any) -> Any:
        raise AssertionError


def test_an_image_on_which_the_model_fails_takes_no_other_along(bundle_dir: Path, tmp_path: Path) -> None:
    colours = {"a": (100, 0, 0), "b": (255, 0, 0), "c": (0, 0, 200), "d": (0, 255, 0), "e": (0, 90, 0)}
    for name, colour in colours.items():
        (tmp_path / f"{name}.png").write_bytes(png(colour))
    bundle = Bundle.load(bundle_dir)
    engine = Fussy(bundle)
    asked = request_of(tmp_path, bundle, top_k=1)
    classifier = Classifier(bundle, engine, Snapshot.of_bundle(bundle), asked, batch=5, workers=2)
    (rows,) = classifier.rows([f"{name}.png" for name in colours])
    classifier.close()
    assert [row["status"] for row in rows] == ["ok", "error", "ok", "error", "ok"]
    assert [row.get("class_id") for row in rows] == [["reddish"], None, ["bluish"], None, ["greenish"]]
    assert {row["error"] for row in rows if row["status"] == "error"} == {"the model failed on this image"}
    assert engine.batches == [5, 1, 1, 1, 1, 1]


class Twofold:
    """Parts of an engine, each of which waits until both are at work."""

    count = 2

    def __init__(self, bundle: Bundle) -> None:
        self._real, self._both = OnnxEngine(bundle, threads=1), threading.Barrier(2, timeout=10)

    def embed(self, images: Any) -> TrunkOutput:
        assert len(images) <= 2
        self._both.wait()
        return self._real.embed(images)


def test_several_batches_at_once_keep_the_order(bundle_dir: Path, tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(8)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(png((30 * number, 0, 255 - 30 * number)))
    bundle = Bundle.load(bundle_dir)
    engine, asked, classes = OnnxEngine(bundle, threads=1), request_of(tmp_path, bundle), Snapshot.of_bundle(bundle)
    found = []
    for parts in (None, Twofold(bundle)):
        classifier = Classifier(bundle, engine, classes, asked, batch=4, workers=2, parts=parts)
        found.append([row for rows in classifier.rows(names) for row in rows])
        classifier.close()
    assert [row["path"] for row in found[1]] == names
    assert found[0] == found[1]


def test_only_a_few_batches_are_in_memory(bundle_dir: Path, tmp_path: Path) -> None:
    """Each image that is decoded has been asked for, and none is asked for long before the model needs it."""
    (tmp_path / "red.png").write_bytes(png((255, 0, 0)))
    bundle = Bundle.load(bundle_dir)
    asked = request_of(tmp_path, bundle)
    classifier = Classifier(
        bundle, OnnxEngine(bundle, threads=1), Snapshot.of_bundle(bundle), asked, batch=4, workers=2
    )
    asked_for: list[int] = []

    class Endless(list[str]):
        def __iter__(self) -> Iterator[str]:
            for number in range(10**9):
                asked_for.append(number)
                yield "red.png"

    answers = classifier.rows(Endless())
    for number in range(1, 30):
        assert len(next(answers)) == 4
        assert len(asked_for) <= 4 * (number + 3)
    answers.close()  # type: ignore[attr-defined]
    classifier.close()


# --- what it is not for -----------------------------------------------------------------------------------------------


def test_misuse_is_explained(bundle_dir: Path, tmp_path: Path, many: Path) -> None:
    out, here = tmp_path / "out.parquet", ("--bundle", bundle_dir)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(many, "--out", tmp_path / "file" / "x.parquet", *here)
    (tmp_path / "file").unlink()
    assert "a folder; its files are classified into a file with --out" in refused(many, *here)
    assert "--url and --out exclude each other" in refused(many, "--out", out, "--url", "http://127.0.0.1:1")
    assert "exclude each other" in refused("x.png", "--data-dir", tmp_path, "--url", "http://127.0.0.1:1")
    assert "expected an existing folder, got" in refused(many / "broken.png", "--out", out, *here)
    assert "expected an existing folder, got" in refused(many, many, "--out", out, *here)
    assert "expected images, found no file" in refused(tmp_path / "empty", "--out", out, *here)
    assert "are for folders: give --out FILE.parquet" in refused(many / "broken.png", "--resume", *here)
    assert not out.exists()


@pytest.mark.parametrize(("missing", "extra", "engine"), [("pyarrow", "`bulk`", "local"), ("ray", "`ray`", "ray")])
def test_missing_extras_are_named(
    bundle_dir: Path, tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str, engine: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    said = refused(many, "--out", tmp_path / "out.parquet", "--bundle", bundle_dir, "--engine", engine)
    assert f"install d3gzsl with the extra {extra}" in said


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)")
def test_ray_gives_the_same_rows(many: Path, bundle_dir: Path, tmp_path: Path, whole: Rows) -> None:
    """On a cluster of this machine with two CPUs; also where it goes on with what was begun here."""
    options = ("--engine", "ray", "--workers", 2)
    done = d3gzsl("classify", many, "--out", tmp_path / "a.parquet", "--bundle", bundle_dir, *options)
    assert done.returncode == 0, done.stderr
    same_but_for_rounding(rows_of(tmp_path / "a.parquet"), whole)
    out = tmp_path / "b.parquet"
    kill_in_the_middle(
        ["classify", many, "--out", out, "--bundle", bundle_dir, "--batch", 2], run.partial_folder(out), 1
    )
    done = d3gzsl("classify", many, "--out", out, "--bundle", bundle_dir, *options, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["already"] >= PART_SIZE
    same_but_for_rounding(rows_of(out), whole)
