"""What the Open Inference Protocol v2 takes and answers as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from model.bundle import Precision
from service.http.schemas import HeadState, RankQuery

MODEL = "d3gzsl"
"""The model's name; its version is the bundle's id."""


class InferParameters(RankQuery):
    """Parameters of a request."""

    binary_data_output: bool = Field(False, description="Answer with binary tensors where an output says nothing else.")
    timeout: int | None = Field(None, ge=1, le=2**53, description="Microseconds after which nobody wants the answer.")


class TensorParameters(BaseModel):
    """Parameters of an input."""

    model_config = ConfigDict(extra="forbid")

    binary_data_size: int | None = Field(None, ge=0, description="Bytes of the tensor behind the JSON.")


class InferInput(BaseModel):
    """A tensor that comes as JSON or behind it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    parameters: TensorParameters = TensorParameters(binary_data_size=None)
    data: list[Any] | None = Field(None, description="Flat or nested, row by row; image files in base64.")


class OutputParameters(BaseModel):
    """Parameters of an output."""

    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = Field(None, description="Whether it comes behind the JSON.")


class InferOutput(BaseModel):
    """An output that is wanted."""

    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: OutputParameters = OutputParameters(binary_data=None)


class InferRequest(BaseModel):
    """A request for an inference."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(None, max_length=1000, description="Returned with the answer.")
    model_name: str | None = Field(None, description="The name in the path says it already.")
    parameters: InferParameters = Field(default_factory=lambda: InferParameters.model_validate({}))
    inputs: list[InferInput] = Field(min_length=1, max_length=1)
    outputs: list[InferOutput] = Field([], max_length=16, description="All where none is named.")


class TensorAnswer(BaseModel):
    """A tensor of the answer, in `data` or, with its size among the parameters, behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: TensorParameters | None = None
    data: list[str] | list[float] | None = None


class AnswerParameters(BaseModel):
    """What the answer depends on."""

    bundle: str
    precision: Precision | None = Field(
        None, description="The arithmetic of the bundle's trunk that embedded the images; services of old do not say."
    )
    registry_version: int
    head: HeadState


class InferAnswer(BaseModel):
    """The answer to a request for an inference."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: AnswerParameters
    outputs: list[TensorAnswer]


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor of the model; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerHealth(BaseModel):
    """Whether the server lives and is ready, each as far as it was asked for."""

    live: bool
    ready: bool


class ModelReady(BaseModel):
    """Whether the model answers."""

    name: str
    ready: bool


class V2Error(BaseModel):
    """An error, as the protocol has it."""

    error: str
