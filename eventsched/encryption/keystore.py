"""The keys: one of 256 random bits for each encrypted session, kept outside of Redis.

Owns: `Key`, the seam `KeyStore` behind which a key service can stand, and `KeyFolder`, a folder of
files that is one.
Never does: encrypt (cipher.py); say a key to anybody: not to a log, an event or an error.
Read next: cipher.py, audit/erasure.py.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol, TypeAlias, TypeVar

from anyio import to_thread

from eventsched.errors import KeyMissing, KeyStoreError
from eventsched.schema.validation import check_id

VARIABLE = "EVENTSCHED_KEYS"
KEY_BYTES = 32
T = TypeVar("T")


class Key:
    """What one session is encrypted with. Its id names it; itself it is never shown."""

    __slots__ = ("id", "secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"{KEY_BYTES} bytes expected, got {len(secret)}")
        self.secret = secret
        self.id = hashlib.sha256(b"eventsched key\0" + secret).hexdigest()[:16]

    @classmethod
    def new(cls) -> Key:
        return cls(secrets.token_bytes(KEY_BYTES))

    def __repr__(self) -> str:
        return f"Key({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key does not travel between processes")


class KeyStore(Protocol):
    """Where keys are kept. Sessions are named in full, `<cell>.<name>`.

    Whoever can read it may hear and read every session of it that is not forgotten.
    """

    async def put(self, session: str, key: Key) -> None:
        """The key is kept when this returns. Raises KeyStoreError, also if there is one."""

    async def get(self, session: str) -> Key:
        """Raises KeyMissing when there is none (any more), KeyStoreError."""

    async def destroy(self, session: str) -> None:
        """Nobody gets the key again; that there was one is known until `settle`.

        Again is harmless. Raises KeyMissing when there is none that is known, KeyStoreError.
        """

    async def settle(self, session: str) -> None:
        """The log says that the key is destroyed: nothing of it need be known here any more."""

    async def sessions(self) -> list[str]:
        """Sessions whose key is kept, or destroyed and not settled, in any order."""


AnyKeys: TypeAlias = KeyStore | str | os.PathLike[str]


def named_store(keys: AnyKeys | None) -> KeyStore | None:
    """The key store that was given, or the folder of this name, or of EVENTSCHED_KEYS, or none."""
    if keys is None:
        keys = os.environ.get(VARIABLE) or None
    return KeyFolder(keys) if isinstance(keys, str | os.PathLike) else keys


class KeyFolder:
    """A folder with a file for each key, which nobody but its owner can read.

    `<session>.key` holds the 32 bytes; `<session>.destroyed`, empty, takes its place until settled.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The first key makes the folder, its owner's alone; one that others may enter is refused.

        Every method may raise KeyStoreError, InvalidMessage for what is no session's id.
        """
        self.path = Path(path)

    async def put(self, session: str, key: Key) -> None:
        """On disk, whole, when this returns, and never in the place of another key."""
        await _in_thread(lambda: self._put(session, key))

    async def get(self, session: str) -> Key:
        """Raises KeyMissing, which says whether it was destroyed or never there."""
        return await _in_thread(lambda: self._get(session))

    async def destroy(self, session: str) -> None:
        """Its bytes are overwritten, then gone; a mark without a secret stays until `settle`.

        A copy of the folder, such as a backup, still has it. Raises KeyMissing without a mark.
        """
        await _in_thread(lambda: self._destroy(session))

    async def settle(self, session: str) -> None:
        """The mark goes as well. Harmless where there is none."""
        await _in_thread(lambda: self._mark(session).unlink(missing_ok=True))

    async def sessions(self) -> list[str]:
        """Sessions with a key or a mark, sorted."""
        return await _in_thread(self._sessions)

    # --- in a thread ------------------------------------------------------------------------

    def _put(self, session: str, key: Key) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_private()
        place = self._place(session)
        draft = place.with_suffix(f".{secrets.token_hex(8)}.new")
        try:
            _write_new(draft, key.secret)
            os.link(draft, place)  # all of it or nothing, and never over another
        finally:
            draft.unlink(missing_ok=True)
        _sync(self.path)

    def _get(self, session: str) -> Key:
        self._check_private()
        place = self._place(session)
        try:
            return Key(place.read_bytes())
        except FileNotFoundError:
            gone = "is destroyed" if self._mark(session).exists() else "is not there"
            raise KeyMissing(f"the key of {session} {gone}: key store {self.path}") from None
        except ValueError as error:
            raise KeyStoreError(f"{place} is no key: {error}") from None

    def _destroy(self, session: str) -> None:
        self._check_private()
        place, mark = self._place(session), self._mark(session)
        if not place.exists():
            if mark.exists():
                return
            raise KeyMissing(
                f"no key of {session} in {self.path}: is this the key store it was opened with?"
            )
        mark.touch(mode=0o600)
        with place.open("r+b") as file:  # its blocks too, where files are written in place
            file.write(bytes(KEY_BYTES))
            os.fsync(file.fileno())
        place.unlink()
        _sync(self.path)

    def _sessions(self) -> list[str]:
        self._check_private()
        found = [*self.path.glob("*.key"), *self.path.glob("*.destroyed")]
        return sorted({file.stem for file in found})

    def _place(self, session: str) -> Path:
        return self.path / f"{check_id('session', session)}.key"

    def _mark(self, session: str) -> Path:
        return self.path / f"{check_id('session', session)}.destroyed"

    def _check_private(self) -> None:
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            raise KeyStoreError(f"no key store {self.path}: see {VARIABLE}") from None
        if mode & 0o077:
            raise KeyStoreError(
                f"key store {self.path} is open to others (mode {mode & 0o777:o}): "
                f"chmod 700 {self.path}"
            )


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await to_thread.run_sync(work)
    except OSError as error:
        raise KeyStoreError(f"key store: {error}") from error


def _write_new(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """What was linked or removed in it stays so after a power loss."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
