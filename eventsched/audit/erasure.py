"""Erasure by crypto-shredding: destroy a session's key, record that, rewrite the server's file.

Owns: the order of these steps, the choice of sessions by age, the rewrite of the append-only file.
Must not: remove ciphertexts from the log, the views or the archive. The archive's proofs need their
bytes, and without the key they cannot be decrypted.
Read next: encryption/keystore.py, lua/erase_session.lua.

The server is asked first whether the session is closed, because anybody with the rights of a
producer can append an event to the log. Then the key is destroyed. After a crash between this and
the next step, the session cannot be decrypted but SessionErased is not recorded yet; the key store
keeps a tombstone until it is. Every step may be repeated.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.archive.layout import ArchiveFolder
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import EventschedError, KeyMissing, NotFound, ServerUnavailable
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.schema import keys
from eventsched.schema.events import (
    Event,
    SessionClosed,
    SessionClosing,
    SessionErased,
    SessionOpened,
)
from eventsched.store.cell import Store
from eventsched.store.connection import Connection

POLL_S = 0.2
"""Interval at which the progress of the rewrite is read."""
_RUNNING = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")

EraseResult: TypeAlias = Literal["erased", "already_erased"]
Progress: TypeAlias = Callable[[int], None]


class NotErasable(EventschedError):
    """Raised when a session cannot be erased. Nothing was changed."""


class FilesNotRewritten(EventschedError):
    """Raised when the server does not rewrite its append-only file."""


class ErasureState(msgspec.Struct, frozen=True):
    """What the history of a session says about its erasure."""

    session: str
    key: str
    """Id of its key; empty if the session is not encrypted. If several events SessionOpened name
    keys, it is the one in the key store, or that of the first event."""
    closed_ms: int
    """Time of the first close that was asked for; 0 until the session is closed."""
    is_erased: bool


class Eraser:
    """Erases sessions of one server, whose keys are in one key store.

    Args:
        connection: The server.
        key_store: The keys.
        archive: The archive with the entries that are trimmed from the log.
    """

    def __init__(
        self,
        connection: Connection,
        key_store: KeyStore,
        archive: ArchiveFolder | None = None,
    ) -> None:
        self._connection = connection
        self._key_store = key_store
        self._reader = Reader(HistorySource(connection, archive))
        self.unknown = 0
        """Keys that `older_than` skipped because they are of no session of this server."""

    async def find(self, session: str) -> ErasureState:
        """Return the state of a session that can be erased. Raises NotFound, NotErasable."""
        state = await self._state(keys.complete(session, self._connection.cells))
        if not state.key:
            raise NotErasable(
                f"{session} was not encrypted: its texts are in the log and the archive and "
                "cannot be removed; open sessions with encrypt, see docs/privacy.md"
            )
        if not state.closed_ms:
            raise _not_closed(session)
        return state

    async def older_than(
        self, age_ms: int, sessions: Sequence[str], progress: Progress
    ) -> AsyncIterator[ErasureState]:
        """Yield the sessions that closed at least `age_ms` ago, by the clocks of their cells.

        `erase` raises NotErasable for those of which the server, or the key store, says otherwise.

        Args:
            age_ms: The age.
            sessions: The sessions to check, by their full ids.
            progress: Called with the number of sessions checked so far.
        """
        stores = self._connection.stores
        now_ms = {cell: (await store.read_clock()).last_ms for cell, store in stores.items()}
        for count, session in enumerate(sessions, 1):
            state = await self._find_state(session)
            progress(count)
            if state is None:
                self.unknown += 1
            elif state.closed_ms and now_ms[keys.cell_of(session)] - state.closed_ms >= age_ms:
                yield state

    async def _find_state(self, session: str) -> ErasureState | None:
        if keys.cell_of(session) not in self._connection.stores:
            return None
        try:
            return await self._state(session)
        except NotFound:
            return None

    async def erase(self, state: ErasureState) -> EraseResult:
        """Destroy the session's key and record SessionErased, if it is not recorded yet.

        Raises:
            NotErasable: The key in the store is not the session's key, or the session is not closed
                by the server's own record; nothing was changed.
            KeyMissing: The key store has never had the key.
            KeyStoreError: The key store cannot be written.
        """
        other = await self._other_key(state)
        if other:
            raise NotErasable(
                f"the key of {state.session} is {state.key or 'none'}, and this key store has "
                f"{other} for it: that is the key of another server's session"
            )
        await self._check_record(state)
        try:
            await self._key_store.destroy(state.session)
        except KeyMissing:
            if not state.is_erased:
                raise
        reply = "duplicate"  # a backup may have restored the key of an erased session
        if not state.is_erased:
            store = self._connection.store_of(state.session)
            reply = await store.erase_session(state.session, state.key)
        await self._key_store.settle(state.session)
        return "erased" if reply == "ok" else "already_erased"

    async def _check_record(self, state: ErasureState) -> None:
        """Raise NotErasable if the function erase_session would refuse the session."""
        store = self._connection.store_of(state.session)
        record = await store.read_hash(store.keys.session(keys.name_of(state.session)))
        if not record or record.get("status") == "retired":
            return
        if record.get("status") != "closed":
            raise _not_closed(state.session)
        if record.get("key", "") != state.key:
            raise NotErasable(f"the server has another key for {state.session} than {state.key}")

    async def _other_key(self, state: ErasureState) -> str:
        """The id of the key in the store if it is not the session's; otherwise an empty text."""
        stored = await self._stored_key(state.session)
        return stored if stored != state.key else ""

    async def _stored_key(self, session: str) -> str:
        """The id of the session's key in the store; empty if it has none."""
        try:
            return (await self._key_store.get(session)).id
        except KeyMissing:
            return ""

    async def _state(self, session: str) -> ErasureState:
        """Read the state from the history. Raises NotFound if SessionOpened is not in it."""
        opened_with: list[str] = []
        closed_ms, is_closing, is_erased = 0, False, False
        async for event in self._reader.history(EventFilter(session=session)):
            if not isinstance(event, Event):
                continue
            match event.data:
                case SessionOpened():
                    opened_with.append(event.data.key)
                case SessionClosing():
                    is_closing = True
                case SessionClosed() if is_closing:
                    # A later one, appended by hand, does not make the session younger.
                    closed_ms = closed_ms or event.ms
                case SessionErased():
                    is_erased = True
        if not opened_with:
            raise NotFound(
                f"SessionOpened of {session}, which names its key, is trimmed from the log"
            )
        stored = await self._stored_key(session)
        key = stored if stored and stored in opened_with else opened_with[0]
        return ErasureState(session, key, closed_ms, is_erased)


def _not_closed(session: str) -> NotErasable:
    return NotErasable(f"{session} is not closed yet: close it, then erase it")


async def rewrite_files(store: Store, progress: Progress) -> int | None:
    """Rewrite the append-only file of the cell's server, so that it has only the present data.

    Args:
        store: The cell.
        progress: Called with the percentage done.

    Returns:
        The size of the new file in bytes; None if the server has no append-only file.

    Raises:
        FilesNotRewritten: The server refused the rewrite, or it failed.
    """
    transport, log_key = store.transport, store.keys.log
    info = await transport.command("INFO", "persistence", key=log_key)
    if not int(info["aof_enabled"]):
        return None
    while _is_running(info):  # a running rewrite began before the erasure
        info = await _poll(store)
    try:
        await transport.command("BGREWRITEAOF", key=log_key)
    except ServerUnavailable as error:
        raise FilesNotRewritten(f"the append-only file was not rewritten: {error}") from error
    while _is_running(info := await _poll(store)):
        progress(_percent(info))
    if info["aof_last_bgrewrite_status"] != "ok":
        raise FilesNotRewritten("the append-only file was not rewritten: see the server's log")
    progress(100)
    return int(info["aof_current_size"])


async def _poll(store: Store) -> dict[str, str | int]:
    await store.transport.sleep(POLL_S)
    info: dict[str, str | int] = await store.transport.command(
        "INFO", "persistence", key=store.keys.log
    )
    return info


def _is_running(info: dict[str, str | int]) -> bool:
    return any(int(info[name]) for name in _RUNNING)


def _percent(info: dict[str, str | int]) -> int:
    done, total = int(info["current_save_keys_processed"]), int(info["current_save_keys_total"])
    return 100 * done // total if total else 0
