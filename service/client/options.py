"""Query parameters that methods of a client take by name; the same as in the service's models of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from model.classes import Kind
from service.classes.ranking import Scope


class ReadOptions(TypedDict, total=False):
    """Parameters of :class:`service.http.schemas.ReadQuery`."""

    min_registry_version: int


class RankOptions(ReadOptions, total=False):
    """Parameters of :class:`service.http.schemas.RankQuery`."""

    top_k: int
    scope: Scope
    classes: Sequence[str]
    seen_penalty: float | None


class ClassifyOptions(RankOptions, total=False):
    """Parameters of :class:`service.http.schemas.ClassifyQuery`."""

    explain: Literal["attributes"] | None
    top_attributes: int


class ListOptions(ReadOptions, total=False):
    """Parameters of :class:`service.http.class_schemas.ListQuery`."""

    limit: int
    cursor: str | None
    kind: Kind | None
    name: str | None


class PreviewOptions(ReadOptions, total=False):
    """Parameters of :class:`service.http.class_schemas.PreviewQuery`."""

    neighbours: int
    top_k: int


class VersionsOptions(ReadOptions, total=False):
    """Parameters of :class:`service.http.schemas.VersionsQuery`."""

    order: Literal["oldest", "newest"]
    limit: int
    cursor: str | None
