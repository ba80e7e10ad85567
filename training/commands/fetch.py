"""`d3gzsl-train fetch`: a public benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from training import console
from training.commands.options import AsJson, Overwrite, Splits


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="AWA1, AWA2, CUB, SUN, APY or FLO.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder the benchmark is written to; by default data/NAME.")
    ] = None,
    splits: Splits = None,
    url: Annotated[
        str | None, typer.Option(help="A zip archive with the folder NAME in it, instead of the public one.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the archive's sha256 must be, or begin with.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder archives are kept in; by default ~/.cache/d3gzsl.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Download a public benchmark, unpack what is needed and check it.

    An interrupted download goes on where it stopped when the same command is given again. The archive is kept in the
    cache, its sha256 beside it.
    """
    from training.datasets.fetch import fetch as run
    from training.datasets.fetch import known_name

    known = known_name(name)
    with console.progress_bar(quiet=as_json, unit="bytes") as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        fetched = run(
            known,
            out or Path("data") / known,
            splits=splits or "att",
            url=url,
            sha256=sha256,
            cache=cache,
            overwrite=overwrite,
            progress=progress,
        )
    split = fetched.dataset.split
    for note in split["notes"]:
        console.warn(note)
    rows, classes = split["rows"], split["classes"]
    digest = fetched.source.get("archive_sha256")
    fields = {
        "out": str(fetched.path),
        "changed": fetched.changed,
        "archive_sha256": digest,
        "data_hash": fetched.dataset.data_hash,
        "split": split,
    }
    state = f"archive sha256 {digest}" if fetched.changed else "there already, checked again"
    option = "" if split["splits"] == "att" else f" --splits {split['splits']}"
    sentence = (
        f"{fetched.path}: {known}, {rows['trainval']} training rows, {rows['test_seen']} test rows of "
        f"{classes['seen']} seen and {rows['test_unseen']} of {classes['unseen']} unseen classes ({state}); "
        f"next: d3gzsl-train fit {fetched.path}{option} --out RUN_DIR"
    )
    console.result(fields, sentence, as_json=as_json)
