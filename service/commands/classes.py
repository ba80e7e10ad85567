"""`d3gzsl classes`: the class table of a running service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model.errors import DataError
from service.commands import examples
from service.commands.class_files import read_attributes, read_documents
from service.commands.examples import files_of, in_base64, print_warnings, read_photo
from service.commands.output import DEFAULT_URL, AsJson, Key, Url, as_document, print_json, print_line, print_table

if TYPE_CHECKING:
    from service.client import Client

app = typer.Typer(no_args_is_help=True, help="List and change the classes of a running service.")
app.add_typer(examples.app, name="examples")

_FORMS = "name=number,..., a JSON array or object, or @FILE with either JSON form."
Attributes = Annotated[
    str | None, typer.Option("--attributes", help=f"{_FORMS} May be left out beside --like, --describe or --photos.")
]
LikeOption = Annotated[
    str | None, typer.Option(help="Id or name of a class that has the same in all that --attributes does not name.")
]
Photos = Annotated[
    list[Path] | None, typer.Option(help="Photo of the class, or a folder of photos, as evidence; repeatable.")
]
Describe = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="What the class is, in words, for a bundle with a text encoder; repeatable."),
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

    with Client(url, key=key) as client:
        classes = list(client.classes(kind=kind, name=name))
    if as_json:
        print_json([as_document(c) for c in classes])
    else:
        rows = [(c.id, c.name, c.kind, c.registry_version) for c in classes]
        print_table(("id", "name", "kind", "version"), rows)


@app.command("show")
def show_class(class_id: str, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Show a class with its attributes."""
    from service.client import Client

    with Client(url, key=key) as client:
        found = as_document(client.show_class(class_id))
        attributes = client.attributes().attributes
    if as_json:
        print_json(found)
        return
    fields = ("id", "name", "kind", "description", "examples", "registry_version", *(["like"] if found["like"] else []))
    words = [(k, found[k]) for k in fields]
    words += [("text", text) for text in found["text"]]
    print_table(("field", "value"), [*words, ("metadata", json.dumps(found["metadata"], ensure_ascii=False))])
    if found["attributes"] is not None:
        values = zip(attributes, found["attributes"], strict=True)
        rows = [(a.name, value, a.unit or "", a.description or "") for a, value in values]
        print_table(("attribute", "value", "unit", "description"), rows)


@app.command("add")
def add_class(
    name: Annotated[str, typer.Argument(help="What people call the class.")],
    attributes: Attributes = None,
    like: LikeOption = None,
    describe: Describe = None,
    class_id: ClassId = None,
    description: Annotated[str, typer.Option(help="Free text.")] = "",
    photos: Photos = None,
    replace: Replace = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Register a class by its attributes, like another class, by text, by photos, or by several of these."""
    from service.client import Client

    files = files_of(photos or ())
    document = {**_described(name, class_id, attributes, like, describe, files), "description": description}
    with Client(url, key=key) as client:
        added = _send(client, document, class_id, files, replace)
    if as_json:
        print_json(added)
    else:
        print_line(_added(added))
        print_warnings(added, files)


@app.command("remove")
def remove_classes(class_ids: list[str], url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Remove classes; those that cannot be removed are listed at the end."""
    from service.client import Client, ClientError, ServiceError

    kept = []
    with Client(url, key=key) as client:
        for class_id in class_ids:
            try:
                client.remove_class(class_id)
            except ServiceError as error:  # others mean that nobody answers
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
    """Register every class of a file as one version: all of them, or none where one is refused.

    Where the service's bundle takes text, the column `description` of classes.csv describes the classes, too.
    """
    from service.client import Client, ClientError

    done: list[dict[str, Any]] = []
    with Client(url, key=key) as client:
        read = read_documents(file)
        if any(document.get("description") for document in read) and client.attributes().text:
            read = read_documents(file, by_text=True)
        documents = [{k: v for k, v in document.items() if v is not None} for document in read]
        mode: Literal["create", "upsert"] = "upsert" if replace else "create"
        size = chunk or max(len(documents), 1)
        for start in range(0, len(documents), size):
            part = documents[start : start + size]
            try:
                answer = client.store_batch(part, mode=mode)
            except ClientError as error:
                raise ClientError(f"{file}, classes {start} to {start + len(part) - 1}: {error}") from None
            items = [as_document(item) for item in answer.classes]
            done += items
            if not as_json:
                for item in items:
                    print_line(_added(item))
                    print_warnings(item)
    if as_json:
        print_json(done)


@app.command("preview")
def preview_class(
    name: Annotated[str, typer.Argument(help="What people would call the class.")],
    attributes: Attributes = None,
    like: LikeOption = None,
    describe: Describe = None,
    photos: Photos = None,
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

    files = files_of(photos or ())
    document = _described(name, class_id, attributes, like, describe, files)
    probes = [(image.name, read_photo(image)) for image in images or ()]
    with Client(url, key=key) as client:
        found = as_document(client.preview_class(document, images=probes, examples=files, neighbours=neighbours))
    if as_json:
        print_json(found)
        return
    print_line(f"{found['id']} {'would be replaced' if found['exists'] else 'is not taken'}{_notes(found)}")
    columns = ("class", "kind", "cosine of attributes", "cosine of rows")
    for field in ("nearest_by_attributes", "nearest_by_row"):
        rows = [
            (n["class_id"], n["kind"], *(_cosine(n[of]) for of in ("attribute_cosine", "row_cosine")))
            for n in found[field]
        ]
        print_table(columns, rows)
    confusion = found["confusion"]
    print_table(("wins its embeddings", "share"), [(w["class_id"], f"{w['share']:.3f}") for w in confusion["won"]])
    losses = [
        (t["class_id"], f"{t['before']:.3f}", f"{t['after']:.3f}", f"{t['taken']:.3f}") for t in confusion["taken"]
    ]
    print_table(("would lose", "wins today", "would win", "taken"), losses)
    judged = [
        (str(files[e["place"]]), "yes" if e["recognised"] else "no", e["class_id"], f"{e['log_odds']:.2f}")
        for e in found["examples"]
    ]
    if judged:
        print_table(("photo", "recognised without it", "nearest other class", "log-odds"), judged)
    print_warnings(found, files)
    for result in found["results"]:
        if "error" in result:
            print_line(f"{result['id']}: {result['error']['detail']}")
        else:
            print_line(f"{result['id']}: {_predictions(result['predictions'])}; today {_predictions(result['before'])}")


def _described(
    name: str,
    class_id: str | None,
    attributes: str | None,
    like: str | None,
    texts: Sequence[str] | None,
    photos: Sequence[Path],
) -> dict[str, Any]:
    """The document of a class; DataError where nothing describes it."""
    if attributes is None and like is None and not texts and not photos:
        raise DataError("a class needs --attributes, --like, --describe or --photos; got none of these")
    given = {
        "attributes": None if attributes is None else read_attributes(attributes),
        "like": like,
        "text": list(texts) if texts else None,
        "id": class_id,
    }
    return {"name": name, **{field: value for field, value in given.items() if value is not None}}


def _cosine(cosine: float | None) -> str:
    return "" if cosine is None else f"{cosine:.3f}"


def _predictions(predictions: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{p['class_id']} {p['probability']:.3f}" for p in predictions)


def _send(
    client: Client, document: dict[str, Any], class_id: str | None, photos: Sequence[Path], replace: bool
) -> dict[str, Any]:
    if not replace:
        return as_document(client.add_class(document, examples=photos))
    if class_id is not None:
        return as_document(client.put_class(class_id, document, examples=photos))
    # The service finds the class of this name, whatever its id.
    given = {**document, "examples": in_base64(photos)} if photos else document
    (item,) = client.store_batch([given], mode="upsert").classes
    return {**as_document(client.show_class(item.id)), **as_document(item)}


def _added(answer: dict[str, Any]) -> str:
    return f"{answer['id']} is in version {answer['registry_version']}{_notes(answer)}"


def _notes(answer: dict[str, Any]) -> str:
    filled = f"are as {like} has them" if (like := answer.get("like")) else "took their mean"
    notes = [
        f"{len(answer[field])} attributes {words}"
        for field, words in (("filled", filled), ("out_of_range", "are beyond the training classes"))
        if answer[field]
    ]
    near = [n["class_id"] for n in answer["near_duplicates"]]
    if near:
        notes.append(f"almost the same as {', '.join(near)}")
    return "".join(f"; {note}" for note in notes)
