from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from model.errors import BundleError, DataError
from model.manifest import SIGNATURE
from service.service import Service
from service.settings import Settings
from service.signatures import check, sign
from tests.service.processes import command

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A private key, its public one, and the public one of somebody else."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    files = tmp_path / "mine.pem", tmp_path / "mine.pub.pem", tmp_path / "other.pub.pem"
    mine, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    files[0].write_bytes(mine.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for file, key in zip(files[1:], (mine, other), strict=True):
        file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return files


@pytest.fixture
def copy(bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_dir, tmp_path / "copy"))


def opened(bundle: Path, data: Path, *public: Path) -> None:
    keys = ",".join(map(str, public))
    Service.open(Settings(bundle=bundle, data_dir=data, threads=1, bundle_keys=keys)).close()


def test_a_service_takes_only_what_its_keys_have_signed(copy: Path, keys: tuple[Path, ...], tmp_path: Path) -> None:
    mine, public, other = keys
    with pytest.raises(BundleError, match="is not signed"):
        opened(copy, tmp_path / "data", public)
    sign(copy, mine)
    opened(copy, tmp_path / "data", other, public)
    opened(copy, tmp_path / "data")  # a signature that nobody asks for does no harm
    with pytest.raises(BundleError, match=r"not that of .*other\.pub\.pem"):
        opened(copy, tmp_path / "data", other)


@pytest.mark.parametrize("damage", ["manifest", "signature", "weights", "nothing left"])
def test_what_was_changed_afterwards_is_refused(
    damage: str, copy: Path, keys: tuple[Path, ...], tmp_path: Path
) -> None:
    mine, public, _ = keys
    sign(copy, mine)
    if damage == "manifest":
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["calibration"]["seen_penalty"] += 1
        (copy / "manifest.json").write_text(json.dumps(manifest))
    elif damage == "weights":
        (copy / "head.npz").write_bytes((copy / "head.npz").read_bytes()[::-1])
    elif damage == "signature":
        text = (copy / SIGNATURE).read_text()
        (copy / SIGNATURE).write_text(("B" if text[0] == "A" else "A") + text[1:])
    else:
        (copy / SIGNATURE).write_text("")
    with pytest.raises(BundleError, match="head.npz is damaged" if damage == "weights" else "not that of"):
        opened(copy, tmp_path / "data", public)


def test_a_signature_is_made_for_bundles_only(copy: Path, keys: tuple[Path, ...]) -> None:
    """The bare manifest, signed as a text of somebody's, is no signed bundle."""
    import base64

    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(keys[0].read_bytes(), password=None)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    (copy / SIGNATURE).write_bytes(base64.b64encode(key.sign((copy / "manifest.json").read_bytes())))
    with pytest.raises(BundleError, match="not that of"):
        check(copy, [keys[1]])


def test_keys_of_another_kind_are_named(copy: Path, keys: tuple[Path, ...], tmp_path: Path) -> None:
    mine, public, _ = keys
    with pytest.raises(DataError, match="expected a private Ed25519 key"):
        sign(copy, public)
    with pytest.raises(DataError, match="expected a public Ed25519 key"):
        check(copy, [mine])
    with pytest.raises(DataError, match=r"none\.pem"):
        sign(copy, tmp_path / "none.pem")


def test_the_commands(copy: Path, keys: tuple[Path, ...]) -> None:
    mine, public, other = keys
    assert "is signed" in command("bundle", "sign", copy, "--key", mine).stdout
    assert f"signed by {public}" in command("bundle", "verify", copy, "--key", other, "--key", public).stdout
    refused = command("bundle", "verify", copy, "--key", other)
    assert (refused.returncode, "not that of" in " ".join(refused.stderr.split())) == (2, True)
