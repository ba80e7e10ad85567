"""Texts of classes as clients send them, and what is said where a bundle does not take them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

from model.errors import Problem, TextError
from model.text.description import MAX_SENTENCE_LENGTH, MAX_SENTENCES, ClassText
from model.text.encoder import TextEncoder
from model.vocabulary import Vocabulary

_SENTENCE = {"type": "string", "minLength": 1, "maxLength": MAX_SENTENCE_LENGTH}
Text = Annotated[
    Any,  # the encoder checks it and names every single text that is wrong
    WithJsonSchema(
        {
            "anyOf": [_SENTENCE, {"type": "array", "items": _SENTENCE, "minItems": 1, "maxItems": MAX_SENTENCES}],
            "description": "What the class is, in a sentence or several, of which the mean counts; alone or beside "
            "attributes. Taken where GET /attributes says so. A text that is longer than the encoder reads is refused.",
        }
    ),
]


def read_text(given: object, encoder: TextEncoder | None, vocabulary: Vocabulary) -> ClassText:
    """The text of a class from a JSON value, one string or a list of them.

    Raises:
        TextError: the bundle has no text encoder, it is no text, or cannot be encoded; names everything that is wrong.
    """
    if encoder is None:
        raise TextError(
            "the text is not taken", [Problem(pointer="/text", detail=f"expected none: {taken(vocabulary)}")]
        )
    if isinstance(given, str):
        return encoder.describe([given], ["/text"])
    if not isinstance(given, list) or not given:
        kind = "an empty list" if given == [] else type(given).__name__
        detail = f"expected a text or a list of texts, got {kind}"
        raise TextError("the text cannot be encoded", [Problem(pointer="/text", detail=detail)])
    problems = [
        Problem(pointer=f"/text/{i}", detail=f"expected a text, got {type(value).__name__}")
        for i, value in enumerate(given[: MAX_SENTENCES + 1])
        if not isinstance(value, str)
    ]
    if len(given) > MAX_SENTENCES:
        problems.append(Problem(pointer="/text", detail=f"expected at most {MAX_SENTENCES} texts, got {len(given)}"))
    if problems:
        raise TextError("the text cannot be encoded", problems)
    return encoder.describe(given, [f"/text/{i}" for i in range(len(given))])


def in_words(vocabulary: Vocabulary) -> str:
    """Which fields can describe a class."""
    if vocabulary.text is None:
        return "attributes"
    return "attributes or text" if len(vocabulary) else "text"


def taken(vocabulary: Vocabulary) -> str:
    """What a bundle's classes are described by, in words."""
    named = f"{len(vocabulary)} named attributes"
    if vocabulary.text is None:
        return f"this bundle has no text encoder, its classes are described by {named} (GET /attributes)"
    if not len(vocabulary):
        return "the classes of this bundle are described by text alone"
    return f"the classes of this bundle are described by text, by {named} (GET /attributes), or by both"
