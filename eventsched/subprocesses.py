"""Child processes of a command: starting them, waiting until they are ready, ending them.

Owns: `Children`, whose processes end when its block ends, or when the command is killed (on Linux,
by a signal of the kernel). The server's URL may contain a password, so the processes get it in
EVENTSCHED_URL: all users of the machine can read a process's arguments.
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
"""An idle machine needs about a second."""
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildFailed(EventschedError):
    """Raised when a child process ends before it is ready, or is not ready in time."""


class Children:
    """The child processes of one command.

    Args:
        log: file for the stderr of the processes.
        url: URL of their server.
    """

    def __init__(self, log: Path, url: str) -> None:
        self._log = log
        self._environment = os.environ | {"EVENTSCHED_URL": url}
        self._running: list[subprocess.Popen[bytes]] = []

    async def until_ready(self, missing: Callable[[], Awaitable[str]]) -> None:
        """Wait until `missing` returns an empty string.

        Args:
            missing: returns a description of what is not ready yet.

        Raises:
            ChildFailed: after `READY_S_MAX` seconds; the message is the last line of the log.
        """
        waiting_for = ""
        with anyio.move_on_after(READY_S_MAX):
            while waiting_for := await missing():  # noqa: ASYNC110  another process decides
                await anyio.sleep(POLL_S)
            return
        raise ChildFailed(self._last_line() or f"not ready in {READY_S_MAX:.0f} s: {waiting_for}")

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self._running]

    async def start(self, *arguments: str) -> str:
        """Start `python -m …` and return the first line of its output."""
        child = self._spawn(arguments)
        return await anyio.to_thread.run_sync(self._first_line, child, arguments[0])

    def _spawn(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        # In the event loop's thread: the kernel's signal depends on the thread that starts it.
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches only the command, which ends its children.
            child = subprocess.Popen(
                # -P: a module is not imported from the current folder
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
            raise ChildFailed(self._last_line() or f"{name} ended at once")
        return line

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def end(self) -> None:
        """End all processes and wait for them; a process is killed after 10 s."""
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
    """In a child process on Linux: get this signal when the thread that started it has ended."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, number)


@asynccontextmanager
async def children(log: Path, url: str) -> AsyncIterator[Children]:
    """Yield child processes that are ended with the block."""
    fleet = Children(log, url)
    try:
        yield fleet
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(fleet.end)
