"""Start one server under a watchdog, and ask whether it answers.

Owns: where a server listens, its configuration file, the watchdog's command line, the
announcement's reader, waiting until it answers.
Never does: decide whether a server is needed. Read next: watchdog.py, embedded.py.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventsched.errors import ServerUnavailable
from eventsched.server import watchdog
from eventsched.server.locks import FileLock

SERVER_LOCK = "server.lock"
CONFIG = "server.conf"
LOG = "server.log"
SOCKET = "server.sock"
START_S = 10.0
LOAD_S = 600.0
_PROBE_TIMEOUT_S = 1.0
_PORTS = range(12_000, 32_000)
_PORT_TRIALS_MAX = 50
POLL_S = 0.01

State: TypeAlias = Literal["ready", "loading", "silent"]


class ServerEnded(ServerUnavailable):
    """Raised when a server that was started is gone before it took a command."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where the folder's server listens, and its process."""

    url: str
    pid: int


def launch(
    folder: Path, lock: FileLock, *, program: Path, options: Mapping[str, str], url: str
) -> None:
    """Hand the held `lock` to a watchdog that runs `program` in `folder`; return at once."""
    (folder / watchdog.ANNOUNCEMENT).unlink(
        missing_ok=True
    )  # its pid and place are a dead server's
    config = folder / CONFIG
    config.touch(mode=0o600)
    config.write_bytes(b"".join(_line(name, value) for name, value in options.items()))
    with (folder / LOG).open("ab") as log:
        subprocess.run(
            # -I -S: neither the environment nor what lies in the folder changes what it imports
            [sys.executable, "-I", "-S", watchdog.__file__, str(lock.fd), url, program, CONFIG],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fd],
            start_new_session=True,
            check=True,
        )
    lock.release()


def _line(name: str, value: str) -> bytes:
    """One line of the configuration: quoted, so that a path may hold blanks."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return os.fsencode(f'{name} "{quoted}"\n')


def read_announcement(folder: Path) -> Announcement | None:
    """What the folder's watchdog announced; none before it did."""
    try:
        told = json.loads((folder / watchdog.ANNOUNCEMENT).read_bytes())
    except FileNotFoundError:
        return None
    return Announcement(told["url"], told["pid"])


def wait_until_answers(folder: Path, sleep: Callable[[float], None] = time.sleep) -> Announcement:
    """The folder's server, as soon as it takes commands; loading its data may take longer.

    Raises ServerEnded when nobody holds the folder's lock: what was started is gone again.
    """
    ends_at = time.monotonic() + START_S
    loads_until = time.monotonic() + LOAD_S
    while time.monotonic() < ends_at:
        told = read_announcement(folder)
        state = ask(told.url, folder) if told else "silent"
        if told and state == "ready":
            return told
        if state == "loading":
            ends_at = min(time.monotonic() + START_S, loads_until)
        if is_free(folder / SERVER_LOCK):
            raise ServerEnded(f"the server in {folder} ended at once: {log_tail(folder)}")
        sleep(POLL_S)
    raise ServerUnavailable(f"the server in {folder} does not answer: {log_tail(folder)}")


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock at this moment."""
    lock = FileLock(path)
    try:
        return lock.try_exclusive()
    finally:
        lock.release()


def ask(url: str, folder: Path) -> State:
    """How the server at `url` does, if it is the one that writes in `folder`.

    A left-over announcement may name a place where another server listens by now.
    """
    client = probe(url)
    try:
        if not os.path.samefile(str(client.config_get("dir")["dir"]), folder):
            return "silent"
        if is_free(folder / watchdog.ALIVE):
            client.shutdown()  # nobody would end it: it makes way for one that has a watchdog
            return "silent"
        client.ping()
    except redis.BusyLoadingError:
        return "loading"
    except (redis.ConnectionError, redis.TimeoutError):
        return "silent"  # not listening yet, or somebody else's who wants another password
    except FileNotFoundError:
        return "silent"  # it writes in a folder that this machine does not have
    finally:
        client.close()
    return "ready"


def listen_in(folder: Path) -> tuple[str, dict[str, str]]:
    """Where a server of this folder listens, as a URL and as the server's options.

    A unix socket in the folder: who may enter the folder may connect, no port can be taken by
    somebody else. Where no socket can be made (a path beyond some 100 characters, some file
    systems), a loopback port with a password, since every user of the machine can reach it.
    """
    path = folder / SOCKET
    path.unlink(missing_ok=True)
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.bind(str(path))
        path.unlink()
    except OSError:
        port, password = str(free_ports(1)[0]), secrets.token_hex(16)
        options = {"port": port, "bind": "127.0.0.1", "requirepass": password}
        return f"redis://:{password}@127.0.0.1:{port}", options
    options = {"port": "0", "unixsocket": str(path), "unixsocketperm": "700"}
    return f"unix://{quote(str(path))}", options


def probe(url: str) -> redis.Redis:
    """A client that asks once and does not wait long."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=_PROBE_TIMEOUT_S,
        socket_connect_timeout=_PROBE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody had a moment ago, all different.

    Below the range from which the kernel takes ports for outgoing connections: those come and
    go too often for one to stay free until a server binds it.
    """
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(_PORTS, _PORT_TRIALS_MAX):
            trial = stack.enter_context(socket.socket())
            if len(found) < count and _binds(trial, port):
                found.append(port)
    if len(found) < count:
        raise ServerUnavailable(f"no free port on 127.0.0.1 in {_PORT_TRIALS_MAX} trials")
    return found


def _binds(trial: socket.socket, port: int) -> bool:
    try:
        trial.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def log_tail(folder: Path, lines: int = 3) -> str:
    """The last words of the folder's server, in one line."""
    path = folder / LOG
    told = path.read_text(errors="replace").split("\n") if path.exists() else []
    return " | ".join([line.strip() for line in told if line.strip()][-lines:])
