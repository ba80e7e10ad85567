"""RUN_DIR: read back as written, refused in one line where it is damaged, never half there."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.bundle import sha256_of
from model.errors import DataError
from tests.training.tiny import METHODS, config, same, write_run
from training.files import write_json
from training.runs.contents import CHECKPOINT, CONFIG, LOG, Trained, read_json
from training.runs.fit import without_d3


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def refused(run: Path) -> str:
    with pytest.raises(DataError) as error:
        Trained.load(run)
    message = str(error.value)
    assert "\n" not in message
    return message


# --- what is there --------------------------------------------------------------------------------


def test_files_of_a_run(run_dir: Path) -> None:
    assert {path.name for path in run_dir.iterdir()} == {CONFIG, CHECKPOINT, LOG}
    lines = [json.loads(line) for line in (run_dir / LOG).read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["selection"] * 4 + ["selected"] + ["final"] * lines[4]["epochs"]
    assert set(lines[0]["losses"]) == {
        *("cls", "kl", "be", "od"),
        *("wasserstein", "penalty", "adversarial", "seen"),
    }
    assert set(lines[-1]["gradient_shares"]) == {"cls", "kl", "be", "od"}
    assert all(later["seconds"] >= line["seconds"] >= 0 for line, later in pairwise(lines))
    resolved = read_json(run_dir / CONFIG)
    assert resolved["config"] == json.loads(json.dumps(config().to_json()))
    assert resolved["data"]["split"]["test_fraction"] == 0.25
    assert len(resolved["data"]["data_hash"]) == 64


def test_round_trip(run_dir: Path, tmp_path: Path) -> None:
    first = Trained.load(run_dir)
    first.save(tmp_path)
    again = Trained.load(tmp_path)
    assert same(again.networks, first.networks)
    for name in ("config", "data", "selected"):
        assert getattr(again, name) == getattr(first, name)
    np.testing.assert_array_equal(again.scaler.minimum, first.scaler.minimum)
    np.testing.assert_array_equal(again.scaler.range, first.scaler.range)
    np.testing.assert_array_equal(again.novelty_reference, first.novelty_reference)
    assert again.novelty_reference.dtype == again.scaler.range.dtype == np.float32
    assert (tmp_path / CONFIG).read_bytes() == (run_dir / CONFIG).read_bytes()


def test_what_fit_returns_is_what_is_read(store_dir: Path, tmp_path: Path) -> None:
    from training.datasets.opening import open_data
    from training.runs.fit import fit

    data, described = open_data(store_dir, test_fraction=0.25, split_seed=0)
    settings = config("generator.attribute_path=none", "d3.embedding_init=normal", "d3.embedding_dim=5")
    trained = fit(data, settings, tmp_path, data=described, device=torch.device("cpu"))
    read = Trained.load(tmp_path)
    assert same(read.networks, trained.networks)
    assert (read.config, read.selected) == (settings, trained.selected)
    assert read.networks.generator.attribute_path is None
    assert read.networks.student.embedding.linear.out_features == 5


@pytest.mark.parametrize("method", METHODS)
def test_generators_of_every_method_are_read_back(store_dir: Path, tmp_path: Path, method: str) -> None:
    run = write_run(store_dir, tmp_path / "run", f"generator.method={method}", "vae.feedback=0.5", "epochs=1")
    read, again = Trained.load(run), tmp_path / "again"
    again.mkdir()
    read.save(again)
    assert same(Trained.load(again).networks, read.networks)
    generator = read.networks.generator
    noise = torch.randn(4, generator.noise_dim)
    with torch.no_grad():
        made = generator(noise, torch.rand(4, read.attribute_dim))
    assert made.shape == (4, read.networks.student.embedding.linear.in_features)
    other = {"wgan": "diffusion", "cegzsl": "tfvaegan", "tfvaegan": "wgan", "diffusion": "cegzsl"}
    fields = read_json(run / CONFIG)
    fields["config"]["generator"]["method"] = other[method]
    write_json(run / CONFIG, fields)
    assert "do not fit each other" in refused(run)


def test_two_runs_are_the_same_but_for_their_times(run_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    other = write_run(store_dir, tmp_path / "again")
    assert (other / CONFIG).read_bytes() == (run_dir / CONFIG).read_bytes()
    assert same(Trained.load(other).networks, Trained.load(run_dir).networks)


def test_paths_and_names_of_any_kind(run_dir: Path, tmp_path: Path) -> None:
    """A folder's name need not be text in any encoding; a finished training must not fail on it."""
    first = Trained.load(run_dir)
    odd = os.fsdecode("/data/ä\xff".encode("latin-1"))
    dataclasses.replace(first, data={**first.data, "path": odd}).save(tmp_path)
    assert Trained.load(tmp_path).data["path"] == odd


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG, CHECKPOINT])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert refused(copy).startswith(f"{copy / name}: no such file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "expected a JSON object, got list"),
        (b"{}", "expected schema 'd3gzsl-run/3', found None"),
        (b'{"schema": "d3gzsl-run/1"}', "expected schema 'd3gzsl-run/3', found 'd3gzsl-run/1'"),
    ],
)
def test_damaged_config(copy: Path, content: bytes, words: str) -> None:
    (copy / CONFIG).write_bytes(content)
    message = refused(copy)
    assert message.startswith(f"{copy / CONFIG}: ")
    assert words in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in ("config", "selected", "data") for value in (None, [], "x", 3, "missing")),
        ("config", {}),
        ("selected", {}),
    ],
)
def test_config_of_another_form(copy: Path, field: str, value: Any) -> None:
    fields = read_json(copy / CONFIG)
    if value == "missing":
        del fields[field]
    else:
        fields[field] = value
    (copy / CONFIG).write_text(json.dumps(fields))
    assert refused(copy).startswith(f"{copy}: config.json and checkpoint.pt do not fit each other: ")


def test_wrong_settings_are_named_with_their_file(copy: Path) -> None:
    fields = read_json(copy / CONFIG)
    fields["config"]["epochs"] = 0
    fields["config"]["teacher"]["speed"] = 3
    write_json(copy / CONFIG, fields)
    with pytest.raises(DataError) as error:
        Trained.load(copy)
    assert error.value.message == f"{copy / CONFIG}: the configuration is not valid"
    assert [problem.pointer for problem in error.value.problems] == ["epochs", "teacher.speed"]


def test_checkpoint_of_another_run(copy: Path, store_dir: Path, tmp_path: Path) -> None:
    """The same shapes, so that only the hash tells them apart."""
    other = write_run(store_dir, tmp_path / "other", "seed=1")
    shutil.copy(other / CHECKPOINT, copy / CHECKPOINT)
    assert refused(copy).startswith(f"{copy / CHECKPOINT}: damaged, or of another run: config.json expects sha256 ")


@pytest.mark.parametrize("damage", ["empty", "cut", "one bit", "text"])
def test_damaged_checkpoint(copy: Path, damage: str) -> None:
    whole = (copy / CHECKPOINT).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1  # somewhere in the weights
    content = {"empty": b"", "cut": whole[: len(whole) // 2], "one bit": bytes(flipped), "text": b"not a checkpoint"}
    (copy / CHECKPOINT).write_bytes(content[damage])
    assert refused(copy).startswith(f"{copy / CHECKPOINT}: damaged, or of another run: config.json expects sha256 ")


def accept(run: Path) -> None:
    """Write the hash of the checkpoint that is there into config.json, as somebody who means harm would."""
    write_json(run / CONFIG, {**read_json(run / CONFIG), "checkpoint_sha256": sha256_of(run / CHECKPOINT)})


def test_other_bytes_with_their_right_hash(copy: Path) -> None:
    (copy / CHECKPOINT).write_bytes(b"not a checkpoint")
    accept(copy)
    assert refused(copy).startswith(f"{copy / CHECKPOINT}: not a checkpoint of this program: ")


class Payload:
    """Makes a file where unpickling runs it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_checkpoint_does_not_run(copy: Path, tmp_path: Path, how: str) -> None:
    target = tmp_path / "ran"
    if how == "torch":
        torch.save({"modules": Payload(target)}, copy / CHECKPOINT)
    else:
        (copy / CHECKPOINT).write_bytes(pickle.dumps(Payload(target)))
    accept(copy)
    assert refused(copy).startswith(f"{copy / CHECKPOINT}: not a checkpoint of this program: ")
    assert not target.exists()
    if how == "torch":  # the payload is live: torch runs it where it is allowed to
        torch.load(copy / CHECKPOINT, weights_only=False)
        assert target.exists()


def edited(run: Path, edit: Callable[[Any], Any]) -> str:
    checkpoint = torch.load(run / CHECKPOINT, weights_only=True)
    changed = edit(checkpoint)
    torch.save(checkpoint if changed is None else changed, run / CHECKPOINT)
    accept(run)
    message = refused(run)
    assert message.startswith(f"{run}: config.json and checkpoint.pt do not fit each other: ")
    return message


@pytest.mark.parametrize("edit", [lambda _: torch.zeros(3), lambda _: [1, 2], lambda _: "x", lambda _: {}])
def test_checkpoint_of_another_kind(copy: Path, edit: Callable[[Any], Any]) -> None:
    edited(copy, edit)


@pytest.mark.parametrize("name", ["modules", "shapes", "scaler", "novelty_reference"])
def test_checkpoint_without_a_part(copy: Path, name: str) -> None:
    def without(checkpoint: Any) -> None:
        del checkpoint[name]

    assert edited(copy, without).endswith(f"'{name}' is missing")


def test_checkpoint_with_other_shapes(copy: Path) -> None:
    message = edited(copy, lambda checkpoint: checkpoint["shapes"].update(feature_dim=9))
    assert "size mismatch" in message


def test_scaler_that_is_no_array(copy: Path) -> None:
    edited(copy, lambda checkpoint: checkpoint["scaler"].update(minimum=[1.0]))


# --- write beside, then rename --------------------------------------------------------------------


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_json_that_cannot_be_written_leaves_what_was(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert contents(tmp_path) == {"a.json"}


def test_checkpoint_that_cannot_be_written_leaves_what_was(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, before = Trained.load(copy), (copy / CHECKPOINT).read_bytes()

    def full(_content: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        dataclasses.replace(trained, config=without_d3(trained.config)).save(copy)
    assert (copy / CHECKPOINT).read_bytes() == before
    assert contents(copy) == {CONFIG, CHECKPOINT, LOG}
    assert Trained.load(copy).config == trained.config
