"""The archive's key: Ed25519 by `cryptography`.

Owns: the private key's file (made on first use, readable by its owner alone), the public half's
file, signatures and their check.
Never does: say what is signed. Read next: manifest.py.

Who has the private key can seal another history under it. So it lies beside the archive's folder
and not in it, and auditors keep the public half, or a checkpoint, somewhere else.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventsched.errors import ArchiveError, require_packages
from eventsched.private_files import make_private_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_BYTES = 32
PUBLIC_LEAD = "eventsched archive ed25519 "
"""A public key's file is one line: this and the key in base64."""


class SigningKey:
    """The private key of one archive."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    @classmethod
    def make(cls) -> SigningKey:
        return cls(_ed25519().Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Raises ArchiveError when there is none, or not one of ours."""
        serialization = _serialization()
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise ArchiveError(f"cannot read the key {path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise ArchiveError(f"{path} holds no Ed25519 private key") from error
        if not isinstance(key, _ed25519().Ed25519PrivateKey):
            raise ArchiveError(f"{path} holds no Ed25519 private key")
        return cls(key)

    def write(self, path: Path) -> None:
        """For its owner alone; never over a key that is there."""
        make_private_folder(path.parent)
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ArchiveError(f"cannot make the key {path}: {error.strerror}") from error
        with os.fdopen(made, "wb") as file:
            file.write(self._pem())
            file.flush()
            os.fsync(file.fileno())

    def _pem(self) -> bytes:
        told = _serialization()
        return self._key.private_bytes(
            told.Encoding.PEM, told.PrivateFormat.PKCS8, told.NoEncryption()
        )

    def sign(self, data: bytes) -> bytes:
        """The same bytes under the same key give the same signature."""
        return self._key.sign(data)


def is_signed(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the holder of this key's private half signed exactly these bytes."""
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_line(public: bytes) -> bytes:
    """The content of a public key's file."""
    return f"{PUBLIC_LEAD}{b64encode(public).decode()}\n".encode()


def read_public(path: Path) -> bytes:
    """The public key of a file. Raises ArchiveError for any other content."""
    try:
        told = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"cannot read the public key {path}: {error.strerror}") from error
    public = from_base64(told.decode("ascii", "replace").removeprefix(PUBLIC_LEAD).strip())
    if public is None or len(public) != KEY_BYTES or public_line(public) != told:
        raise ArchiveError(f"{path} is no public key of an archive")
    return public


def from_base64(text: str) -> bytes | None:
    """The bytes of base64 in its one proper form; none for any other text."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    return data if b64encode(data).decode() == text else None


def fingerprint(public: bytes) -> str:
    """What people compare."""
    return sha256(public).hexdigest()[:16]


def _ed25519() -> Any:
    require_packages("cryptography")
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519


def _serialization() -> Any:
    require_packages("cryptography")
    from cryptography.hazmat.primitives import serialization

    return serialization
