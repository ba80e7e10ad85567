"""`d3gzsl classes`: the class table of a running service."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from model.classes import slug
from model.errors import DataError, Problem
from service.commands.output import DEFAULT_URL, AsJson, Key, Url, print_json, print_line, print_table

app = typer.Typer(no_args_is_help=True, help="List and change the classes of a running service.")

Replace = Annotated[bool, typer.Option("--replace", help="Replace a class that exists.")]
_WORDS = ("id", "name", "class", "description")


@app.command("list")
def list_classes(
    url: Url = DEFAULT_URL,
    key: Key = None,
    kind: Annotated[Literal["seen", "unseen"] | None, typer.Option(help="Classes of this kind only.")] = None,
    name: Annotated[str | None, typer.Option(help="Classes whose name contains this.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the classes."""
    from service.client import Client

    filters: dict[str, str | None] = {"kind": kind, "name": name}
    with Client(url, key=key) as client:
        classes = list(client.classes({k: v for k, v in filters.items() if v is not None}))
    if as_json:
        print_json(classes)
    else:
        rows = [(c["id"], c["name"], c["kind"], c["registry_version"]) for c in classes]
        print_table(("id", "name", "kind", "version"), rows)


@app.command("show")
def show_class(class_id: str, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show a class with its attributes."""
    from service.client import Client

    with Client(url, key=key) as client:
        found = client.request("GET", _path(class_id))
        names = [a["name"] for a in client.request("GET", "/attributes")["attributes"]]
    if as_json:
        print_json(found)
        return
    words = [(k, found[k]) for k in ("id", "name", "kind", "description", "registry_version")]
    print_table(("field", "value"), [*words, ("metadata", json.dumps(found["metadata"], ensure_ascii=False))])
    print_table(("attribute", "value"), zip(names, found["attributes"], strict=True))


@app.command("add")
def add_class(
    name: Annotated[str, typer.Argument(help="What people call the class.")],
    attributes: Annotated[
        str, typer.Option(help="name=number,..., a JSON array or object, or @FILE with either JSON form.")
    ],
    class_id: Annotated[str | None, typer.Option("--id", help="Made from the name where it is not given.")] = None,
    description: Annotated[str, typer.Option(help="Free text.")] = "",
    replace: Replace = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Register a class by its attributes."""
    from service.client import Client

    document: dict[str, Any] = {
        "name": name,
        "attributes": _attributes(attributes),
        "description": description,
        "id": class_id,
    }
    with Client(url, key=key) as client:
        added = _send(client, document, replace)
    if as_json:
        print_json(added)
    else:
        print_line(_added(added))


@app.command("remove")
def remove_classes(class_ids: list[str], url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Remove classes."""
    from service.client import Client

    with Client(url, key=key) as client:
        for class_id in class_ids:
            client.request("DELETE", _path(class_id))
            print_line(f"removed {class_id}")


@app.command("import")
def import_classes(
    file: Annotated[Path, typer.Argument(help="classes.csv (class, one column per attribute) or a JSON list.")],
    replace: Replace = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Register every class of a file, one after another; stops at the first that is refused."""
    from service.client import Client

    documents = _documents(file)
    done = []
    with Client(url, key=key) as client:
        for document in documents:
            done.append(_send(client, document, replace))
            if not as_json:
                print_line(_added(done[-1]))
    if as_json:
        print_json(done)


def _send(client: Any, document: dict[str, Any], replace: bool) -> dict[str, Any]:
    given = {k: v for k, v in document.items() if v is not None}
    if replace:
        class_id = given.get("id") or slug(given["name"])
        stored: dict[str, Any] = client.request("PUT", _path(class_id), json=given)
    else:
        stored = client.request("POST", "/classes", json=given)
    return stored


def _added(answer: dict[str, Any]) -> str:
    notes = [
        f"{len(answer[field])} attributes {words}"
        for field, words in (("filled", "took their mean"), ("out_of_range", "are beyond the training classes"))
        if answer[field]
    ]
    return f"{answer['id']} is in version {answer['registry_version']}" + "".join(f"; {note}" for note in notes)


def _path(class_id: str) -> str:
    return f"/classes/{quote(class_id, safe='')}"


def _attributes(text: str) -> Any:
    """The attributes of the flag: JSON, a file with JSON, or name=number pairs."""
    if text.startswith("@"):
        return _json(Path(text[1:]))
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError as error:
            raise DataError(f"--attributes is not JSON: {error}") from None
    values, problems = {}, []
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = pair.rpartition("=")
        try:
            values[name.strip()] = float(number) if equals else float("")
        except ValueError:
            problems.append(Problem(pointer="--attributes", detail=f"expected name=number, got {pair!r}"))
    if problems:
        raise DataError("the attributes cannot be read", problems)
    return values


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None


def _documents(file: Path) -> list[dict[str, Any]]:
    """The classes of a JSON list or of a CSV file like the training's `classes.csv`."""
    if file.suffix.lower() == ".json":
        found = _json(file)
        if not isinstance(found, list) or not all(isinstance(item, dict) and "name" in item for item in found):
            raise DataError(f"{file}: expected a JSON list of objects with a name")
        return found
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not CSV: {error}") from None
    if not rows or not {"name", "class"} & set(rows[0]):
        raise DataError(f"{file}: expected a header with the column class or name, and a row per class")
    problems: list[Problem] = []
    documents = [_from_row(row, f"{file}:{line}", problems) for line, row in enumerate(rows, 2)]
    if problems:
        raise DataError("the classes cannot be read", problems)
    return documents


def _from_row(row: dict[Any, Any], where: str, problems: list[Problem]) -> dict[str, Any]:
    if None in row or None in row.values():
        problems.append(Problem(pointer=where, detail="expected as many cells as the header has"))
        return {}
    attributes = {}
    for column, cell in row.items():
        if column in (*_WORDS, "split"):
            continue
        try:
            attributes[column] = float(cell)
        except ValueError:
            problems.append(Problem(pointer=where, detail=f"expected a number for {column}, got {cell!r}"))
    return {
        "id": row.get("id") or None,
        "name": row.get("name") or row["class"],
        "description": row.get("description"),
        "attributes": attributes,
    }
