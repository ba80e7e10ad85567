"""What the service answers and takes as JSON, beside images and problems."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, field_validator

from model.classes import CLASS_ID_PATTERN, MAX_NAME_LENGTH, Kind
from service.ranking import Scope

MAX_DESCRIPTION_LENGTH = 4000
MAX_METADATA_BYTES = 16_384

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_NAMED_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}
Attributes = Annotated[
    Any,  # the vocabulary checks them and names every single value that is wrong
    WithJsonSchema(
        {
            "anyOf": [_NUMBERS, _NAMED_NUMBERS],
            "description": "One number per attribute in the order of GET /attributes, or names with numbers; names "
            "left out take the vocabulary's mean.",
        }
    ),
]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH, description="What people call the class.")]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH, description="Free text.")]
Metadata = Annotated[dict[str, JsonValue], Field(description="Free JSON object of at most 16 KiB.")]


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("name", check_fields=False)
    @classmethod
    def _readable(cls, name: str) -> str:
        if not name.isprintable() or not name.strip():
            raise ValueError("expected a name of printable characters")
        return name

    @field_validator("metadata", check_fields=False)
    @classmethod
    def _small(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        size = len(json.dumps(metadata).encode())
        if size > MAX_METADATA_BYTES:
            raise ValueError(f"expected at most {MAX_METADATA_BYTES} bytes of JSON, got {size}")
        return metadata


class ClassDocument(_Words):
    """A class to create or replace."""

    id: Annotated[str, Field(pattern=CLASS_ID_PATTERN)] | None = Field(
        None, description="Made from the name where it is not given."
    )
    name: Name
    attributes: Attributes
    description: Description = ""
    metadata: Metadata = Field(default_factory=dict)


class ClassWords(_Words):
    """What may change about a class without its attributes; at least one of them."""

    # Factories, because a default would be promised to clients; a field that is not given stays as it is.
    name: Name = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    metadata: Metadata = Field(default_factory=dict)


class ClassAnswer(BaseModel):
    """A class."""

    id: str
    name: str
    kind: Kind
    attributes: list[float]
    description: str
    metadata: dict[str, JsonValue]
    registry_version: int = Field(description="Version at which the class last changed; 0 for the bundle's own.")


class ChangedClass(ClassAnswer):
    """A class after a change."""

    filled: list[str] = Field(description="Attributes that were not given and took the vocabulary's mean.")
    out_of_range: list[str] = Field(description="Attributes beyond the range of the training classes.")


class ClassPage(BaseModel):
    """Some of the classes, in the order of their ids."""

    classes: list[ClassAnswer]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class AttributeAnswer(BaseModel):
    """An attribute with its range and mean over the training classes."""

    name: str
    min: float
    max: float
    mean: float


class AttributeList(BaseModel):
    """The vocabulary, in order."""

    attributes: list[AttributeAnswer]


class Prediction(BaseModel):
    """A class with its probability among the classes that took part."""

    class_id: str
    name: str
    kind: Kind
    probability: float


class ImageAnswer(BaseModel):
    """What an image shows."""

    id: str
    width: int
    height: int
    novelty: float = Field(description="Fraction of held-out seen images that looked more familiar than this one.")
    predictions: list[Prediction] = Field(description="Most probable first.")


class ImageError(BaseModel):
    """Why an image has no answer; the fields of a problem document."""

    type: str
    title: str
    status: int
    detail: str


class ImageFailure(BaseModel):
    """An image without an answer."""

    id: str
    error: ImageError


class Timing(BaseModel):
    """Milliseconds; of several images the longest."""

    decode: float
    queue: float
    inference: float


class ClassifyAnswer(BaseModel):
    """Results in the order of the images."""

    bundle: str
    registry_version: int
    head: Literal["exact"]
    results: list[ImageAnswer | ImageFailure]
    timing_ms: Timing


class ClassifyQuery(BaseModel):
    """Parameters of /classify."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(5, ge=1, le=1000, description="Most classes in a result.")
    scope: Scope = Field("all", description="Which kind of classes takes part.")
    classes: list[str] = Field([], max_length=1000, description="Ids of the classes that take part.")
    seen_penalty: float | None = Field(
        None,
        ge=-1000,
        le=1000,
        allow_inf_nan=False,
        description="Log-odds taken from seen classes, instead of the bundle's calibrated number.",
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        return [word for value in values for word in str(value).split(",") if word]


class ListQuery(BaseModel):
    """Parameters of GET /classes."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(100, ge=1, le=1000, description="Most classes on a page.")
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")
    kind: Kind | None = Field(None, description="Classes of this kind only.")
    name: str | None = Field(None, max_length=MAX_NAME_LENGTH, description="Classes whose name contains this.")


class KindCounts(BaseModel):
    """Number of classes of each kind."""

    seen: int
    unseen: int


class RegistryAnswer(BaseModel):
    """The state of the class table."""

    bundle: str
    registry_version: int
    classes: KindCounts


class Health(BaseModel):
    """Whether the service lives or is ready."""

    status: Literal["live", "ready"]


class VersionAnswer(BaseModel):
    """What runs here."""

    version: str
    bundle: str
    bundle_code_version: str
    backbone: str
    head: str
    onnxruntime: str
