"""A backbone: any ONNX file that maps a batch of images to one vector per image, with a JSON file beside it.

N: images; S: input side; D: features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.errors import BundleError, DataError
from model.guards.graphs import check_graph, read_graph
from model.preprocess import PreprocessSpec
from training.onnx_files import open_session

_PROBE = 2  # images in the batch that a graph is tried with: more than one, so that a fixed batch of 1 shows


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A backbone that has been opened, checked and tried on a batch.

    Attributes:
        path: the ONNX file, one file with its weights inside.
        fingerprint: sha256 of that file, 64 hexadecimal digits.
        spec: how images become its input.
        feature_dim: D.
        input: name of the graph's input, float32 [N, 3, S, S].
        output: name of the graph's output, float32 [N, D].
        card: the whole JSON beside the file.
    """

    path: Path
    fingerprint: str
    spec: PreprocessSpec
    feature_dim: int
    input: str
    output: str
    card: Mapping[str, Any]

    def session(self, threads: int | None = None) -> onnxruntime.InferenceSession:
        """An ONNX Runtime session on `threads` CPU cores, by default all this process may use.

        Raises:
            DataError: the file is gone or no longer the one that was checked.
        """
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.fingerprint:
            raise DataError(f"{self.path}: the file has changed since it was opened")
        return _session(data, self.path, threads)

    def run(self, session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features float32 [N, D] of preprocessed images, float32 [N, 3, S, S]."""
        (features,) = session.run([self.output], {self.input: images})
        return np.asarray(features, dtype=np.float32)


def card_path(path: Path) -> Path:
    """Where the JSON of a backbone file lies: beside it, with the ending `.json`."""
    return path.with_suffix(".json")


def load_backbone(path: Path) -> Backbone:
    """Open a backbone and check that file and JSON describe the same network.

    Args:
        path: the ONNX file. The JSON beside it holds `size`, `resize`, `mean`, `std` (see
            :meth:`model.preprocess.PreprocessSpec.from_json`) and `feature_dim`; `input` and `output` name the
            graph's ends where it has several; `layout`, where given, is NCHW. Other fields are kept as they are.

    Raises:
        DataError: a file is missing or not readable, the weights lie in another file, or names, shapes, types or the
            result of a trial batch do not fit the JSON.

    Example:
        >>> from training import load_backbone
        >>> backbone = load_backbone(BACKBONE)
        >>> backbone.feature_dim
        8
    """
    card = _read_card(path)
    data = _read(path)
    _check_graph(data, path)
    spec = _spec(card, path)
    session = _session(data, path)
    source = _end(session.get_inputs(), card, "input", path)
    target = _end(session.get_outputs(), card, "output", path)
    dim = card.get("feature_dim")
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise DataError(f"{card_path(path)}: feature_dim must be a whole number above 0, got {dim!r}")
    _check_shape(source.shape, (None, 3, spec.size, spec.size), f"{path}: input {source.name!r}")
    _check_shape(target.shape, (None, dim), f"{path}: output {target.name!r}")
    backbone = Backbone(
        path=path,
        fingerprint=hashlib.sha256(data).hexdigest(),
        spec=spec,
        feature_dim=dim,
        input=source.name,
        output=target.name,
        card=card,
    )
    _try(backbone, session)
    return backbone


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a backbone in ONNX format: {error.strerror}") from None


def _read_card(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: expected a backbone in ONNX format, found no such file")
    beside = card_path(path)
    if beside == path:
        raise DataError(f"{path}: expected an ONNX file, got the ending .json")
    if not beside.is_file():
        raise DataError(
            f"{beside}: expected the backbone's JSON (size, resize, mean, std, feature_dim), found no such file"
        )
    try:
        card = json.loads(beside.read_bytes())
    except ValueError as error:
        raise DataError(f"{beside}: not readable as JSON: {error}") from None
    if not isinstance(card, dict):
        raise DataError(f"{beside}: expected a JSON object, got {type(card).__name__}")
    if card.get("layout", "NCHW") != "NCHW":
        raise DataError(f"{beside}: layout must be NCHW, got {card['layout']!r}")
    return card


def _spec(card: Mapping[str, Any], path: Path) -> PreprocessSpec:
    try:
        return PreprocessSpec.from_json(card)
    except DataError as error:
        raise DataError(f"{card_path(path)}: {error}") from None


def _check_graph(data: bytes, path: Path) -> None:
    """A fingerprint of the file must cover the weights, and the service must take the network in a bundle."""
    try:
        check_graph(read_graph(data, str(path)), str(path))
    except BundleError as error:
        raise DataError(str(error)) from None


def _session(data: bytes, path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    try:
        return open_session(data, threads)
    except Exception as error:  # ONNX Runtime raises classes of its own that have no common base but this
        raise DataError(f"{path}: ONNX Runtime cannot open it: {error}") from None


def _end(ends: list[Any], card: Mapping[str, Any], role: str, path: Path) -> Any:
    """The graph's input or output that the JSON names, or the only one."""
    names = [end.name for end in ends]
    wanted = card.get(role, names[0] if len(names) == 1 else None)
    if wanted not in names:
        raise DataError(f"{card_path(path)}: {role} must be one of {names}, got {wanted!r}")
    if role == "input" and len(names) > 1:
        raise DataError(f"{path}: expected one input, the image batch; the graph has {names}")
    end = ends[names.index(wanted)]
    if end.type != "tensor(float)":
        raise DataError(f"{path}: {role} {wanted!r} must be float32, got {end.type}")
    return end


def _check_shape(actual: list[Any], expected: tuple[int | None, ...], what: str) -> None:
    """Compare a declared shape with the expected one; names and None stand for any length."""
    wanted = " x ".join("N" if n is None else str(n) for n in expected)
    fits = len(actual) == len(expected) and all(
        not isinstance(has, int) or (has == wants and wants is not None)
        for has, wants in zip(actual, expected, strict=True)
    )
    if not fits:
        found = " x ".join(str(n) for n in actual)
        raise DataError(f"{what} must be {wanted} with N of any length, got {found}")


def _try(backbone: Backbone, session: onnxruntime.InferenceSession) -> None:
    """Run a grey batch: declared shapes may be symbolic, results are not."""
    size = backbone.spec.size
    try:
        features = backbone.run(session, np.zeros((_PROBE, 3, size, size), dtype=np.float32))
    except Exception as error:  # as in _session
        raise DataError(f"{backbone.path}: it fails on a batch of {_PROBE} images: {error}") from None
    if features.shape != (_PROBE, backbone.feature_dim):
        raise DataError(
            f"{backbone.path}: expected {_PROBE} x {backbone.feature_dim} features of {_PROBE} images, "
            f"got {' x '.join(map(str, features.shape))}"
        )
    if not np.isfinite(features).all():
        raise DataError(f"{backbone.path}: the features of a grey image are not finite numbers")
