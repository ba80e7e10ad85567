"""A whole run: begun or taken up again, its parts done, and joined into the result."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from model.bundle import Bundle, Precision
from model.errors import DataError
from model.outside.threads import available_cpus
from service.bulk.classifier import Classifier
from service.bulk.cluster import run_parts_on_cluster
from service.bulk.job import PLAN, BulkRequest, Job, clear, locked, read_class_table
from service.bulk.results import count_statuses, join, summary_of, write_part
from service.classes.snapshot import Snapshot
from service.inference.engine import OnnxEngine, eligible_trunks, number_of_parts

OnProgress = Callable[[int, int], None]


def run_parts_here(
    job: Job,
    bundle: Bundle,
    parts: list[int],
    *,
    threads: int,
    workers: int,
    batch: int,
    on_files: Callable[[int], None] = lambda _count: None,
) -> None:
    """Classify the files of some parts in this process, and write each part when it is done.

    Args:
        job: the run.
        bundle: the model.
        parts: their numbers.
        threads: of the model.
        workers: threads that decode.
        batch: most images the model sees at once.
        on_files: called with a number of files when these have been classified.
    """
    count = number_of_parts("auto", threads=threads, batch_size=batch, provider="cpu")
    engine = OnnxEngine(bundle, threads=threads, batch_size=batch, precision=job.precision, parts=count)
    classes = read_class_table(job.folder)
    classifier = Classifier(bundle, engine, classes, job.asked, batch=batch, workers=workers, parts=engine.parts)
    try:
        for number in parts:
            rows = []
            for some in classifier.rows(job.paths(number)):
                rows += some
                on_files(len(some))
            write_part(job.part(number), rows)
    finally:
        classifier.close()


def _precision(bundle: Bundle, asked: BulkRequest, *, threads: int) -> Precision:
    """The trunk that a run uses; where two are tried, that is done once, so that all parts have the same."""
    if len(trunks := eligible_trunks(bundle, asked.precision)) == 1:
        return trunks[0]
    return OnnxEngine(bundle, threads=threads, precision=asked.precision).precision


@dataclass(frozen=True, kw_only=True)
class BulkResult:
    """What a run has come to.

    Attributes:
        files: rows of the result.
        ok: images that were classified.
        errors: files that could not be.
        already: files that an earlier command had done.
        registry_version: of the class table.
    """

    files: int
    ok: int
    errors: int
    already: int
    registry_version: int


def partial_folder(out: Path) -> Path:
    """Where the unfinished work of a result lies."""
    return out.with_name(f"{out.name}.partial")


def run_job(
    asked: BulkRequest,
    bundle: Bundle,
    classes: Callable[[], Snapshot],
    out: Path,
    *,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    batch: int = 16,
    resume: bool = False,
    overwrite: bool = False,
    progress: OnProgress = lambda _done, _total: None,
) -> BulkResult:
    """Classify every file below a folder into a Parquet file.

    Args:
        asked: what is asked.
        bundle: the model.
        classes: gives the class table; called where a run begins.
        out: the file to write.
        engine: this process, or a Ray cluster.
        workers: threads that decode, or processes in the cluster; by default one per CPU.
        batch: most images the model sees at once.
        resume: go on with an unfinished run; begin one where there is none.
        overwrite: forget an unfinished run and replace `out`.
        progress: called with files done and files in all.

    Raises:
        DataError: there is a result or an unfinished run, the folder cannot be read, or the run was begun otherwise.
        MissingDependencyError: Ray is not installed.
    """
    folder = partial_folder(out)
    if resume and overwrite:
        raise DataError("--resume goes on with a run and --overwrite begins it anew: give one of them")
    if out.exists() and not overwrite:
        found = summary_of(out) if out.is_file() else None
        if not resume or found is None or {name: found.get(name) for name in asdict(asked)} != asdict(asked):
            raise DataError(f"--out {out}: exists already; choose another place or give --overwrite")
        if not folder.exists():
            return _finished(found, count_statuses(out), already=found["files"])
    with locked(folder):
        begun = (folder / PLAN).exists()
        if begun and not (resume or overwrite):
            raise DataError(f"{folder}: an unfinished run; go on with --resume, or begin anew with --overwrite")
        if begun and resume:
            job = Job.resume(folder, asked)
        else:
            clear(folder)
            try:
                precision = _precision(bundle, asked, threads=1 if engine == "ray" else available_cpus())
                job = Job.begin(folder, asked, classes(), precision=precision, out=out)
            except BaseException:
                shutil.rmtree(folder)
                raise
        parts = job.missing()
        already = job.files - sum(map(job.length, parts))
        done = already
        progress(done, job.files)

        def on_files(count: int) -> None:
            nonlocal done
            done += count
            progress(done, job.files)

        if parts and engine == "ray":
            run_parts_on_cluster(job, bundle, parts, workers=workers, batch=batch, on_files=on_files)
        elif parts:
            cpus = available_cpus()
            run_parts_here(job, bundle, parts, threads=cpus, workers=workers or cpus, batch=batch, on_files=on_files)
        counts = join(job, out)
    shutil.rmtree(folder)
    return _finished(job.summary(), counts, already=already)


def _finished(summary: Mapping[str, Any], counts: Mapping[str, int], *, already: int) -> BulkResult:
    return BulkResult(
        files=summary["files"],
        ok=counts["ok"],
        errors=counts["error"],
        already=already,
        registry_version=summary["registry_version"],
    )
