"""The bundle: the one directory format in which a trained classifier is handed over, and its only reader and writer.

C: classes, Z: embedding dimension, V: held-out seen rows, N: rows of the bank.

    manifest.json      see model.manifest
    trunk.onnx         image [N,3,S,S] -> embedding [N,Z], teacher_score [N] (how familiar it looks), features [N,D]
    trunk_int8.onnx    optional: the same with the backbone in int8
    synthesizer.onnx   noise [N,K], attributes [N,A] (normalised) -> embedding [N,Z]
    head.npz           weight [C,Z], bias [C], novelty_reference [V] where the manifest has a novelty score
    text_encoder.onnx  optional: token ids [N,L] -> token_embeddings [N,L,T]; see model.text.encoder
    tokenizer.json     beside it: sentences -> token ids
    bank.npz           what the head needs to grow: covariance_cholesky [Z,Z] for lda; rows [N,Z], counts [C] else
    examples/*         optional images
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model import __version__
from model.calibration import Calibration
from model.classes import ClassEntry
from model.errors import BundleError
from model.guards.arrays import read_arrays
from model.guards.documents import read_document
from model.guards.files import check_listed, check_nothing_else, read_plain
from model.head import MAX_BANK_BYTES, Float32, HeadSpec
from model.lda import LdaHead
from model.manifest import MANIFEST, SIGNATURE, BackboneInfo, Example, Manifest, bundle_id
from model.preprocess import PreprocessSpec
from model.text.encoder import EncoderSpec, encoder_id
from model.vocabulary import Vocabulary

TRUNK, SYNTHESIZER, HEAD, BANK = "trunk.onnx", "synthesizer.onnx", "head.npz", "bank.npz"
TRUNK_INT8 = "trunk_int8.onnx"
TEXT_ENCODER, TOKENIZER = "text_encoder.onnx", "tokenizer.json"
REQUIRED = (TRUNK, SYNTHESIZER, HEAD, BANK)
EXAMPLE_FILE = r"examples/[A-Za-z0-9_-][A-Za-z0-9._-]*"
MAX_MANIFEST_BYTES = 32_000_000
MAX_GRAPH_BYTES = 2**31 - 1  # Protocol Buffers have no larger message
MAX_REFERENCE_BYTES = 40_000_000  # of the novelty reference, with what surrounds the arrays
MAX_EXAMPLE_BYTES = 20_000_000
MAX_TOKENIZER_BYTES = 40_000_000
_LONGEST = 500

Precision = Literal["fp32", "int8"]
"""The arithmetic of a trunk's backbone."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderFiles:
    """The text encoder that a bundle brings: its graph, its `tokenizer.json`, and how both are used."""

    graph: bytes
    tokenizer: bytes
    spec: EncoderSpec

    @property
    def identity(self) -> str:
        """See :func:`model.text.encoder.encoder_id`."""
        return encoder_id(sha256_bytes(self.graph), sha256_bytes(self.tokenizer), self.spec)


@dataclass(frozen=True, kw_only=True)
class BundleFiles:
    """Where the graphs of a bundle are by its manifest; nothing of it needs to be verified.

    Attributes:
        path: the directory.
        manifest: what it says about itself.
    """

    path: Path
    manifest: Manifest

    @property
    def trunk(self) -> Path:
        """The graph from image to embedding."""
        return self.path / TRUNK

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """See :func:`precisions_of`."""
        return precisions_of(self.manifest)

    def trunk_of(self, precision: Precision) -> Path:
        """The graph from image to embedding in one of `precisions`."""
        return self.path / trunk_name(self.manifest, precision)

    @property
    def synthesizer(self) -> Path:
        """The graph from noise and attributes to embedding."""
        return self.path / SYNTHESIZER

    @property
    def encoder_identity(self) -> str | None:
        """Identity of the text encoder, see :func:`model.text.encoder.encoder_id`; None where there is none."""
        return encoder_of(self.manifest)


@dataclass(frozen=True, kw_only=True)
class Bundle(BundleFiles):
    """A verified bundle in memory; the graphs stay on disk at `trunk` and `synthesizer`.

    >>> from pathlib import Path
    >>> from model import Bundle
    >>> bundle = Bundle.load(Path("service/demo_bundle"))
    >>> bundle.weight.shape == (len(bundle.manifest.classes), bundle.manifest.head.dimension)
    True

    Attributes:
        path: the directory.
        manifest: what it says about itself.
        weight: float32 [C, Z].
        bias: float32 [C].
        head: grows the classifier by a row.
        novelty_reference: held-out seen rows by the novelty score, ascending, float32 [V]; None without such a score.
    """

    weight: Float32
    bias: Float32
    head: LdaHead
    novelty_reference: Float32 | None

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read a bundle and verify its schema version, every hash and every shape.

        Raises:
            BundleError: it does not fit; names the file, what was expected and what is there.
        """
        manifest = read_manifest(path)
        verify_files(path, manifest)
        classes, dimension = len(manifest.classes), manifest.head.dimension
        shapes: dict[str, tuple[int | None, ...]] = {"weight": (classes, dimension), "bias": (classes,)}
        if manifest.novelty is not None:
            shapes["novelty_reference"] = (None,)
        arrays = read_arrays(path / HEAD, shapes)
        reference = arrays.get("novelty_reference")
        if reference is not None and (len(reference) == 0 or (np.diff(reference) < 0).any()):
            raise BundleError(f"{HEAD}: novelty_reference must hold ascending scores, at least one")
        return cls(
            path=path,
            manifest=manifest,
            weight=arrays["weight"],
            bias=arrays["bias"],
            head=_head(path / BANK, manifest.head),
            novelty_reference=reference,
        )


def read_manifest(path: Path) -> Manifest:
    """Read `manifest.json` only; raises BundleError where it is missing or has another form."""
    if not path.is_dir():
        raise BundleError(f"no bundle at {path}: expected a directory with {MANIFEST}")
    try:
        return Manifest.from_json(read_document(read_plain(path / MANIFEST, limit=MAX_MANIFEST_BYTES)))
    except FileNotFoundError:
        raise BundleError(f"{path}: {MANIFEST} is missing") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {MANIFEST} cannot be read: {_one_line(error)}") from None
    except BundleError as error:
        raise BundleError(f"{path}: {_one_line(error)}") from None


def encoder_of(manifest: Manifest) -> str | None:
    """Identity of a bundle's text encoder; None where it has none."""
    if manifest.text_encoder is None:
        return None
    return encoder_id(manifest.files[TEXT_ENCODER], manifest.files[TOKENIZER], manifest.text_encoder)


def precisions_of(manifest: Manifest) -> tuple[Precision, ...]:
    """The arithmetic of each trunk, that of `trunk.onnx` first; `metrics.int8` stands in older bundles in int8."""
    if TRUNK_INT8 in manifest.files:
        return ("fp32", "int8")
    return ("int8",) if "int8" in manifest.metrics else ("fp32",)


def trunk_name(manifest: Manifest, precision: Precision) -> str:
    """The file of the trunk in one of the bundle's precisions."""
    return TRUNK if precision == precisions_of(manifest)[0] else TRUNK_INT8


def verify_files(path: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest and the bundle id with what it is made from.

    Raises:
        BundleError: names the first file that is missing, changed, too large, no plain file or not listed.
    """
    for name in (*REQUIRED, *((TEXT_ENCODER, TOKENIZER) if manifest.text_encoder else ())):
        if name not in manifest.files:
            raise BundleError(f"{path}: {MANIFEST} does not list {name}")
    head_bytes = 4 * len(manifest.classes) * (manifest.head.dimension + 1) + MAX_REFERENCE_BYTES
    limits = {HEAD: head_bytes, BANK: MAX_BANK_BYTES} | dict.fromkeys((TRUNK, TRUNK_INT8, SYNTHESIZER), MAX_GRAPH_BYTES)
    limits |= {TEXT_ENCODER: MAX_GRAPH_BYTES, TOKENIZER: MAX_TOKENIZER_BYTES} if manifest.text_encoder else {}
    for name in manifest.files:
        check_listed(path, name, limit=limits.get(name, MAX_EXAMPLE_BYTES))
    for example in manifest.examples:
        if example.file not in manifest.files:
            raise BundleError(f"{path}: the example {example.file!r} is not listed among the files")
    check_nothing_else(path, (MANIFEST, SIGNATURE, *manifest.files))
    for name, expected in manifest.files.items():
        actual = sha256_of(path / name)
        if actual != expected:
            raise BundleError(f"{path}: {name} is damaged or changed: expected sha256 {expected[:64]}, got {actual}")
    identity = bundle_id(
        manifest.files[TRUNK],
        manifest.files[SYNTHESIZER],
        manifest.vocabulary,
        manifest.head,
        encoder=encoder_of(manifest),
        trunk_int8_sha256=manifest.files.get(TRUNK_INT8),
    )
    if identity != manifest.bundle_id:
        raise BundleError(f"{path}: {MANIFEST} has bundle_id {manifest.bundle_id}, its contents give {identity}")


def write_bundle(
    out: Path,
    *,
    trunk: bytes,
    synthesizer: bytes,
    preprocess: PreprocessSpec,
    backbone: BackboneInfo,
    vocabulary: Vocabulary,
    classes: tuple[ClassEntry, ...],
    head_spec: HeadSpec,
    head: LdaHead,
    weight: Float32,
    bias: Float32,
    novelty_reference: Float32 | None,
    calibration: Calibration,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    novelty: str | None = "teacher",
    examples: Mapping[Example, bytes] | None = None,
    text_encoder: TextEncoderFiles | None = None,
    trunk_int8: bytes | None = None,
    overwrite: bool = False,
) -> str:
    """Write a bundle beside `out`, verify it by loading, and rename it into place.

    Args:
        out: directory that must not exist, unless `overwrite` is set and it is a bundle.
        trunk: bytes of the ONNX graph.
        synthesizer: bytes of the ONNX graph.
        preprocess: how images become inputs.
        backbone: the feature extractor.
        vocabulary: attributes.
        classes: in the order of the rows.
        head_spec: the head.
        head: fitted head, for `bank.npz`.
        weight: float32 [C, Z].
        bias: float32 [C].
        novelty_reference: held-out seen rows by the novelty score; None without one.
        calibration: from logits to probabilities.
        metrics: results with their protocols.
        training: resolved training configuration.
        novelty: the score that the trunk gives beside the embedding; None where novelty is not served.
        examples: images that come with the bundle, by their manifest entry.
        text_encoder: where the vocabulary has a text block, what makes its numbers.
        trunk_int8: bytes of the same graph with the backbone in int8, where it comes too.
        overwrite: replace an existing bundle.

    Returns:
        The bundle id.

    Raises:
        BundleError: `out` exists, or what was written does not load.
    """
    check_writable(out, overwrite=overwrite)
    examples = examples or {}
    for example in examples:
        if not re.fullmatch(EXAMPLE_FILE, example.file):
            raise BundleError(f"an example must be named like examples/zebra-1.jpg, got {example.file!r}")
    identity = bundle_id(
        sha256_bytes(trunk),
        sha256_bytes(synthesizer),
        vocabulary,
        head_spec,
        encoder=text_encoder.identity if text_encoder else None,
        trunk_int8_sha256=sha256_bytes(trunk_int8) if trunk_int8 else None,
    )
    if (novelty is None) != (novelty_reference is None):
        raise BundleError(f"a novelty score and its reference go together, got the score {novelty}")
    reference = (
        {} if novelty_reference is None else {"novelty_reference": np.sort(novelty_reference).astype(np.float32)}
    )
    contents: dict[str, bytes] = {
        TRUNK: trunk,
        **({TRUNK_INT8: trunk_int8} if trunk_int8 else {}),
        SYNTHESIZER: synthesizer,
        HEAD: _npz(weight=weight, bias=bias, **reference),
        BANK: _npz(**head.bank()),
        **({TEXT_ENCODER: text_encoder.graph, TOKENIZER: text_encoder.tokenizer} if text_encoder else {}),
        **{example.file: data for example, data in examples.items()},
    }
    if len(contents[BANK]) > MAX_BANK_BYTES:
        raise BundleError(f"{BANK} would have {len(contents[BANK])} bytes; at most {MAX_BANK_BYTES} are allowed")
    manifest = Manifest(
        bundle_id=identity,
        code_version=__version__,
        files={name: sha256_bytes(data) for name, data in contents.items()},
        preprocess=preprocess,
        backbone=backbone,
        vocabulary=vocabulary,
        classes=classes,
        head=head_spec,
        calibration=calibration,
        novelty=novelty,
        metrics=metrics,
        training=training,
        examples=tuple(examples),
        text_encoder=text_encoder.spec if text_encoder else None,
    )
    contents[MANIFEST] = (json.dumps(manifest.to_json(), indent=1, ensure_ascii=False) + "\n").encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        for name, data in contents.items():
            file = beside / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        beside.chmod(0o755)
        Bundle.load(beside)
        _swap(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return identity


def _swap(new: Path, out: Path) -> None:
    """Rename `new` to `out`; what was there is moved aside first and only then removed, so it is whole or gone."""
    if not out.exists():
        new.replace(out)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    out.replace(aside / "old")
    try:
        new.replace(out)
    except OSError:
        (aside / "old").replace(out)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_writable(out: Path, *, overwrite: bool) -> None:
    """Refuse an `out` that exists, unless it is a bundle (or an empty directory) and may be overwritten.

    Raises:
        BundleError: says what is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise BundleError(f"{out} exists and is not a bundle; choose another place")
    if not overwrite:
        raise BundleError(f"{out} exists already; choose another place or pass --overwrite")


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _npz(**arrays: NDArray[Any]) -> bytes:
    """An uncompressed `.npz` whose bytes depend on the arrays only (`np.savez` stamps the time)."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
    return stream.getvalue()


def _head(file: Path, spec: HeadSpec) -> LdaHead:
    bank = read_arrays(file, {"covariance_cholesky": (spec.dimension, spec.dimension)})
    if (np.diag(bank["covariance_cholesky"]) <= 0).any():
        raise BundleError(f"{BANK}: covariance_cholesky must have a diagonal above 0")
    return LdaHead.from_bank(bank)


def _one_line(error: Exception) -> str:
    """What an error says, short and without line breaks, whatever values a stranger's file put into it."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
