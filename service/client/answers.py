"""How answers are read: by the service's own models, and with their entity tags where they have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import httpx
from pydantic import BaseModel, Field

from service.client.images import Source
from service.http.class_schemas import ChangedClass, ChangedExamples, ClassAnswer, ClassPage, ExampleList
from service.http.schemas import ImageAnswer, ImageFailure, RegistryAnswer

Model = TypeVar("Model", bound=BaseModel)


class Tagged(BaseModel):
    """An answer with its entity tag, for `if_match` and `if_none_match`; dumps leave it out."""

    etag: str = Field("", exclude=True, repr=False)


class TaggedClass(ClassAnswer, Tagged):
    """A class with its entity tag."""


class TaggedChange(ChangedClass, Tagged):
    """A class after a change, with its entity tag."""


class TaggedPage(ClassPage, Tagged):
    """A page of classes with its entity tag."""


class TaggedExamples(ExampleList, Tagged):
    """The example photos of a class, with the class's entity tag."""


class TaggedChangedExamples(ChangedExamples, Tagged):
    """The example photos of a class after some were added, with the class's entity tag."""


class TaggedRegistry(RegistryAnswer, Tagged):
    """The state of the class table, with its entity tag."""


AnyTagged = TypeVar("AnyTagged", bound=Tagged)


class HasResults(Protocol):
    """An answer about images."""

    results: list[ImageAnswer | ImageFailure]


Results = TypeVar("Results", bound=BaseModel)


def as_model(model: type[Model]) -> Callable[[httpx.Response], Model]:
    """Reads the body as a model."""
    return lambda response: model.model_validate_json(response.content)


def as_tagged(model: type[AnyTagged]) -> Callable[[httpx.Response], AnyTagged]:
    """Reads the body as a model and the tag from its header."""

    def read(response: httpx.Response) -> AnyTagged:
        answer = model.model_validate_json(response.content)
        answer.etag = response.headers.get("etag", "")
        return answer

    return read


def as_results(model: type[Results], images: Sequence[Source]) -> Callable[[httpx.Response], Results]:
    """Reads the body as a model whose results get the ids of the images, which did not travel."""

    def read(response: httpx.Response) -> Results:
        answer = model.model_validate_json(response.content)
        results: list[ImageAnswer | ImageFailure] = getattr(answer, "results")  # noqa: B009
        if len(results) != len(images):
            raise ValueError(f"expected {len(images)} results, got {len(results)}")
        for result, source in zip(results, images, strict=True):
            result.id = source.id
        return answer

    return read


def as_bytes(response: httpx.Response) -> bytes:
    """Reads the body as it is."""
    return response.content


def as_text(response: httpx.Response) -> str:
    """Reads the body as text."""
    return response.text


def as_nothing(_response: httpx.Response) -> None:
    """Reads nothing."""
