"""The three forms in which images arrive at /classify, read into one."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile

from model.errors import ImageTooLargeError, Problem, UnsupportedImageError
from service.errors import InvalidRequestError, MalformedBodyError, MediaTypeError, TooLargeError
from service.http.access import media_type
from service.http.problems import validation_problems
from service.http.strictjson import loads

MAX_ID_LENGTH = 256
MULTIPART_FIELD = "images"
CLASS_FIELD = "class"
_UNTYPED = ("", "application/octet-stream")
_MAX_PARTS = 1000
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
_MUCH = 200_000  # bytes; about a millisecond

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")


class JsonImage(BaseModel):
    """One image of a JSON body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)] | None = Field(
        None, description="Returned with the result; the position in the list where it is not given."
    )
    data: str = Field(description="The image file in base64.", json_schema_extra={"contentEncoding": "base64"})


class JsonImages(BaseModel):
    """A JSON body with images."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[JsonImage] = Field(min_length=1)


class SomeJsonImages(BaseModel):
    """Images beside something else; there may be none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[JsonImage]


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
        images = await _off_the_loop(_read_json_images, await request.body())
    else:
        raise MediaTypeError(f"expected image/*, multipart/form-data or application/json, got {kind}")
    _check_number(images, most)
    return images


async def read_described_images(request: Request, *, most: int) -> tuple[object, list[SentImage]]:
    """A JSON document about a class, and images beside it, if any.

    Args:
        request: with a body of type application/json, in which `images` holds them, or of type multipart/form-data
            with the document in the field `class` and files in `images`.
        most: largest number of images.

    Raises:
        MediaTypeError: another type.
        MalformedBodyError: the body cannot be read.
        InvalidRequestError: it has another form.
        TooLargeError: too many images.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        texts, images = await _form(request, texts=(CLASS_FIELD,))
        if CLASS_FIELD not in texts:
            raise InvalidRequestError(
                "the form is not valid",
                [Problem(pointer=f"/{CLASS_FIELD}", detail="expected a field with the class as JSON, got none")],
            )
        document: object = loads(texts[CLASS_FIELD].encode())
    elif kind == "application/json":
        document, images = await _off_the_loop(_described_json, await request.body())
    else:
        raise MediaTypeError(f"expected application/json or multipart/form-data, got {kind or 'none'}")
    _check_number(images, most)
    return document, images


def _check_number(images: Sequence[SentImage], most: int) -> None:
    if len(images) > most:
        raise TooLargeError(f"the request has {len(images)} images; at most {most} are allowed")


async def _raw(request: Request, most_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most_bytes:
        raise ImageTooLargeError(f"the image has {announced} bytes; at most {most_bytes} are allowed")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise ImageTooLargeError(f"the image has more than the {most_bytes} bytes allowed")
    return bytes(body)


def _image_without_type(body: bytes) -> bytes:
    """The body; UnsupportedImageError where it looks like one of the other forms, whose types must be told."""
    if body.lstrip()[:1] == b"{":
        raise UnsupportedImageError("not an image; a body of JSON needs the type application/json")
    if body.startswith(b"--"):
        raise UnsupportedImageError("not an image; a form needs the type multipart/form-data with its boundary")
    return body


async def _off_the_loop(read: Callable[[bytes], Result], body: bytes) -> Result:
    """Read a body, in another thread where it would keep other requests waiting."""
    return await asyncio.to_thread(read, body) if len(body) > _MUCH else read(body)


def _described_json(body: bytes) -> tuple[object, list[SentImage]]:
    document = loads(body)
    if not isinstance(document, dict) or "images" not in document:
        return document, []
    images = _sent(parse(SomeJsonImages, {"images": document["images"]}, "the list of images is not valid"))
    return {name: value for name, value in document.items() if name != "images"}, images


def _read_json_images(body: bytes) -> list[SentImage]:
    return _sent(parse(JsonImages, loads(body), "the list of images is not valid"))


def _sent(given: JsonImages | SomeJsonImages) -> list[SentImage]:
    return [
        SentImage(id=image.id or str(i), data=_decode_base64(i, image.data)) for i, image in enumerate(given.images)
    ]


def _decode_base64(index: int, text: str) -> bytes | MalformedBodyError:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        where = f"/images/{index}/data"
        return MalformedBodyError(
            "the image's base64 cannot be read", [Problem(pointer=where, detail=f"expected base64: {error}")]
        )


async def _multipart(request: Request) -> list[SentImage]:
    _, images = await _form(request)
    if not images:
        raise InvalidRequestError(
            "the form is not valid",
            [Problem(pointer=f"/{MULTIPART_FIELD}", detail="expected at least one file, got none")],
        )
    return images


async def _form(request: Request, *, texts: Sequence[str] = ()) -> tuple[dict[str, str], list[SentImage]]:
    """The text fields of a form, of which only some names are taken, and its files."""
    _check_charset(request.headers.get("content-type", ""))
    found: dict[str, str] = {}
    async with request.form(max_files=_MAX_PARTS, max_fields=_MAX_PARTS) as form:
        problems: list[Problem] = []
        images: list[SentImage] = []
        for name, part in form.multi_items():
            if name in texts:
                if name in found:
                    problems.append(Problem(pointer=f"/{name}", detail="expected the field once, got it twice"))
                found[name] = part if isinstance(part, str) else (await part.read()).decode(errors="replace")
            elif name != MULTIPART_FIELD:
                names = " and ".join(repr(n) for n in (*texts, MULTIPART_FIELD))
                problems.append(Problem(pointer=f"/{name}", detail=f"expected the field {names} only"))
            elif not isinstance(part, UploadFile):
                problems.append(Problem(pointer=f"/{name}", detail="expected a file with a filename, got a text field"))
            else:
                images.append(SentImage(id=(part.filename or str(len(images)))[:MAX_ID_LENGTH], data=await part.read()))
    if problems:
        raise InvalidRequestError("the form is not valid", problems)
    return found, images


def _check_charset(content_type: str) -> None:
    """Raise MediaTypeError where names and fields would be decoded as anything but UTF-8."""
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in _CHARSETS:
        raise MediaTypeError(f"expected multipart/form-data in UTF-8, got the charset {charset[:40]!r}")


def parse(model: type[Model], value: Any, message: str) -> Model:
    """Validate a JSON value; InvalidRequestError with a pointer for everything that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidRequestError(message, validation_problems(error.errors(include_url=False))) from None
