"""The three forms in which images arrive at /classify, read into one."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from model.errors import Problem
from service.access import media_type
from service.errors import InvalidRequestError, MalformedBodyError, MediaTypeError, TooLargeError
from service.problems import validation_problems
from service.strictjson import loads

MAX_ID_LENGTH = 256
MULTIPART_FIELD = "images"
_MAX_PARTS = 1000

Model = TypeVar("Model", bound=BaseModel)


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


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An image as it was sent; `data` is an error where its bytes could not even be unpacked."""

    id: str
    data: bytes | MalformedBodyError


async def read_images(request: Request, *, most: int) -> list[Sent]:
    """The images of a request, at least one.

    Args:
        request: with a body of type image/*, multipart/form-data or application/json.
        most: largest number of images.

    Raises:
        MediaTypeError: another type.
        MalformedBodyError: the body cannot be read.
        InvalidRequestError: it has another form.
        TooLargeError: too many images.
    """
    kind = media_type(request)
    if kind.startswith("image/"):
        images = [Sent(id="0", data=await request.body())]
    elif kind == "multipart/form-data":
        images = await _multipart(request)
    elif kind == "application/json":
        images = _json(await request.body())
    else:
        raise MediaTypeError(f"expected image/*, multipart/form-data or application/json, got {kind or 'none'}")
    if len(images) > most:
        raise TooLargeError(f"the request has {len(images)} images; at most {most} are allowed")
    return images


def _json(body: bytes) -> list[Sent]:
    given = parse(JsonImages, loads(body), "the list of images is not valid")
    return [Sent(id=image.id or str(i), data=_base64(i, image.data)) for i, image in enumerate(given.images)]


def _base64(index: int, text: str) -> bytes | MalformedBodyError:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        where = f"/images/{index}/data"
        return MalformedBodyError(
            "the image's base64 cannot be read", [Problem(pointer=where, detail=f"expected base64: {error}")]
        )


async def _multipart(request: Request) -> list[Sent]:
    async with request.form(max_files=_MAX_PARTS, max_fields=_MAX_PARTS) as form:
        problems: list[Problem] = []
        images: list[Sent] = []
        for name, part in form.multi_items():
            if name != MULTIPART_FIELD:
                problems.append(Problem(pointer=f"/{name}", detail=f"expected the field {MULTIPART_FIELD!r} only"))
            elif not isinstance(part, UploadFile):
                problems.append(Problem(pointer=f"/{name}", detail="expected a file with a filename, got a text field"))
            else:
                images.append(Sent(id=(part.filename or str(len(images)))[:MAX_ID_LENGTH], data=await part.read()))
        if not images and not problems:
            problems.append(Problem(pointer=f"/{MULTIPART_FIELD}", detail="expected at least one file, got none"))
    if problems:
        raise InvalidRequestError("the form is not valid", problems)
    return images


def parse(model: type[Model], value: Any, message: str) -> Model:
    """Validate a JSON value; InvalidRequestError with a pointer for everything that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidRequestError(message, validation_problems(error.errors(include_url=False))) from None
