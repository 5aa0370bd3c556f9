"""The keys of tokens: one private key that signs, and a set of public keys that verify.

Owns: the file of the private key (a JWK that only its owner may read), the file of the public keys
(a JWKS), and the one algorithm of each key.
Never does: sign or verify tokens. Read next: issue.py, verify.py, docs/adr/0026-tokens.md.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from eventsched.errors import TokenKeyError, require_packages
from eventsched.private_files import (
    ReadableByOthers,
    create_private,
    make_private_folder,
    open_private,
    private_file,
    read_owned,
)

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    AnyKey = OKPKey | ECKey | RSAKey

FILE_BYTES_MAX = 65_536
KEYS_MAX = 64
RSA_BITS_MIN = 2_048
PUBLIC_SUFFIX = ".jwks.json"
PUBLIC_MODE = 0o644
"""Of a new JWKS: a gateway of another user may read it."""
_ALGORITHMS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("OKP", "Ed25519"): ("Ed25519", "EdDSA"),
    ("EC", "P-256"): ("ES256",),
    ("RSA", ""): ("RS256",),
}
"""(type, curve) of a key -> the algorithms that its JWK may name; the first one without a name."""


class TokenKey:
    """A private key that signs tokens."""

    def __init__(self, key: OKPKey) -> None:
        self.key = key
        key.ensure_kid()
        self.id = str(key.kid)
        """Id of the key in the header of its tokens: the thumbprint of RFC 7638."""

    @classmethod
    def generate(cls) -> TokenKey:
        """Return a new key."""
        return cls(_jwk().OKPKey.generate_key("Ed25519"))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TokenKey:
        """Read a private key.

        Args:
            path: The file that `create` or `eventsched token keygen` wrote.

        Raises:
            TokenKeyError: There is no such file, it holds no Ed25519 private key, or others may
                read it.
        """
        file = Path(path)
        try:
            content = read_owned(file, FILE_BYTES_MAX)
        except ReadableByOthers as error:
            raise TokenKeyError(f"the key {error}") from error
        except OSError as error:
            raise TokenKeyError(f"cannot read the key {file}: {error.strerror}") from error
        jwk = _jwk()
        try:
            key = jwk.OKPKey.import_key(msgspec.json.decode(content, type=dict[str, Any]))
            is_private = key.is_private and key.curve_name == "Ed25519"
        except Exception as error:  # joserfc raises errors of several libraries
            raise TokenKeyError(f"{file} holds no Ed25519 private key") from error
        if not is_private:
            raise TokenKeyError(f"{file} holds no Ed25519 private key")
        return cls(key)

    @classmethod
    def read_or_create(cls, path: Path) -> TokenKey:
        """Read the key; without a file, create it. Concurrent callers get the same key."""
        if not path.exists():
            with suppress(FileExistsError):  # another process was first
                cls.generate().create(path)
        return cls.read(path)

    def create(self, path: Path) -> None:
        """Write the key into a new file for its owner only.

        Raises FileExistsError if the file exists, TokenKeyError if it cannot be written.
        """
        try:
            make_private_folder(path.parent)
            create_private(path, _json(self.key.as_dict(private=True, alg="Ed25519", use="sig")))
        except FileExistsError:
            raise
        except OSError as error:
            raise TokenKeyError(f"cannot write the key {path}: {error.strerror}") from error

    def public(self) -> dict[str, Any]:
        """Return the public key as a JWK."""
        return dict(self.key.as_dict(private=False, alg="Ed25519", use="sig"))


class PublicKey(NamedTuple):
    """A public key and the one algorithm of its tokens."""

    key: AnyKey
    algorithm: str


def read_public_keys(content: bytes) -> dict[str, PublicKey]:
    """Return the keys of a JWKS by their ids. Keys of other types are left out.

    Raises:
        TokenKeyError: The content is no JWKS, or a key in it is private, weak or has no id.
    """
    try:
        listed = msgspec.json.decode(content, type=_KeySet).keys
    except msgspec.DecodeError as error:
        raise TokenKeyError(f"no JWKS: {error}") from error
    if len(listed) > KEYS_MAX:
        raise TokenKeyError(f"a JWKS of at most {KEYS_MAX} keys expected, got {len(listed)}")
    keys: dict[str, PublicKey] = {}
    for each in listed:
        algorithms = _ALGORITHMS.get((str(each.get("kty", "")), str(each.get("crv", ""))))
        algorithm = each.get("alg", algorithms and algorithms[0])
        if algorithms is None or algorithm not in algorithms or each.get("use", "sig") != "sig":
            continue
        keys[_id_of(each)] = PublicKey(_import(each), str(algorithm))
    if not keys:
        raise TokenKeyError("the JWKS has no key of Ed25519, ES256 or RS256")
    return keys


def add_public_key(path: Path, key: TokenKey) -> int:
    """Add the public key to a file of public keys; without a file, create it.

    Each key of the file signs tokens, so the file must be one of this user that only this user may
    write. Returns the number of other keys in the file.

    Raises:
        TokenKeyError: The file holds no JWKS, is a link or of another user, others may write it, or
            it cannot be written.
    """
    try:
        content, mode = _read_key_set(path)
        listed: list[dict[str, Any]] = []
        if content:
            read_public_keys(content)
            listed = msgspec.json.decode(content, type=_KeySet).keys
        listed = [each for each in listed if each.get("kid") != key.id]
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        with private_file(draft) as file:
            file.write(_json({"keys": [*listed, key.public()]}))
            os.fchmod(file.fileno(), mode)
        draft.replace(path)
    except OSError as error:
        raise TokenKeyError(f"cannot write {path}: {error.strerror}") from error
    return len(listed)


def _read_key_set(path: Path) -> tuple[bytes, int]:
    """Return the content and the mode of a JWKS; without a file nothing, and the mode of a new one.

    Raises TokenKeyError if others may write it, or OSError as `open_private` does.
    """
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return b"", PUBLIC_MODE
    with open(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise TokenKeyError(
                f"others may write {path} (mode {mode:o}): check its keys, then "
                f"chmod go-w {shlex.quote(str(path))}"
            )
        return file.read(FILE_BYTES_MAX), mode


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _id_of(each: Mapping[str, Any]) -> str:
    key_id = each.get("kid")
    if not isinstance(key_id, str) or not 1 <= len(key_id) <= 256:
        raise TokenKeyError("each key of a JWKS needs an id `kid` of 1 to 256 characters")
    return key_id


def _import(each: dict[str, Any]) -> AnyKey:
    kid, kind = _id_of(each), each["kty"]
    if "d" in each:
        raise TokenKeyError(f"the key {kid} is private: name the file of the public keys")
    jwk = _jwk()
    kinds = {"OKP": jwk.OKPKey, "EC": jwk.ECKey, "RSA": jwk.RSAKey}
    try:
        key: AnyKey = kinds[kind].import_key(each)
        public: Any = key.public_key
    except Exception as error:  # joserfc raises errors of several libraries
        raise TokenKeyError(f"the key {kid} cannot be read") from error
    if kind == "RSA" and getattr(public, "key_size", 0) < RSA_BITS_MIN:
        raise TokenKeyError(f"the key {kid} has fewer than {RSA_BITS_MIN:,} bits")
    return key


def _json(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _jwk() -> Any:
    require_packages("joserfc", extra="gateway")
    from joserfc import jwk

    return jwk
