"""What the service answers and takes as JSON, beside classes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from model.classes import Kind
from service.classes.ranking import Scope
from service.inference.sessions import Provider
from service.registry.change import CLASS_IDS_SHOWN

HeadState = Annotated[
    Literal["exact"],
    Field(description="Always exact: the answer follows from the bundle and the version of the registry."),
]


MAX_ID_LENGTH = 256
"""Longest id of an image."""

Cursor = Annotated[str, Field(min_length=1, pattern="^[A-Za-z0-9_-]+$")]
"""What every cursor looks like; not everything that does is one."""


class ReadQuery(BaseModel):
    """What every read of the class table may ask for."""

    model_config = ConfigDict(extra="forbid")

    min_registry_version: int = Field(
        0, ge=0, le=2**53, description="Wait until this version of the class table is here."
    )


class RankQuery(ReadQuery):
    """Which classes take part, and how many are answered."""

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
        if not isinstance(values, str | list):
            return values
        parts = [values] if isinstance(values, str) else values
        return [word for part in parts for word in str(part).split(",") if word]


class ClassifyQuery(RankQuery):
    """Parameters of /classify."""

    explain: Literal["attributes"] | None = Field(None, description="Say which attributes spoke for and against.")
    top_attributes: int = Field(
        5, ge=1, le=100, description="Most attributes on each side of an explanation, and photos."
    )


class ContributionAnswer(BaseModel):
    """What one attribute adds to a class's log-odds for an image."""

    attribute: str
    value: float = Field(description="Of the class.")
    mean: float = Field(description="Over the training classes; what the value is compared with.")
    contribution: float = Field(description="Log-odds of the class against every other that the difference is worth.")


class NearestExample(BaseModel):
    """An example photo of a class that is like an image."""

    id: str = Field(description="Hash of its pixels as the networks see them.")
    cosine: float = Field(description="Between the embeddings of both.")


class PhotoEvidenceAnswer(BaseModel):
    """What the example photos of a class have to do with its score."""

    count: int = Field(description="Number of its example photos.")
    share: float = Field(description="How much of its row is photos, n / (k + n); the rest is description.")
    nearest: list[NearestExample] = Field(description="The photos that are most like the image, the nearest first.")


class Explanation(BaseModel):
    """Which attributes spoke for a class and which against it, the strongest first; and its nearest photos."""

    supporting: list[ContributionAnswer]
    opposing: list[ContributionAnswer]
    photos: PhotoEvidenceAnswer | None = Field(None, description="Only of a class with example photos.")


class Prediction(BaseModel):
    """A class with its probability among the classes that took part."""

    class_id: str
    name: str
    kind: Kind
    probability: float
    explanation: Explanation | None = Field(
        default=None, description="With `explain=attributes`, for the first classes."
    )


class ImageAnswer(BaseModel):
    """What an image shows."""

    id: str
    width: int
    height: int
    novelty: float | None = Field(
        description="Fraction of held-out seen images that looked more familiar than this one; null where the bundle "
        "has no score that tells unseen classes from seen ones."
    )
    predictions: list[Prediction] = Field(description="Most probable first.")
    warnings: list[str] = Field(
        default=[], description="What was wrong with the file and did no harm; only where there is something."
    )


class ImageProblem(BaseModel):
    """Why an image has no answer; the fields of a problem document."""

    type: str
    title: str
    status: int
    detail: str


class ImageFailure(BaseModel):
    """An image without an answer."""

    id: str
    error: ImageProblem


class Timing(BaseModel):
    """Milliseconds; of several images the longest."""

    decode: float
    queue: float
    inference: float


class ClassifyAnswer(BaseModel):
    """Results in the order of the images."""

    bundle: str
    registry_version: int
    head: HeadState
    results: list[ImageAnswer | ImageFailure]
    timing_ms: Timing


class JsonImage(BaseModel):
    """One image of a JSON body."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)] | None = Field(
        None, description="Returned with the result; the position in the list where it is not given."
    )
    data: str = Field(
        description="The image file in base64 (RFC 4648), standard or URL-safe, or as a data URI.",
        json_schema_extra={"contentEncoding": "base64"},
    )


class JsonImages(BaseModel):
    """A JSON body with images."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[JsonImage] = Field(min_length=1)


class AttributeAnswer(BaseModel):
    """An attribute with its range and mean over the training classes."""

    name: str
    min: float
    max: float
    mean: float
    description: str | None = Field(default=None, description="What it means; only where the bundle says it.")
    unit: str | None = Field(default=None, description="Of min, max and mean; only where the bundle says it.")


class TextTaken(BaseModel):
    """What is taken as the text of a class."""

    max_tokens: int = Field(description="Most tokens of one text as the encoder counts them; a longer one is refused.")
    max_texts: int = Field(description="Most texts of one class.")
    max_length: int = Field(description="Most characters of one text.")


class AttributeList(BaseModel):
    """The vocabulary, in order, and what else describes a class."""

    attributes: list[AttributeAnswer] = Field(description="None where classes are described by text alone.")
    text: TextTaken | None = Field(description="What is taken as text; null where classes have none.")
    max_examples: int = Field(description="Most example photos of a class; 0 where the bundle takes none.")


class BundleExample(BaseModel):
    """An image that comes with the bundle."""

    name: str = Field(description="Last part of its path under /bundle/examples.")
    class_id: str = Field(description="The class it shows.")
    class_name: str
    known: bool = Field(description="Whether the class table has this class at present.")
    attributes: list[float] | None = Field(
        description="Where the bundle did not bring the class: what it can be registered with."
    )


class BundleExampleList(BaseModel):
    """The images that come with the bundle."""

    examples: list[BundleExample]


class KindCounts(BaseModel):
    """Number of classes of each kind."""

    seen: int
    unseen: int


class RegistryAnswer(BaseModel):
    """The state of the class table."""

    bundle: str
    registry_version: int
    classes: KindCounts
    database: str = Field(description="Kind of the database: sqlite or postgresql.")


class VersionRecord(BaseModel):
    """One version of the class table."""

    registry_version: int
    time: datetime | None = Field(description="When it was committed, in UTC; null where it cannot be read.")
    operation: str | None = Field(
        description="put, describe, remove, batch, rollback or adopt; null where it cannot be read."
    )
    changes: int = Field(description="How many classes it changed.")
    class_ids: list[str] = Field(description=f"The first of them, at most {CLASS_IDS_SHOWN}.")
    rolled_back_to: int | None = Field(description="The version that a rollback returned to.")
    author: str | None = Field(description="Who made it: `key ID`, or the client's address; null where nobody said.")
    damaged: bool = Field(description="Whether something of this entry is damaged on disk.")


class VersionPage(BaseModel):
    """Some of the versions, in the order that was asked for."""

    versions: list[VersionRecord]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class VersionsQuery(ReadQuery):
    """Parameters of GET /registry/versions."""

    order: Literal["oldest", "newest"] = Field("oldest", description="Which version comes first.")
    limit: int = Field(100, ge=1, le=1000, description="Most versions on a page.")
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")


class RollbackDocument(BaseModel):
    """Where to go back to."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=0, description="A version of this registry; 0 is the bundle alone.")


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
    provider: Provider = Field(description="What runs the model.")
    image_types: list[str] = Field(
        default_factory=list,
        description="Media types of the image files that are read; image/heic only with the extra.",
    )


class ProblemError(BaseModel):
    """One thing that is wrong."""

    pointer: str = Field(
        description="JSON pointer into the body; /query/..., /path/... and /header/... for the rest of the request."
    )
    detail: str = Field(description="What was expected and what came.")


class ProblemDocument(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(description="URN of the kind of problem; stable.")
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemError]
