"""Erasure: a session's key is destroyed, that is on record, and files are written anew.

Owns: the order of these steps, which sessions are old enough, waiting for the append-only file.
Never does: remove what is sealed from the log, views or archive: it is proved by its bytes, and
without the key they say nothing. Read next: encryption/keystore.py, lua/erase_session.lua.

The key goes first: a crash after it leaves a session that nobody can read and that is not on record
yet, but the key store knows of it until it is. Each step may be done twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, TypeAlias

import msgspec
import redis.exceptions

from eventsched.archive.layout import ArchiveFolder
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import EventschedError, KeyMissing, NotFound, ServerUnavailable
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.schema import keys
from eventsched.schema.events import Event, SessionClosed, SessionErased, SessionOpened
from eventsched.store.cell import Store
from eventsched.store.connection import Connection

WAIT_S = 0.2
_RUNNING = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")

Word: TypeAlias = Literal["erased", "again"]
Progress: TypeAlias = Callable[[int], None]


class NotErasable(EventschedError):
    """Raised when a session cannot be erased; nothing was changed."""


class FilesNotRewritten(EventschedError):
    """Raised when the server does not write its append-only file anew."""


class Known(msgspec.Struct, frozen=True):
    """What a session's history says of its key."""

    session: str
    key: str
    closed_ms: int
    """0 while it is not over."""
    is_erased: bool

    @property
    def is_over(self) -> bool:
        """It is closed, and there is a key to destroy."""
        return bool(self.key and self.closed_ms)


class Eraser:
    """Erases sessions of one server, whose keys are in one key store."""

    def __init__(
        self,
        connection: Connection,
        key_store: KeyStore,
        archive: ArchiveFolder | None = None,
    ) -> None:
        """`archive` has what the log no longer has of sessions."""
        self._connection = connection
        self._key_store = key_store
        self._reader = Reader(HistorySource(connection, archive))
        self.unknown = 0
        """Keys that were left alone: this server knows nothing of their sessions."""

    async def find(self, session: str) -> Known:
        """The session, if it can be erased. Raises NotFound, NotForgotten."""
        known = await self._known(keys.complete(session, self._connection.cells))
        if not known.key:
            raise NotErasable(
                f"{session} was not encrypted: its texts are part of the log and of the archive, "
                "which nothing removes; open sessions with encrypt, see docs/privacy.md"
            )
        if not known.closed_ms:
            raise NotErasable(f"{session} is not closed yet: close it, then erase it")
        return known

    async def older_than(
        self, age_ms: int, sessions: Sequence[str], moved: Progress
    ) -> AsyncIterator[Known]:
        """Those that closed so long ago, by each cell's own clock. `moved` is told how many were
        looked at.
        """
        stores = self._connection.stores
        now_ms = {cell: (await store.read_clock()).last_ms for cell, store in stores.items()}
        for count, session in enumerate(sessions, 1):
            known = await self._if_known(session)
            moved(count)
            if known is None:
                self.unknown += 1
            elif known.is_over and now_ms[keys.cell_of(session)] - known.closed_ms >= age_ms:
                yield known

    async def _if_known(self, session: str) -> Known | None:
        if keys.cell_of(session) not in self._connection.stores:
            return None
        try:
            return await self._known(session)
        except NotFound:
            return None

    async def erase(self, known: Known) -> Word:
        """The session's key is destroyed, and that is on record; `again` if it was before.

        Raises KeyMissing, KeyStoreError.
        """
        try:
            await self._key_store.destroy(known.session)
        except KeyMissing:
            if not known.is_erased:
                raise
        word = "duplicate"  # when a backup had brought the key back
        if not known.is_erased:
            store = self._connection.store_of(known.session)
            word = await store.erase_session(known.session, known.key)
        await self._key_store.settle(known.session)
        return "erased" if word == "ok" else "again"

    async def _known(self, session: str) -> Known:
        """Raises NotFound when its history is gone, or the beginning that names its key."""
        key: str | None = None
        closed_ms, is_erased = 0, False
        async for event in self._reader.history(EventFilter(session=session)):
            if not isinstance(event, Event):
                continue
            match event.data:
                case SessionOpened():
                    key = event.data.key
                case SessionClosed():
                    closed_ms = event.ms
                case SessionErased():
                    is_erased = True
        if key is None:
            raise NotFound(f"the beginning of {session}, which names its key, is gone from the log")
        return Known(session, key, closed_ms, is_erased)


async def rewrite_files(store: Store, moved: Progress) -> int | None:
    """The append-only file of the server of this cell holds what there is now, and nothing else.

    Returns when it is done: its size in bytes; none where the server keeps no such file. `moved`
    is told how much of 100 is done. Raises FilesNotRewritten.
    """
    transport, log_key = store.transport, store.keys.log
    told = await transport.command("INFO", "persistence", key=log_key)
    if not int(told["aof_enabled"]):
        return None
    while _is_running(told):  # it began before what was erased
        told = await _later(store)
    try:
        await transport.command("BGREWRITEAOF", key=log_key)
    except (redis.exceptions.ResponseError, ServerUnavailable) as error:
        raise FilesNotRewritten(f"the append-only file stays as it was: {error}") from error
    while _is_running(told := await _later(store)):
        moved(_percent(told))
    if told["aof_last_bgrewrite_status"] != "ok":
        raise FilesNotRewritten("the append-only file stays as it was: see the server's log")
    moved(100)
    return int(told["aof_current_size"])


async def _later(store: Store) -> dict[str, str | int]:
    await store.transport.sleep(WAIT_S)
    told: dict[str, str | int] = await store.transport.command(
        "INFO", "persistence", key=store.keys.log
    )
    return told


def _is_running(told: dict[str, str | int]) -> bool:
    return any(int(told[name]) for name in _RUNNING)


def _percent(told: dict[str, str | int]) -> int:
    done, total = int(told["current_save_keys_processed"]), int(told["current_save_keys_total"])
    return 100 * done // total if total else 0
