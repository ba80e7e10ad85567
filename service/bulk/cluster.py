"""The parts of a run over Ray Data: each of its workers takes whole parts, on whatever machine it runs.

All machines need this program, and the image folder, the bundle and the result's folder under the same paths.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.bundle import Bundle
from model.errors import MissingDependencyError
from service.bulk.classifier import Classifier
from service.bulk.job import Job, read_class_table
from service.bulk.results import write_part
from service.inference.engine import OnnxEngine


class _PartClassifier:
    """Classifies parts; Ray makes one for each place in the cluster."""

    def __init__(self, job: Job, bundle: Path, batch: int) -> None:
        loaded = Bundle.load(bundle)
        engine = OnnxEngine(loaded, threads=1, batch_size=batch, precision=job.precision)
        self._job = job
        self._classifier = Classifier(loaded, engine, read_class_table(job.folder), job.asked, batch=batch, workers=1)

    def __call__(self, numbers: dict[str, Any]) -> dict[str, Any]:
        for number in numbers["part"].tolist():
            rows = [row for some in self._classifier.rows(self._job.paths(number)) for row in some]
            write_part(self._job.part(number), rows)
        return numbers


def run_parts_on_cluster(
    job: Job,
    bundle: Bundle,
    parts: list[int],
    *,
    workers: int | None,
    batch: int,
    on_files: Callable[[int], None] = lambda _count: None,
) -> None:
    """Classify the files of some parts on the cluster at RAY_ADDRESS, or on one of this machine.

    Args:
        job: the run.
        bundle: the model.
        parts: their numbers.
        workers: how many at once, each on one CPU; as many as the cluster has CPUs where it is None.
        batch: most images the model sees at once.
        on_files: called with a number of files when these have been classified.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("--engine ray needs Ray", "ray") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # A cluster that is there has its size; one that is made here gets it.
    cpus = None if "RAY_ADDRESS" in os.environ else workers
    ray.init(num_cpus=cpus, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        places = workers or max(1, int(ray.cluster_resources()["CPU"]))
        done = (
            ray.data.from_items([{"part": number} for number in parts], override_num_blocks=len(parts))
            .map_batches(
                _PartClassifier,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(places, len(parts))),
                num_cpus=1,
                fn_constructor_args=(job, bundle.path.resolve(), batch),
            )
            .iter_rows()
        )
        for row in done:
            on_files(job.length(int(row["part"])))
    finally:
        ray.shutdown()
