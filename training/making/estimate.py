"""How long making a bundle will take, from what can be timed beforehand: a batch of photos, and steps of the training.

N: rows, D: features, A: numbers that describe a class, C: classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

import numpy as np
import torch

from model.outside.threads import available_cpus
from training.config import Compile, TrainConfig
from training.console import duration, plural
from training.datasets.dataset import Task
from training.evaluation import SOFTMAX_BATCH, SOFTMAX_EPOCHS
from training.exporting.precision import CALIBRATION_IMAGES, MEASURED_IMAGES
from training.features.backbone import Backbone
from training.features.decoding import decoded_batches
from training.features.scaler import evenly
from training.features.store import ImageFile
from training.method.heads import HeadChoice, fit_head
from training.method.teacher import fit_teacher
from training.method.trainer import Trainer
from training.selection.choice import measured_epochs
from training.selection.folds import fold_count

T = TypeVar("T")

_TIMED_PHOTOS = 8
_TIMED_ROWS = 600
_TIMES = 3  # the fastest of so many counts: other work on the machine only makes one slower
_RECORDING_STEPS = 4  # on a GPU: those that run as they are, and the one that is recorded
_CALIBRATING = 2.5  # times as long as a photo takes, for one that shows the ranges of activations
_EXPORT = 7.0  # seconds for two graphs that torch traces, and for the report


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds of each part of the work that is still to be done.

    Attributes:
        photos: whose features are computed.
        features: for these.
        training: for selection, training and results; 0 where they are there.
        export: for bundle and verification; 0 where they are there.
    """

    photos: int = 0
    features: float = 0.0
    training: float = 0.0
    export: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return self.features + self.training + self.export

    def sentence(self, device: str) -> str:
        """The parts for people.

        Args:
            device: the kind of device that is trained on.
        """
        parts = [
            f"{duration(self.features)} for the features of {plural(self.photos, 'photo')}" if self.photos else "",
            f"{duration(self.training)} to train on {device}" if self.training else "",
            f"{duration(self.export)} for the bundle" if self.export else "",
        ]
        said = ", ".join(filter(None, parts))
        return f"this will take about {duration(self.seconds)}: {said}" if said else "everything is there already"


def feature_seconds(root: Path, files: Sequence[ImageFile], backbone: Backbone, *, workers: int | None = None) -> float:
    """Seconds that decoding photos and running the backbone on them will take, by a few that are spread over them.

    Args:
        root: the folder that paths are relative to.
        files: whose features are to be computed.
        backbone: the network.
        workers: threads that decode; by default one per available CPU.
    """
    if not files:
        return 0.0
    timed = [files[place] for place in evenly(len(files), _TIMED_PHOTOS).tolist()]
    session, side = backbone.session(), backbone.spec.size
    backbone.run(session, np.zeros((1, 3, side, side), dtype=np.float32))  # pays for what is done once
    began, size = monotonic(), -(-len(timed) // 2)
    for batch in decoded_batches(
        root, timed, backbone.spec, batch_size=size, workers=available_cpus() if workers is None else workers
    ):
        if batch.images:
            backbone.run(session, batch.pixels)
    return (monotonic() - began) / len(timed) * len(files)


def training_seconds(
    *,
    rows: int,
    seen: int,
    unseen: int,
    feature_dim: int,
    described_dim: int,
    config: TrainConfig,
    device: torch.device,
) -> float:
    """Seconds that selection, training and results will take, by a few steps on random rows of the same sizes.

    It is the time of all epochs; a training that its recipe may stop early takes less.

    Args:
        rows: to train on, N.
        seen: classes with rows.
        unseen: classes without.
        feature_dim: D.
        described_dim: A.
        config: hyper-parameters.
        device: where to train.
    """
    unseen = max(1, unseen)  # the selection hides classes in any case
    classes = seen + unseen
    timed = min(rows, max(_TIMED_ROWS, seen * 4))
    random = np.random.default_rng(0)
    task = Task(
        features=torch.from_numpy(random.random((timed, feature_dim), dtype=np.float32)).to(device),
        labels=(torch.arange(timed) % seen).to(device),
        attributes=torch.from_numpy(random.standard_normal((classes, described_dim), dtype=np.float32)).to(device),
        seen=(torch.arange(classes) < seen).to(device),
    )
    one_pass = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, epochs=1))
    labels = task.teacher_labels
    teacher, of_pass = _timed(lambda: fit_teacher(task.features, labels, seen, one_pass), device, times=_TIMES)
    teacher_step = of_pass / max(1, timed // min(config.teacher.batch_size, timed))
    warm = _RECORDING_STEPS if device.type == "cuda" else 1
    eager = dataclasses.replace(
        config, steps=warm, generator=dataclasses.replace(config.generator, warm_up=0), compile=_uncompiled(config)
    )
    trainer, preparing = _timed(lambda: Trainer(task, eager, teacher=teacher), device)
    trainer.run_epoch()
    trainer.steps = 1
    _, of_step = _timed(trainer.run_epoch, device, times=_TIMES)
    names = [str(number) for number in range(classes)]
    choice = HeadChoice(shrinkage=0.5, unseen_scale=1.0)
    samples = config.selection.samples
    _, of_head = _timed(lambda: fit_head(trainer.networks, task, names, choice, samples=samples, key="timed"), device)
    folds = 0 if config.selection.protocol == "test-best" else fold_count(config.selection)
    measured, shrinkages = len(measured_epochs(config)), len(config.selection.shrinkage)
    outer = config.steps or math.ceil(rows / min(config.batch_size, rows))
    steps = (folds + 1) * config.epochs * outer
    passes = math.ceil(rows / config.teacher.batch_size) * config.teacher.epochs
    teachers = (folds + 1 + config.selection.novelty_folds) * passes
    heads = folds * measured * shrinkages + measured + 2 + config.selection.novelty_folds
    softmax = SOFTMAX_EPOCHS * math.ceil((rows + unseen * samples) / SOFTMAX_BATCH)
    linear = teacher_step * SOFTMAX_BATCH * classes / (min(config.teacher.batch_size, timed) * (feature_dim + seen))
    return steps * of_step + teachers * teacher_step + (folds + 1) * preparing + heads * of_head + softmax * linear


def export_seconds(feature_dim: int) -> float:
    """Seconds that export and verification take: a constant, and what grows with the networks' D times D weights."""
    return _EXPORT + 6.0 * (feature_dim / 2048) ** 2


def int8_seconds(root: Path, files: Sequence[ImageFile], backbone: Backbone, *, workers: int | None = None) -> float:
    """Seconds that a trunk in int8 takes: the backbone runs on photos to calibrate, and to be judged.

    Args:
        root: the folder that paths are relative to.
        files: all photos.
        backbone: the network.
        workers: as for :func:`feature_seconds`.
    """
    runs = _CALIBRATING * min(CALIBRATION_IMAGES, len(files)) + min(2 * MEASURED_IMAGES, len(files))
    return feature_seconds(root, files, backbone, workers=workers) * runs / max(1, len(files))


def _uncompiled(config: TrainConfig) -> Compile:
    """torch.compile takes a minute, which would not be the time of a step."""
    return "auto" if config.compile == "on" else config.compile


def _timed(work: Callable[[], T], device: torch.device, *, times: int = 1) -> tuple[T, float]:
    """What the work gives, and the seconds of its fastest of so many runs."""
    fastest = math.inf
    for _ in range(times):
        began = monotonic()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, monotonic() - began)
    return result, fastest
