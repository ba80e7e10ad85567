"""Bundles made to harm whoever loads them: the tiny bundle with one thing changed and every hash right."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model.bundle import encoder_of
from model.manifest import Manifest, bundle_id
from tests.service import tiny

Change = Callable[[Path], object]


def seal(bundle: Path, *, listed: bool = True) -> None:
    """Bring the hashes and the id of a bundle in line with its files, as whoever changed them would."""
    fields = json.loads((bundle / "manifest.json").read_bytes())
    if listed:
        for name in fields["files"]:
            fields["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    manifest = Manifest.from_json(fields)
    fields["bundle_id"] = bundle_id(
        manifest.files["trunk.onnx"],
        manifest.files["synthesizer.onnx"],
        manifest.vocabulary,
        manifest.head,
        encoder=encoder_of(manifest),
        trunk_int8_sha256=manifest.files.get("trunk_int8.onnx"),
    )
    (bundle / "manifest.json").write_text(json.dumps(fields))


def with_trunk(change: Callable[[onnx.ModelProto], object]) -> Change:
    """A change of the trunk's graph."""

    def changed(bundle: Path) -> None:
        model = onnx.load(bundle / "trunk.onnx", load_external_data=False)
        change(model)
        (bundle / "trunk.onnx").write_bytes(model.SerializeToString())
        seal(bundle)

    return changed


def after_features(*nodes: Any, weights: dict[str, np.ndarray[Any, Any]] | None = None) -> Change:
    """The trunk with nodes that make `extra`, of which a zero is added to the embedding."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        product = next(node for node in graph.node if node.op_type == "MatMul")
        product.output[0] = "plain"
        place = list(graph.node).index(product) + 1
        rest = list(graph.node)[place:]
        del graph.node[place:]
        graph.node.extend(nodes)
        graph.node.append(helper.make_node("ReduceMax", ["extra"], ["largest"], keepdims=0))
        graph.node.append(helper.make_node("Sub", ["largest", "largest"], ["nothing"]))
        graph.node.append(helper.make_node("Add", ["plain", "nothing"], ["embedding"]))
        graph.node.extend(rest)
        for name, array in (weights or {}).items():
            graph.initializer.append(numpy_helper.from_array(array, name))

    return with_trunk(change)


def outside(model: onnx.ModelProto) -> TensorProto:
    """A weight of the trunk, moved into a file beside it."""
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "W_DZ"]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    return weight


def external(bundle: Path) -> None:
    with_trunk(outside)(bundle)
    (bundle / "weights.bin").write_bytes(tiny.W_DZ.tobytes())


def external_and_listed(bundle: Path) -> None:
    external(bundle)
    fields = json.loads((bundle / "manifest.json").read_bytes())
    fields["files"]["weights.bin"] = hashlib.sha256((bundle / "weights.bin").read_bytes()).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(fields))
    seal(bundle)


def external_constant(model: onnx.ModelProto) -> None:
    weight = outside(model)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["W_DZ"], value=weight))
    model.graph.initializer.remove(weight)


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    model.graph.node[4].output[0] = "plain"
    model.graph.node.insert(5, helper.make_node("Loop", ["", "true", "plain"], ["embedding"], body=body))


def contributed(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[4].output[0] = "plain"
    model.graph.node.insert(5, helper.make_node("Gelu", ["plain"], ["embedding"], domain="com.microsoft"))


def function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("ours", "F", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))


def hollow(model: onnx.ModelProto) -> None:
    """A weight of 40 GB by its shape, of which nothing is stored."""
    model.graph.initializer.append(TensorProto(name="hollow", data_type=TensorProto.FLOAT, dims=[100_000, 100_000]))


def many_nodes(bundle: Path) -> None:
    """A file of 16 MB that says: eight million nodes, each of them empty."""
    graph = b"\x0a\x00" * 8_000_000
    size, length = len(graph), b""
    while True:
        size, part = size >> 7, size & 0x7F
        length += bytes([part | (0x80 if size else 0)])
        if not size:
            break
    (bundle / "trunk.onnx").write_bytes(b"\x08\x09\x3a" + length + graph)
    seal(bundle)


def bomb(bundle: Path) -> None:
    """An array file that inflates to 230 times its size, with a header that is right."""
    stream = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3, 4)})
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("weight.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(64):
                member.write(bytes(2**20))
        for name, shape in (("bias", 3), ("novelty_reference", 3)):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.zeros(shape, np.float32))
            archive.writestr(f"{name}.npy", data.getvalue())
    (bundle / "head.npz").write_bytes(stream.getvalue())
    seal(bundle)


def manifest(data: Callable[[bytes], bytes]) -> Change:
    """A change of the manifest's bytes."""
    return lambda bundle: (bundle / "manifest.json").write_bytes(data((bundle / "manifest.json").read_bytes()))


def not_finite(bundle: Path) -> None:
    arrays = {"weight": np.full((3, 4), np.nan, np.float32), "bias": np.zeros(3, np.float32)}
    stream = io.BytesIO()
    np.savez(stream, **arrays, novelty_reference=np.zeros(3, np.float32))
    (bundle / "head.npz").write_bytes(stream.getvalue())
    seal(bundle)


def overflowing(bundle: Path) -> None:
    """Rows of finite numbers that give no finite score."""
    arrays = {"weight": np.full((3, 4), 3e38, np.float32), "bias": np.zeros(3, np.float32)}
    stream = io.BytesIO()
    np.savez(stream, **arrays, novelty_reference=np.zeros(3, np.float32))
    (bundle / "head.npz").write_bytes(stream.getvalue())
    seal(bundle)


def linked(bundle: Path) -> None:
    (bundle / "examples" / "host").symlink_to("/etc/hostname")


def linked_inside(bundle: Path) -> None:
    (bundle / "trunk.onnx").rename(bundle / "examples" / "t.onnx")
    (bundle / "trunk.onnx").symlink_to("examples/t.onnx")


def listed_as(name: str) -> Change:
    def change(bundle: Path) -> None:
        fields = json.loads((bundle / "manifest.json").read_bytes())
        fields["files"][name] = "0" * 64
        (bundle / "manifest.json").write_text(json.dumps(fields))

    return change


def huge(bundle: Path) -> None:
    with (bundle / "examples" / "red.png").open("r+b") as stream:
        stream.truncate(2**40)  # a hole: it takes no place on disk


ROW = np.ones((1, 60_000), np.float32)
KINDS: dict[str, tuple[Change, str]] = {
    "a weight in a file that is not listed": (external, "weights.bin"),
    "a weight in a file that is listed": (external_and_listed, "lies in another file"),
    "a constant in another file": (with_trunk(external_constant), "lies in another file"),
    "a loop without end": (with_trunk(loop), "operator Loop is not allowed"),
    "a contributed operator": (with_trunk(contributed), "operator com.microsoft.Gelu is not allowed"),
    "a function": (with_trunk(function), "functions"),
    "a weight without numbers": (with_trunk(hollow), "10000000000 elements by its shape"),
    "eight million nodes": (many_nodes, "trunk.onnx"),
    "10 GB of zeros": (
        after_features(
            helper.make_node("ConstantOfShape", ["size"], ["extra"]), weights={"size": np.array([2_500_000_000])}
        ),
        "10000000000 bytes",
    ),
    "14 GB by broadcasting": (
        after_features(
            helper.make_node("Transpose", ["row"], ["column"]),
            helper.make_node("Mul", ["row", "column"], ["extra"]),
            weights={"row": ROW},
        ),
        "14400000000 bytes",
    ),
    "a size that the image decides": (
        after_features(
            helper.make_node("ReduceMax", ["features"], ["bright"], keepdims=0),
            helper.make_node("Exp", ["bright"], ["much"]),
            helper.make_node("Cast", ["much"], ["size"], to=TensorProto.INT64),
            helper.make_node("Reshape", ["size", "last"], ["sizes"]),
            helper.make_node("ConstantOfShape", ["sizes"], ["extra"]),
        ),
        "depends on the image",
    ),
    "hours of multiplication": (
        after_features(
            helper.make_node("ReduceMax", ["features"], ["bright"], keepdims=0),  # else it would be folded at once
            helper.make_node("Mul", ["square", "bright"], ["m0"]),
            *[helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(4000)],
            helper.make_node("Identity", ["m4000"], ["extra"]),
            weights={"square": np.zeros((1024, 1024), np.float32)},
        ),
        "seconds of CPU time",
    ),
    "arrays that inflate": (bomb, "compressed"),
    "arrays that are not finite": (not_finite, "not finite"),
    "a deep manifest": (manifest(lambda _: b"[" * 100_000 + b"]" * 100_000), "levels"),
    "a manifest of levels": (
        manifest(lambda data: data.replace(b'"training": {}', b'"training": {"a": %s}' % (b"[" * 200 + b"]" * 200))),
        "levels",
    ),
    "a huge manifest": (manifest(lambda data: data + b" " * 40_000_000), "bytes"),
    "a manifest that is not finite": (manifest(lambda data: data.replace(b'"H": 0.5', b'"H": 1e999')), "not finite"),
    "a manifest of half characters": (manifest(lambda data: data.replace(b"tiny.onnx", b"\\ud800")), "surrogates"),
    "a link": (linked, "symbolic link"),
    "a link inside": (linked_inside, "symbolic link"),
    "a pipe": (lambda bundle: os.mkfifo(bundle / "examples" / "pipe"), "pipe"),
    "an escape": (listed_as("examples/../../secret"), "outside the bundle"),
    "a name with a zero": (listed_as("a\0b"), "outside the bundle"),
    "a file that is not listed": (lambda bundle: (bundle / "notes.txt").write_text("x"), "not listed"),
    "an image of a terabyte": (huge, "at most 20000000 are allowed"),
}
"""What is wrong, with how it is done and words of the answer."""
