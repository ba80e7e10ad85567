"""What a run learns from and is tested on: features, classes, the split of the rows; and what one training knows of it.

N: rows, D: features, C: classes, A: attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.classes import ClassEntry
from model.errors import DataError, Problem
from model.manifest import BackboneInfo
from model.preprocess import PreprocessSpec
from model.vocabulary import TextBlock, Vocabulary
from training.features.scaler import Scaler
from training.features.store import FeatureStore, ImageRecord
from training.features.text_encoder import TextEncoderSource


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a training knows: real rows of seen classes, and attributes of all its classes.

    Attributes:
        features: scaled, float32 [N, D].
        labels: class of each row, int64 [N], indices of seen classes only.
        attributes: normalised, float32 [C, A].
        seen: which classes have rows, bool [C].
    """

    features: Tensor
    labels: Tensor
    attributes: Tensor
    seen: Tensor

    def __post_init__(self) -> None:
        present = torch.zeros_like(self.seen)
        present[self.labels] = True
        if not bool((present == self.seen).all()):
            raise ValueError("every seen class needs rows, and no unseen class may have any")

    @property
    def seen_index(self) -> Tensor:
        """Indices of the seen classes, ascending."""
        return self.seen.nonzero().squeeze(1)

    @property
    def unseen_index(self) -> Tensor:
        """Indices of the unseen classes, ascending."""
        return (~self.seen).nonzero().squeeze(1)

    @property
    def teacher_labels(self) -> Tensor:
        """Labels in the teacher's order: the position of each row's class among the seen ones."""
        return (self.seen.long().cumsum(0) - 1)[self.labels]


MIN_TRAINING_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class BackboneSource:
    """The backbone that made the features, which export builds into the trunk."""

    path: Path
    spec: PreprocessSpec
    description: BackboneInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class RowPhotos:
    """The photos that the rows are features of.

    Attributes:
        root: the data folder, absolute, as it was.
        images: of each row, its path below the folder and its hash.
    """

    root: str
    images: tuple[ImageRecord, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Features with a protocol.

    Attributes:
        features: float32 [N, D], unscaled.
        labels: index into `classes`, int64 [N].
        classes: the C classes.
        vocabulary: attributes and their normalisation, taken from seen classes.
        trainval: rows to train on, of seen classes only.
        test: rows to test on; the other rows.
        split: how the rows were split, for reports.
        data_hash: identifies features, classes and attributes.
        backbone: where the features came from; None for features without images.
        text_encoder: where the vectors of texts came from; None where classes have no texts.
        photos: what the rows are features of; None for features without images.

    Example:
        >>> from training import load_benchmark
        >>> dataset = load_benchmark(BENCHMARK)
        >>> dataset.seen.tolist(), dataset.attributes.shape
        ([True, False, True, True, False], (5, 4))
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[ClassEntry, ...]
    vocabulary: Vocabulary
    trainval: NDArray[np.int64]
    test: NDArray[np.int64]
    split: dict[str, Any]
    data_hash: str
    backbone: BackboneSource | None
    text_encoder: TextEncoderSource | None = None
    photos: RowPhotos | None = None

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Which classes are seen, bool [C]."""
        return np.array([c.kind == "seen" for c in self.classes])

    @cached_property
    def attributes(self) -> NDArray[np.float32]:
        """What describes each class, normalised, float32 [C, A]."""
        return self.vocabulary.described(self.classes)

    @property
    def testable(self) -> bool:
        """Whether there are test rows of seen and of unseen classes."""
        kinds = self.seen[self.labels[self.test]]
        return bool(kinds.any() and not kinds.all())

    def require_testable(self) -> None:
        """Refuse a data set without test rows of both kinds.

        Raises:
            DataError: there are no test rows of seen or of unseen classes.
        """
        if not self.testable:
            kinds = self.seen[self.labels[self.test]]
            raise DataError(
                f"evaluation needs test images of seen and of unseen classes, got {int(kinds.sum())} and "
                f"{int((~kinds).sum())}; keep a test fraction above 0 and give unseen classes images"
            )


def make_task(
    dataset: Dataset, rows: NDArray[np.int64], classes: NDArray[np.int64], scaler: Scaler, device: torch.device
) -> Task:
    """The training task of some rows and classes of a data set; class indices become positions in `classes`."""
    labels = np.searchsorted(classes, dataset.labels[rows])
    seen = np.zeros(len(classes), dtype=bool)
    seen[labels] = True
    return Task(
        features=torch.from_numpy(scaler.apply(dataset.features[rows])).to(device),
        labels=torch.from_numpy(labels).to(device),
        attributes=torch.from_numpy(dataset.attributes[classes]).to(device),
        seen=torch.from_numpy(seen).to(device),
    )


def from_store(store: FeatureStore, *, test_fraction: float, split_seed: int) -> Dataset:
    """A data set of one's own images.

    In every seen class the images are ordered by SHA-256 of "split_seed/path", and the first `test_fraction` of them
    (rounded) are for testing: the rule needs no random generator, and an added image moves at most one other across.
    Unseen classes' images are all for testing.

    Args:
        store: features of the images.
        test_fraction: share of each seen class, 0..0.9; 0 trains on everything.
        split_seed: which split.

    Raises:
        DataError: a seen class would keep fewer than 4 rows to train on.
    """
    if not 0 <= test_fraction <= 0.9:
        raise DataError(f"the test fraction must lie in 0..0.9, got {test_fraction}")
    keys = [hashlib.sha256(f"{split_seed}/{image.path}".encode()).digest() for image in store.images]
    test = ~store.seen[store.labels]
    problems = []
    for index in np.flatnonzero(store.seen):
        rows = sorted(np.flatnonzero(store.labels == index), key=lambda row: keys[row])
        held = round(test_fraction * len(rows))
        test[rows[:held]] = True
        if len(rows) - held < MIN_TRAINING_ROWS:
            detail = f"expected at least {MIN_TRAINING_ROWS} images to train on, got {len(rows) - held}"
            problems.append(Problem(pointer=f"class {store.classes[index].id}", detail=detail))
    if problems:
        raise DataError("too few images of seen classes", problems)
    values = store.attributes
    seen_values = values[store.seen]
    vocabulary = Vocabulary.from_classes(
        store.attribute_names,
        values,
        offset=seen_values.mean(axis=0),
        scale=1.0,
        unit_length=True,
        text=text_block(store.classes, seen_values) if store.encoder_identity else None,
    ).with_words(store.attribute_words)
    return Dataset(
        features=store.features,
        labels=store.labels,
        classes=store.classes,
        vocabulary=vocabulary,
        trainval=np.flatnonzero(~test),
        test=np.flatnonzero(test),
        split={
            "rule": "per seen class, images in order of sha256(split_seed/path), the first test_fraction are test",
            "test_fraction": test_fraction,
            "split_seed": split_seed,
        },
        data_hash=store.data_hash,
        backbone=BackboneSource(
            path=store.backbone_path,
            spec=store.spec,
            description=BackboneInfo(
                name=Path(store.backbone_source).name,
                fingerprint=store.fingerprint,
                feature_dim=store.features.shape[1],
            ),
        ),
        text_encoder=store.text_encoder,
        photos=RowPhotos(root=store.data_root, images=store.images),
    )


def text_block(classes: Sequence[ClassEntry], seen_attributes_CA: NDArray[np.float64]) -> TextBlock:
    """How the vectors of texts stand beside the named attributes.

    Both parts are centred at the mean of the seen classes. Where there are both, texts are scaled so that their
    root-mean-square distance from that mean is the one of the attributes: neither outweighs the other.

    Args:
        classes: with texts.
        seen_attributes_CA: named attributes of the seen classes; A may be 0.
    """
    seen = np.array([e.text_vector for e in classes if e.kind == "seen"], dtype=np.float64)
    offset = seen.mean(axis=0)
    of_attributes, of_text = (
        float(np.sqrt(np.square(values - values.mean(axis=0)).sum(axis=1).mean()))
        for values in (seen_attributes_CA, seen)
    )
    scale = of_text / of_attributes if of_attributes > 0 and of_text > 0 else 1.0
    return TextBlock(offset=tuple(offset.tolist()), scale=scale)
