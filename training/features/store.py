"""The feature store: one vector per image, with all that says where it came from, in a folder without pickle.

A store holds `features.npy`, `meta.json`, and the backbone as `backbone.onnx` and `backbone.json`; where classes have
texts, also their encoder as `text_encoder.onnx` with its JSON and tokenizer.

N: images; D: features; C: classes; A: attributes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.classes import ClassEntry
from model.errors import DataError
from model.preprocess import PreprocessSpec
from model.vocabulary import AttributeWords
from training.features.backbone import Backbone
from training.features.text_encoder import TextEncoderSource

SCHEMA = "d3gzsl-features/1"
META = "meta.json"
FEATURES = "features.npy"
BACKBONE = "backbone.onnx"
BACKBONE_CARD = "backbone.json"
TEXT_ENCODER = "text_encoder.onnx"
_CHUNK = 4096  # rows looked at together, so that checks need little memory


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image of the data folder.

    Attributes:
        path: relative to the data folder, with forward slashes.
        size: bytes.
        mtime_ns: time of the last change, in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class ImageRecord(ImageFile):
    """An image as it was when its features were computed, with the sha256 of its bytes in hexadecimal digits."""

    sha256: str


@dataclass(frozen=True, kw_only=True)
class SkippedImage(ImageFile):
    """An image without features, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStore:
    """Features of a data folder's images.

    Attributes:
        path: the store's folder.
        features: float32 [N, D], finite.
        labels: int64 [N], index into `classes`.
        classes: the C classes with their attributes.
        attribute_names: the A names.
        attribute_words: descriptions and units by the names of attributes; no part of the hash, as nothing is trained
            on them.
        images: the N images in the order of the rows.
        skipped: unreadable images, which have no row.
        data_root: the data folder, absolute, as it was.
        backbone_source: the backbone file as it was named; the store keeps a copy, see `backbone_path`.
        fingerprint: sha256 of the backbone file.
        spec: the preprocessing.
        backbone_card: the JSON beside the backbone.
        encoder_identity: of the text encoder that the store keeps a copy of; None without one.
    """

    path: Path
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[ClassEntry, ...]
    attribute_names: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    skipped: tuple[SkippedImage, ...]
    data_root: str
    backbone_source: str
    fingerprint: str
    spec: PreprocessSpec
    backbone_card: Mapping[str, Any]
    attribute_words: Mapping[str, AttributeWords] = field(default_factory=dict)
    encoder_identity: str | None = None

    @property
    def backbone_path(self) -> Path:
        """The store's own copy of the backbone, with its JSON beside it."""
        return self.path / BACKBONE

    @property
    def text_encoder(self) -> TextEncoderSource | None:
        """The store's own copy of the text encoder; None where classes have no texts."""
        if self.encoder_identity is None:
            return None
        return TextEncoderSource(path=self.path / TEXT_ENCODER, identity=self.encoder_identity)

    @cached_property
    def attributes(self) -> NDArray[np.float64]:
        """Attribute values as users wrote them, float64 [C, A]."""
        values = np.array([entry.attributes for entry in self.classes], dtype=np.float64)
        return values.reshape(len(self.classes), len(self.attribute_names))

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Which classes are seen, bool [C]."""
        return np.array([entry.kind == "seen" for entry in self.classes])

    @cached_property
    def data_hash(self) -> str:
        """sha256 over classes, attributes, image contents and backbone: equal data has equal hashes anywhere."""
        described = {
            "backbone": self.fingerprint,
            "preprocessing": self.spec.to_json(),
            "attributes": self.attribute_names,
            "classes": [entry.to_json() for entry in self.classes],
            "images": [(i.path, i.sha256, int(label)) for i, label in zip(self.images, self.labels, strict=True)],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def meta(self) -> dict[str, Any]:
        """Everything but the features, as JSON values."""
        return {
            "schema": SCHEMA,
            "data_hash": self.data_hash,
            "data_root": self.data_root,
            "backbone": {
                "source": self.backbone_source,
                "fingerprint": self.fingerprint,
                "preprocessing": self.spec.to_json(),
                "card": dict(self.backbone_card),
            },
            "attribute_names": list(self.attribute_names),
            **(
                {"attribute_words": {n: w.to_json() for n, w in self.attribute_words.items()}}
                if self.attribute_words
                else {}
            ),
            "classes": [entry.to_json() for entry in self.classes],
            "labels": self.labels.tolist(),
            "images": [asdict(image) for image in self.images],
            "skipped": [asdict(image) for image in self.skipped],
            **({"text_encoder": self.encoder_identity} if self.encoder_identity else {}),
        }

    @classmethod
    def load(cls, path: Path, *, expect_backbone: Backbone | None = None) -> FeatureStore:
        """Read a store and check that its parts fit each other.

        Args:
            path: the store's folder.
            expect_backbone: refuse features of any other backbone or preprocessing.

        Raises:
            DataError: a file is missing or damaged, lengths differ, a feature is not finite, or the features are of
                another backbone.
        """
        meta = _read_meta(path)
        try:
            store = cls(path=path, features=_read_features(path), **_parse(meta))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path / META}: a field is missing or has another form: {error!r}") from None
        store._check(meta)
        if expect_backbone is not None:
            store.refuse_other_backbone(expect_backbone)
        return store

    def refuse_other_backbone(self, backbone: Backbone) -> None:
        """Raise a DataError unless the features are of this backbone with this preprocessing."""
        refuse_stale(self.path, self.fingerprint, self.spec.to_json(), backbone)

    def _check(self, meta: Mapping[str, Any]) -> None:
        rows, dim = len(self.labels), self.backbone_card.get("feature_dim")
        if self.features.shape != (rows, dim) or len(self.images) != rows:
            found = " x ".join(map(str, self.features.shape))
            raise DataError(f"{self.path / FEATURES}: expected {rows} x {dim} features as in {META}, found {found}")
        if rows and (self.labels.min() < 0 or self.labels.max() >= len(self.classes)):
            raise DataError(f"{self.path / META}: a label is not an index of one of the {len(self.classes)} classes")
        if any(len(entry.attributes or ()) != len(self.attribute_names) for entry in self.classes):
            raise DataError(f"{self.path / META}: a class has not {len(self.attribute_names)} attributes")
        if any((entry.text is None) != (self.encoder_identity is None) for entry in self.classes):
            raise DataError(f"{self.path / META}: expected a text encoder and a text of every class, or neither")
        for start in range(0, rows, _CHUNK):
            finite = np.isfinite(self.features[start : start + _CHUNK]).all(axis=1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise DataError(f"{self.path / FEATURES}: row {row} ({self.images[row].path}) is not finite")
        if meta["data_hash"] != self.data_hash:
            raise DataError(f"{self.path / META}: the fields do not give the data hash that is written in it")
        if not self.backbone_path.is_file():
            raise DataError(f"{self.backbone_path}: expected the store's copy of the backbone, found no such file")


def refuse_stale(where: Path, fingerprint: str, preprocessing: Mapping[str, Any], backbone: Backbone) -> None:
    """Raise a DataError that names both sides unless fingerprint and preprocessing are those of `backbone`."""
    wanted = backbone.spec.to_json()
    if fingerprint != backbone.fingerprint:
        raise DataError(
            f"{where}: stale features: they are of the backbone with sha256 {fingerprint}, "
            f"but {backbone.path} has sha256 {backbone.fingerprint}"
        )
    if dict(preprocessing) != wanted:
        raise DataError(
            f"{where}: stale features: they were preprocessed with {json.dumps(dict(preprocessing))}, "
            f"but {backbone.path} wants {json.dumps(wanted)}"
        )


def is_store(path: Path) -> bool:
    """Whether a folder is a feature store, of any schema version and in any condition."""
    return (path / META).is_file() and (path / FEATURES).is_file()


def _read_meta(path: Path) -> Mapping[str, Any]:
    try:
        meta = json.loads((path / META).read_bytes())
    except OSError as error:
        raise DataError(
            f"{path / META}: expected a feature store made by `d3gzsl-train extract`: {error.strerror}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path / META}: not readable as JSON: {error}") from None
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path / META}: expected schema {SCHEMA!r}, found {schema!r}")
    return meta  # type: ignore[no-any-return]  # checked to be a dict


def _read_features(path: Path) -> NDArray[np.float32]:
    try:
        features = np.load(path / FEATURES, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path / FEATURES}: not readable as an array: {error}") from None
    if not isinstance(features, np.ndarray) or features.dtype != np.float32 or features.ndim != 2:
        found = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
        raise DataError(f"{path / FEATURES}: expected a float32 matrix, found {found}")
    return features


def _parse(meta: Mapping[str, Any]) -> dict[str, Any]:
    backbone = meta["backbone"]
    return {
        "labels": np.array(meta["labels"], dtype=np.int64),
        "classes": tuple(ClassEntry.from_json(fields) for fields in meta["classes"]),
        "attribute_names": tuple(meta["attribute_names"]),
        "attribute_words": {n: AttributeWords.from_json(w) for n, w in meta.get("attribute_words", {}).items()},
        "images": tuple(ImageRecord(**fields) for fields in meta["images"]),
        "skipped": tuple(SkippedImage(**fields) for fields in meta["skipped"]),
        "data_root": meta["data_root"],
        "backbone_source": backbone["source"],
        "fingerprint": backbone["fingerprint"],
        "spec": PreprocessSpec.from_json(backbone["preprocessing"]),
        "backbone_card": backbone["card"],
        "encoder_identity": meta.get("text_encoder"),
    }
