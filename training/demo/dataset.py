"""Many drawings at once, on all cores: as a data folder of JPEG files, or as network inputs in memory.

N: images; S: side of a network input in pixels; C: classes; A: attributes.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import DataError
from model.outside.threads import available_cpus
from model.preprocess import PreprocessSpec, preprocess
from training.console import OnProgress
from training.demo.render import IMAGE_SIDE, render, scene_of
from training.demo.world import ATTRIBUTES, SEEN, UNSEEN, VisualClass

R = TypeVar("R")

_QUALITY = 92
_CHUNK = 25  # drawings per unit of work
_ALONE = 100  # up to so many drawings, starting other processes costs more than it saves


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Network inputs before normalisation, with their classes.

    Attributes:
        pixels: uint8 [N, S, S, 3].
        labels: int64 [N], positions in `classes`.
        attributes: float32 [N, A], what each drawing shows.
        classes: the C classes that were drawn.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    attributes: NDArray[np.float32]
    classes: tuple[VisualClass, ...]


def draw_jpeg(kind: VisualClass, *, seed: int | Sequence[int], size: int = IMAGE_SIDE) -> bytes:
    """One drawing as the bytes of a JPEG file; arguments as for :func:`training.demo.render.render`."""
    buffer = io.BytesIO()
    Image.fromarray(render(kind, seed=seed, size=size)).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def render_dataset(
    out_dir: Path,
    *,
    per_class: int,
    seed: int,
    size: int = IMAGE_SIDE,
    classes: Sequence[VisualClass] = (*SEEN, *UNSEEN),
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> None:
    """Write a data folder: `images/<class id>/*.jpg` and `classes.csv`.

    The folder appears under its name only when it is complete.

    Args:
        out_dir: a folder that does not exist yet.
        per_class: images of each class, seen and unseen.
        seed: drawings of different seeds, from 0, are independent.
        size: side of the images in pixels.
        classes: what to draw; those of `SEEN` are marked seen, all others unseen.
        workers: processes; by default one per available core.
        progress: called with the number of images done and of all.

    Raises:
        DataError: `out_dir` exists.
    """
    if out_dir.exists():
        raise DataError(f"{out_dir}: expected a new folder for the rendered images, it exists already")
    tasks = _tasks(classes, per_class)
    part = out_dir.with_name(f"{out_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for kind in classes:
        (part / "images" / kind.id).mkdir(parents=True)
    with (part / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("class", "split", *ATTRIBUTES))
        for kind in classes:
            split = "seen" if kind in SEEN else "unseen"
            table.writerow((kind.name, split, *(f"{value:g}" for value in kind.attributes())))
    work = partial(_write_chunk, part / "images", seed, size)
    for _ in _spread(work, tasks, workers, progress):
        pass
    part.replace(out_dir)


def render_inputs(
    classes: Sequence[VisualClass],
    spec: PreprocessSpec,
    *,
    per_class: int,
    seed: int,
    workers: int | None = None,
    progress: OnProgress | None = None,
) -> Drawings:
    """Draw images and put each through JPEG and the serving path's own preprocessing, short of normalisation.

    The images are those that :func:`render_dataset` writes with the same seed.

    Args:
        classes: what to draw.
        spec: the network's preprocessing; its mean and std are left out.
        per_class: images of each class.
        seed: as for :func:`render_dataset`.
        workers: processes; by default one per available core.
        progress: called with the number of images done and of all.
    """
    tasks = _tasks(classes, per_class)
    levels = PreprocessSpec(
        size=spec.size,
        resize=spec.resize,
        interpolation=spec.interpolation,
        mean=(0, 0, 0),
        std=(1 / 255, 1 / 255, 1 / 255),
    )
    chunks = list(_spread(partial(_input_chunk, seed, levels), tasks, workers, progress))
    position = {kind: i for i, kind in enumerate(classes)}
    labels = np.concatenate([np.full(len(task), position[task.kind]) for task in tasks])
    attributes = [scene_of(task.kind, seed=(seed, n)).attributes() for task in tasks for n in task.numbers]
    return Drawings(
        pixels=np.concatenate(chunks),
        labels=labels.astype(np.int64),
        attributes=np.stack(attributes).astype(np.float32),
        classes=tuple(classes),
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    kind: VisualClass
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)


def _tasks(classes: Sequence[VisualClass], per_class: int) -> list[_Task]:
    if per_class < 1 or not classes:
        raise DataError(f"expected at least one image of at least one class, got {per_class} of {len(classes)}")
    return [
        _Task(kind=kind, numbers=range(start, min(start + _CHUNK, per_class)))
        for kind in classes
        for start in range(0, per_class, _CHUNK)
    ]


def _write_chunk(images: Path, seed: int, size: int, task: _Task) -> None:
    for number in task.numbers:
        path = images / task.kind.id / f"{number:04d}.jpg"
        path.write_bytes(draw_jpeg(task.kind, seed=(seed, number), size=size))


def _input_chunk(seed: int, levels: PreprocessSpec, task: _Task) -> NDArray[np.uint8]:
    """Uint8 [n, S, S, 3]: `levels` maps the pixel values 0..255 to themselves."""
    inputs = [preprocess(draw_jpeg(task.kind, seed=(seed, number)), levels) for number in task.numbers]
    return np.rint(np.stack(inputs)).astype(np.uint8).transpose(0, 2, 3, 1)


def _spread(
    work: Callable[[_Task], R], tasks: Sequence[_Task], workers: int | None, progress: OnProgress | None
) -> Iterator[R]:
    """`work` of every task, in order, in this process or in several."""
    total, done = sum(map(len, tasks)), 0
    workers = min(workers or available_cpus(), len(tasks))
    with ExitStack() as stack:
        results: Iterable[R] = map(work, tasks)
        if workers > 1 and total > _ALONE:  # spawned, not forked: this process may have threads of its own
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            results = pool.map(work, tasks)
        for task, result in zip(tasks, results, strict=True):
            done += len(task)
            if progress is not None:
                progress(done, total)
            yield result
