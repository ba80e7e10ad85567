"""`d3gzsl registry`: take a registry over with another bundle, back it up, restore it, check it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.commands.output import AsJson, print_json, print_line

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.classes import ClassEntry
    from model.head import Float32, Row
    from model.text.description import ClassText
    from service.registry.database import Database

app = typer.Typer(
    no_args_is_help=True, help="Look after the registry of classes, on the machine that has it or its database."
)

Item = TypeVar("Item")
_BundleDir = Annotated[
    Path | None, typer.Option(help="Bundle directory; the embedded demo bundle where it is not given. [D3GZSL_BUNDLE]")
]
_DataDir = Annotated[Path | None, typer.Option(help="Where the registry is kept. [D3GZSL_DATA_DIR]")]
_DatabaseUrl = Annotated[str | None, typer.Option(help="Database of the registry. [D3GZSL_DATABASE_URL]")]
_Backup = Annotated[Path, typer.Argument(help="The backup.", show_default=False)]


@app.command()
def adopt(
    bundle: _BundleDir = None, data_dir: _DataDir = None, database_url: _DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """Take a registry over with another bundle that has the same attributes: every class is synthesised anew.

    Stop the services of the former bundle first; they would keep their last classes and refuse changes.
    """
    from service.registry.adoption import adopt_registry

    with _database(bundle, data_dir, database_url) as database:
        loaded = _bundle(bundle)
        adopted = adopt_registry(
            database, loaded, _computing(loaded), describe=_describing(loaded), track=_progress("classes")
        )
    if as_json:
        print_json({**asdict(adopted), "bundle": loaded.manifest.bundle_id})
        return
    print_line(
        f"version {adopted.version}: {adopted.classes} classes registered with bundle {adopted.former} now belong to "
        f"{loaded.manifest.bundle_id}"
    )
    for class_id in adopted.superseded:
        print_line(f"left out, as the bundle has seen it in training: {class_id}")
    for class_id in adopted.without_photos:
        gone = "; left out until then, as it has no description" if class_id in adopted.left_out else ""
        print_line(f"needs new example photos, as another trunk embedded the former ones{gone}: {class_id}")


@app.command()
def backup(
    file: _Backup,
    bundle: _BundleDir = None,
    data_dir: _DataDir = None,
    database_url: _DatabaseUrl = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the whole registry with its history into one file; the service may go on running."""
    from service.registry.backup import write_backup

    with _database(bundle, data_dir, database_url) as database:
        head = write_backup(database, file, overwrite=overwrite)
    _print_head(f"{file} has", head, as_json)


@app.command()
def restore(
    file: _Backup,
    bundle: _BundleDir = None,
    data_dir: _DataDir = None,
    database_url: _DatabaseUrl = None,
    replace: Annotated[bool, typer.Option("--replace", help="Forget what the registry holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an empty registry what a backup says, in SQLite or PostgreSQL, whichever it came from."""
    from service.registry.backup import read_backup

    with _database(bundle, data_dir, database_url, new=True) as database:
        head = read_backup(database, file, replace=replace)
        name = database.name
    _print_head(f"{name} has", head, as_json)


@app.command()
def check(
    bundle: _BundleDir = None,
    data_dir: _DataDir = None,
    database_url: _DatabaseUrl = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest distance of a stored row from a fresh one, as a share of its length.")
    ] = 1e-3,
    as_json: AsJson = False,
) -> None:
    """Check every number and digest of the log, replay it, synthesise every class anew; status 1 if not all is well."""
    from service.classes.integrity import check_integrity
    from service.registry.log import ChangeLog

    with _database(bundle, data_dir, database_url) as database:
        loaded = _bundle(bundle)
        manifest = loaded.manifest
        log = ChangeLog(
            database,
            bundle_id=manifest.bundle_id,
            dimension=manifest.head.dimension,
            vocabulary=manifest.vocabulary.names,
        )
        report = check_integrity(log, loaded, _computing(loaded), tolerance=tolerance, track=_progress("classes"))
    if as_json:
        print_json({**asdict(report), "bundle": manifest.bundle_id, "ok": not report.findings})
    elif report.findings:
        for finding in report.findings:
            print_line(finding)
    else:
        print_line(
            f"the registry is whole: {report.version} versions, {report.changes} changes, {report.classes} classes; "
            f"{report.rows} rows at most {report.largest_difference:.1g} away from fresh ones"
        )
    if report.findings:
        raise typer.Exit(1)


@contextmanager
def _database(
    bundle: Path | None, data_dir: Path | None, database_url: str | None, *, new: bool = False
) -> Iterator[Database]:
    """The database that a service with these settings would use; one that is not there is only made where it may be."""
    from model.bundle import read_manifest
    from service.errors import RegistryError
    from service.registry.database import Database, registry_dir
    from service.registry.database import database_url as url_of
    from service.settings import bundle_path, load_settings

    settings = load_settings(bundle=bundle, data_dir=data_dir, database_url=database_url)
    chosen = settings.data_dir
    if chosen is None and settings.database_url is None:
        chosen = registry_dir(settings, read_manifest(bundle_path(settings.bundle)).bundle_id)
    url = url_of(chosen or Path(), settings.database_url, settings.database_password_file)
    if not new and url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        hint = "" if settings.data_dir or settings.database_url else "; name another one with --data-dir"
        raise RegistryError(f"there is no registry at {url.database}{hint}")
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


def _bundle(path: Path | None) -> Bundle:
    from service.service import load_bundle
    from service.settings import load_settings

    return load_bundle(load_settings(bundle=path).bundle)


def _computing(bundle: Bundle) -> Callable[[ClassEntry, Float32], Row]:
    from model.outside.threads import available_cpus
    from service.inference.class_rows import compute_row
    from service.inference.engine import OnnxEngine

    engine = OnnxEngine(bundle, threads=available_cpus(), precision=bundle.precisions[0])
    return lambda entry, photos: compute_row(bundle, engine, entry, photos=lambda _: photos)


def _describing(bundle: Bundle) -> Callable[[ClassText], ClassText] | None:
    from model.outside.threads import available_cpus
    from service.inference.text_encoder import open_text_encoder

    encoder = open_text_encoder(bundle, threads=available_cpus())
    if encoder is None:
        return None
    return lambda text: encoder.describe(text.sentences, [f"/text/{i}" for i in range(len(text.sentences))])


def _progress(what: str) -> Callable[[list[Item]], Iterable[Item]]:
    """A bar on standard error, for people."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return lambda items: track(
        items, description=what, console=console, transient=True, disable=not console.is_terminal
    )


def _print_head(words: str, head: dict[str, Any], as_json: bool) -> None:
    shown = {name: head[name] for name in ("bundle_id", "version", "position")}
    if as_json:
        print_json({"bundle": shown["bundle_id"], "version": shown["version"], "changes": shown["position"]})
    else:
        print_line(
            f"{words} the registry of bundle {shown['bundle_id']}: {shown['version']} versions, "
            f"{shown['position']} changes"
        )
