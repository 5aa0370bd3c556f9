"""Child processes of a command: started, waited for until they are ready, ended with it.

Owns: `Children`, whose processes end in order when its block ends, and with the command itself
when that is killed (Linux: the kernel tells them); waiting until they are ready. The server's URL,
which may hold a password, goes to them in EVENTSCHED_URL: every user of the machine can read a
process's arguments.
Never does: choose what to run. Read next: loadtest/replay.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread

from eventsched.errors import EventschedError

END_S = 10.0
READY_S_MAX = 60.0
"""Far more than an idle machine needs, which is a second."""
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildFailed(EventschedError):
    """Raised when a child process ended before it was ready."""


class Children:
    """The processes of one command; `log` takes their stderr, `url` names their server."""

    def __init__(self, log: Path, url: str) -> None:
        self._log = log
        self._environment = os.environ | {"EVENTSCHED_URL": url}
        self._running: list[subprocess.Popen[bytes]] = []

    async def until_ready(self, missing: Callable[[], Awaitable[str]]) -> None:
        """`missing` has returned an empty string: nothing is waited for any more.

        Raises ChildFailed, with the children's last log line, after `READY_S_MAX` seconds.
        """
        waiting_for = ""
        with anyio.move_on_after(READY_S_MAX):
            while waiting_for := await missing():  # noqa: ASYNC110  another process decides
                await anyio.sleep(POLL_S)
            return
        raise ChildFailed(self._last_words() or f"not ready in {READY_S_MAX:.0f} s: {waiting_for}")

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._running]

    async def start(self, *arguments: str) -> str:
        """`python -m …` is running and has said its first line, which is returned."""
        child = self._spawn(arguments)
        return await anyio.to_thread.run_sync(self._first_line, child, arguments[0])

    def _spawn(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        # From the loop's own thread: the kernel's tie is to the thread that starts the child.
        with self._log.open("ab") as log:
            # Its own session: Ctrl-C reaches the command alone, which ends its children in order.
            child = subprocess.Popen(
                # -P: a file in the present folder is not taken for a module of that name
                [sys.executable, "-P", "-m", *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into libc, no lock taken
            )
        self._running.append(child)
        return child

    def _first_line(self, child: subprocess.Popen[bytes], name: str) -> str:
        assert child.stdout is not None
        line = child.stdout.readline().decode().strip()
        if not line:
            raise ChildFailed(self._last_words() or f"{name} ended at once")
        return line

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return said[-1] if said else ""

    def end(self) -> None:
        """All have ended when this returns; who does not within 10 s is killed."""
        for child in self._running:
            child.send_signal(signal.SIGTERM)
        for child in self._running:
            try:
                child.wait(END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child.stdout is not None:
                child.stdout.close()
        self._running.clear()


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """For a child: it gets this signal when the thread that has started it is gone (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)


@asynccontextmanager
async def children(log: Path, url: str) -> AsyncIterator[Children]:
    """The children that are started in the block have ended when it has."""
    fleet = Children(log, url)
    try:
        yield fleet
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(fleet.end)
