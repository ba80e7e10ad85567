"""Access keys: random words of which the service keeps hashes only, each with a role."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from model.errors import Problem
from service.errors import SettingsError
from service.settings import Settings

Role = Literal["classify", "admin"]
_LINE = re.compile(r"(classify|admin):([0-9a-f]{64})")


@dataclass
class Keys:
    """The keys that are accepted: role by SHA-256 of the key."""

    roles: Mapping[str, Role]

    def reload(self, settings: Settings) -> None:
        """Accept the keys that the settings and the file they name have now.

        Raises:
            SettingsError: see :meth:`from_settings`; also where there were keys and are none left, since everybody
                could then change classes.
        """
        fresh = self.from_settings(settings)
        if self.roles and not fresh.roles:
            raise SettingsError("without any key everybody could change classes; stop the service to start it so")
        self.roles = fresh.roles

    @classmethod
    def from_settings(cls, settings: Settings) -> Keys:
        """Keys of the settings and of the file they name.

        Raises:
            SettingsError: a key has another form, the file cannot be read, or there are none and others reach the
                address.
        """
        lines = {f"D3GZSL_KEYS, key {i}": line for i, line in enumerate(settings.keys, 1)}
        if settings.keys_file is not None:
            try:
                text = settings.keys_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"the file of keys cannot be read: {error}") from None
            stripped = enumerate((line.partition("#")[0].strip() for line in text.splitlines()), 1)
            lines |= {f"{settings.keys_file}, line {i}": line for i, line in stripped if line}
        roles, problems = {}, []
        for where, line in lines.items():
            if match := _LINE.fullmatch(line):
                roles[match[2]] = cast(Role, match[1])
            else:
                problems.append(Problem(pointer=where, detail="expected classify:<sha256> or admin:<sha256>"))
        if problems:
            raise SettingsError("the keys are not valid; make them with `d3gzsl keys new`", problems)
        if not roles and not settings.on_loopback and not settings.allow_anonymous:
            raise SettingsError(
                f"without keys everyone who reaches {settings.host} could change classes: set D3GZSL_KEYS or "
                "D3GZSL_KEYS_FILE (see `d3gzsl keys new`), listen on 127.0.0.1, or set D3GZSL_ALLOW_ANONYMOUS=1"
            )
        return cls(roles)

    def role(self, key: str | None) -> Role | None:
        """The role of a key; None for no or an unknown key. Without any keys everybody is `admin`."""
        if not self.roles:
            return "admin"
        return None if key is None else self.roles.get(digest(key))


def new_key() -> str:
    """A fresh key with 256 random bits."""
    return "d3g_" + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is kept of a key. A fast hash does: the key is random, not a password."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
