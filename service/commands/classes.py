"""`d3gzsl classes`: the class table of a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from model.errors import DataError
from service.commands import examples
from service.commands.class_files import read_attributes, read_documents
from service.commands.examples import class_path, files_of, in_base64
from service.commands.output import DEFAULT_URL, AsJson, Key, Url, print_json, print_line, print_table

app = typer.Typer(no_args_is_help=True, help="List and change the classes of a running service.")
app.add_typer(examples.app, name="examples")

_FORMS = "name=number,..., a JSON array or object, or @FILE with either JSON form."
AttributesBesideLike = Annotated[
    str | None, typer.Option("--attributes", help=f"{_FORMS} May be left out beside --like.")
]
LikeOption = Annotated[
    str | None, typer.Option(help="Id or name of a class that has the same in all that --attributes does not name.")
]
ClassId = Annotated[str | None, typer.Option("--id", help="Made from the name where it is not given.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace a class that exists.")]


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
        classes = list(client.classes(**{k: v for k, v in filters.items() if v is not None}))
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
        found = client.request("GET", class_path(class_id))
        attributes = client.request("GET", "/attributes")["attributes"]
    if as_json:
        print_json(found)
        return
    fields = ("id", "name", "kind", "description", "examples", "registry_version", *(["like"] if found["like"] else []))
    words = [(k, found[k]) for k in fields]
    print_table(("field", "value"), [*words, ("metadata", json.dumps(found["metadata"], ensure_ascii=False))])
    values = zip(attributes, found["attributes"], strict=True)
    rows = [(a["name"], value, a.get("unit", ""), a.get("description", "")) for a, value in values]
    print_table(("attribute", "value", "unit", "description"), rows)


@app.command("add")
def add_class(
    name: Annotated[str, typer.Argument(help="What people call the class.")],
    attributes: AttributesBesideLike = None,
    like: LikeOption = None,
    class_id: ClassId = None,
    description: Annotated[str, typer.Option(help="Free text.")] = "",
    photos: Annotated[
        list[Path] | None, typer.Option(help="Photo of the class, or a folder of photos, as evidence; repeatable.")
    ] = None,
    replace: Replace = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Register a class by its attributes, or like another class, and by photos beside them."""
    from service.client import Client

    document: dict[str, Any] = {
        "name": name,
        **_described(attributes, like),
        "description": description,
        "id": class_id,
        "examples": in_base64(files_of(photos)) if photos else None,
    }
    if photos and replace and class_id is None:
        raise DataError("--replace with --photos needs the --id of the class")
    with Client(url, key=key) as client:
        added = _send(client, document, replace)
    if as_json:
        print_json(added)
    else:
        print_line(_added(added))


@app.command("remove")
def remove_classes(class_ids: list[str], url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Remove classes; those that cannot be removed are listed at the end."""
    from service.client import Client, ClientError

    kept = []
    with Client(url, key=key) as client:
        for class_id in class_ids:
            try:
                client.request("DELETE", class_path(class_id))
            except ClientError as error:
                if error.status is None:  # nobody answers, so the others cannot be removed either
                    raise
                kept.append(f"{class_id}: {error}")
            else:
                print_line(f"removed {class_id}")
    if kept:
        raise ClientError("\n".join([f"{len(kept)} of {len(class_ids)} classes were not removed", *kept]))


@app.command("import")
def import_classes(
    file: Annotated[Path, typer.Argument(help="classes.csv (class, one column per attribute) or a JSON list.")],
    replace: Replace = False,
    chunk: Annotated[int | None, typer.Option(min=1, help="Send so many classes at a time, not all at once.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Register every class of a file as one version: all of them, or none where one is refused."""
    from service.client import Client, ClientError

    documents = [{k: v for k, v in document.items() if v is not None} for document in read_documents(file)]
    mode, size = "upsert" if replace else "create", chunk or max(len(documents), 1)
    done: list[dict[str, Any]] = []
    with Client(url, key=key) as client:
        for start in range(0, len(documents), size):
            part = documents[start : start + size]
            try:
                answer = client.request("POST", "/classes:batch", json={"mode": mode, "classes": part})
            except ClientError as error:
                raise ClientError(f"{file}, classes {start} to {start + len(part) - 1}: {error}") from None
            done += answer["classes"]
            if not as_json:
                for item in answer["classes"]:
                    print_line(_added(item))
    if as_json:
        print_json(done)


@app.command("preview")
def preview_class(
    name: Annotated[str, typer.Argument(help="What people would call the class.")],
    attributes: AttributesBesideLike = None,
    like: LikeOption = None,
    images: Annotated[
        list[Path] | None, typer.Option("--image", help="Image to classify as if it were registered; repeatable.")
    ] = None,
    class_id: ClassId = None,
    neighbours: Annotated[int, typer.Option(min=1, max=50, help="Most classes in each list of neighbours.")] = 5,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Say what registering a class would do; nothing is stored."""
    from service.client import Client

    document = {"name": name, **_described(attributes, like), "images": in_base64(images or ()), "id": class_id}
    given = {field: value for field, value in document.items() if value is not None}
    with Client(url, key=key) as client:
        found = client.request("POST", "/classes:preview", params={"neighbours": neighbours}, json=given)
    if as_json:
        print_json(found)
        return
    print_line(f"{found['id']} {'would be replaced' if found['exists'] else 'is not taken'}{_notes(found)}")
    columns = ("class", "kind", "cosine of attributes", "cosine of rows")
    for field in ("nearest_by_attributes", "nearest_by_row"):
        rows = [
            (n["class_id"], n["kind"], f"{n['attribute_cosine']:.3f}", f"{n['row_cosine']:.3f}") for n in found[field]
        ]
        print_table(columns, rows)
    confusion = found["confusion"]
    print_table(("wins its embeddings", "share"), [(w["class_id"], f"{w['share']:.3f}") for w in confusion["won"]])
    losses = [
        (t["class_id"], f"{t['before']:.3f}", f"{t['after']:.3f}", f"{t['taken']:.3f}") for t in confusion["taken"]
    ]
    print_table(("would lose", "wins today", "would win", "taken"), losses)
    for result in found["results"]:
        best = result.get("predictions")
        words = result["error"]["detail"] if best is None else ", ".join(_prediction(p) for p in best)
        print_line(f"{result['id']}: {words}")


def _described(attributes: str | None, like: str | None) -> dict[str, Any]:
    if attributes is None and like is None:
        raise DataError("expected --attributes or --like, or both; got neither")
    return {"attributes": None if attributes is None else read_attributes(attributes), "like": like}


def _prediction(prediction: dict[str, Any]) -> str:
    return f"{prediction['class_id']} {prediction['probability']:.3f}"


def _send(client: Any, document: dict[str, Any], replace: bool) -> dict[str, Any]:
    given = {k: v for k, v in document.items() if v is not None}
    stored: dict[str, Any]
    if not replace:
        stored = client.request("POST", "/classes", json=given)
    elif "id" in given:
        stored = client.request("PUT", class_path(given["id"]), json=given)
    else:  # the service finds the class of this name, whatever its id
        (item,) = client.request("POST", "/classes:batch", json={"mode": "upsert", "classes": [given]})["classes"]
        stored = {**client.request("GET", class_path(item["id"])), **item}
    return stored


def _added(answer: dict[str, Any]) -> str:
    return f"{answer['id']} is in version {answer['registry_version']}{_notes(answer)}"


def _notes(answer: dict[str, Any]) -> str:
    filled = f"are as {like} has them" if (like := answer.get("like")) else "took their mean"
    notes = [
        f"{len(answer[field])} attributes {words}"
        for field, words in (("filled", filled), ("out_of_range", "are beyond the training classes"))
        if answer[field]
    ]
    notes += answer["warnings"]
    near = [n["class_id"] for n in answer["near_duplicates"]]
    if near:
        notes.append(f"almost the same as {', '.join(near)}")
    return "".join(f"; {note}" for note in notes)
