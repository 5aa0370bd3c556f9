"""The server of this process: a named server, or one that is shared through a data folder.

Owns: joining the server of a data folder, and starting it.
Never does: choose the server (choice.py), end it (watchdog.py), open clients (store/client.py).
Read next: choice.py, launch.py, watchdog.py.

Without a URL, all processes with the same data folder use the same server. It runs as long as one
of them does. Three file locks in the folder coordinate the processes. The kernel releases the locks
of a process however it ends.

    users         Shared lock of every user, taken before it reads the announcement. The watchdog
                  waits for the exclusive lock and gets it when the last user has ended. While the
                  watchdog has it, new users wait until the old server has stopped.
    server.lock   Exclusive lock of the process that starts a server; the watchdog and the server
                  inherit it. Locked: a server writes in the folder or is about to. Free: no server
                  writes, and an announcement is out of date.
    watchdog.lock Exclusive lock of the watchdog. A server without a watchdog is shut down.

A starting process may end at any point. Before the watchdog runs, its locks become free. After
that, the watchdog finds no user and stops the server. If the watchdog is killed, Linux ends the
server at once; on other systems the next user ends it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from anyio import CancelScope, to_thread

from eventsched.errors import ServerUnavailable
from eventsched.logs import get_logger
from eventsched.private_files import read_private, replace_private
from eventsched.schema.validation import check_url
from eventsched.server import watchdog
from eventsched.server.choice import choose_server
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

_PROGRAM_BYTES_MAX = 4_096
ENCODING_OPTIONS = {"stream-node-max-bytes": "8192", "zset-max-listpack-entries": "16"}
"""Options for the encoding of streams and sorted sets, with values other than the defaults.

A node of a stream stores the field names of its entries once. With 8,192 B, an event takes 57 B
beside its values, with the default of 4,096 B it takes 87 B; a read scans half a node more. Sorted
sets are indexed from 16 members on, instead of scanned up to 128, which saves 4 % of a dispatch
among 50 nodes.
"""
_STARTS_MAX = 3
_ROUNDS_MAX = 100
_ENTER_S = 30.0
_LEAVE_S = 2.0

_log = get_logger("eventsched.server")


@contextmanager
def using(
    url: str | None = None, *, data: Path | None = None, fsync: Fsync = "everysec"
) -> Iterator[str]:
    """Yield the URL of a server that runs during the block.

    Args:
        url: a server that is managed elsewhere.
        data: the data folder whose server is joined or started; its data outlive the server.
            Without both, `choose_server` finds the server in the environment.
        fsync: when a started server writes its append-only file to the disk.

    Raises:
        InvalidMessage: the URL is not valid.
        ServerUnavailable: the server cannot be joined or started.
    """
    choice = choose_server(url, data)
    if choice.url:
        yield check_url(choice.url)
        return
    user = _User(choice.folder, fsync)
    try:
        yield user.join()
    finally:
        user.leave()


@asynccontextmanager
async def use(
    url: str | None = None, *, data: Path | None = None, fsync: Fsync = "everysec"
) -> AsyncIterator[str]:
    """Like `using`, without blocking the event loop while a server starts or stops."""
    choice = choose_server(url, data)
    if choice.url:
        yield check_url(choice.url)
        return
    user = _User(choice.folder, fsync)
    try:
        yield await to_thread.run_sync(user.join)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(user.leave)


class _User:
    """One user of the server in a folder. Another thread may call `leave` during `join`."""

    def __init__(self, data: Path, fsync: Fsync) -> None:
        self._data = data
        self._folder = data.resolve()
        self._fsync = fsync
        self._users = FileLock(self._folder / watchdog.USERS)
        self._server_lock = FileLock(self._folder / SERVER_LOCK)
        self._is_leaving = threading.Event()
        self._one_at_a_time = threading.Lock()

    def join(self) -> str:
        """Return the URL of the folder's server; start the server if none runs."""
        with self._one_at_a_time:
            try:
                open_data_folder(self._data)
                self._enter()
                return self._find_or_start()
            except OSError as error:
                raise ServerUnavailable(f"the data folder cannot be used: {error}") from error
            finally:
                self._server_lock.release()

    def leave(self) -> None:
        """End the use of the server. The last user waits until the server has stopped."""
        self._is_leaving.set()
        with self._one_at_a_time:
            was_member = self._users.fd >= 0
            is_last = was_member and self._users.try_exclusive()
            self._users.release()
        ends_at = time.monotonic() + _LEAVE_S
        while is_last and not is_free(self._folder / SERVER_LOCK) and time.monotonic() < ends_at:
            time.sleep(POLL_S)

    def _enter(self) -> None:
        """Take the users lock; from now on the watchdog does not stop a running server."""
        ends_at = time.monotonic() + _ENTER_S
        while not self._users.try_shared():  # the watchdog stops the server of the last user
            if time.monotonic() > ends_at:
                raise ServerUnavailable(f"the server in {self._folder} does not stop")
            self._sleep(POLL_S)

    def _find_or_start(self) -> str:
        """Return the URL of the running server, or start one. Raises ServerUnavailable."""
        starts = 0
        for _ in range(_ROUNDS_MAX):
            if self._server_lock.try_exclusive():
                starts += 1
                self._start()
            try:
                return wait_until_answers(self._folder, self._sleep).url
            except ServerEnded:
                # This process's server could not start, for example because its port was taken, or
                # another process's server has just ended. The lock is free, so try again.
                if starts == _STARTS_MAX:
                    raise
        raise ServerUnavailable(f"the server in {self._folder} ends after each start")

    def _start(self) -> None:
        """Start a watchdog and a server, which inherit the server lock."""
        program = find(self._last_program())
        replace_private(self._folder / PROGRAM, os.fsencode(program.path))
        url, listening = listen_in(self._folder)
        _log.info("starting a server", program=str(program.path), data=str(self._folder))
        launch(
            self._folder,
            self._server_lock,
            program=program.path,
            options=listening | _server_options(self._fsync),
            url=url,
        )

    def _last_program(self) -> Path | None:
        """Return the program that wrote the data; None if the folder is new."""
        try:
            path = read_private(self._folder / PROGRAM, _PROGRAM_BYTES_MAX)
        except FileNotFoundError:
            return None
        return Path(os.fsdecode(path)) if path else None

    def _sleep(self, seconds: float) -> None:
        """Sleep; raises ServerUnavailable if `leave` is called."""
        if self._is_leaving.wait(seconds):
            raise ServerUnavailable("the wait for the server was cancelled")


def _server_options(fsync: Fsync) -> dict[str, str]:
    """Return the options of a server: it evicts nothing and appends every write to its file."""
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "protected-mode": "yes",
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "maxmemory": str(machine_bytes // 2),
        "maxmemory-policy": "noeviction",
    } | ENCODING_OPTIONS
