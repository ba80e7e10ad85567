"""Signatures of bundles: Ed25519 over the manifest, which names every other file by its hash.

The signature lies beside the manifest in `manifest.sig`: 64 bytes in base64. Keys are PEM files, as OpenSSL writes
them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import BundleError, DataError, MissingDependencyError
from model.guards.files import read_plain
from model.manifest import MANIFEST, SIGNATURE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_CONTEXT = b"d3gzsl bundle manifest\n"
"""What a signed message begins with, so that no signature made for anything else counts for a bundle."""
_MOST_BYTES = 4096
_MOST_MANIFEST = 64_000_000


def sign(directory: Path, private_key: Path) -> None:
    """Sign a bundle; a signature that is there is replaced.

    Raises:
        BundleError: there is no manifest.
        DataError: the file has no private Ed25519 key, or the signature cannot be written.
        MissingDependencyError: `cryptography` is not installed.
    """
    key = _private(private_key)
    signature = key.sign(_message(directory))
    try:
        (directory / SIGNATURE).write_bytes(base64.b64encode(signature) + b"\n")
    except OSError as error:
        raise DataError(f"{directory / SIGNATURE}: {error.strerror}") from None


def check(directory: Path, public_keys: Sequence[Path]) -> Path:
    """Refuse a bundle that none of the keys has signed; returns the key that has.

    Raises:
        BundleError: there is no signature, or it is none of these keys'.
        DataError: a file has no public Ed25519 key.
        MissingDependencyError: `cryptography` is not installed.
    """
    from cryptography.exceptions import InvalidSignature

    keys = {file: _public(file) for file in public_keys}
    message = _message(directory)
    try:
        signature = base64.b64decode(read_plain(directory / SIGNATURE, limit=_MOST_BYTES), validate=False)
    except FileNotFoundError:
        raise BundleError(f"{directory} is not signed; expected {SIGNATURE} beside {MANIFEST}") from None
    except (OSError, ValueError, binascii.Error) as error:
        raise BundleError(f"{directory}: {SIGNATURE} cannot be read: {error}") from None
    for file, key in keys.items():
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return file
    raise BundleError(f"{directory}: the signature is not that of {' or '.join(str(file) for file in keys)}")


def _message(directory: Path) -> bytes:
    try:
        return _CONTEXT + read_plain(directory / MANIFEST, limit=_MOST_MANIFEST)
    except (OSError, ValueError) as error:
        raise BundleError(f"no bundle at {directory}: {MANIFEST} cannot be read: {error}") from None


def _private(file: Path) -> Ed25519PrivateKey:
    from_pem, kinds = _library()
    key: Ed25519PrivateKey = _loaded(
        file, lambda data: from_pem.load_pem_private_key(data, password=None), kinds.Ed25519PrivateKey
    )
    return key


def _public(file: Path) -> Ed25519PublicKey:
    from_pem, kinds = _library()
    key: Ed25519PublicKey = _loaded(file, from_pem.load_pem_public_key, kinds.Ed25519PublicKey)
    return key


def _loaded(file: Path, load: Any, kind: Any) -> Any:
    words = "private" if "Private" in kind.__name__ else "public"
    try:
        key = load(read_plain(file.resolve(), limit=_MOST_BYTES))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file}: expected a {words} Ed25519 key in a PEM file; {error}") from None
    if not isinstance(key, kind):
        raise DataError(f"{file}: expected a {words} Ed25519 key, got one of another kind")
    return key


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingDependencyError("signatures need cryptography", "signing") from None
    return serialization, ed25519
