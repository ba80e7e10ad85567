"""The manifest of a bundle: everything about it that is not an array or a graph."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.calibration import Calibration
from model.classes import ClassEntry
from model.errors import BundleError, D3GZSLError, InvalidInputError
from model.head import Float32, HeadSpec
from model.preprocess import PreprocessSpec
from model.synthesis import Synthesizer, class_embeddings
from model.text.encoder import EncoderSpec
from model.vocabulary import Vocabulary

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
NOVELTY_NAME = "[a-z_]{1,50}"
SIGNATURE = "manifest.sig"
"""Of the manifest, where somebody has signed the bundle; the one file that no manifest lists."""


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """Which feature extractor the trunk holds.

    Attributes:
        name: file name or architecture, for people.
        fingerprint: SHA-256 of its ONNX file.
        feature_dim: D, numbers per image.
    """

    name: str
    fingerprint: str
    feature_dim: int

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"name": self.name, "fingerprint": self.fingerprint, "feature_dim": self.feature_dim}


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image that comes with the bundle.

    Attributes:
        file: path inside the bundle.
        class_id: true class.
        name: name of that class.
        attributes: given where the bundle does not know the class, so that it can be registered.
    """

    file: str
    class_id: str
    name: str
    attributes: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields: dict[str, Any] = {"file": self.file, "class_id": self.class_id, "name": self.name}
        return fields if self.attributes is None else {**fields, "attributes": list(self.attributes)}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        bundle_id: see :func:`bundle_id`.
        files: SHA-256 of every other file, by path inside the bundle.
        preprocess: how images become inputs of the trunk.
        backbone: the feature extractor inside the trunk.
        vocabulary: attributes and their normalisation.
        classes: seen classes first, then the bundle's own unseen ones; order of the rows in `head.npz`.
        head: the head and what a new row is made from.
        calibration: from logits to probabilities.
        metrics: measured results, each with the protocol that produced it.
        training: the resolved configuration of the training run.
        code_version: version of this project that wrote the bundle.
        examples: images that come with the bundle.
        text_encoder: how texts become vectors; None where classes are not described by text.
        novelty: name of the score by which novelty is measured, `teacher` in older bundles; None where no score told
            unseen classes apart, and answers have no novelty.
    """

    bundle_id: str
    files: Mapping[str, str]
    preprocess: PreprocessSpec
    backbone: BackboneInfo
    vocabulary: Vocabulary
    classes: tuple[ClassEntry, ...]
    head: HeadSpec
    calibration: Calibration
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    code_version: str
    examples: tuple[Example, ...] = field(default=())
    text_encoder: EncoderSpec | None = None
    novelty: str | None = "teacher"

    def __post_init__(self) -> None:
        if not self.classes:
            raise BundleError(f"{MANIFEST}: expected at least one class, got none")
        kinds = [c.kind for c in self.classes]
        if kinds != sorted(kinds):
            raise BundleError(f"{MANIFEST}: expected the seen classes before the unseen ones")
        ids = [c.id for c in self.classes]
        if len(set(ids)) != len(ids):
            raise BundleError(f"{MANIFEST}: classes holds an id twice")
        for entry in self.classes:
            if (number := len(entry.attributes or ())) != len(self.vocabulary):
                raise BundleError(
                    f"{MANIFEST}: class {entry.id!r} has {number} attributes, the vocabulary has {len(self.vocabulary)}"
                )
        self._check_text()

    def _check_text(self) -> None:
        """The vocabulary has a text block of the encoder's dimension, or there is neither; texts of classes fit it."""
        block, encoder = self.vocabulary.text, self.text_encoder
        dimension = len(block.offset) if block else 0
        expected = encoder.dimension if encoder else 0
        if dimension != expected:
            raise BundleError(
                f"{MANIFEST}: the vocabulary has {dimension} numbers of text, the text encoder makes {expected}"
            )
        for entry in self.classes:
            if entry.text is not None and len(entry.text.vector) != 4 * dimension:
                raise BundleError(
                    f"{MANIFEST}: the text of class {entry.id!r} has {len(entry.text.vector) // 4} numbers, "
                    f"the vocabulary {dimension}"
                )

    def class_embeddings(self, synthesizer: Synthesizer, entry: ClassEntry) -> Float32:
        """Synthesised embeddings of a class of this bundle; see :func:`model.synthesis.class_embeddings`.

        Args:
            synthesizer: runs `synthesizer.onnx`.
            entry: the class, which is described by attributes, text or both.

        Returns:
            float32 [N, Z].

        Raises:
            AttributesError: the networks give no finite embedding for this description.
        """
        return class_embeddings(
            synthesizer,
            bundle_id=self.bundle_id,
            class_id=entry.id,
            attributes=self.vocabulary.vectors([entry])[0],
            vocabulary=self.vocabulary,
            head=self.head,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, schema version first."""
        return {
            "schema_version": SCHEMA_VERSION,
            "bundle_id": self.bundle_id,
            "code_version": self.code_version,
            "files": dict(self.files),
            "preprocess": self.preprocess.to_json(),
            "backbone": self.backbone.to_json(),
            "vocabulary": self.vocabulary.to_json(),
            "classes": [c.to_json() for c in self.classes],
            "head": self.head.to_json(),
            "calibration": self.calibration.to_json(),
            "novelty": None if self.novelty is None else {"score": self.novelty},
            "metrics": self.metrics,
            "training": self.training,
            "examples": [e.to_json() for e in self.examples],
            **({"text_encoder": self.text_encoder.to_json()} if self.text_encoder else {}),
        }

    @classmethod
    def from_json(cls, fields: Any) -> Manifest:
        """Read the JSON of :meth:`to_json`.

        Raises:
            BundleError: another schema version, or a field that is missing or has another form.
        """
        if not isinstance(fields, Mapping):
            raise BundleError(f"{MANIFEST}: expected a JSON object, got {type(fields).__name__}")
        version = fields.get("schema_version")
        if version != SCHEMA_VERSION:
            raise BundleError(f"{MANIFEST}: schema version {version!r}; this version of d3gzsl reads {SCHEMA_VERSION}")
        try:
            backbone = fields["backbone"]
            return cls(
                bundle_id=str(fields["bundle_id"]),
                code_version=str(fields["code_version"]),
                files={str(name): str(digest) for name, digest in fields["files"].items()},
                preprocess=PreprocessSpec.from_json(fields["preprocess"]),
                backbone=BackboneInfo(
                    name=str(backbone["name"]),
                    fingerprint=str(backbone["fingerprint"]),
                    feature_dim=int(backbone["feature_dim"]),
                ),
                vocabulary=Vocabulary.from_json(fields["vocabulary"]),
                classes=tuple(_read_class(place, c) for place, c in enumerate(fields["classes"])),
                head=HeadSpec.from_json(fields["head"]),
                calibration=Calibration.from_json(fields["calibration"]),
                metrics=dict(fields["metrics"]),
                training=dict(fields["training"]),
                examples=tuple(
                    Example(
                        file=str(e["file"]),
                        class_id=str(e["class_id"]),
                        name=str(e["name"]),
                        attributes=tuple(map(float, e["attributes"])) if "attributes" in e else None,
                    )
                    for e in fields["examples"]
                ),
                novelty=_novelty(fields),
                text_encoder=EncoderSpec.from_json(fields["text_encoder"]) if "text_encoder" in fields else None,
            )
        except KeyError as error:
            raise BundleError(f"{MANIFEST}: the field {error.args[0]!r} is missing") from None
        except BundleError:
            raise
        except (D3GZSLError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise BundleError(f"{MANIFEST}: {error}") from None


def _novelty(fields: Mapping[str, Any]) -> str | None:
    """The score's name; the teacher's in bundles from before there was a choice."""
    novelty = fields.get("novelty", {"score": "teacher"})
    if novelty is None:
        return None
    score = novelty["score"]
    if not isinstance(score, str) or not re.fullmatch(NOVELTY_NAME, score):
        raise ValueError(f"novelty.score must be a name of lower-case letters and _, got {score!r}")
    return score


def _read_class(place: int, fields: Mapping[str, Any]) -> ClassEntry:
    try:
        return ClassEntry.from_json(fields)
    except InvalidInputError as error:
        faults = "; ".join(f"/classes/{place}{problem}" for problem in error.problems)
        raise BundleError(f"{MANIFEST}: {faults}") from None


def bundle_id(
    trunk_sha256: str,
    synthesizer_sha256: str,
    vocabulary: Vocabulary,
    head: HeadSpec,
    *,
    encoder: str | None = None,
    trunk_int8_sha256: str | None = None,
) -> str:
    """Identity of everything that decides a class's row: the graphs, the vocabulary and the head spec.

    Rows of synthesised classes are not part of it: their noise is keyed by it. Nor is what is written about attributes.

    Args:
        trunk_sha256: of the trunk.
        synthesizer_sha256: of the synthesizer.
        vocabulary: of the bundle.
        head: of the bundle.
        encoder: identity of the text encoder, see :func:`model.text.encoder.encoder_id`; None without one.
        trunk_int8_sha256: of the second trunk, in int8, which may embed example photos; None without one.

    Returns:
        32 hexadecimal digits.
    """
    identity = {
        "trunk": trunk_sha256,
        "synthesizer": synthesizer_sha256,
        "vocabulary": vocabulary.with_words({}).to_json(),
        "head": head.to_json(),
        **({"text_encoder": encoder} if encoder else {}),
        **({"trunk_int8": trunk_int8_sha256} if trunk_int8_sha256 else {}),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
