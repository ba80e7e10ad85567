"""`fit`, `evaluate` and `export` as a user meets them: messages, exit status, and what is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from model.bundle import Bundle
from tests.training.conftest import Command
from tests.training.photos import write_backbone
from tests.training.tiny import TINY, names, write_images
from training.datasets.opening import reopen
from training.evaluation import evaluate
from training.features.backbone import load_backbone
from training.features.extraction import extract
from training.features.own_photos import read_own_photos
from training.runs.contents import CHECKPOINT, CONFIG, METRICS, Trained, read_json

# --- the path -------------------------------------------------------------------------------------


def test_from_features_to_a_bundle(run: Command, store_dir: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "run", tmp_path / "bundle"
    status, printed, errors = run("fit", store_dir, "--out", out, "--test-fraction", 0.25, *TINY)
    assert status == 0, errors
    assert printed.startswith(f"{out}: trained for ")
    assert printed.endswith(f"next: d3gzsl-train evaluate {out}\n")
    assert {"selection", "training"} <= set(errors.split())  # the bars
    assert {CONFIG, CHECKPOINT, METRICS, "log.jsonl"} <= set(names(out))
    first = read_json(out / METRICS)

    (out / METRICS).unlink()
    status, printed, _ = run("evaluate", out)
    assert status == 0
    assert read_json(out / METRICS) == first
    assert f"{first['lda']['H']:.3f}" in printed
    assert "test images used for selection: no" in printed
    assert "sha256(split_seed/path)" in printed

    status, printed, _ = run("export", out, "--out", bundle)
    assert status == 0
    identity = Bundle.load(bundle).manifest.bundle_id
    assert printed.startswith(f"{bundle}: bundle {identity}; next: d3gzsl serve --bundle {bundle}\n")
    assert names(tmp_path) == ["bundle", "run"]

    metrics = {**first, "lda": {**first["lda"], "H": 0.1234}}
    (out / METRICS).write_text(json.dumps(metrics))
    spaced = tmp_path / "a bundle"
    status, printed, _ = run("export", out, "--out", spaced)
    own = Bundle.load(spaced).manifest.metrics["lda"]["H"]
    assert f"next: d3gzsl serve --bundle '{spaced}'\n" in printed
    assert f"\nH {own:.3f} with the rows of this bundle" in printed
    assert "where `evaluate` has 0.123: each makes the rows of unseen classes with noise of its own" in printed


def test_json(run: Command, store_dir: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "run", tmp_path / "bundle"
    status, printed, errors = run("fit", store_dir, "--out", out, "--json", *TINY)
    fields = json.loads(printed)
    assert (status, errors) == (0, "")
    trained = Trained.load(out)
    assert fields["out"] == str(out)
    assert fields["selected"] == {
        "epochs": trained.selected.epochs,
        "head": trained.selected.head.name,
        "validation_H": trained.selected.validation["H"],
    }
    assert fields["metrics"] == read_json(out / METRICS)
    status, printed, errors = run("evaluate", out, "--json")
    assert (status, json.loads(printed), errors) == (0, fields["metrics"], "")
    status, printed, errors = run("export", out, "--out", bundle, "--json")
    exported = json.loads(printed)
    assert (status, errors, exported["out"]) == (0, "", str(bundle))
    assert exported["bundle_id"] == Bundle.load(bundle).manifest.bundle_id
    assert exported["metrics"]["lda"]["AUSUC"] == Bundle.load(bundle).manifest.metrics["lda"]["AUSUC"]


def test_options_reach_the_training(run: Command, store_dir: Path, tmp_path: Path) -> None:
    arguments = ["--split-seed", 5, "--test-fraction", 0.4, "--seed", 3, "--no-d3", "--device", "cpu", *TINY]
    assert run("fit", store_dir, "--out", tmp_path / "run", *arguments)[0] == 0
    trained = Trained.load(tmp_path / "run")
    d3 = trained.config.d3
    assert (d3.label_distillation, d3.embedding_distillation, d3.ood_distillation, d3.classification) == (0, 0, 0, 1)
    assert (trained.config.seed, trained.config.epochs) == (3, 2)
    assert (trained.data["split_seed"], trained.data["test_fraction"]) == (5, 0.4)
    assert trained.data["path"] == str(store_dir.resolve())


@pytest.mark.parametrize(
    ("arguments", "seed"), [([], 0), (["--set", "seed=7"], 7), (["--seed", "4", "--set", "seed=7"], 4)]
)
def test_a_seed_given_as_a_setting_is_not_lost(
    run: Command, store_dir: Path, tmp_path: Path, arguments: list[str], seed: int
) -> None:
    assert run("fit", store_dir, "--out", tmp_path / "run", *TINY, *arguments)[0] == 0
    assert Trained.load(tmp_path / "run").config.seed == seed


def test_protocol_and_folds_on_the_command_line(run: Command, store_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["--protocol", "test-best", "--select-folds-used", 1, "--no-monitor", "--checkpoint-seconds", 0]
    status, printed, errors = run("fit", store_dir, "--out", out, *TINY, *arguments)
    assert status == 0, errors
    assert "chosen on THE TEST IMAGES" in printed
    assert "warning: protocol test-best: epoch, head and penalty are CHOSEN ON THE TEST IMAGES" in errors
    chosen = Trained.load(out).config.selection
    assert (chosen.protocol, chosen.used_folds) == ("test-best", 1)
    assert read_json(out / METRICS)["protocol"]["test_used_for_selection"] is True
    assert "What the test images chose" in (out / "report.html").read_text()


def test_several_seeds_on_the_command_line(run: Command, store_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    status, printed, errors = run("fit", store_dir, "--out", out, *TINY, "--seeds", "3,5")
    assert status == 0, errors
    assert names(out) == ["seed-3", "seed-5", "summary.json"]
    assert "mean (sd)" in printed
    assert {"3", "5"} <= set(errors.split())  # the bars name their seed
    status, printed, errors = run("fit", store_dir, "--out", out, *TINY, "--seeds", "3,5", "--resume", "--json")
    assert (status, errors) == (0, "")
    assert json.loads(printed) == {"out": str(out), **read_json(out / "summary.json")}


def test_without_test_images_there_are_no_metrics(run: Command, store_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, printed, _ = run("fit", store_dir, "--out", out, "--test-fraction", 0, "--json", *TINY)
    assert status == 0
    assert json.loads(printed)["metrics"] is None
    assert METRICS not in names(out)
    status, printed, errors = run("evaluate", out)
    assert (status, printed) == (2, "")
    assert errors.startswith("error: evaluation needs test images of seen and of unseen classes, got 0 and 16; keep a")


def test_overwrite(run: Command, store_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run_dir, out)
    before = (out / CHECKPOINT).read_bytes()
    status, _, errors = run("fit", store_dir, "--out", out, *TINY, "--seed", 1)
    assert (status, errors) == (2, f"error: --out {out}: exists already; choose another place or pass --overwrite\n")
    assert (out / CHECKPOINT).read_bytes() == before
    assert run("fit", store_dir, "--out", out, *TINY, "--seed", 1, "--overwrite")[0] == 0
    assert Trained.load(out).config.seed == 1
    assert names(tmp_path) == ["run"]


def test_data_that_were_moved(run: Command, store_dir: Path, run_dir: Path, tmp_path: Path) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(run_dir, out)
    fields = read_json(out / CONFIG)
    fields["data"]["path"] = str(tmp_path / "gone")
    (out / CONFIG).write_text(json.dumps(fields))
    for command in (["evaluate", out], ["export", out, "--out", tmp_path / "b"]):
        status, _, errors = run(*command)
        assert status == 2
        assert errors.startswith(f"error: DATA {tmp_path / 'gone'}: expected a benchmark folder (res101.mat and ")
    shutil.copytree(store_dir, moved)
    status, printed, _ = run("evaluate", out, "--data", moved, "--device", "cpu", "--json")
    assert status == 0
    trained = Trained.load(out)
    assert json.loads(printed) == evaluate(reopen(trained.data, moved_to=moved), trained)


# --- bad input ------------------------------------------------------------------------------------


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Status 2, nothing on standard output, and one error, whose further lines name single problems."""
    status, printed, errors = result
    assert (status, printed) == (2, ""), errors
    first, *others = errors.splitlines()
    assert first.startswith("error: "), errors
    assert all(line.startswith("  ") for line in others), errors
    for word in words:
        assert word in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--set", "speed=3"],
            ["the configuration is not valid\n  speed: no such setting; known here: seed, scaling, epochs"],
        ),
        (["--set", "epochs=0", "--set", "d3.kl_form=x"], ["  epochs: expected at least 1, got 0", "  d3.kl_form: "]),
        (["--set", "epochs"], ["  --set epochs: expected NAME=VALUE"]),
        (
            ["--set", "selection.used_folds=3"],
            ["selection.used_folds: expected 0 (all) up to selection.folds, 2, got 3"],
        ),
        (["--protocol", "best"], ["selection.protocol: expected 'validation' or 'test-best', got 'best'"]),
        (["--seeds", "0"], ["--seeds: expected at least one seed"]),
        (["--seeds", "2", "--seed", "1"], ["--seed is for one run and --seeds for several: give one of them"]),
        (["--resume", "--overwrite"], ["--resume continues a run and --overwrite begins it anew: give one of them"]),
        (["--set", "seed=-1"], ["seed: expected at least 0, got -1"]),
        (["--device", "gpu"], ["--device: expected auto, cpu or cuda, got 'gpu'"]),
        (["--device", "cuda"], ["--device cuda: torch finds no CUDA device here; use --device cpu"]),
        (["--test-fraction", "0.8"], ["too few images of seen classes\n  class brick: expected at least 4 images"]),
        (["--set", "selection.folds=4"], ["selection.folds: expected 2 to 3 with 6 seen classes, got 4"]),
        (["--set", "learning_rate=1e30", "--set", "epochs=20"], ["the training diverged"]),
    ],
)
def test_fit_with_bad_options(
    run: Command,
    store_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, printed, errors = run("fit", store_dir, "--out", tmp_path / "run", "--json", *TINY, *arguments)
    refused((status, printed, errors), *words)
    assert names(tmp_path) == []


def test_fit_on_what_is_no_data(run: Command, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "file").touch()
    for name, found in (("nowhere", "no such folder"), ("images", "a folder without features"), ("file", "no such")):
        refused(run("fit", tmp_path / name, "--out", tmp_path / "run", *TINY), f"DATA {tmp_path / name}: ", found)
    assert names(tmp_path) == ["file", "images"]


def test_fit_on_a_damaged_store(run: Command, store_dir: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(store_dir, store)
    (store / "features.npy").write_bytes(b"x")
    refused(run("fit", store, "--out", tmp_path / "run", *TINY), "features.npy: not readable as an array")
    assert names(tmp_path) == ["store"]


def test_fit_where_nothing_can_be_written(run: Command, store_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(run("fit", store_dir, "--out", tmp_path / "file", *TINY), "exists and is not a run directory")
    refused(run("fit", store_dir, "--out", tmp_path / "file" / "run", *TINY), str(tmp_path / "file"))
    assert names(tmp_path) == ["file"]


def test_two_seen_classes_are_too_few(run: Command, tmp_path: Path) -> None:
    table = "class,split,red\nbrick,seen,1\nmoss,seen,2\nViolet,unseen,3\n"
    root = write_images(tmp_path / "data")
    (root / "classes.csv").write_text(table)
    for name in ("sea", "chalk", "coal", "sand", "Lime"):
        shutil.rmtree(root / "images" / name)
    extract(read_own_photos(root), load_backbone(write_backbone(tmp_path / "b.onnx")), tmp_path / "features")
    out = tmp_path / "run"
    refused(run("fit", tmp_path / "features", "--out", out, "--json", *TINY), "at least 4 seen classes, got 2")
    assert not out.exists()


@pytest.mark.parametrize("command", [["evaluate"], ["export", "--out", "BUNDLE"]])
def test_run_dir_that_is_none(run: Command, run_dir: Path, tmp_path: Path, command: list[str]) -> None:
    def on(run_dir: Path) -> tuple[int, str, str]:
        return run(*[str(tmp_path / "bundle") if word == "BUNDLE" else word for word in command], run_dir)

    if command == ["evaluate"]:
        refused(run("evaluate", run_dir, "--device", "gpu"), "--device: expected auto, cpu or cuda, got 'gpu'")
    refused(on(tmp_path / "nowhere"), "config.json: no such file; expected a run directory made by `d3gzsl-train fit`")
    broken = tmp_path / "broken"
    shutil.copytree(run_dir, broken)
    (broken / CHECKPOINT).write_bytes(b"x")
    refused(on(broken), f"{broken / CHECKPOINT}: damaged, or of another run")
    (broken / CHECKPOINT).unlink()
    refused(on(broken), f"{broken / CHECKPOINT}: no such file; the run has not finished")
    assert names(tmp_path) == ["broken"]


def test_export_onto_something_else(run: Command, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    refused(run("export", run_dir, "--out", tmp_path / "mine", "--overwrite"), "exists and is not a bundle")
    assert names(tmp_path / "mine") == ["file"]


@pytest.mark.parametrize("command", ["fit", "evaluate", "export"])
def test_missing_arguments(run: Command, command: str) -> None:
    status, printed, errors = run(command)
    assert (status, printed) == (2, "")
    assert "Missing" in errors
