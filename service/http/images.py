"""The three forms in which images arrive at /classify, read into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import ImageTooLargeError, Problem, UnsupportedImageError, pointer_part
from service.errors import InvalidRequestError, MalformedBodyError, MediaTypeError, TooLargeError
from service.http.access import media_type
from service.http.bodies.base64_files import decode_base64
from service.http.bodies.forms import boundary_of, parts_of
from service.http.bodies.reading import read_body
from service.http.bodies.strictjson import loads
from service.http.problems import names_of, validation_problems, without_most_unknown
from service.http.schemas import MAX_ID_LENGTH, JsonImage, JsonImages
from service.http.threads import off_the_loop, read_in_turn

MULTIPART_FIELD = "images"
EXAMPLES_FIELD = "examples"
CLASS_FIELD = "class"
_BINARY = {"type": "string", "format": "binary"}
IMAGES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image file as it is, a form with files, or JSON with base64.",
        "content": {
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [MULTIPART_FIELD],
                    "properties": {MULTIPART_FIELD: {"type": "array", "items": _BINARY, "minItems": 1}},
                    "additionalProperties": False,
                }
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/JsonImages"}},
        },
    }
}
"""OpenAPI entry of a route that takes images."""


def described_body(schema: str, *fields: str) -> dict[str, Any]:
    """OpenAPI entry of a route that takes a class as JSON of a schema, with images in `fields` if wanted."""
    form = {
        "type": "object",
        "required": [CLASS_FIELD],
        "properties": {
            CLASS_FIELD: {"type": "string", "contentMediaType": "application/json", "description": "A ClassDocument."},
            **{field: {"type": "array", "items": _BINARY} for field in fields},
        },
        "additionalProperties": False,
    }
    named = " and ".join(f"`{field}`" for field in fields)
    return {
        "requestBody": {
            "required": True,
            "description": f"A class, with images in base64 in {named} if wanted; or a form with class and files.",
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}},
                "multipart/form-data": {"schema": form},
            },
        }
    }


_UNTYPED = ("", "application/octet-stream")

Model = TypeVar("Model", bound=BaseModel)


class SomeJsonImages(BaseModel):
    """Images beside something else; there may be none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[JsonImage] = Field(default_factory=list)
    examples: list[JsonImage] = Field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SentImage:
    """An image as it was sent; `data` is an error where its bytes could not even be unpacked."""

    id: str
    data: bytes | MalformedBodyError


async def read_images(request: Request, *, most: int, most_bytes: int) -> list[SentImage]:
    """The images of a request, at least one.

    Args:
        request: with a body of type image/*, multipart/form-data or application/json; a body without a type, or of
            type application/octet-stream, is an image.
        most: largest number of images.
        most_bytes: largest body of type image/*; no more of it is read.

    Raises:
        MediaTypeError: another type.
        MalformedBodyError: the body cannot be read.
        InvalidRequestError: it has another form.
        TooLargeError: too many images.
        ImageTooLargeError: a body of type image/* has more bytes.
        UnsupportedImageError: a body without a type is no image.
    """
    kind = media_type(request)
    if kind.startswith("image/"):  # the bytes decide which format it is
        images = [SentImage(id="0", data=await _raw(request, most_bytes))]
    elif kind in _UNTYPED:
        images = [SentImage(id="0", data=_image_without_type(await _raw(request, most_bytes)))]
    elif kind == "multipart/form-data":
        images = await _multipart(request)
    elif kind == "application/json":
        images = await off_the_loop(_read_json_images, await request.body(), most)
    else:
        raise MediaTypeError(f"expected image/*, multipart/form-data or application/json, got {kind}")
    _check_number(images, most)
    return images


async def read_described_images(
    request: Request, *, most: Mapping[str, int]
) -> tuple[object, dict[str, list[SentImage]]]:
    """A JSON document about a class, and images beside it, if any, by their field.

    Args:
        request: with a body of type application/json, in which some fields hold them, or of type multipart/form-data
            with the document in the field `class` and files in these fields.
        most: largest number of images of each field that is taken, `images` or `examples`.

    Raises:
        MediaTypeError: another type.
        MalformedBodyError: the body cannot be read.
        InvalidRequestError: it has another form.
        TooLargeError: too many images.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        texts, images = await _form(request, texts=(CLASS_FIELD,), fields=tuple(most))
        if CLASS_FIELD not in texts:
            raise InvalidRequestError(
                "the form is not valid",
                [Problem(pointer=f"/{CLASS_FIELD}", detail="expected a field with the class as JSON, got none")],
            )
        document: object = await read_in_turn(request, loads, texts[CLASS_FIELD])
    elif kind == "application/json":
        document, images = await read_in_turn(request, _described_json, await request.body(), most)
    else:
        raise MediaTypeError(f"expected application/json or multipart/form-data, got {kind or 'none'}")
    for field, sent in images.items():
        _check_number(sent, most[field])
    return document, images


def _check_number(images: object, most: int) -> None:
    if isinstance(images, list) and len(images) > most:
        raise TooLargeError(f"the request has {len(images)} images; at most {most} are allowed")


async def _raw(request: Request, most_bytes: int) -> bytes:
    return await read_body(request, most=most_bytes, too_large=lambda words: ImageTooLargeError(f"the image {words}"))


def _image_without_type(body: bytes) -> bytes:
    """The body; UnsupportedImageError where it looks like one of the other forms, whose types must be told."""
    if body.lstrip()[:1] == b"{":
        raise UnsupportedImageError("not an image; a body of JSON needs the type application/json")
    if body.startswith(b"--"):
        raise UnsupportedImageError("not an image; a form needs the type multipart/form-data with its boundary")
    return body


def _described_json(body: bytes, most: Mapping[str, int]) -> tuple[object, dict[str, list[SentImage]]]:
    return split_images(loads(body), most)


def split_images(
    document: object, most: Mapping[str, int], *, within: str = ""
) -> tuple[object, dict[str, list[SentImage]]]:
    """A JSON document without its images, and these by their field, none where it is no object.

    Args:
        document: of a class.
        most: largest number of images of each field that is taken.
        within: pointer of the document in the body.

    Raises:
        InvalidRequestError: images in another form.
        TooLargeError: too many images.
    """
    if not isinstance(document, dict):
        return document, {field: [] for field in most}
    found = {field: document[field] for field in most if field in document}
    for field, images in found.items():
        _check_number(images, most[field])
    given = parse(SomeJsonImages, found, "the list of images is not valid")
    rest = {name: value for name, value in document.items() if name not in most}
    return rest, {field: _sent(getattr(given, field), f"{within}/{field}") for field in most}


def _read_json_images(body: bytes, most: int) -> list[SentImage]:
    document = loads(body)
    if isinstance(document, dict):
        _check_number(document.get("images"), most)
    return _sent(parse(JsonImages, document, "the list of images is not valid").images, f"/{MULTIPART_FIELD}")


def _sent(given: Sequence[JsonImage], pointer: str) -> list[SentImage]:
    return [
        SentImage(id=image.id or str(i), data=_decode_base64(f"{pointer}/{i}/data", image.data))
        for i, image in enumerate(given)
    ]


def _decode_base64(pointer: str, text: str) -> bytes | MalformedBodyError:
    try:
        return decode_base64(text)
    except ValueError as error:
        return MalformedBodyError("the image's base64 cannot be read", [Problem(pointer=pointer, detail=str(error))])


async def _multipart(request: Request) -> list[SentImage]:
    _, found = await _form(request)
    images = found[MULTIPART_FIELD]
    if not images:
        raise InvalidRequestError(
            "the form is not valid",
            [Problem(pointer=f"/{MULTIPART_FIELD}", detail="expected at least one file, got none")],
        )
    return images


async def _form(
    request: Request, *, texts: Sequence[str] = (), fields: Sequence[str] = (MULTIPART_FIELD,)
) -> tuple[dict[str, bytes], dict[str, list[SentImage]]]:
    """The text fields of a form, of which only some names are taken, and its files by their fields."""
    boundary = boundary_of(request.headers.get("content-type", ""))
    parts = await off_the_loop(parts_of, await request.body(), boundary)
    found: dict[str, bytes] = {}
    problems: list[Problem] = []
    images: dict[str, list[SentImage]] = {field: [] for field in fields}
    for part in parts:
        where = f"/{pointer_part(part.name)}"
        if part.name in texts:
            if part.name in found:
                problems.append(Problem(pointer=where, detail="expected the field once, got it twice"))
            found[part.name] = part.data
        elif part.name not in images:
            names = " and ".join(repr(n) for n in (*texts, *fields))
            problems.append(Problem(pointer=where, detail=f"expected the field {names} only"))
        elif part.filename is None:
            problems.append(Problem(pointer=where, detail="expected a file with a filename, got a text field"))
        elif part.filename or part.data:  # a page sends a control in which no file was chosen as a file without both
            files = images[part.name]
            files.append(SentImage(id=(part.filename or str(len(files)))[:MAX_ID_LENGTH], data=part.data))
    if problems:
        raise InvalidRequestError("the form is not valid", problems)
    return found, images


def parse(model: type[Model], value: Any, message: str) -> Model:
    """Validate a JSON value; InvalidRequestError with a pointer for everything that is wrong."""
    try:
        return model.model_validate(without_most_unknown(model, value))
    except ValidationError as error:
        raise InvalidRequestError(
            message, validation_problems(error.errors(include_url=False), known=names_of(model))
        ) from None
