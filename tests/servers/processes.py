"""Real processes that use an embedded server.

A `user` joins the server and prints `URL PID`. For each line `incr` it increments a counter and
prints it; for `fork` it prints the pid of a forked child, which outlives it. A `starter` holds the
locks of a folder whose server it never starts; a `tester` starts a `LocalServer`.

Owns: starting, controlling and killing such processes. Never does: assertions about a server.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Self, TextIO

import structlog

from eventsched.server import watchdog
from eventsched.server.embedded import using
from eventsched.server.launch import SERVER_LOCK, probe
from eventsched.server.locks import FileLock
from eventsched.server.testing import LocalServer
from tests.forked import Forked

ROOT = Path(__file__).parents[2]
COUNTER = "counter"


class UserProcess:
    """A process that uses the server of a folder until it is killed or leaves."""

    def __init__(self, data: Path, role: str = "user") -> None:
        stdin, self._stdin = _pipe()
        self._stdout, stdout = _pipe()
        with stdin, stdout:
            self._process = Forked(
                partial(be, role, data),
                ROOT,
                {**os.environ, "EVENTSCHED_URL": ""},
                (stdin.fileno(), stdout.fileno(), 2),
                start_new_session=True,
            )
        self.url = ""
        self.server_pid = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait_until_joined(self) -> Self:
        """Wait for the URL and the pid of the server."""
        self.url, pid = self._read_line().split()
        self.server_pid = int(pid)
        return self

    def ask(self, word: str) -> int:
        """Send one word and return the number that the process prints."""
        self._stdin.write(f"{word}\n")
        self._stdin.flush()
        return self.read_number()

    def read_number(self) -> int:
        """Return the next line of output as a number."""
        return int(self._read_line())

    def leave(self) -> None:
        """Close its input, so that the process leaves the server and ends."""
        self._stdin.close()
        assert self._process.wait(10) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def interrupt_group(self) -> None:
        """Send SIGINT to each process of the group, as Ctrl-C in a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def close(self) -> None:
        if not self.has_ended:
            self.kill()
        for pipe in (self._stdin, self._stdout):
            pipe.close()

    def _read_line(self) -> str:
        line = self._stdout.readline()
        assert line, "the process ended without output"
        return line


def _pipe() -> tuple[TextIO, TextIO]:
    """The two ends of a pipe: what is written to the second is read from the first."""
    read, write = os.pipe()
    return open(read), open(write, "w")


@contextmanager
def users(data: Path, count: int = 1, role: str = "user") -> Iterator[list[UserProcess]]:
    """Start processes without waiting for any of them, and end them with the block."""
    started = [UserProcess(data, role) for _ in range(count)]
    try:
        yield started
    finally:
        for user in started:
            user.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def be_user(data: Path) -> None:
    signal.signal(signal.SIGINT, _exit_in_order)
    with using(data=data) as url:
        client = probe(url)
        _print(url, client.info("server")["process_id"])
        for word in sys.stdin:
            match word.strip():
                case "incr":
                    _print(client.incr(COUNTER))
                case "fork":
                    _print(_fork_a_sleeper())
        client.close()


def be_starter(data: Path) -> None:
    users_lock, server_lock = FileLock(data / watchdog.USERS), FileLock(data / SERVER_LOCK)
    if users_lock.try_shared() and server_lock.try_exclusive():
        _print(os.getpid())
    signal.pause()


def be_tester(data: Path) -> None:
    server = LocalServer(data)
    server.start()
    _print(server.pid)
    signal.pause()


def _print(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _exit_in_order(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _fork_a_sleeper() -> int:
    """Fork a child that has all open files and outlives its parent, as a pool's worker may."""
    child = os.fork()
    if child == 0:
        time.sleep(60)  # sleeps: outlives its parent
        os._exit(0)
    return child


def be(role: str, data: Path) -> None:
    """Run one role in a process of its own."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    {"user": be_user, "starter": be_starter, "tester": be_tester}[role](data)
