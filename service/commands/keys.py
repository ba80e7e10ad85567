"""`d3gzsl keys`: make access keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from model.errors import DataError
from service.commands.output import AsJson, print_json, print_line
from service.keys import digest, new_key

app = typer.Typer(no_args_is_help=True, help="Make access keys.")


@app.command()
def new(
    role: Annotated[
        Literal["classify", "admin"], typer.Option(help="classify may ask; admin may also change classes.")
    ] = "classify",
    keys_file: Annotated[
        Path | None, typer.Option(help="File of keys to append the hash to (see D3GZSL_KEYS_FILE).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key; it is shown once, and the service is given its hash only."""
    key = new_key()
    line = f"{role}:{digest(key)}"
    if keys_file is not None:
        _append(keys_file, line)
    if as_json:
        print_json({"key": key, "role": role, "line": line})
        return
    print_line(f"key, for the client:            {key}")
    print_line(f"its hash, for D3GZSL_KEYS:      {line}" if keys_file is None else f"its hash is in {keys_file}")


def _append(file: Path, line: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
