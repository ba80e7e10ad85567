"""RUN_DIR: what a training leaves behind. State dicts and JSON only; nothing in it is pickled code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import __version__
from model.bundle import sha256_of
from model.errors import DataError
from training.config import TrainConfig
from training.features.scaler import Scaler
from training.files import renamed, write_json
from training.generators import new_sampler
from training.method.trainer import Networks
from training.networks.d3gzsl import Student, Teacher
from training.runs.checkpoints import LOG as LOG  # a file of a run directory like the others
from training.selection.choice import Selection


def code_commit() -> str | None:
    """Commit of the checkout that runs, if it is one and git is there."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


CONFIG, CHECKPOINT = "config.json", "checkpoint.pt"
METRICS, CURVES, REPORT = "metrics.json", "curves.json", "report.html"  # of the test rows, where there are any
SCHEMA = "d3gzsl-run/3"


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A finished training.

    Attributes:
        config: hyper-parameters.
        data: where the features were and how they were split; enough to build the data set again.
        selected: what validation chose.
        scaler: of the final training.
        networks: of the final training.
        novelty_reference: held-out seen rows by the chosen novelty score, ascending; None where there is none.
        attribute_dim: A.
        recipe: the recipe the settings began with, its name and sources.
    """

    config: TrainConfig
    data: Mapping[str, Any]
    selected: Selection
    scaler: Scaler
    networks: Networks
    novelty_reference: np.ndarray[Any, np.dtype[np.float32]] | None
    attribute_dim: int
    recipe: Mapping[str, Any] | None = None

    def resolved(self) -> dict[str, Any]:
        """The resolved configuration, as `config.json` holds it."""
        return {
            "schema": SCHEMA,
            "code_version": __version__,
            "data": dict(self.data),
            "recipe": self.recipe,
            "config": self.config.to_json(),
            "selected": self.selected.to_json(),
        }

    def save(self, run_dir: Path) -> None:
        """Write `config.json` and `checkpoint.pt` into an existing folder, each beside and then renamed."""
        student, reference = self.networks.student, self.novelty_reference
        checkpoint = {
            "modules": {name: module.state_dict() for name, module in self.networks.modules()},
            "shapes": {
                "feature_dim": student.embedding.linear.in_features,
                "embedding_dim": student.embedding.linear.out_features,
                "classes": student.classifier.out_features,
                "seen_classes": self.networks.teacher.classifier.out_features,
                "attribute_dim": self.attribute_dim,
            },
            "scaler": self.scaler.tensors(),
            "novelty_reference": torch.from_numpy(reference) if reference is not None else None,
        }
        with renamed(run_dir / CHECKPOINT) as beside:
            torch.save(checkpoint, beside)
        write_json(run_dir / CONFIG, {**self.resolved(), "checkpoint_sha256": sha256_of(run_dir / CHECKPOINT)})

    @classmethod
    def load(cls, run_dir: Path) -> Trained:
        """Read a finished run, tensors with `weights_only`.

        Raises:
            DataError: the run has not finished, or a file is missing or has another form; names it.

        Example:
            >>> from training import Trained
            >>> trained = Trained.load(FINISHED_RUN)
            >>> trained.networks.student.classifier.out_features
            8
        """
        fields = read_json(run_dir / CONFIG)
        if fields.get("schema") != SCHEMA:
            raise DataError(f"{run_dir / CONFIG}: expected schema {SCHEMA!r}, found {fields.get('schema')!r}")
        refuse_unfinished(run_dir, fields)
        checkpoint = _read_checkpoint(run_dir / CHECKPOINT, sha256=fields.get("checkpoint_sha256"))
        try:
            if not isinstance(fields["data"], dict):
                raise TypeError(f"data is no object but {fields['data']!r}")
            config = TrainConfig.from_json(fields["config"])
            networks = _networks(config, checkpoint["shapes"])
            for name, module in networks.modules():
                module.load_state_dict(checkpoint["modules"][name])
            selected, reference = Selection.from_json(fields["selected"]), checkpoint["novelty_reference"]
            if (selected.novelty is None) != (reference is None):
                raise ValueError(f"the novelty score is {selected.novelty}, its reference is {type(reference)}")
            return cls(
                config=config,
                data=fields["data"],
                recipe=fields.get("recipe"),
                selected=selected,
                scaler=Scaler.from_tensors(checkpoint["scaler"]),
                networks=networks,
                novelty_reference=None if reference is None else reference.numpy(),
                attribute_dim=int(checkpoint["shapes"]["attribute_dim"]),
            )
        except DataError as error:
            raise DataError(f"{run_dir / CONFIG}: {error.message}", error.problems) from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise DataError(f"{run_dir}: {CONFIG} and {CHECKPOINT} do not fit each other: {reason}") from None


def _read_checkpoint(file: Path, *, sha256: Any) -> Any:
    """The tensors of a checkpoint; its hash is compared first, since a zip archive may be damaged and still open."""
    try:
        found = sha256_of(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; the run has not finished") from None
    if found != sha256:
        raise DataError(f"{file}: damaged, or of another run: {CONFIG} expects sha256 {sha256}, got {found}")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the archive provokes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{file}: not a checkpoint of this program: {reason}") from None


def _networks(config: TrainConfig, shapes: Mapping[str, int]) -> Networks:
    feature_dim = shapes["feature_dim"]
    dim, init = shapes["embedding_dim"], config.d3.embedding_init
    return Networks(
        generator=new_sampler(
            config,
            feature_dim=feature_dim,
            attribute_dim=shapes["attribute_dim"],
            seen_classes=shapes["seen_classes"],
        ),
        teacher=Teacher(feature_dim=feature_dim, dim=dim, seen_classes=shapes["seen_classes"], init=init),
        student=Student(
            feature_dim=feature_dim,
            dim=dim,
            classes=shapes["classes"],
            init=init,
            confidence_w=1.0,
            confidence_b=0.0,
            free_w=config.d3.free_w,
        ),
    )


def refuse_unfinished(run_dir: Path, fields: Mapping[str, Any]) -> None:
    """Raise a DataError if `config.json` says that its run has not finished."""
    if fields.get("finished") is False:
        raise DataError(
            f"{run_dir}: the run has not finished; continue it with `d3gzsl-train fit DATA --out {run_dir} --resume`"
        )


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: it is missing or has another form.
    """
    try:
        fields = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; expected a run directory made by `d3gzsl-train fit`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None
    if not isinstance(fields, dict):
        raise DataError(f"{file}: expected a JSON object, got {type(fields).__name__}")
    return fields
