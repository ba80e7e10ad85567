"""The parts of a run one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable

from model.bundle import Bundle
from service.bulk.classes import read_classes
from service.bulk.classifier import Classifier
from service.bulk.job import Job
from service.bulk.results import write_part
from service.inference.engine import OnnxEngine


def run_parts(
    job: Job,
    bundle: Bundle,
    parts: list[int],
    *,
    threads: int,
    workers: int,
    batch: int,
    on_files: Callable[[int], None] = lambda _count: None,
) -> None:
    """Classify the files of some parts and write each part when it is done.

    Args:
        job: the run.
        bundle: the model.
        parts: their numbers.
        threads: of the model.
        workers: threads that decode.
        batch: most images the model sees at once.
        on_files: called with a number of files when these have been classified.
    """
    engine = OnnxEngine(bundle, threads=threads, batch_size=batch)
    classifier = Classifier(bundle, engine, read_classes(job.folder), job.asked, batch=batch, workers=workers)
    try:
        for number in parts:
            rows = []
            for some in classifier.rows(job.paths(number)):
                rows += some
                on_files(len(some))
            write_part(job.part(number), rows)
    finally:
        classifier.close()
