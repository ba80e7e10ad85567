"""Classes as clients describe them, read with everything that is wrong named, and as they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from model.classes import CLASS_ID_PATTERN, ClassEntry, is_class_id
from model.errors import AttributesError, InvalidInputError, Problem, TextError
from model.outside.names import slug
from model.outside.scales import TrainingScale
from model.text.description import ClassText
from model.text.encoder import TextEncoder
from model.vocabulary import MOST_GUESSED, Vocabulary
from service.classes.class_table import KnownClass
from service.classes.edits import Find, with_free_ids
from service.classes.like import POINTER, ClassesToBeLike
from service.classes.neighbours import NEAR_DUPLICATE, Neighbour
from service.errors import (
    InvalidBatchError,
    InvalidClassIdError,
    InvalidClassNameError,
    InvalidRequestError,
    MetadataTooLargeError,
)
from service.http.bodies.class_texts import in_words, read_text, taken
from service.http.class_schemas import METADATA_TOO_LARGE, ClassDocument, ClassWords, NearDuplicate
from service.http.images import EXAMPLES_FIELD, SentImage, split_images
from service.http.problems import MOST_NAMED, names_of, validation_problems, without_most_unknown

Wrong = list[tuple[type[InvalidInputError], Problem]]


@dataclass(frozen=True, kw_only=True)
class DescribedClass:
    """A class as a client described it.

    Attributes:
        entry: the class.
        filled: attributes that were not given and took the vocabulary's mean, or what the class in `like` has.
        out_of_range: attributes beyond the range of the training classes.
        warnings: what was probably not meant so, in sentences.
        id_made: whether its id was made from its name.
    """

    entry: ClassEntry
    filled: tuple[str, ...]
    out_of_range: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    id_made: bool = False


def read_class(
    given: object,
    vocabulary: Vocabulary,
    *,
    scale: TrainingScale,
    others: ClassesToBeLike,
    encoder: TextEncoder | None = None,
    class_id: str | None = None,
    with_photos: bool = False,
    guesses: int = MOST_GUESSED,
) -> DescribedClass:
    """The class of a document; a text takes milliseconds, and more the longer it is.

    Args:
        given: JSON value.
        vocabulary: of the bundle.
        scale: where the attributes of the training classes lie.
        others: the classes that it may be like.
        encoder: of the bundle, if it has one.
        class_id: id that the class must have; where it is None the document's own, or one made from the name.
        with_photos: whether example photos come with it, so that it needs no attributes.
        guesses: for how many unknown attributes similar ones are named.

    Raises:
        InvalidRequestError: names everything that is wrong; of a class of its own where only one kind of thing is.
        AttributesError: likewise, where only the attributes are wrong.
        TextError: likewise, where only the text is wrong.
    """
    wrong: Wrong = []
    document = _document(given, wrong)
    like = _like(document, others, wrong)
    values, filled = _attributes(given, vocabulary, wrong, guesses, like, with_photos)
    text = _text(given, vocabulary, encoder, wrong)
    chosen = class_id
    if document is not None:
        chosen = _chosen_id(document, class_id, wrong)
    if wrong or document is None or chosen is None:
        raise _error("the class is not valid", wrong)
    entry = ClassEntry(
        id=chosen,
        name=document.name,
        kind="unseen",
        attributes=None if values is None else tuple(values.tolist()),
        description=document.description,
        metadata=document.metadata,
        like=None if like is None else like.id,
        text=text,
    )
    made = class_id is None and document.id is None
    return DescribedClass(
        entry=entry,
        filled=filled,
        out_of_range=() if values is None else vocabulary.out_of_range(values),
        warnings=() if values is None or not len(vocabulary) else scale.doubts(values, vocabulary.others_than(filled)),
        id_made=made,
    )


def with_ids(described: Sequence[DescribedClass], find: Find) -> list[DescribedClass]:
    """The classes as they will be stored: an id made from a name that a class of another name has gets a suffix.

    Args:
        described: the classes of one request.
        find: the class with an id, in the newest class table.
    """
    entries = with_free_ids([(one.entry, one.id_made) for one in described], find)
    return [replace(one, entry=entry) for one, entry in zip(described, entries, strict=True)]


def read_classes(
    given: Sequence[object],
    vocabulary: Vocabulary,
    *,
    scale: TrainingScale,
    others: ClassesToBeLike,
    most_photos: int,
    encoder: TextEncoder | None = None,
    go_on: Callable[[], object] = lambda: None,
) -> tuple[list[DescribedClass], list[list[SentImage]]]:
    """The classes of a batch, no two with one id, and the photos that came with each.

    Args:
        given: JSON values.
        vocabulary: of the bundle.
        scale: where the attributes of the training classes lie.
        others: the classes that they may be like.
        most_photos: of one class.
        encoder: of the bundle, if it has one.
        go_on: called before each class; what it raises ends the work.

    Raises:
        InvalidBatchError: names everything that is wrong with each.
    """
    described: dict[int, DescribedClass] = {}
    photos: dict[int, list[SentImage]] = {}
    problems: dict[int, list[Problem]] = {}
    for i, item in enumerate(given):
        go_on()
        wrong: list[Problem] = []
        document, photos[i], wrong_photos = _split(item, most_photos, f"/classes/{i}")
        try:
            guesses = max(0, MOST_GUESSED - len(problems))
            described[i] = read_class(
                document,
                vocabulary,
                scale=scale,
                others=others,
                encoder=encoder,
                with_photos=bool(photos[i] or wrong_photos),
                guesses=guesses,
            )
        except InvalidInputError as error:
            wrong += error.problems
        wrong += wrong_photos
        if wrong:
            problems[i] = [replace(p, pointer=f"/classes/{i}{p.pointer}") for p in wrong]
    places: dict[str, int] = {}
    for i, one in zip(described, with_ids([*described.values()], lambda _id: None), strict=True):
        first = places.setdefault(one.entry.id, i)
        if first != i:
            detail = f"expected an id of its own, got {one.entry.id!r}, which /classes/{first} has too"
            problems.setdefault(i, []).append(Problem(pointer=f"/classes/{i}/id", detail=detail))
    if problems:
        named = [problem for i in sorted(problems) for problem in problems[i]]
        raise InvalidBatchError(f"{len(problems)} of {len(given)} classes are not valid", named)
    return [*described.values()], [*photos.values()]


def read_words(given: object) -> dict[str, Any]:
    """The fields that a PATCH changes, at least one.

    Raises:
        InvalidRequestError: see :func:`read_class`.
    """
    try:
        words = ClassWords.model_validate(without_most_unknown(ClassWords, given)).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _error("the change is not valid", _sorted_out(error)) from None
    if not words:
        raise InvalidRequestError(
            "nothing to change", [Problem(pointer="", detail="expected name, description or metadata, got none")]
        )
    return words


def fields_of(known: KnownClass) -> dict[str, Any]:
    """What is answered about a class."""
    text = [] if known.entry.text is None else list(known.entry.text.sentences)
    fields = {**known.entry.to_json(), "examples": len(known.entry.examples), "text": text}
    return {**fields, "registry_version": known.registry_version}


def near_duplicates(neighbours: Sequence[Neighbour]) -> list[NearDuplicate]:
    """What is answered about classes that are almost the same."""
    return [
        NearDuplicate(
            class_id=n.known.entry.id,
            name=n.known.entry.name,
            attribute_cosine=n.attribute_cosine,
            row_cosine=n.row_cosine,
            threshold=NEAR_DUPLICATE,
        )
        for n in neighbours
    ]


def _document(given: object, wrong: Wrong) -> ClassDocument | None:
    try:
        return ClassDocument.model_validate(without_most_unknown(ClassDocument, given))
    except ValidationError as error:
        wrong += _sorted_out(error)
        return None


def _like(document: ClassDocument | None, others: ClassesToBeLike, wrong: Wrong) -> ClassEntry | None:
    """The class that one is to be like, if any."""
    if document is None or not document.like:
        return None
    try:
        return others.find(document.like)
    except InvalidInputError as error:
        wrong += [(type(error), problem) for problem in error.problems]
        return None


def _attributes(
    given: object, vocabulary: Vocabulary, wrong: Wrong, guesses: int, like: ClassEntry | None, with_photos: bool
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Values of all attributes, and the names of those that were not given; what is wrong is appended."""
    if not isinstance(given, Mapping):
        return None, ()
    if "attributes" not in given:
        if like is not None:
            return np.array(like.attributes, dtype=np.float64), vocabulary.names
        if "text" in given:  # as if every attribute were left out
            return np.array([a.mean for a in vocabulary.attributes]), vocabulary.names
        if "like" not in given and not with_photos:
            detail = f"expected {in_words(vocabulary)}, a class in like, or photos in examples; got none of these"
            place = "/attributes" if len(vocabulary) else "/text"
            wrong.append((InvalidRequestError, Problem(pointer=place, detail=detail)))
        return None, ()
    if not len(vocabulary) and given["attributes"] != []:
        detail = f"expected no attributes: {taken(vocabulary)}"
        wrong.append((AttributesError, Problem(pointer="/attributes", detail=detail)))
        return None, ()
    try:
        values, filled = vocabulary.resolve(
            given["attributes"], guesses=guesses, otherwise=None if like is None else like.attributes
        )
    except AttributesError as error:
        wrong += [(type(error), problem) for problem in error.problems]
        return None, ()
    if like is not None and not filled:
        detail = f"expected attributes that leave some for {like.id!r} to fill, or no like; all {len(values)} are given"
        wrong.append((InvalidRequestError, Problem(pointer=POINTER, detail=detail)))
    return values, filled


def _text(given: object, vocabulary: Vocabulary, encoder: TextEncoder | None, wrong: Wrong) -> ClassText | None:
    if not isinstance(given, Mapping):
        return None
    if "text" not in given:
        if not len(vocabulary) and "attributes" in given:
            detail = f"expected a text, got none: {taken(vocabulary)}"
            wrong.append((TextError, Problem(pointer="/text", detail=detail)))
        return None
    try:
        return read_text(given["text"], encoder, vocabulary)
    except TextError as error:
        wrong += [(TextError, problem) for problem in error.problems]
        return None


def _chosen_id(document: ClassDocument, class_id: str | None, wrong: Wrong) -> str | None:
    if class_id is None:
        return document.id or slug(document.name)
    if not is_class_id(class_id):
        detail = f"expected a slug that fits {CLASS_ID_PATTERN}, got {class_id[:100]!r}"
        wrong.append((InvalidClassIdError, Problem(pointer="/path/class_id", detail=detail)))
    elif document.id not in (None, class_id):
        detail = f"expected {class_id!r} as in the path, or nothing"
        wrong.append((InvalidClassIdError, Problem(pointer="/id", detail=detail)))
    return class_id


def _sorted_out(error: ValidationError) -> Wrong:
    errors = error.errors(include_url=False)
    kinds = [*map(_kind, errors[:MOST_NAMED]), *([InvalidRequestError] if len(errors) > MOST_NAMED else [])]
    return list(zip(kinds, validation_problems(errors, known=names_of(ClassDocument)), strict=True))


def _kind(error: Mapping[str, Any]) -> type[InvalidInputError]:
    if error["type"] == METADATA_TOO_LARGE:
        return MetadataTooLargeError
    where = error["loc"][:1]
    if where == ("id",):
        return InvalidClassIdError
    if where == ("name",) and error["type"] != "missing":
        return InvalidClassNameError
    return InvalidRequestError


def _error(message: str, wrong: Iterable[tuple[type[InvalidInputError], Problem]]) -> InvalidInputError:
    """An error of the one kind that everything is of, or of the general kind."""
    kinds = {kind for kind, _ in wrong}
    kind = kinds.pop() if len(kinds) == 1 else InvalidRequestError
    if issubclass(kind, AttributesError):
        message = "the attributes do not fit the vocabulary"
    elif kind is TextError:
        message = "the text cannot be taken"
    return kind(message, [problem for _, problem in wrong])


def _split(item: object, most: int, within: str) -> tuple[object, list[SentImage], tuple[Problem, ...]]:
    """A class's document, its photos, and what is wrong with these."""
    if not isinstance(item, dict) or EXAMPLES_FIELD not in item:
        return item, [], ()
    document = {name: value for name, value in item.items() if name != EXAMPLES_FIELD}
    photos = item[EXAMPLES_FIELD]
    if isinstance(photos, list) and len(photos) > most:
        detail = f"expected at most {most} of a class, got {len(photos)}"
        return document, [], (Problem(pointer=f"/{EXAMPLES_FIELD}", detail=detail),)
    try:
        _, sent = split_images({EXAMPLES_FIELD: photos}, {EXAMPLES_FIELD: most}, within=within)
    except InvalidInputError as error:
        return document, [], error.problems
    return document, sent[EXAMPLES_FIELD], ()
