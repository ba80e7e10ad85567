"""`d3gzsl classify`: the same answers from a running service or from a bundle on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model.errors import D3GZSLError, DataError
from model.outside.folders import is_left_behind, printable
from service.commands.classify_folder import Registry, classes_of, folder_to_file
from service.commands.output import AsJson, Key, as_document, print_json, print_table

if TYPE_CHECKING:
    from service.classes.ranking import Scope

_BATCH = 16
_FOLDER = "a folder; its files are classified into a file with --out FILE.parquet"


def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files, or with --out a folder.", show_default=False)],
    url: Annotated[str | None, typer.Option(help="Address of a running service.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle directory; the embedded demo bundle where neither is given.")
    ] = None,
    key: Key = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Most classes per image.")] = 5,
    scope: Annotated[Literal["all", "seen", "unseen"], typer.Option(help="Which classes take part.")] = "all",
    data_dir: Annotated[
        Path | None, typer.Option(help="Directory of a registry, whose classes take part; else only the bundle's do.")
    ] = None,
    database_url: Annotated[str | None, typer.Option(help="Database of a registry, likewise.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="Classify all files of a folder into this file.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="With --out: this process, or Ray Data on a cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --out: decoding threads, or Ray workers; one per CPU by default.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="With --out: most images the model sees at once, 16 by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With --out: go on with an unfinished run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --out: begin anew, replace the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recognise what images show."""
    registry = (data_dir, database_url)
    if url is not None and (bundle is not None or registry != (None, None)):
        raise DataError("--url and --bundle, --data-dir, --database-url exclude each other: the service has its own")
    if out is not None:
        if url is not None:
            raise DataError("--url and --out exclude each other: a folder is classified on this machine or a cluster")
        how = {"engine": engine, "workers": workers, "batch": batch or _BATCH, "resume": resume, "overwrite": overwrite}
        folder_to_file(images, out, bundle, registry, top_k=top_k, scope=scope, as_json=as_json, **how)
        return
    if resume or overwrite or engine != "local" or workers is not None or batch is not None:
        raise DataError(
            "--engine, --workers, --batch, --resume and --overwrite are for folders: give --out FILE.parquet"
        )
    meant = [path for path in images if path.name.startswith(".") or not is_left_behind(path.name)]
    if url is not None:
        about, results = _remote(meant or images, url, key, top_k, scope)
    else:
        about, results = _here(meant or images, bundle, registry, top_k, scope)
    if as_json:
        print_json({**about, "results": results})
    elif any("error" not in result for result in results):
        print_table(("image", "class", "kind", "probability", "novelty"), _rows(results))
    for result in results:
        for warning in result.get("warnings", ()):
            typer.echo(f"{result['id']}: {warning}", err=True)
    _refuse(results)


def _refuse(results: Sequence[dict[str, Any]]) -> None:
    """Raise a DataError that lists the images without an answer, if there are any."""
    failed = [result for result in results if "error" in result]
    if failed:
        lines = (f"{result['id']}: {result['error']['detail']}" for result in failed)
        raise DataError(f"{len(failed)} of {len(results)} images could not be read\n" + "\n".join(lines))


def _read_file(path: Path) -> bytes | str:
    """The bytes of a file, or why it cannot be read."""
    if path.is_dir():
        return _FOLDER
    try:
        return path.read_bytes()
    except OSError as error:
        return str(error.strerror)


def _unread(name: str, reason: str) -> dict[str, Any]:
    return {"id": name, "error": {"detail": reason}}


def _remote(
    paths: Sequence[Path], url: str, key: str | None, top_k: int, scope: Scope
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What a service says of itself with its first answer, and the results."""
    from service.client import Client

    files = [path for path in paths if not path.is_dir()]
    with Client(url, key=key) as client:
        answers = list(client.classify_files(files, batch=_BATCH, top_k=top_k, scope=scope))
    about = next((as_document(a.answer) for a in answers if a.answer is not None), {})
    found = iter(answers)
    results = [
        _unread(printable(str(path)), _FOLDER) if path.is_dir() else as_document(next(found).result) for path in paths
    ]
    return about, results


def _here(
    paths: Sequence[Path], bundle: Path | None, registry: Registry, top_k: int, scope: Scope
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same from a bundle on this machine."""
    read = [(printable(str(path)), _read_file(path)) for path in paths]
    files = [(name, found) for name, found in read if isinstance(found, bytes)]
    answers = list(_local(files, bundle, registry, top_k, scope)) if files else []
    answered = (result for answer in answers for result in answer["results"])
    results = [next(answered) if isinstance(found, bytes) else _unread(name, found) for name, found in read]
    return next(iter(answers), {}), results


def _local(
    files: Sequence[tuple[str, bytes]],
    path: Path | None,
    registry: Registry,
    top_k: int,
    scope: Scope,
) -> Iterator[dict[str, Any]]:
    """What a service on this bundle, with this registry or without registered classes, would answer."""
    import numpy as np

    from model.outside.threads import available_cpus
    from model.preprocess import DEFAULT_MAX_PIXELS
    from service.classes.ranking import RankOptions, chosen_rows, image_novelty, no_scores, rank
    from service.inference.decoding import decode
    from service.inference.engine import OnnxEngine
    from service.service import load_bundle

    bundle = load_bundle(path)
    engine = OnnxEngine(bundle, threads=available_cpus())
    snapshot, question = classes_of(bundle, registry), RankOptions(top_k=top_k, scope=scope)
    rows = chosen_rows(snapshot, question)
    for some in _batches(files):
        results: list[dict[str, Any]] = []
        inputs = []
        for name, data in some:
            try:
                decoded = decode(data, bundle.manifest.preprocess, max_bytes=len(data), max_pixels=DEFAULT_MAX_PIXELS)
            except D3GZSLError as error:
                results.append(_unread(name, str(error)))
            else:
                inputs.append(decoded.image)
                warnings = {"warnings": list(decoded.warnings)} if decoded.warnings else {}
                results.append({"id": name, "width": decoded.width, "height": decoded.height, **warnings})
        readable = [result for result in results if "error" not in result]
        if readable:
            embedded = engine.embed(np.stack(inputs))
            ranked = rank(bundle, snapshot, rows, embedded.embedding, question)
            for i, (result, best) in enumerate(zip(readable, ranked, strict=True)):
                if not best:
                    result["error"] = {"detail": str(no_scores())}
                    continue
                result["novelty"] = image_novelty(bundle, float(embedded.teacher_score[i]))
                result["predictions"] = [
                    {
                        "class_id": one.entry.id,
                        "name": one.entry.name,
                        "kind": one.entry.kind,
                        "probability": one.probability,
                    }
                    for one in best
                ]
        yield {
            "bundle": bundle.manifest.bundle_id,
            "registry_version": snapshot.registry_version,
            "head": "exact",
            "results": results,
        }


def _batches(files: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    return (files[i : i + _BATCH] for i in range(0, len(files), _BATCH))


def _rows(results: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for result in results:
        if "error" in result:
            yield result["id"], "not read", "", "", ""
            continue
        for i, p in enumerate(result["predictions"]):
            novelty = "–" if result["novelty"] is None else f"{result['novelty']:.2f}"
            first = (result["id"], novelty) if i == 0 else ("", "")
            yield first[0], p["name"], p["kind"], f"{p['probability']:.3f}", first[1]
