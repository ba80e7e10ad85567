"""What reads bytes of strangers, each as a function of bytes: it may refuse them by its own errors, and by no others.

A target holds more than that nothing crashes: what is taken must have the form that is promised.
"""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from model.bundle import MANIFEST, SYNTHESIZER, TOKENIZER, TRUNK, Bundle, encoder_of, sha256_bytes
from model.errors import BundleError, D3GZSLError, ImageError, ImageTooLargeError, InvalidInputError
from model.guards.graphs import check_graph, read_graph
from model.guards.tokenizers import check_tokenizer
from model.images.cost import Cost
from model.manifest import Manifest, bundle_id
from model.outside.scales import TrainingScale
from service.classes.like import ClassesToBeLike
from service.classes.replay import Replay
from service.http.bodies.base64_files import decode_base64
from service.http.bodies.forms import boundary_of, parts_of
from service.http.bodies.strictjson import loads
from service.http.class_documents import read_class, read_words
from service.http.class_schemas import BatchDocument, PreviewDocument
from service.http.images import parse
from service.http.schemas import JsonImages, RollbackDocument
from service.http.v2.tensors import image_files, network_inputs, read_request
from service.inference.decoding import decode
from service.inference.graph import synthesizer_graph, trunk_graph
from service.registry.change import Change
from tests.fuzz.seeds import images
from tests.service import tiny
from tests.service.text_bundle import text_bundle

MOST_BYTES = 100_000
"""Longest input of every target: what is longer costs time and finds nothing else."""
_MOST_PIXELS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Target:
    """A function that takes any bytes, and inputs from which fuzzing begins.

    Attributes:
        run: raises only where something is wrong.
        seeds: makes inputs that are taken, or nearly so.
        words: that mutations put together, such as the marks of a format.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()


def _check_refusal(error: Exception) -> None:
    """What is refused is told in lines that can be written, one for each thing that is wrong, each with its place."""
    said = [str(error)]
    if isinstance(error, InvalidInputError):
        said = [error.message, *(problem.detail for problem in error.problems)]
        for problem in error.problems:  # which may hold any key of the document
            assert problem.pointer == "" or problem.pointer.startswith("/")
            problem.pointer.encode()
    for line in said:
        assert line
        assert "\n" not in line
        line.encode()


# --- images -----------------------------------------------------------------------------------------------------------


def read_image_file(data: bytes) -> None:
    """A file is decoded as in a thread of the service; what is not quick by its header is left out."""

    def check(cost: Cost) -> None:
        if not cost.quick:
            raise ImageTooLargeError("this is decoded in a process of its own, with limits")

    try:
        decoded = decode(data, tiny.SPEC, max_bytes=MOST_BYTES, max_pixels=_MOST_PIXELS, check=check)
    except ImageError as error:
        _check_refusal(error)
        return
    assert decoded.image.shape == (3, tiny.S, tiny.S)
    assert decoded.image.dtype == np.float32
    assert np.isfinite(decoded.image).all()
    assert 0 < decoded.width * decoded.height <= _MOST_PIXELS


# --- JSON -------------------------------------------------------------------------------------------------------------

_DOCUMENTS = (JsonImages, BatchDocument, PreviewDocument, RollbackDocument)


@cache
def _bundle() -> Bundle:
    return Bundle.load(_sealed_bundle())


class _EmptyLog:
    """A registry in which nothing was changed."""

    def loading(self) -> nullcontext[tuple[int, list[Change]]]:
        return nullcontext((0, []))


@cache
def _others() -> ClassesToBeLike:
    return ClassesToBeLike(Replay(_bundle()).load(_EmptyLog()))  # type: ignore[arg-type]


def read_json_body(data: bytes) -> None:
    """The first byte chooses what the rest is read as: a class, words, or one of the documents."""
    if not data:
        return
    try:
        value = loads(data[1:])
    except D3GZSLError:
        return
    written = json.dumps(value, allow_nan=False).encode()
    assert json.loads(written) == value
    json.dumps(value, ensure_ascii=False).encode()
    choice = data[0] % (2 + len(_DOCUMENTS))
    try:
        if choice == 0:
            described = read_class(
                value, _bundle().manifest.vocabulary, scale=TrainingScale([(1.0, 0.0, 0.0)]), others=_others()
            )
            assert described.entry.attributes is not None
            assert np.isfinite(described.entry.attributes).all()
        elif choice == 1:
            read_words(value)
        else:
            read = parse(_DOCUMENTS[choice - 2], value, "it is not valid")
            if isinstance(read, JsonImages):
                for image in read.images:
                    _read_base64(image.data)
    except D3GZSLError as error:
        _check_refusal(error)


def _read_base64(text: str) -> None:
    try:
        decode_base64(text)
    except ValueError as error:
        _check_refusal(error)


def _json_bodies() -> list[bytes]:
    described = {"name": "Violet", "attributes": [0.9, 0, 0.9], "metadata": {"a": [1, None, True, "ü"]}}
    named = {"id": "v", "name": "V", "attributes": {"red": 0.5}, "like": "bluish", "description": "x"}
    files = [{"id": "1", "data": "data:image/png;base64,iVBORw0KGgo="}, {"data": "_-8"}]
    values = [
        (0, described),
        (0, named),
        (1, {"name": "x", "description": "y", "metadata": {}}),
        (2, {"images": files}),
        (3, {"mode": "upsert", "classes": [described, named]}),
        (4, {**named, "images": files, "examples": files}),
        (5, {"version": 3}),
        (0, [1e308, -1e-308, 2**63, "\ud7ff", {}]),
    ]
    return [bytes([choice]) + json.dumps(value).encode() for choice, value in values]


# --- forms ------------------------------------------------------------------------------------------------------------


def read_form(data: bytes) -> None:
    """The first line is the Content-Type, the rest the body."""
    kind, _, body = data.partition(b"\n")
    try:
        boundary = boundary_of(kind.decode("latin-1"))
        parts = parts_of(body, boundary)
    except D3GZSLError as error:
        _check_refusal(error)
        return
    assert sum(len(part.data) for part in parts) <= len(body)
    assert b"--" + boundary + b"--" in body
    for part in parts:
        assert part.data in body
        assert isinstance(part.name, str)


def _forms() -> list[bytes]:
    head = b"multipart/form-data; boundary=b\n"
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    word = b'--b\r\nContent-Disposition: form-data; name="class"\r\n\r\n{"name": "x"}\r\n'
    return [
        head + part + b"\x89PNG\r\n" + b"--b--\r\n",
        head + b"preamble\r\n" + word + part + b"\r\n--b--\r\nepilogue",
        head + part.replace(b'"a.png"', b"a.png; filename*=UTF-8''%e2%82%ac.png") + b"x\r\n--b  \r\n--b--",
        head + part.replace(b"a.png", b"=?utf-8?q?=C3=A4?=") + b"x\r\n--b--",
        b'multipart/form-data; charset=utf-8; boundary="a b"\n--a b\r\ncontent-disposition: form-data;name=x\r\n\r\n1'
        b"\r\n--a b--",
    ]


# --- tensors ----------------------------------------------------------------------------------------------------------


def read_tensors(data: bytes) -> None:
    """The first line is the header with the length of the JSON, none where it is empty; the rest is the body."""
    header, _, body = data.partition(b"\n")
    try:
        received = read_request(body, header.decode("latin-1") or None, max_values=10_000)
        (tensor,) = received.request.inputs
        if tensor.name == "pixels":
            numbers = network_inputs(tensor, received.raw, size=2)
            assert numbers.shape == tuple(tensor.shape)
            assert numbers.dtype == np.float32
            assert np.isfinite(numbers).all()
        else:
            files = image_files(tensor, received.raw)
            assert len(files) == tensor.shape[0]
            assert sum(map(len, files)) <= len(body)
    except D3GZSLError as error:
        _check_refusal(error)


def _tensors() -> list[bytes]:
    numbers = np.arange(12, dtype="<f4").tobytes()
    files = b"".join(len(file).to_bytes(4, "little") + file for file in (b"abc", b"", b"d"))

    def request(name: str, datatype: str, shape: list[int], raw: bytes | None, data: object = None) -> bytes:
        tensor: dict[str, object] = {"name": name, "datatype": datatype, "shape": shape}
        tensor |= {"data": data} if raw is None else {"parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"id": "1", "inputs": [tensor], "outputs": [{"name": "label"}]}).encode()
        return (b"" if raw is None else str(len(head)).encode()) + b"\n" + head + (raw or b"")

    return [
        request("pixels", "FP32", [1, 3, 2, 2], numbers),
        request("pixels", "FP32", [1, 3, 2, 2], None, [[[[0, 1], [2, 3.5]]] * 3]),
        request("pixels", "FP32", [1, 3, 2, 2], None, list(range(12))),
        request("image_bytes", "BYTES", [3], files),
        request("image_bytes", "BYTES", [2, 1], None, [["YWJj"], ["ZA=="]]),
    ]


# --- bundles ----------------------------------------------------------------------------------------------------------


@cache
def _sealed_bundle() -> Path:
    """A bundle with a text encoder, which the target changes and mends."""
    folder = Path(tempfile.mkdtemp(prefix="d3gzsl-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return text_bundle(folder / "bundle")


@cache
def _whole_files() -> dict[str, bytes]:
    bundle = _sealed_bundle()
    files = [file for file in sorted(bundle.rglob("*")) if file.is_file()]
    return {str(file.relative_to(bundle)): file.read_bytes() for file in files}


def load_bundle_files(data: bytes) -> None:
    """The first byte chooses a file of a bundle, the rest is put in its place, with the hashes that then fit."""
    if not data:
        return
    names = list(_whole_files())
    name, content = names[data[0] % len(names)], data[1:]
    bundle = _sealed_bundle()
    try:
        (bundle / name).write_bytes(content)
        if name != MANIFEST:
            _seal(bundle, name, content)
        _load(bundle)
    finally:
        (bundle / name).write_bytes(_whole_files()[name])
        (bundle / MANIFEST).write_bytes(_whole_files()[MANIFEST])


def _load(path: Path) -> None:
    try:
        bundle = Bundle.load(path)
        assert np.isfinite(bundle.weight).all()
        assert bundle.weight.shape == (len(bundle.manifest.classes), bundle.manifest.head.dimension)
        for graph in (*(trunk_graph(bundle, which) for which in bundle.precisions), synthesizer_graph(bundle)):
            inputs = {key: (2, *shape) for key, shape in graph.inputs.items()}
            check_graph(read_graph(graph.file.read_bytes(), graph.file.name), graph.file.name, inputs=inputs)
        if (path / TOKENIZER).exists():
            check_tokenizer((path / TOKENIZER).read_bytes(), TOKENIZER)
    except BundleError as error:
        _check_refusal(error)


def _seal(bundle: Path, name: str, content: bytes) -> None:
    """Bring hash and id in line with one changed file, as whoever changed it would."""
    fields = json.loads(_whole_files()[MANIFEST])
    fields["files"][name] = sha256_bytes(content)
    manifest = Manifest.from_json(fields)
    fields["bundle_id"] = bundle_id(
        manifest.files[TRUNK],
        manifest.files[SYNTHESIZER],
        manifest.vocabulary,
        manifest.head,
        encoder=encoder_of(manifest),
    )
    (bundle / MANIFEST).write_text(json.dumps(fields))


def _bundle_files() -> list[bytes]:
    return [bytes([place]) + content for place, content in enumerate(_whole_files().values())]


TARGETS = {
    "images": Target(
        run=read_image_file,
        seeds=images,
        words=(
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"IHDR",
            b"tEXt",
            b"RIFF",
            b"WEBPVP8X",
            b"II*\0",
            b"P5\n",
            b"GIF89a",
        ),
    ),
    "json": Target(
        run=read_json_body, seeds=_json_bodies, words=(b'"attributes"', b'"data"', b"1e999", b"\\ud800", b"[")
    ),
    "forms": Target(
        run=read_form,
        seeds=_forms,
        words=(b"\r\n--b", b"--b--\r\n", b"filename*=", b"=?utf-8?b?", b'name="', b"\r\n\r\n"),
    ),
    "tensors": Target(
        run=read_tensors,
        seeds=_tensors,
        words=(b"binary_data_size", b'"shape"', b'"BYTES"', b"\0\0\0\0", b"\xff\xff\xff\xff"),
    ),
    "bundles": Target(
        run=load_bundle_files, seeds=_bundle_files, words=(b"\x93NUMPY", b"PK\x03\x04", b"PK\x01\x02", b"null")
    ),
}


def mutated(data: bytes, chance: random.Random, words: tuple[bytes, ...]) -> bytes:
    """An input with a few random changes: bytes, words, cuts, repetitions."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(6)
        if kind == 0 and place < len(changed):
            changed[place] = chance.randrange(256)
        elif kind == 1:
            changed[place:place] = chance.choice(words)
        elif kind == 2:
            del changed[place : place + chance.randint(1, 40)]
        elif kind == 3:
            changed[place:place] = changed[place : place + chance.randint(1, 200)]
        elif kind == 4 and place < len(changed):
            changed[place] ^= 1 << chance.randrange(8)
        else:
            changed[place : place + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
    return bytes(changed[:MOST_BYTES])
