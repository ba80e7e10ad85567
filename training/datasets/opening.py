"""DATA on the command line, and the data set behind a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.errors import DataError
from training.datasets.benchmark import FEATURES, SPLITS, is_benchmark, load_benchmark
from training.datasets.dataset import Dataset, from_store
from training.features.store import FeatureStore, is_store


def open_data(
    data: Path, *, test_fraction: float = 0.3, split_seed: int = 0, splits: str | None = None
) -> tuple[Dataset, dict[str, Any]]:
    """The data set at a path, and the JSON from which :func:`reopen` builds it again.

    Args:
        data: a benchmark folder, or features of one's own images.
        test_fraction: of one's own images, see :func:`training.datasets.dataset.from_store`; a benchmark has
            its own split.
        split_seed: the same.
        splits: of a benchmark folder, see :func:`training.datasets.benchmark.load_benchmark`.

    Raises:
        DataError: the path holds no data set; says what would be one.

    Example:
        >>> from training import open_data
        >>> dataset, described = open_data(FEATURES, test_fraction=0.25)
        >>> len(dataset.trainval), len(dataset.test), described["kind"]
        (36, 28, 'features')
    """
    if is_benchmark(data):
        dataset = load_benchmark(data, splits=splits)
        return dataset, {"kind": "benchmark", "path": str(data.resolve()), "splits": dataset.split["splits"]}
    if not is_store(data):
        what = "no such folder" if not data.is_dir() else "a folder without features"
        raise DataError(
            f"DATA {data}: expected a benchmark folder ({FEATURES} and {' or '.join(SPLITS.values())}) or features "
            f"made by `d3gzsl-train extract`, found {what}; run `d3gzsl-train fetch NAME` or `d3gzsl-train extract "
            "IMAGES_DIR --backbone FILE.onnx --out FEATURES` first"
        )
    if splits is not None:
        raise DataError(f"DATA {data}: expected a benchmark folder with the splits {splits!r}, found features")
    dataset = from_store(FeatureStore.load(data), test_fraction=test_fraction, split_seed=split_seed)
    described = {
        "kind": "features",
        "path": str(data.resolve()),
        "test_fraction": test_fraction,
        "split_seed": split_seed,
    }
    return dataset, described


def reopen(described: Mapping[str, Any], *, moved_to: Path | None = None) -> Dataset:
    """The data set that a run was trained on.

    Args:
        described: what :func:`open_data` gave, as the run keeps it in `Trained.data`.
        moved_to: where the data are now, if they were moved.

    Raises:
        DataError: the data are gone or have changed since.
    """
    of_benchmark = described.get("kind") == "benchmark"
    needed = ("path", "splits") if of_benchmark else ("path", "test_fraction", "split_seed")
    lacking = [name for name in (*needed, "data_hash") if name not in described]
    if lacking:
        raise DataError(f"the run does not say how to build its data set again: data lacks {', '.join(lacking)}")
    path = moved_to or Path(described["path"])
    if of_benchmark:
        dataset = load_benchmark(path, splits=described["splits"])
    else:
        dataset, _ = open_data(path, test_fraction=described["test_fraction"], split_seed=described["split_seed"])
    if dataset.data_hash != described["data_hash"]:
        raise DataError(
            f"{path}: the data have changed since the run: expected data hash {described['data_hash']}, "
            f"got {dataset.data_hash}"
        )
    return dataset
