"""The server that this process uses: the one that was named, or one that lives in a folder.

Owns: where a server is found, and who starts the one in the data folder.
Never does: end it (watchdog.py), open clients to it (store/client.py).
Read next: launch.py, watchdog.py.

Without a URL, every process that names the same data folder meets at the same server, which
lives exactly as long as one of them. Three locks in the folder say all there is to know, and
the kernel drops them however a process ends:

    users         shared by every user, from before it reads the announcement. The watchdog
                  waits for it exclusively: it comes when the last user is gone, and while the
                  watchdog has it, newcomers wait until the old server has stopped.
    server.lock   exclusive, by who starts a server, then by the watchdog and the server that
                  inherit it. Held: a server writes here, or is about to. Free: none does, and
                  an announcement, if there is one, is a left-over.
    watchdog.lock exclusive, by the watchdog: a server without one is not joined but shut down.

So a starter may die at any point: before the watchdog is there, its locks are free again; after,
the watchdog alone goes on, finds no user, and stops what it started. A killed watchdog takes the
server along (Linux ends it at once; elsewhere the next user does).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import structlog
from anyio import CancelScope, to_thread

from eventsched.errors import ServerUnavailable
from eventsched.private_files import read_private, replace_private
from eventsched.schema.validation import check_url
from eventsched.server import watchdog
from eventsched.server.discovery import find
from eventsched.server.folder import PROGRAM, open_data_folder
from eventsched.server.launch import (
    POLL_S,
    SERVER_LOCK,
    ServerEnded,
    is_free,
    launch,
    listen_in,
    wait_until_answers,
)
from eventsched.server.locks import FileLock

Fsync: TypeAlias = Literal["everysec", "always"]

DEFAULT_DATA = Path(".eventsched")
_PROGRAM_BYTES_MAX = 4_096
SHAPES = {"stream-node-max-bytes": "8192", "zset-max-listpack-entries": "16"}
"""How Redis lays out what we keep. A stream's node keeps the field names of its entries once: 57 B
an event beyond its values where Redis's own 4,096 takes 87 B; a read walks half a node more. Sorted
sets (a class's nodes by their load) are searched from 16 members on, where Redis's own 128 are read
through: 4 % of a dispatch among 50 nodes."""
_STARTS_MAX = 3
_ROUNDS_MAX = 100
_ENTER_S = 30.0
_LEAVE_S = 2.0

_log = structlog.get_logger("eventsched.server")


@contextmanager
def using(
    url: str | None = None, *, data: Path | None = None, fsync: Fsync = "everysec"
) -> Iterator[str]:
    """The URL of a server that answers for as long as the block lasts.

    `url`, else EVENTSCHED_URL, names a server that is somebody else's business. Else the one in
    the folder `data` (./.eventsched) is joined, or started: its data survive its end.
    """
    named = url or os.environ.get("EVENTSCHED_URL")
    if named:
        yield check_url(named)
        return
    user = _User(data or DEFAULT_DATA, fsync)
    try:
        yield user.join()
    finally:
        user.leave()


@asynccontextmanager
async def use(
    url: str | None = None, *, data: Path | None = None, fsync: Fsync = "everysec"
) -> AsyncIterator[str]:
    """Like `using`; the event loop goes on while a server is started or stopped."""
    named = url or os.environ.get("EVENTSCHED_URL")
    if named:
        yield check_url(named)
        return
    user = _User(data or DEFAULT_DATA, fsync)
    try:
        yield await to_thread.run_sync(user.join)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(user.leave)


class _User:
    """One user of the server in a folder. `leave` may come, in another thread, amid `join`."""

    def __init__(self, data: Path, fsync: Fsync) -> None:
        self._given = data
        self._folder = data.resolve()
        self._fsync = fsync
        self._users = FileLock(self._folder / watchdog.USERS)
        self._server_lock = FileLock(self._folder / SERVER_LOCK)
        self._is_leaving = threading.Event()
        self._one_at_a_time = threading.Lock()

    def join(self) -> str:
        """The URL of the folder's server, started here if there is none."""
        with self._one_at_a_time:
            try:
                open_data_folder(self._given)
                self._enter()
                return self._find_or_start()
            except OSError as error:
                raise ServerUnavailable(f"the data folder cannot be used: {error}") from error
            finally:
                self._server_lock.release()

    def leave(self) -> None:
        """No user any more. The last one sees the server stop before it goes on."""
        self._is_leaving.set()
        with self._one_at_a_time:
            was_member = self._users.fd >= 0
            is_last = was_member and self._users.try_exclusive()
            self._users.release()
        ends_at = time.monotonic() + _LEAVE_S
        while is_last and not is_free(self._folder / SERVER_LOCK) and time.monotonic() < ends_at:
            time.sleep(POLL_S)

    def _enter(self) -> None:
        """Be a user: from now on the watchdog of a running server leaves it alone."""
        ends_at = time.monotonic() + _ENTER_S
        while not self._users.try_shared():  # the server of the last user is being stopped
            if time.monotonic() > ends_at:
                raise ServerUnavailable(f"the server in {self._folder} does not stop")
            self._sleep(POLL_S)

    def _find_or_start(self) -> str:
        starts = 0
        for _ in range(_ROUNDS_MAX):
            if self._server_lock.try_exclusive():
                starts += 1
                self._start()
            try:
                return wait_until_answers(self._folder, self._sleep).url
            except ServerEnded:
                # Ours could not start (a port was taken in between), or it was another's that
                # just ended: the lock is free, so somebody has to try again.
                if starts == _STARTS_MAX:
                    raise
        raise ServerUnavailable(f"the server in {self._folder} is started and ends all the time")

    def _start(self) -> None:
        """Hand the held lock to a new watchdog with a new server."""
        program = find(self._last_program())
        replace_private(self._folder / PROGRAM, os.fsencode(program.path))
        url, listening = listen_in(self._folder)
        _log.info("starting a server", program=str(program.path), data=str(self._folder))
        launch(
            self._folder,
            self._server_lock,
            program=program.path,
            options=listening | _settings(self._fsync),
            url=url,
        )

    def _last_program(self) -> Path | None:
        """The program that wrote the data."""
        try:
            named = read_private(self._folder / PROGRAM, _PROGRAM_BYTES_MAX)
        except FileNotFoundError:
            return None
        return Path(os.fsdecode(named)) if named else None

    def _sleep(self, seconds: float) -> None:
        if self._is_leaving.wait(seconds):
            raise ServerUnavailable("no longer wanted")


def _settings(fsync: Fsync) -> dict[str, str]:
    """Options that keep authoritative state: no eviction, and every write goes to the file."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "protected-mode": "yes",
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "maxmemory": str(machine_bytes // 2),
        "maxmemory-policy": "noeviction",
    } | SHAPES
