"""Real processes that use an embedded server: started, told what to do, killed.

python -m tests.servers.processes DATA       joins, says `URL PID`, then obeys its input:
                                             `incr` adds one and says the sum, `fork` leaves
                                             a forked child behind and says its pid
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

import structlog

from eventsched.server import watchdog
from eventsched.server.embedded import using
from eventsched.server.launch import SERVER_LOCK, probe
from eventsched.server.locks import FileLock
from eventsched.server.testing import LocalServer

ROOT = Path(__file__).parents[2]
COUNTER = "counter"


class UserProcess:
    """A process that uses the server of a folder until it is killed or told to leave."""

    def __init__(self, data: Path, role: str = "user") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, role, data],
            cwd=ROOT,
            env={**os.environ, "EVENTSCHED_URL": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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
        self.url, pid = self._hear().split()
        self.server_pid = int(pid)
        return self

    def ask(self, word: str) -> int:
        """What the process says to one word."""
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self.hear_number()

    def hear_number(self) -> int:
        return int(self._hear())

    def leave(self) -> None:
        """End of input: the process leaves the server in order and ends."""
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(10) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def interrupt_group(self) -> None:
        """What Ctrl-C does: SIGINT to each process of the terminal's foreground group."""
        os.killpg(self.pid, signal.SIGINT)

    def close(self) -> None:
        if not self.has_ended:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def _hear(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the process ended without a word"
        return line


@contextmanager
def users(data: Path, count: int = 1, role: str = "user") -> Iterator[list[UserProcess]]:
    """So many processes, all started before the first is waited for."""
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
    signal.signal(signal.SIGINT, _leave_in_order)
    with using(data=data) as url:
        client = probe(url)
        _say(url, client.info("server")["process_id"])
        for word in sys.stdin:
            match word.strip():
                case "incr":
                    _say(client.incr(COUNTER))
                case "fork":
                    _say(_fork_a_sleeper())
        client.close()


def be_starter(data: Path) -> None:
    users_lock, server_lock = FileLock(data / watchdog.USERS), FileLock(data / SERVER_LOCK)
    if users_lock.try_shared() and server_lock.try_exclusive():
        _say(os.getpid())
    signal.pause()


def be_tester(data: Path) -> None:
    server = LocalServer(data)
    server.start()
    _say(server.pid)
    signal.pause()


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _leave_in_order(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _fork_a_sleeper() -> int:
    """A child that inherited all files and outlives its parent, as workers of a pool can."""
    child = os.fork()
    if child == 0:
        time.sleep(60)  # sleeps: outlives its parent
        os._exit(0)
    return child


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    ROLES = {"user": be_user, "starter": be_starter, "tester": be_tester}
    ROLES[sys.argv[1]](Path(sys.argv[2]))
