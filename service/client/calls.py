"""Every endpoint as a function from what it takes to the call that asks for it; `/v2` is in `inference_protocol.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

from pydantic import BaseModel

from service.client.answers import (
    TaggedChange,
    TaggedChangedExamples,
    TaggedClass,
    TaggedExamples,
    TaggedPage,
    TaggedRegistry,
    as_bytes,
    as_model,
    as_nothing,
    as_results,
    as_tagged,
    as_text,
)
from service.client.images import Images, Source, sources
from service.client.options import ClassifyOptions, ListOptions, PreviewOptions, ReadOptions, VersionsOptions
from service.client.steps import Call
from service.http.class_schemas import BatchAnswer, PreviewAnswer
from service.http.schemas import AttributeList, BundleExampleList, ClassifyAnswer, Health, VersionAnswer, VersionPage

Document = Mapping[str, Any] | BaseModel
"""What the service takes as JSON: a mapping, or one of the service's models."""


def classify(
    images: Images, *, timeout_ms: int | None = None, **query: Unpack[ClassifyOptions]
) -> Call[ClassifyAnswer]:
    """Rank the classes for one image or several.

    Args:
        images: paths, bytes of image files, or ids with bytes; results have the path, the place, or the id.
        timeout_ms: milliseconds after which the answer is no longer wanted.
        query: parameters of POST /classify.

    Raises:
        ServiceError: also where the only image cannot be read; of several each has an `error` of its own.
        DataError: an image file cannot be opened.
        ValueError: there is no image.
    """
    given = _some(images)
    return Call(
        method="POST",
        template="/classify",
        read=as_results(ClassifyAnswer, given),
        query=query,
        headers={"d3gzsl-timeout-ms": None if timeout_ms is None else str(timeout_ms)},
        files=_in_form(images=given),
        repeat=True,
        at_least="query",
    )


def class_page(*, if_none_match: str | None = None, **query: Unpack[ListOptions]) -> Call[TaggedPage]:
    """One page of the classes in the order of their ids; `classes` gives all of them.

    Args:
        if_none_match: entity tag that the caller has already; NotModifiedError where it still holds.
        query: parameters of GET /classes.
    """
    return Call(
        method="GET",
        template="/classes",
        read=as_tagged(TaggedPage),
        query=query,
        headers={"if-none-match": if_none_match},
        repeat=True,
        at_least="query",
    )


def show_class(class_id: str, *, if_none_match: str | None = None, **query: Unpack[ReadOptions]) -> Call[TaggedClass]:
    """One class with its entity tag.

    Args:
        class_id: of the class.
        if_none_match: entity tag that the caller has already; NotModifiedError where it still holds.
        query: `min_registry_version`, instead of the highest version that the client has seen.
    """
    return Call(
        method="GET",
        template="/classes/{class_id}",
        values={"class_id": class_id},
        read=as_tagged(TaggedClass),
        query=query,
        headers={"if-none-match": if_none_match},
        repeat=True,
        at_least="query",
    )


def add_class(document: Document, *, examples: Images = ()) -> Call[TaggedChange]:
    """Register a class. Not sent a second time where the answer is lost, as then the class may be there already.

    Args:
        document: what POST /classes takes: `name`, `attributes`, and so on.
        examples: photos of the class, as evidence.
    """
    return Call(
        method="POST",
        template="/classes",
        read=as_tagged(TaggedChange),
        document=document,
        files=_in_form(examples=sources(examples)),
    )


def put_class(
    class_id: str,
    document: Document,
    *,
    examples: Images = (),
    if_match: str | None = None,
    if_none_match: str | None = None,
) -> Call[TaggedChange]:
    """Create or replace a class.

    Args:
        class_id: of the class.
        document: as for `add_class`.
        examples: its photos, instead of those that it has.
        if_match: entity tag that the class must have.
        if_none_match: `*` for create only.
    """
    return Call(
        method="PUT",
        template="/classes/{class_id}",
        values={"class_id": class_id},
        read=as_tagged(TaggedChange),
        headers={"if-match": if_match, "if-none-match": if_none_match},
        document=document,
        files=_in_form(examples=sources(examples)),
        repeat=True,
    )


def describe_class(
    class_id: str, words: Document, *, if_match: str | None = None, if_none_match: str | None = None
) -> Call[TaggedClass]:
    """Replace name, description or metadata of a class; what is not given stays.

    Args:
        class_id: of the class.
        words: the fields that change.
        if_match: entity tag that the class must have.
        if_none_match: entity tag that it must not have.
    """
    return Call(
        method="PATCH",
        template="/classes/{class_id}",
        values={"class_id": class_id},
        read=as_tagged(TaggedClass),
        headers={"if-match": if_match, "if-none-match": if_none_match},
        document=words,
        repeat=True,
    )


def remove_class(class_id: str, *, if_match: str | None = None, if_none_match: str | None = None) -> Call[None]:
    """Forget a class.

    Args:
        class_id: of the class.
        if_match: entity tag that the class must have.
        if_none_match: entity tag that it must not have.
    """
    return Call(
        method="DELETE",
        template="/classes/{class_id}",
        values={"class_id": class_id},
        read=as_nothing,
        headers={"if-match": if_match, "if-none-match": if_none_match},
        repeat=True,
        gone_is_done=True,
    )


def store_batch(classes: Sequence[Document], *, mode: Literal["create", "upsert"] = "create") -> Call[BatchAnswer]:
    """Create many classes as one version, or with `upsert` create or replace them: all or none.

    Args:
        classes: each as for `add_class`; photos in base64 in its `examples`.
        mode: only `upsert` is sent again where the answer is lost.
    """
    return Call(
        method="POST",
        template="/classes:batch",
        read=as_model(BatchAnswer),
        document={"mode": mode, "classes": list(classes)},
        repeat=mode == "upsert",
    )


def preview_class(
    document: Document, *, images: Images = (), examples: Images = (), **query: Unpack[PreviewOptions]
) -> Call[PreviewAnswer]:
    """Say what registering a class would do; nothing is stored.

    Args:
        document: as for `add_class`.
        images: to classify as if the class were registered.
        examples: photos of the class, as for `add_class`.
        query: parameters of POST /classes:preview.
    """
    given = sources(images)
    return Call(
        method="POST",
        template="/classes:preview",
        read=as_results(PreviewAnswer, given) if given else as_model(PreviewAnswer),
        query=query,
        document=document,
        files=_in_form(examples=sources(examples), images=given),
        repeat=True,
        at_least="query",
    )


def list_examples(class_id: str, **query: Unpack[ReadOptions]) -> Call[TaggedExamples]:
    """The example photos of a class.

    Args:
        class_id: of the class.
        query: as for `show_class`.
    """
    return Call(
        method="GET",
        template="/classes/{class_id}/examples",
        values={"class_id": class_id},
        read=as_tagged(TaggedExamples),
        query=query,
        repeat=True,
        at_least="query",
    )


def add_examples(
    class_id: str, photos: Images, *, if_match: str | None = None, if_none_match: str | None = None
) -> Call[TaggedChangedExamples]:
    """Give a class example photos; the same photo counts once.

    Args:
        class_id: of the class.
        photos: beside those that it has.
        if_match: entity tag that the class must have.
        if_none_match: entity tag that it must not have.
    """
    return Call(
        method="POST",
        template="/classes/{class_id}/examples",
        values={"class_id": class_id},
        read=as_tagged(TaggedChangedExamples),
        headers={"if-match": if_match, "if-none-match": if_none_match},
        files=_in_form(images=_some(photos)),
        repeat=True,
    )


def remove_example(
    class_id: str, example_id: str, *, if_match: str | None = None, if_none_match: str | None = None
) -> Call[None]:
    """Take an example photo back.

    Args:
        class_id: of the class.
        example_id: of the photo, as `list_examples` gives it.
        if_match: entity tag that the class must have.
        if_none_match: entity tag that it must not have.
    """
    return Call(
        method="DELETE",
        template="/classes/{class_id}/examples/{example_id}",
        values={"class_id": class_id, "example_id": example_id},
        read=as_nothing,
        headers={"if-match": if_match, "if-none-match": if_none_match},
        repeat=True,
        gone_is_done=True,
    )


def attributes() -> Call[AttributeList]:
    """The attributes that describe a class, in order."""
    return Call(method="GET", template="/attributes", read=as_model(AttributeList), repeat=True)


def bundle_examples(**query: Unpack[ReadOptions]) -> Call[BundleExampleList]:
    """The images that come with the bundle, and which classes they show."""
    return Call(
        method="GET",
        template="/bundle/examples",
        read=as_model(BundleExampleList),
        query=query,
        repeat=True,
        at_least="query",
    )


def bundle_example(name: str, *, if_none_match: str | None = None) -> Call[bytes]:
    """An image that comes with the bundle, as a file.

    Args:
        name: of the file, as `bundle_examples` gives it.
        if_none_match: entity tag that the caller has already; NotModifiedError where it still holds.
    """
    headers = {"if-none-match": if_none_match}
    values = {"name": name}
    return Call(
        method="GET", template="/bundle/examples/{name}", values=values, read=as_bytes, headers=headers, repeat=True
    )


def registry(*, if_none_match: str | None = None, **query: Unpack[ReadOptions]) -> Call[TaggedRegistry]:
    """Version and size of the class table.

    Args:
        if_none_match: entity tag that the caller has already; NotModifiedError where it still holds.
        query: as for `show_class`.
    """
    return Call(
        method="GET",
        template="/registry",
        read=as_tagged(TaggedRegistry),
        query=query,
        headers={"if-none-match": if_none_match},
        repeat=True,
        at_least="query",
    )


def version_page(**query: Unpack[VersionsOptions]) -> Call[VersionPage]:
    """One page of the class table's versions; `versions` gives all of them.

    Args:
        query: parameters of GET /registry/versions.
    """
    return Call(
        method="GET",
        template="/registry/versions",
        read=as_model(VersionPage),
        query=query,
        repeat=True,
        at_least="query",
    )


def roll_back(version: int, *, if_match: str | None = None) -> Call[TaggedRegistry]:
    """Make a new version with the classes of a former one.

    Args:
        version: the former one; 0 for the bundle alone.
        if_match: entity tag that `registry` gave; with it the request may be sent again where the answer is lost.
    """
    return Call(
        method="POST",
        template="/registry:rollback",
        read=as_tagged(TaggedRegistry),
        headers={"if-match": if_match},
        document={"version": version},
        repeat=if_match not in (None, "*"),
    )


def live() -> Call[Health]:
    """That the process lives."""
    return Call(method="GET", template="/healthz", read=as_model(Health), repeat=True)


def ready() -> Call[Health]:
    """That images are answered; ServiceUnavailableError where they are not."""
    return Call(method="GET", template="/readyz", read=as_model(Health), repeat=True)


def about() -> Call[VersionAnswer]:
    """What runs there: versions, bundle, backbone."""
    return Call(method="GET", template="/version", read=as_model(VersionAnswer), repeat=True)


def metrics() -> Call[str]:
    """Numbers for Prometheus, in its text format."""
    return Call(method="GET", template="/metrics", read=as_text, repeat=True)


def _in_form(**fields: Sequence[Source]) -> list[tuple[str, Source]] | None:
    """Files with the fields of the form that they stand in; None where there are none."""
    return [(field, source) for field, found in fields.items() for source in found] or None


def _some(images: Images) -> tuple[Source, ...]:
    """The sources of images; ValueError where there is none."""
    found = sources(images)
    if not found:
        raise ValueError("expected at least one image, got none")
    return found
