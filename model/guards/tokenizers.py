"""A `tokenizer.json` of a stranger: only parts whose work is in proportion to the text, and no regular expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model.errors import BundleError
from model.guards.documents import read_document

_NORMALIZERS = """
    BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Strip StripAccents
"""
_PRE_TOKENIZERS = """
    BertPreTokenizer ByteLevel CharDelimiterSplit Digits Metaspace Punctuation Split Whitespace WhitespaceSplit
"""
ALLOWED: dict[str, frozenset[str]] = {
    "model": frozenset({"WordPiece", "WordLevel", "BPE", "Unigram"}),
    "normalizer": frozenset(_NORMALIZERS.split()),
    "pre_tokenizer": frozenset(_PRE_TOKENIZERS.split()),
    "post_processor": frozenset({"BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"}),
}
"""Parts that sentence encoders are made of, by their place in the file; each may stand in a Sequence."""

_KEPT = frozenset({"version", "truncation", "padding", "added_tokens", "decoder", *ALLOWED})
_LONGEST_INSERTED = 16  # characters that a normaliser puts in the place of others


def check_tokenizer(data: bytes, name: str) -> None:
    """Refuse a tokenizer whose work on a text is not bounded, before the library reads it.

    Args:
        data: the file.
        name: of the file, for errors.

    Raises:
        BundleError: says what is not allowed.
    """
    try:
        fields = read_document(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name}: not readable as JSON: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), dict):
        raise BundleError(f"{name}: expected a tokenizer as Hugging Face writes it, found no model in it")
    if unknown := sorted(set(fields) - _KEPT):
        raise BundleError(f"{name}: {unknown[0][:100]!r} is not allowed in a tokenizer")
    for place, allowed in ALLOWED.items():
        for part in _parts(fields.get(place)):
            kind = part.get("type", "BPE" if place == "model" else None)
            if kind not in allowed:
                raise BundleError(f"{name}: {place} of the type {str(kind)[:100]!r} is not allowed in a tokenizer")
            if isinstance(part.get("pattern"), dict) and "Regex" in part["pattern"]:
                raise BundleError(f"{name}: a regular expression in {place} is not allowed in a tokenizer")
            for inserted in ("content", "prepend"):
                if len(str(part.get(inserted) or "")) > _LONGEST_INSERTED:
                    raise BundleError(
                        f"{name}: {place} {kind} puts in more than {_LONGEST_INSERTED} characters, which is not allowed"
                    )


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer, or what a sequence of them holds."""
    if not isinstance(part, dict):
        return
    if part.get("type") != "Sequence":
        yield part
        return
    for name in ("normalizers", "pretokenizers", "processors"):
        for inner in part.get(name) or ():
            yield from _parts(inner)
