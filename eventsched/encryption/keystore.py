"""The key store: a key of 256 random bits for each encrypted session, stored outside of Redis.

Owns: `Key`, the interface `KeyStore` for key services, and `KeyFolder`, its implementation with a
folder of files.
Must not: encrypt (cipher.py); write a key into a log, an event or an error message.
Read next: cipher.py, audit/erasure.py.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol, TypeAlias, TypeVar

from anyio import to_thread

from eventsched.errors import KeyMissing, KeyStoreError
from eventsched.private_files import (
    make_private_folder,
    open_private,
    sync_folder,
    warn_if_exchangeable,
)
from eventsched.schema.validation import check_id

VARIABLE = "EVENTSCHED_KEYS"
"""The environment variable that names the key folder."""
KEY_BYTES = 32
AUDIENCE_BYTES_MAX = 256
"""Far above the longest id of a room."""
_ZEROES = bytes(KEY_BYTES)
"""Content of the file of a key that is being destroyed."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
T = TypeVar("T")


class Key:
    """The key of one encrypted session. Its id is public; its secret is never shown.

    A key store stores secret and audience. The id is a hash of both, so neither can be replaced.

    Args:
        secret: 32 random bytes.
        audience: Full id of the room whose members may hear the session; empty for a session
            without a room, which nobody else hears.

    Raises:
        ValueError: The secret has another length, or is all zeroes.
    """

    __slots__ = ("audience", "id", "secret")

    def __init__(self, secret: bytes, audience: str = "") -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"{KEY_BYTES} bytes expected, got {len(secret)}")
        if secret == _ZEROES:
            raise ValueError("all bytes are zero, as of a destroyed key")
        self.secret, self.audience = secret, audience
        hashed = b"eventsched key\0" + secret + audience.encode()
        self.id = hashlib.sha256(hashed).hexdigest()[:16]

    @classmethod
    def new(cls, audience: str = "") -> Key:
        """Make a key from the random source of the operating system."""
        return cls(secrets.token_bytes(KEY_BYTES), audience)

    def __repr__(self) -> str:
        return f"Key({self.id})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key does not travel between processes")


class KeyStore(Protocol):
    """Where session keys are stored; implement it for a key service of your own.

    Sessions are named by their full id, `<cell>.<name>`. A program that can read the store can read
    every session whose key is in it. Every method may raise KeyStoreError.
    """

    async def put(self, session: str, key: Key) -> None:
        """Store the key durably.

        Raises:
            KeyStoreError: The key cannot be stored, or the session has one already.
        """

    async def get(self, session: str) -> Key:
        """Return the key of the session.

        Raises:
            KeyMissing: The session has no key, or its key is destroyed.
            KeyStoreError: The store cannot be read.
        """

    async def destroy(self, session: str) -> None:
        """Destroy the key; keep a record of it until `settle`.

        A repeated call is harmless.

        Raises:
            KeyMissing: The store has never had a key of this session.
            KeyStoreError: The store cannot be written.
        """

    async def settle(self, session: str) -> None:
        """Remove the record of a destroyed key, once the log has recorded its destruction."""

    async def sessions(self) -> list[str]:
        """Return the full ids of sessions with a key, or with an unsettled destroyed key."""


AnyKeys: TypeAlias = KeyStore | str | os.PathLike[str]


def find_key_store(keys: AnyKeys | None) -> KeyStore | None:
    """Return the given store, or the folder that `keys` or EVENTSCHED_KEYS names, or None."""
    if keys is None:
        keys = os.environ.get(VARIABLE) or None
    return KeyFolder(keys) if isinstance(keys, str | os.PathLike) else keys


class KeyFolderMissing(KeyStoreError):
    """Raised when the folder of a key store does not exist: no key was ever put into it."""


async def has_key(keys: KeyStore | None, session: str) -> bool:
    """Whether the store has the session's key.

    Then only what this key has encrypted is authentic: plain data of the session is not of its
    producer or a node. Raises KeyStoreError.
    """
    if keys is None:
        return False
    try:
        await keys.get(session)
    except (KeyMissing, KeyFolderMissing):
        return False
    return True


class KeyFolder:
    """A key store in a folder: one file for each key, readable by its owner alone.

    `<session>.key` has the 32 bytes, and then the audience. An empty `<session>.destroyed` replaces
    it until `settle`. A crash at any point leaves the key, or the mark that it is destroyed.

    Args:
        path: The folder. The first `put` creates it with mode 700. Every method raises
            KeyStoreError if the folder is open to other users, or if it or the file of the key is
            a link or belongs to another user.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    async def put(self, session: str, key: Key) -> None:
        """Write the key to disk atomically; never replace another key.

        Raises KeyStoreError if the session has a key, or if the key cannot be written.
        """
        await _in_thread(lambda: self._put(session, key))

    async def get(self, session: str) -> Key:
        """Read the key. Raises KeyMissing, which says whether it was destroyed or never stored."""
        return await _in_thread(lambda: self._get(session))

    async def destroy(self, session: str) -> None:
        """Overwrite and remove the key; an empty tombstone file stays until `settle`.

        A copy of the folder, such as a backup, still has the key. Raises KeyMissing if there is
        neither a key nor a tombstone.
        """
        await _in_thread(lambda: self._destroy(session))

    async def settle(self, session: str) -> None:
        """Remove the tombstone, if there is one."""
        await _in_thread(lambda: self._settle(session))

    async def sessions(self) -> list[str]:
        """Return the full ids of sessions with a key or a tombstone, sorted."""
        return await _in_thread(self._sessions)

    # --- in a thread ------------------------------------------------------------------------

    def _put(self, session: str, key: Key) -> None:
        """Write the key to a new file. A tombstone does not prevent it.

        Raises FileExistsError if the session has a key; `put` turns it into KeyStoreError.
        """
        is_new = not self.path.exists()
        make_private_folder(self.path)
        if is_new:
            sync_folder(self.path.parent)
        self._check_private()
        path = self._path(session)
        draft = path.with_suffix(f".{secrets.token_hex(8)}.new")
        try:
            _write_new(draft, key.secret + key.audience.encode())
            os.link(draft, path)  # atomic; fails if the file exists
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(self.path)

    def _get(self, session: str) -> Key:
        self._check_private()
        path, is_marked = self._path(session), _exists(self._tombstone(session))
        try:
            content = _read_key(path)
        except FileNotFoundError:
            content = None
        if content is None or (content.startswith(_ZEROES) and is_marked):
            state = "is destroyed" if is_marked else "does not exist"
            raise KeyMissing(f"the key of {session} {state}: key store {self.path}")
        try:
            return Key(content[:KEY_BYTES], content[KEY_BYTES:].decode())
        except ValueError as error:
            raise KeyStoreError(f"{path} is no key: {error}") from None

    def _destroy(self, session: str) -> None:
        self._check_private()
        path, tombstone = self._path(session), self._tombstone(session)
        if not _exists(path):
            if _exists(tombstone):
                return
            raise KeyMissing(
                f"no key of {session} in {self.path}: did the session use another key store?"
            )
        # The mark is on disk before the key is damaged: a crash leaves one or the other.
        os.close(open_private(tombstone, os.O_WRONLY | os.O_CREAT))
        sync_folder(self.path)
        with os.fdopen(open_private(path, os.O_RDWR), "r+b") as file:
            file.write(_ZEROES)  # overwrites the blocks, if the file system does
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(self.path)

    def _settle(self, session: str) -> None:
        tombstone = self._tombstone(session)
        if _exists(self.path):
            self._check_private()
            tombstone.unlink(missing_ok=True)
            sync_folder(self.path)

    def _sessions(self) -> list[str]:
        self._check_private()
        files = [*self.path.glob("*.key"), *self.path.glob("*.destroyed")]
        return sorted({file.stem for file in files})

    def _path(self, session: str) -> Path:
        return self.path / f"{check_id('session', session)}.key"

    def _tombstone(self, session: str) -> Path:
        return self.path / f"{check_id('session', session)}.destroyed"

    def _check_private(self) -> None:
        """Raise KeyStoreError unless the folder is this user's alone."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            raise KeyFolderMissing(f"no key store {self.path}: see {VARIABLE}") from None
        if stat.S_ISLNK(status.st_mode):
            target = shlex.quote(str(self.path.resolve()))
            raise KeyStoreError(
                f"key store {self.path} is a link: name the folder that it points to, {target}"
            )
        if not stat.S_ISDIR(status.st_mode):
            raise KeyStoreError(f"key store {self.path} is no folder: see {VARIABLE}")
        if status.st_uid != os.geteuid():
            raise KeyStoreError(
                f"key store {self.path} belongs to user {status.st_uid}, not to the current user "
                f"{os.geteuid()}: name a folder of your own, or run as its owner"
            )
        if status.st_mode & _OTHERS:
            raise KeyStoreError(
                f"key store {self.path} is open to others (mode {stat.S_IMODE(status.st_mode):o}): "
                f"chmod 700 {shlex.quote(str(self.path))}"
            )
        warn_if_exchangeable(self.path, "key store")


def _exists(path: Path) -> bool:
    """Whether the name exists; a link exists even if its target does not."""
    return os.path.lexists(path)


def _read_key(path: Path) -> bytes:
    """The bytes of a key file. Raises FileNotFoundError, KeyStoreError if it is no file of ours."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyStoreError(f"{path} is no key: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(KEY_BYTES + AUDIENCE_BYTES_MAX)


async def _in_thread(function: Callable[[], T]) -> T:
    try:
        return await to_thread.run_sync(function)
    except OSError as error:
        raise KeyStoreError(f"key store: {error}") from error


def _write_new(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
