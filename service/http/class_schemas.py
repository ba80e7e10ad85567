"""Classes as JSON: what the service takes and answers about them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from model.classes import CLASS_ID_PATTERN, Kind
from model.outside.names import MAX_NAME_LENGTH, clean_name, name_fault
from service.http.bodies.class_texts import Text
from service.http.schemas import Cursor, HeadState, ImageAnswer, ImageFailure, JsonImage, Prediction, ReadQuery

MAX_DESCRIPTION_LENGTH = 4000
MAX_METADATA_BYTES = 16_384
METADATA_TOO_LARGE = "metadata_too_large"

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_NAMED_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}
Attributes = Annotated[
    Any,  # the vocabulary checks them and names every single value that is wrong
    WithJsonSchema(
        {
            "anyOf": [_NUMBERS, _NAMED_NUMBERS],
            "description": "One number per attribute in the order of GET /attributes, or names with numbers; names "
            "left out take the vocabulary's mean, or what the class in `like` has. May be left out beside `like`, and "
            "of a class with example photos.",
        }
    ),
]


def _clean(text: str) -> str:
    name = clean_name(text)
    if (fault := name_fault(name)) is not None:
        raise ValueError(fault)
    return name


Name = Annotated[
    str,
    AfterValidator(_clean),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_NAME_LENGTH,
            "description": "What people call the class; kept in Unicode's normal form C, without spaces around it.",
        }
    ),
]
Like = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_NAME_LENGTH,
        description="Id or name of a class, seen or unseen, whose attributes fill what is not given.",
    ),
]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH, description="Free text.")]
Metadata = Annotated[dict[str, JsonValue], Field(description="Free JSON object of at most 16 KiB.")]


Warnings = Annotated[
    list[str], Field(description="What is probably wrong, such as a photo that looks more like another class.")
]


class _ClassText(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("metadata", check_fields=False)
    @classmethod
    def _small(cls, metadata: dict[str, Any]) -> dict[str, Any]:
        size = len(json.dumps(metadata).encode())
        if size > MAX_METADATA_BYTES:
            raise PydanticCustomError(
                METADATA_TOO_LARGE,
                "expected at most {most} bytes of JSON, found {size}",
                {"most": MAX_METADATA_BYTES, "size": size},
            )
        return metadata


class ClassDocument(_ClassText):
    """A class to create or replace."""

    id: Annotated[str, Field(pattern=CLASS_ID_PATTERN)] | None = Field(
        None, description="Made from the name where it is not given."
    )
    name: Name
    # Factories, because a default would be promised to clients; of these and of photos at least one is given.
    attributes: Attributes = Field(default_factory=dict)
    text: Text = Field(default_factory=str)
    like: Like = Field(default_factory=str)
    description: Description = ""
    metadata: Metadata = Field(default_factory=dict)


class ClassWords(_ClassText):
    """What may change about a class without its attributes; at least one of them."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    # Factories, because a default would be promised to clients; a field that is not given stays as it is.
    name: Name = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    metadata: Metadata = Field(default_factory=dict)


class ClassAnswer(BaseModel):
    """A class."""

    id: str
    name: str
    kind: Kind
    attributes: list[float] | None = Field(description="Null for a class without a description, which has photos.")
    text: list[str] = Field(description="What it was described by in words, if it was.")
    description: str
    metadata: dict[str, JsonValue]
    examples: int = Field(description="Number of its example photos.")
    like: str | None = Field(
        default=None, description="Id of the class whose attributes, as they were then, filled what was not given."
    )
    registry_version: int = Field(description="Version at which the class last changed; 0 for the bundle's own.")


class ExampleAnswer(BaseModel):
    """An example photo of a class; the service keeps what the networks made of it, not its pixels."""

    id: str = Field(description="Hash of its pixels as the networks see them.")
    width: int
    height: int
    added_at: datetime


class ExampleList(BaseModel):
    """The example photos of a class."""

    class_id: str
    registry_version: int = Field(description="Version at which the class last changed; 0 for the bundle's own.")
    examples: list[ExampleAnswer] = Field(description="In the order of their ids.")


class ChangedExamples(ExampleList):
    """The example photos of a class after some were added."""

    warnings: Warnings


class DescribedDocument(ClassDocument):
    """A class to create or replace, with example photos if wanted."""

    examples: list[JsonImage] = Field(default_factory=list, description="Photos of the class, as evidence.")


class NearDuplicate(BaseModel):
    """Another class that one of two cosines can hardly tell from this one."""

    class_id: str
    name: str
    attribute_cosine: float | None = Field(
        description="Between the normalised attributes of both; null where one has no description."
    )
    row_cosine: float = Field(description="Between the weights of both.")
    threshold: float = Field(description="A class is named where either cosine reaches this.")


class ChangedClass(ClassAnswer):
    """A class after a change."""

    head: HeadState
    filled: list[str] = Field(
        description="Attributes that were not given and took the vocabulary's mean, or what the class in `like` has."
    )
    out_of_range: list[str] = Field(description="Attributes beyond the range of the training classes.")
    near_duplicates: list[NearDuplicate] = Field(description="Classes that are almost the same, the nearest first.")
    warnings: Warnings


class ClassPage(BaseModel):
    """Some of the classes, in the order of their ids."""

    classes: list[ClassAnswer]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class BatchDocument(BaseModel):
    """Classes to store, all or none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["create", "upsert"] = Field(
        "create", description="Whether a class that exists is refused or replaced."
    )
    classes: Annotated[
        list[Any],  # each is read by itself, so that everything that is wrong with any is named
        Field(min_length=1),
        WithJsonSchema({"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/DescribedDocument"}}),
    ]


class BatchItem(BaseModel):
    """What became of one class of a batch."""

    id: str
    status: Literal["created", "replaced", "unchanged"]
    registry_version: int = Field(description="Version at which the class last changed.")
    etag: str
    examples: int = Field(description="Number of its example photos.")
    like: str | None = Field(description="Id of the class whose attributes filled what was not given.")
    filled: list[str] = Field(
        description="Attributes that were not given and took the vocabulary's mean, or what the class in `like` has."
    )
    out_of_range: list[str] = Field(description="Attributes beyond the range of the training classes.")
    near_duplicates: list[NearDuplicate] = Field(description="Classes that are almost the same, the nearest first.")
    warnings: Warnings


class BatchAnswer(BaseModel):
    """What became of a batch, in the order of its classes."""

    registry_version: int
    head: HeadState
    classes: list[BatchItem]


class NeighbourAnswer(BaseModel):
    """A class near the one that was described."""

    class_id: str
    name: str
    kind: Kind
    attribute_cosine: float | None = Field(description="Null where one of both has no description.")
    row_cosine: float


class ShareAnswer(BaseModel):
    """How many of the described class's synthesised embeddings a class wins."""

    class_id: str
    name: str
    share: float


class LossAnswer(BaseModel):
    """What the described class would take from a neighbour."""

    class_id: str
    name: str
    before: float = Field(description="Share of the neighbour's synthesised embeddings that it wins today.")
    after: float = Field(description="The same with the described class in the table.")
    taken: float = Field(description="Share of them that the described class would win.")


class Confusion(BaseModel):
    """What is to be expected on synthesised embeddings."""

    samples: int = Field(description="Synthesised embeddings per class.")
    won: list[ShareAnswer] = Field(description="Who wins those of the described class, the largest share first.")
    taken: list[LossAnswer] = Field(description="What the nearest unseen classes would lose.")


class PreviewDocument(DescribedDocument):
    """A class to try out, with example photos and images if wanted."""

    images: list[JsonImage] = Field(default_factory=list, description="Images to classify as if it were registered.")


class PreviewQuery(ReadQuery):
    """Parameters of POST /classes:preview."""

    neighbours: int = Field(5, ge=1, le=50, description="Most classes in each list of neighbours.")
    top_k: int = Field(5, ge=1, le=1000, description="Most classes in the result of an image.")


class ListQuery(ReadQuery):
    """Parameters of GET /classes."""

    limit: int = Field(100, ge=1, le=1000, description="Most classes on a page.")
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")
    kind: Kind | None = Field(None, description="Classes of this kind only.")
    name: str | None = Field(None, max_length=MAX_NAME_LENGTH, description="Classes whose name contains this.")


class LeftOutAnswer(BaseModel):
    """What an example photo would be taken for if the class did not have it."""

    id: str = Field(description="Hash of its pixels as the networks see them.")
    place: int = Field(description="Its position in `examples` of the request.")
    recognised: bool = Field(description="Whether the class would be the most probable one.")
    log_odds: float = Field(description="Of the class against the most probable other one.")
    class_id: str = Field(description="The most probable of the other classes.")
    name: str


class PreviewedImage(ImageAnswer):
    """What an image shows if the class is registered, and what it shows today."""

    before: list[Prediction] = Field(description="The classes as they are today, most probable first.")


class PreviewAnswer(BaseModel):
    """What registering a class would do; nothing was stored."""

    id: str
    name: str
    exists: bool = Field(description="Whether a class with this id would be replaced.")
    registry_version: int = Field(description="Version of the class table that was looked at.")
    attributes: list[float] | None = Field(description="Null for a class without a description.")
    text: list[str] = Field(description="What it is described by in words, if it is.")
    like: str | None = Field(description="Id of the class whose attributes filled what was not given.")
    filled: list[str] = Field(
        description="Attributes that were not given and took the vocabulary's mean, or what the class in `like` has."
    )
    out_of_range: list[str] = Field(description="Attributes beyond the range of the training classes.")
    near_duplicates: list[NearDuplicate] = Field(description="Classes that are almost the same, the nearest first.")
    warnings: Warnings
    nearest_by_attributes: list[NeighbourAnswer]
    nearest_by_row: list[NeighbourAnswer]
    confusion: Confusion
    examples: list[LeftOutAnswer] = Field(
        description="The example photos in the order in which they came, each once; none where there is nothing to "
        "judge them by."
    )
    results: list[PreviewedImage | ImageFailure] = Field(description="The images, in their order.")
