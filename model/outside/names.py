"""The one rule for names, and the ids that are made from them; for training, bundle, registry and search alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from hashlib import sha256
from itertools import count

MAX_NAME_LENGTH = 200
MAX_ID_LENGTH = 64
_DIGEST_LENGTH = 8
_MOST_NUMBERED = 99  # ids of one slug that are told apart by numbers
_SPACES = "".join(chr(code) for code in (0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000))
_REFUSED = {"Cc": "a control character", "Cs": "half a character", "Co": "a private character"}
_REFUSED |= {"Zl": "a line break", "Zp": "a line break"}
_REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they make a text look like another one
_NO_TEXT = {0xFEFF, *range(0xFFF9, 0xFFFC), *range(0x206A, 0x2070)}
_VISIBLE = "LMNPS"  # first letters of the categories of which a name needs one character
_BASE_LETTER = re.compile(r"LATIN (?:SMALL LETTER|SMALL LIGATURE|LETTER SMALL CAPITAL) ([A-Z]{1,2})(?: WITH .*)?")
_LETTERS = {"ð": "d", "þ": "th", "ŋ": "ng", "ı": "i", "ə": "e", "ɛ": "e", "ɔ": "o", "ĸ": "k", "ʼ": "", "ʻ": ""}


def clean_name(text: str) -> str:
    """A name as it is kept: in Unicode's normal form C, without spaces around it."""
    return unicodedata.normalize("NFC", text).strip(_SPACES)


def name_fault(name: str) -> str | None:
    """What is wrong with a clean name, or None.

    Letters, marks, digits, punctuation, symbols and spaces of all scripts are allowed, and so are the joiners that
    Persian, Indic scripts and emoji need. Control characters, line breaks, characters that turn the direction of the
    text around, and those that stand for nothing are not. Characters that this Python does not know yet are allowed, so
    that it depends on no version what a name is.
    """
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        return f"expected 1 to {MAX_NAME_LENGTH} characters, got {len(name)}"
    if name.isprintable():  # most names; a clean one is then no spaces alone
        return None
    for place, character in enumerate(name):
        if (what := _refused(character)) is not None:
            return f"expected a name without {what}, got U+{ord(character):04X} as character {place + 1}"
    if not any(unicodedata.category(character)[0] in _VISIBLE or _is_unassigned(character) for character in name):
        return "expected a name that can be seen, got one of invisible characters only"
    return None


def text_fault(text: str, *, longest: int) -> str | None:
    """What is wrong with a text of one line, or None: it is too long, or has a character that no name may have."""
    if len(text) > longest:
        return f"expected at most {longest} characters, got {len(text)}"
    for place, character in enumerate(text):
        if (what := _refused(character)) is not None:
            return f"expected a text without {what}, got U+{ord(character):04X} as character {place + 1}"
    return None


def escaped(text: str) -> str:
    """A text as it can be printed: what no name may hold is written as escapes."""
    return "".join(ascii(c)[1:-1] if _refused(c) is not None else c for c in text)


def fold_name(name: str) -> str:
    """A name as it is searched: without regard to case, normal form, kinds of spaces, and invisible characters."""
    if name.isascii():
        return name.casefold()
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return unicodedata.normalize("NFKC", kept)


def slug(name: str) -> str:
    """An id made from a name: `Blue Whale` becomes `blue-whale`, `Łoś` becomes `los`.

    Latin letters lose their accents and are written in a-z. A name with letters or digits of other scripts, or without
    any letter or digit, gets a digest of the whole name: the same name has the same id everywhere.

    Args:
        name: in whatever normal form.

    Returns:
        1 to 64 of ``a-z 0-9 . _ -``, a letter or digit first; empty for a name that is empty.
    """
    clean = clean_name(name)
    if not clean:
        return ""
    written, lost = [], False
    for character in unicodedata.normalize("NFKD", clean.casefold()):
        latin = _in_latin(character)
        lost |= latin is None and unicodedata.category(character)[0] in "LN"
        written.append(latin or "")
    made = _trim(re.sub(r"[^a-z0-9._]+", "-", "".join(written)))
    if made and not lost:
        return _trim(made[:MAX_ID_LENGTH])
    return _with_suffix(made or "class", _digest(clean))


def id_candidates(name: str) -> Iterator[str]:
    """The slug of a name, and then others, for where other classes have the ones before.

    `<slug>-2` to `<slug>-99`, then one with a digest of the name, so that few have to be tried however many classes
    have names alike; then further numbers.
    """
    wanted = slug(name)
    yield wanted
    for number in count(2):
        if number == _MOST_NUMBERED + 1:
            yield _with_suffix(wanted, _digest(clean_name(name)))
        yield _with_suffix(wanted, str(number))


def _digest(clean: str) -> str:
    folded = unicodedata.normalize("NFC", clean.casefold())
    return sha256(folded.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]


def _with_suffix(made: str, suffix: str) -> str:
    return f"{_trim(made[: MAX_ID_LENGTH - len(suffix) - 1])}-{suffix}"


def _refused(character: str) -> str | None:
    code = ord(character)
    if code in _REORDERING:
        return "a character that turns the direction of the text around"
    if code in _NO_TEXT or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE:
        return "a character that stands for nothing"
    return _REFUSED.get(unicodedata.category(character))


def _is_unassigned(character: str) -> bool:
    return unicodedata.category(character) == "Cn"


def _in_latin(character: str) -> str | None:
    """A decomposed lower-case character in ASCII, None where it is none and no Latin letter either."""
    if character.isascii():
        return character
    if character in _LETTERS:
        return _LETTERS[character]
    found = _BASE_LETTER.fullmatch(unicodedata.name(character, ""))
    return None if found is None else found[1].lower()


def _trim(text: str) -> str:
    return text.strip("-._")
