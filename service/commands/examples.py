"""`d3gzsl classes examples`: the example photos of a class of a running service."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from model.errors import DataError
from model.outside.folders import is_left_behind
from service.commands.output import DEFAULT_URL, AsJson, Key, Url, as_document, print_json, print_line, print_table

app = typer.Typer(no_args_is_help=True, help="List, add and remove the example photos of a class.")

_PLACE = re.compile(r"^/examples/(\d+)(?= )")

Photos = Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")]


@app.command("list")
def list_examples(class_id: str, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """List the example photos of a class."""
    from service.client import Client

    with Client(url, key=key) as client:
        _show(as_document(client.list_examples(class_id)), as_json)


@app.command("add")
def add_examples(
    class_id: str, photos: Photos, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False
) -> None:
    """Give a class example photos; where one cannot be read none is added."""
    from service.client import Client

    files = files_of(photos)
    with Client(url, key=key) as client:
        answer = as_document(client.add_examples(class_id, files))
    _show(answer, as_json)
    if not as_json:
        print_warnings(answer, files)


@app.command("remove")
def remove_examples(class_id: str, example_ids: list[str], url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Take example photos back, by the ids that `list` shows."""
    from service.client import Client

    with Client(url, key=key) as client:
        for example_id in example_ids:
            client.remove_example(class_id, example_id)
            print_line(f"removed {example_id}")


def files_of(given: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders, by their names; DataError where a folder has none."""
    files: list[Path] = []
    for path in given:
        found = list(_inside(path)) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path}: expected photos, got an empty folder")
        files += found
    return files


def _inside(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and not is_left_behind(path.name):
            yield path


def read_photo(file: Path) -> bytes:
    """The bytes of an image file; DataError where it cannot be opened."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None


def in_base64(files: Sequence[Path]) -> list[dict[str, str]]:
    """Image files as a JSON body has them; DataError where one cannot be opened."""
    return [{"id": file.name, "data": base64.b64encode(read_photo(file)).decode()} for file in files]


def print_warnings(answer: dict[str, Any], files: Sequence[Path] = ()) -> None:
    """A line for each warning of an answer, with the files in place of positions in the request."""
    for warning in answer["warnings"]:
        print_line("warning: " + _PLACE.sub(lambda place: str(files[int(place[1])]), warning))


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    rows = [(e["id"], f"{e['width']} x {e['height']}", e["added_at"]) for e in answer["examples"]]
    print_table(("id", "size", "added"), rows)
