"""`d3gzsl keys`: make access keys, list them and take them away."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from model.errors import DataError
from service.commands.output import AsJson, print_json, print_line, print_table
from service.keys import ACTIONS, Key, actions_of, checked_id, checked_name, digest, key_of, lines_of, moment, new_key

app = typer.Typer(no_args_is_help=True, help="Make access keys, list them and take them away.")
KeysFile = Annotated[
    Path,
    typer.Option(help="File of keys.", envvar="D3GZSL_KEYS_FILE", show_envvar=True, show_default=False),
]


@app.command()
def new(
    role: Annotated[
        Literal["classify", "admin"], typer.Option(help="classify may ask; admin may also change classes.")
    ] = "classify",
    name: Annotated[str, typer.Option(help="Whose key it is, for lists and logs.")] = "",
    id: Annotated[  # noqa: A002  # the option's name
        str | None, typer.Option(help="Id of the key, for lists and logs; made from its hash by default.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Last day of the key (2027-01-31), a time in UTC, or days from now (90d).")
    ] = None,
    actions: Annotated[
        str | None,
        typer.Option(help="Only these of the role's actions, joined by +: classify, read, classes, rollback."),
    ] = None,
    keys_file: Annotated[
        Path | None, typer.Option(help="File of keys to append the hash to (see D3GZSL_KEYS_FILE).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key; it is shown once, and the service is given its hash only."""
    key = new_key()
    hashed = digest(key)
    try:
        known = Key(
            digest=hashed,
            role=role,
            id=checked_id(id if id is not None else hashed[:8]),
            name=checked_name(name),
            actions=actions_of(actions, role),
            expires=None if expires is None else moment(expires),
        )
    except ValueError as error:
        raise DataError(str(error)) from None
    if keys_file is not None:
        if keys_file.exists() and any(other.id == known.id for other in _keys(keys_file).values()):
            raise DataError(f"{keys_file} has a key with the id {known.id} already")
        _append(keys_file, known.line())
    if as_json:
        print_json({"key": key, "role": role, "id": known.id, "line": known.line()})
        return
    print_line(f"key, for the client:            {key}")
    print_line(
        f"its hash, for D3GZSL_KEYS:      {known.line()}" if keys_file is None else f"its hash is in {keys_file}"
    )


@app.command("list")
def list_keys(keys_file: KeysFile, as_json: AsJson = False) -> None:
    """List the keys of a file: what each may do, and until when."""
    now = datetime.now(UTC)
    keys = list(_keys(keys_file).values())
    if as_json:
        print_json(
            [
                {
                    "id": key.id,
                    "name": key.name,
                    "role": key.role,
                    "actions": sorted(key.actions),
                    "expires": None if key.expires is None else key.expires.isoformat(),
                    "expired": key.expired(now),
                }
                for key in keys
            ]
        )
        return
    print_table(("id", "name", "role", "actions", "expires"), [_shown(key, now) for key in keys])


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.", show_default=False)],  # noqa: A002
    keys_file: KeysFile,
) -> None:
    """Take a key away: a running service refuses it within about a second."""
    lines = [number for number, key in _keys(keys_file).items() if key.id == id]
    if not lines:
        raise DataError(f"{keys_file} has no key with the id {id}; see `d3gzsl keys list`")
    text = keys_file.read_text(encoding="utf-8").splitlines(keepends=True)
    _rewrite(keys_file, "".join(line for number, line in enumerate(text, 1) if number not in lines))
    print_line(f"the key {id} is no longer in {keys_file}")


def _shown(key: Key, now: datetime) -> tuple[str, ...]:
    end = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M} UTC"
    actions = "all of the role" if key.actions == ACTIONS[key.role] else ", ".join(sorted(key.actions))
    return key.id, key.name, key.role, actions, f"{end}, expired" if key.expired(now) else end


def _keys(file: Path) -> dict[int, Key]:
    """The keys of a file by the number of their line."""
    found = {}
    for number, line in lines_of(file):
        if line:
            try:
                found[number] = key_of(line)
            except ValueError as error:
                raise DataError(f"{file}, line {number}: {error}") from None
    return found


def _append(file: Path, line: str) -> None:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as stream:
            text = stream.read()
            stream.write(line + "\n" if not text or text.endswith("\n") else f"\n{line}\n")
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None


def _rewrite(file: Path, text: str) -> None:
    """Replace a file at once, with the rights that it had."""
    name = None
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(file.stat().st_mode & 0o777)
        Path(name).replace(file)
    except OSError as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        raise DataError(f"{file}: {error.strerror}") from None
