"""The images that a run was trained on, read again to measure and to calibrate what is exported.

N: images of a batch, S: input side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import DataError, Problem
from model.head import Float32
from model.outside.threads import available_cpus
from model.preprocess import PreprocessSpec
from training.features.decoding import DecodedBatch, decoded_batches, image_file
from training.features.own_photos import shown
from training.features.store import FeatureStore, ImageRecord
from training.runs.contents import Trained

_BATCH = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class RunImages:
    """The images of a data set, in the order of its rows.

    Attributes:
        root: the folder that paths are relative to.
        images: path and hash of each row's image.
        spec: preprocessing.
    """

    root: Path
    images: tuple[ImageRecord, ...]
    spec: PreprocessSpec

    @classmethod
    def of(cls, trained: Trained, *, features: Path | None = None, root: Path | None = None) -> RunImages:
        """The images that a run's features were made of.

        Args:
            trained: the run.
            features: where the features are now, if they were moved.
            root: where the data folder is now, if it was moved.

        Raises:
            DataError: the run was trained on features without images, or the folder is gone.
        """
        if trained.data.get("kind") != "features":
            raise DataError(
                "int8 is calibrated on the photos of the training, and this run was trained on features without "
                "images; train on images of your own"
            )
        store = FeatureStore.load(features or Path(trained.data["path"]))
        folder = root or Path(store.data_root)
        if not folder.is_dir():
            raise DataError(
                f"{shown(folder)}: expected the data folder with the images of the training, found none; say where it "
                "is now with --images"
            )
        return cls(root=folder, images=store.images, spec=store.spec)

    def pixels(
        self, rows: Sequence[int], *, on_batch: Callable[[int], None] = lambda _count: None
    ) -> Iterator[Float32]:
        """Network inputs of some rows in order, in batches, float32 [n, 3, S, S].

        Args:
            rows: of the data set.
            on_batch: called with the number of images of each batch when it is done with.

        Raises:
            DataError: an image is gone, damaged or not the one it was; names it.
        """
        wanted = [self.images[row] for row in rows]
        files = [image_file(self.root, image.path) for image in wanted]
        done = 0
        batches = decoded_batches(self.root, files, self.spec, batch_size=_BATCH, workers=available_cpus())
        for batch in batches:
            _refuse_changed(batch, wanted[done : done + len(batch)])
            yield batch.pixels
            done += len(batch)
            on_batch(len(batch))


def _refuse_changed(batch: DecodedBatch, expected: Sequence[ImageRecord]) -> None:
    problems = [Problem(pointer=shown(image.path), detail=image.reason) for image in batch.skipped]
    now = {image.path: image.sha256 for image in batch.images}
    problems += [
        Problem(pointer=shown(image.path), detail=f"changed: expected sha256 {image.sha256}, got {now[image.path]}")
        for image in expected
        if now.get(image.path, image.sha256) != image.sha256
    ]
    if problems:
        raise DataError("images of the training are not what they were", problems)


def even_rows(labels: Iterable[int], count: int) -> Iterator[int]:
    """Up to `count` rows in rounds that take one of each class, so that no class decides the ranges alone."""
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(label, []).append(row)
    rounds = max(map(len, by_class.values()), default=0)
    rows = (group[turn] for turn in range(rounds) for group in by_class.values() if turn < len(group))
    for _, row in zip(range(count), rows, strict=False):
        yield row
