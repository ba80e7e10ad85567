"""Access keys: random words of which the service keeps hashes only, each with a role, and with an end if it has one."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Literal, cast, get_args

from model.errors import Problem
from service.errors import SettingsError
from service.settings import Settings

Role = Literal["classify", "admin"]
Action = Literal["classify", "read", "classes", "rollback"]
"""`read` is every GET, `classes` every change of classes and previews."""
ACTIONS: Mapping[Role, frozenset[Action]] = {
    "classify": frozenset({"classify", "read"}),
    "admin": frozenset(get_args(Action)),
}
_HASHED = re.compile(r"(classify|admin):([0-9a-f]{64})")
_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")
_DAYS = re.compile(r"(\d{1,5})d")
_FORM = "expected classify:<sha256> or admin:<sha256>, then id=, name=, expires= and actions= as needed"
_LONGEST_NAME = 100
Signature = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is known of a key.

    Attributes:
        digest: SHA-256 of the key in hexadecimal digits.
        role: what it may do at most.
        id: 1 to 32 letters, digits and `._-`; the first eight digits of the digest where none was given.
        name: whose it is, or nothing.
        actions: what it may do.
        expires: the moment from which it is refused; None for never.
    """

    digest: str
    role: Role
    id: str
    name: str = ""
    actions: frozenset[Action] = frozenset()
    expires: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether it is refused from its age."""
        return self.expires is not None and now >= self.expires

    def line(self) -> str:
        """The line that describes it in a file of keys."""
        words = [f"{self.role}:{self.digest}", f"id={self.id}"]
        if self.name:
            words.append(shlex.quote(f"name={self.name}"))
        if self.expires is not None:
            words.append(f"expires={self.expires.isoformat().replace('+00:00', 'Z')}")
        if self.actions != ACTIONS[self.role]:
            words.append(f"actions={'+'.join(sorted(self.actions))}")
        return " ".join(words)

    def __str__(self) -> str:
        return f"{self.id} ({self.name})" if self.name else self.id


class Keys:
    """The keys that are accepted.

    They are looked up by a hash of their hash that is keyed anew in every process. So the time that a look-up takes
    says nothing about the keys.

    Args:
        keys: no two with one digest.
        signature: of the file they came from, see :func:`signature_of`.
    """

    def __init__(self, keys: Iterable[Key], signature: Signature | None = None) -> None:
        self._secret = secrets.token_bytes(32)
        self._known = {self._blind(key.digest): key for key in keys}
        self._signature = signature

    def __len__(self) -> int:
        return len(self._known)

    def __bool__(self) -> bool:
        """Whether there are keys; without any everybody may do everything."""
        return bool(self._known)

    def find(self, key: str) -> Key | None:
        """What is known of a key, also of one that has expired."""
        return self._known.get(self._blind(digest(key)))

    def reload(self, settings: Settings) -> None:
        """Accept the keys that the settings and the file they name have now.

        Raises:
            SettingsError: see :meth:`from_settings`; also where there were keys and are none left, since everybody
                could then change classes.
        """
        self._signature = signature_of(settings.keys_file)  # also of what cannot be read, which is told once
        fresh = self.from_settings(settings)
        if self and not fresh:
            raise SettingsError("without any key everybody could change classes; stop the service to start it so")
        self._secret, self._known = fresh._secret, fresh._known

    def changed(self, settings: Settings) -> bool:
        """Whether the file of keys is another than when it was last looked at."""
        return signature_of(settings.keys_file) != self._signature

    @classmethod
    def from_settings(cls, settings: Settings) -> Keys:
        """Keys of the settings and of the file they name.

        Raises:
            SettingsError: a key has another form, two have one id, the file cannot be read, or there are none and
                others reach the address.
        """
        signature = signature_of(settings.keys_file)
        lines = {f"D3GZSL_KEYS, key {i}": line for i, line in enumerate(settings.keys, 1)}
        if settings.keys_file is not None:
            lines |= {f"{settings.keys_file}, line {i}": line for i, line in lines_of(settings.keys_file) if line}
        found: dict[str, Key] = {}
        ids: dict[str, str] = {}
        problems = []
        for where, line in lines.items():
            try:
                key = key_of(line)
            except ValueError as error:
                problems.append(Problem(pointer=where, detail=str(error)))
                continue
            if ids.setdefault(key.id, key.digest) != key.digest:
                problems.append(Problem(pointer=where, detail=f"another key has the id {key.id} already"))
            found[key.digest] = key
        if problems:
            raise SettingsError("the keys are not valid; make them with `d3gzsl keys new`", problems)
        if not found and not settings.on_loopback and not settings.allow_anonymous:
            raise SettingsError(
                f"without keys everyone who reaches {settings.host} could change classes: set D3GZSL_KEYS or "
                "D3GZSL_KEYS_FILE (see `d3gzsl keys new`), listen on 127.0.0.1, or set D3GZSL_ALLOW_ANONYMOUS=1"
            )
        return cls(found.values(), signature)

    def _blind(self, digest: str) -> bytes:
        return hmac.digest(self._secret, digest.encode(), "sha256")


def lines_of(file: Path) -> list[tuple[int, str]]:
    """The lines of a file of keys with their numbers, without comments.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the file of keys cannot be read: {error}") from None
    return [(i, _without_comment(line)) for i, line in enumerate(text.splitlines(), 1)]


def key_of(line: str) -> Key:
    """The key that a line describes: its role and hash, then `id=`, `name=`, `expires=`, `actions=` in any order.

    Raises:
        ValueError: says what was expected and what came.
    """
    try:
        hashed, *words = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"{_FORM}; {error}") from None
    match = _HASHED.fullmatch(hashed)
    if match is None:
        raise ValueError(_FORM)
    role = cast(Role, match[1])
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in ("id", "name", "expires", "actions"):
            raise ValueError(f"{_FORM}; got {word!r}")
        if name in given:
            raise ValueError(f"{name} is given twice")
        given[name] = value
    return Key(
        digest=match[2],
        role=role,
        id=checked_id(given.get("id", match[2][:8])),
        name=checked_name(given.get("name", "")),
        actions=actions_of(given.get("actions"), role),
        expires=moment(given["expires"]) if "expires" in given else None,
    )


def checked_id(text: str) -> str:
    """An id as it is; raises ValueError where it is none."""
    if _ID.fullmatch(text) is None:
        raise ValueError(f"expected an id of 1 to 32 letters, digits and ._-, got {text[:100]!r}")
    return text


def checked_name(text: str) -> str:
    """A name as it is; raises ValueError where it is too long, has control characters or a comma or #."""
    if len(text) > _LONGEST_NAME or not text.isprintable() or set(text) & {",", "#"}:
        raise ValueError(
            f"expected a name of at most {_LONGEST_NAME} printable characters without comma and #, got {text[:100]!r}"
        )
    return text


def actions_of(text: str | None, role: Role) -> frozenset[Action]:
    """The actions joined by `+`, those of the role where none are given.

    Raises:
        ValueError: the role does not have one of them, or there is none.
    """
    if text is None:
        return ACTIONS[role]
    wanted = {word for word in text.split("+") if word}
    if not wanted or not wanted <= ACTIONS[role]:
        raise ValueError(f"expected some of {'+'.join(sorted(ACTIONS[role]))} for the role {role}, got {text[:100]!r}")
    return frozenset(cast(set[Action], wanted))


def moment(text: str, *, now: datetime | None = None) -> datetime:
    """A moment in UTC: a date (its end), a date with a time (UTC where it has no zone), or `90d`, days from now.

    Raises:
        ValueError: it is none of these.
    """
    if match := _DAYS.fullmatch(text):
        return (now or datetime.now(UTC)).replace(microsecond=0) + timedelta(days=int(match[1]))
    try:
        if "T" not in text and " " not in text:
            return datetime.combine(date.fromisoformat(text), time.min, UTC) + timedelta(days=1)
        known = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"expected a date such as 2027-01-31, a time in UTC, or days such as 90d, got {text!r}"
        ) from None
    return known.replace(tzinfo=UTC) if known.tzinfo is None else known.astimezone(UTC)


def signature_of(file: Path | None) -> Signature | None:
    """What changes whenever a file is written: its inode, time and size; None where there is none to be read."""
    if file is None:
        return None
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def new_key() -> str:
    """A fresh key with 256 random bits."""
    return "d3g_" + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is kept of a key. A fast hash does: the key is random, not a password."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _without_comment(line: str) -> str:
    return line.partition("#")[0].strip()
