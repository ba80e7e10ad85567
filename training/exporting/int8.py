"""A backbone in int8: weights per channel, activations by the ranges that real images give them.

N: images of a batch, S: input side, D: features.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from model.errors import DataError, Problem
from model.head import Float32
from model.outside.threads import available_cpus
from model.preprocess import PreprocessSpec
from training.features.backbone import card_path, load_backbone
from training.features.extraction import DecodedBatch, decoded_batches, image_file
from training.features.own_photos import shown
from training.features.store import FeatureStore, ImageRecord
from training.onnx_files import load_graph, open_session
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


# What has weights, and what lies between two of them, so that a tensor stays in int8 on its way. The pooling behind the
# last of them is left out: the features would otherwise be rounded to 256 values.
WEIGHTED = ("Conv", "Gemm", "MatMul")
OPERATORS = (*WEIGHTED, "Add", "Clip", "Concat", "MaxPool", "Relu")


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, name: str, batches: Iterable[Float32]) -> None:
        self._name, self._batches = name, iter(batches)

    def get_next(self) -> dict[str, Float32] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def quantise(backbone: Path, images: Callable[[], Iterable[Float32]], out: Path) -> Path:
    """Write a backbone in int8, with its JSON beside it.

    Weights are signed and have a scale for each output channel, activations are unsigned and have one for each tensor.
    Weights keep to 7 bits: without VNNI a CPU adds two products of 8 bits in 16, which overflow. What rounding moves
    the mean features by is subtracted at the end (bias correction: Nagel et al., ICCV 2019, arXiv 1906.04721).

    Args:
        backbone: the ONNX file, its JSON beside it.
        images: gives batches of preprocessed images that show which values occur, float32 [N, 3, S, S]; called twice.
        out: the file to write.

    Returns:
        `out`.

    Raises:
        DataError: the graph has nothing to quantise.
    """
    source = load_backbone(backbone)
    exact, total = source.session(), np.zeros(source.feature_dim)

    def with_exact_sum() -> Iterator[Float32]:
        for batch in images():
            total[:] += source.run(exact, batch).sum(axis=0, dtype=np.float64)
            yield batch

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        onnx.save_model(load_graph(backbone), plain)
        # Batch norms are folded into convolutions first: apart, each would be rounded for itself.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        kinds = {node.op_type for node in onnx.load(prepared).graph.node}
        if not kinds & set(WEIGHTED):
            raise DataError(f"{backbone}: expected {', '.join(WEIGHTED)} to quantise, found {', '.join(sorted(kinds))}")
        quantize_static(
            prepared,
            out,
            _Batches(source.input, with_exact_sum()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    model = onnx.load(out)
    rounded, count = np.zeros(source.feature_dim), 0
    session = open_session(model.SerializeToString())
    for batch in images():
        rounded += source.run(session, batch).sum(axis=0, dtype=np.float64)
        count += len(batch)
    _subtract(model, source.output, ((rounded - total) / count).astype(np.float32))
    onnx.save_model(model, out)
    shutil.copyfile(card_path(backbone), card_path(out))
    return out


def _subtract(model: onnx.ModelProto, output: str, shift_D: Float32) -> None:
    """Put a subtraction before an output of a graph."""
    graph, before, amount = model.graph, f"{output}_rounded", f"{output}_shift"
    for node in graph.node:
        node.input[:] = [before if name == output else name for name in node.input]
        node.output[:] = [before if name == output else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(shift_D, amount))
    graph.node.append(helper.make_node("Sub", [before, amount], [output], name=f"{output}_correction"))


def even_rows(labels: Iterable[int], count: int) -> Iterator[int]:
    """Up to `count` rows in rounds that take one of each class, so that no class decides the ranges alone."""
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(label, []).append(row)
    rounds = max(map(len, by_class.values()), default=0)
    rows = (group[turn] for turn in range(rounds) for group in by_class.values() if turn < len(group))
    for _, row in zip(range(count), rows, strict=False):
        yield row
