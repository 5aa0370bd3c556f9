"""The key of an archive: Ed25519 by `cryptography`.

Owns: the file of the private key (created on first use, readable by its owner only), the file of
the public key, signatures and their verification.
Must not: define the signed bytes.
Read next: manifest.py (defines them).

The owner of the private key can sign a different history. So the key is stored beside the archive's
folder, not in it, and auditors store the public key or a checkpoint elsewhere.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventsched.errors import ArchiveError, require_packages
from eventsched.logs import get_logger
from eventsched.private_files import (
    ReadableByOthers,
    create_private,
    make_private_folder,
    read_owned,
    warn_if_exchangeable,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

log = get_logger("eventsched.archive.signing")
KEY_BYTES = 32
_PEM_BYTES_MAX = 16_384
PUBLIC_PREFIX = "eventsched archive ed25519 "
"""The file of a public key is one line: this prefix and the key in base64."""
PUBLIC_FILE_BYTES_MAX = 1_024


class SigningKey:
    """The private key of an archive."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(_ed25519().Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Read a private key.

        Raises ArchiveError if there is none, if it is of another kind, or if the file is a link,
        belongs to another user or is open to others.
        """
        serialization = _serialization()
        warn_if_exchangeable(path, "private key")
        try:
            pem = read_owned(path, _PEM_BYTES_MAX)
            key = serialization.load_pem_private_key(pem, password=None)
        except ReadableByOthers as error:
            raise ArchiveError(f"the key {error}") from error
        except OSError as error:
            raise ArchiveError(f"cannot read the key {path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise ArchiveError(f"{path} holds no Ed25519 private key") from error
        if not isinstance(key, _ed25519().Ed25519PrivateKey):
            raise ArchiveError(f"{path} holds no Ed25519 private key")
        return cls(key)

    @classmethod
    def read_or_create(cls, path: Path) -> SigningKey:
        """Read the key; without a file, create it and log that. Concurrent callers get one key."""
        if path.exists():
            return cls.read(path)
        key = cls.generate()
        with suppress(FileExistsError):  # another process was first
            key._create(path)
            log.warning(
                "made a new key that signs the archive",
                file=str(path),
                key=fingerprint(key.public),
                remedy=f"store a copy of archive.pub where the owner of {path.name} cannot "
                "change it: audit verify --key",
            )
        return cls.read(path)

    def write(self, path: Path) -> None:
        """Write the key for its owner only. Raises ArchiveError if the file exists."""
        try:
            self._create(path)
        except FileExistsError as error:
            raise ArchiveError(f"cannot create the key {path}: {error.strerror}") from error

    def _create(self, path: Path) -> None:
        """Create the file for its owner only."""
        try:
            make_private_folder(path.parent)
            create_private(path, self._pem())
        except FileExistsError:
            raise
        except OSError as error:
            raise ArchiveError(f"cannot create the key {path}: {error.strerror}") from error

    def _pem(self) -> bytes:
        formats = _serialization()
        return self._key.private_bytes(
            formats.Encoding.PEM, formats.PrivateFormat.PKCS8, formats.NoEncryption()
        )

    def sign(self, data: bytes) -> bytes:
        """The signature of these bytes; the same bytes and key always give the same signature."""
        return self._key.sign(data)


def is_signed(public: bytes, data: bytes, signature: str) -> bool:
    """Whether the owner of the private key signed exactly these bytes; `signature` is base64."""
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    decoded = from_base64(signature)
    if decoded is None:
        return False
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(decoded, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_line(public: bytes) -> bytes:
    """The content of the file of a public key."""
    return f"{PUBLIC_PREFIX}{b64encode(public).decode()}\n".encode()


def read_public(path: Path) -> bytes:
    """Read a public key that the user names. Raises ArchiveError for any other content."""
    try:
        with path.open("rb") as file:
            content = file.read(PUBLIC_FILE_BYTES_MAX)
    except OSError as error:
        raise ArchiveError(f"cannot read the public key {path}: {error.strerror}") from error
    return decode_public(content, path)


def decode_public(content: bytes, path: Path) -> bytes:
    """The public key in the content of the file `path`. Raises ArchiveError."""
    public = from_base64(content.decode("ascii", "replace").removeprefix(PUBLIC_PREFIX).strip())
    if public is None or len(public) != KEY_BYTES or public_line(public) != content:
        raise ArchiveError(f"{path} is no public key of an archive")
    return public


def from_base64(text: str) -> bytes | None:
    """Decode canonical base64; None for any other text."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    return data if b64encode(data).decode() == text else None


def fingerprint(public: bytes) -> str:
    """A short hash of a public key, for people to compare."""
    return sha256(public).hexdigest()[:16]


def _ed25519() -> Any:
    require_packages("cryptography")
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519


def _serialization() -> Any:
    require_packages("cryptography")
    from cryptography.hazmat.primitives import serialization

    return serialization
