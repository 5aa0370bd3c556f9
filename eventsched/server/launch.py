"""Start one server under a watchdog, and ask whether it answers and is the one that was started.

Owns: where a server listens, its configuration, the watchdog's order, the announcement's reader,
waiting until the server answers, the check of what it says of itself.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventsched.errors import ServerUnavailable
from eventsched.private_files import open_private, read_private
from eventsched.server import watchdog
from eventsched.server.folder import short_path
from eventsched.server.locks import FileLock

SERVER_LOCK = "server.lock"
LOG = "server.log"
SOCKET = "server.sock"
LOOPBACK = "127.0.0.1"
START_S = 10.0
LOAD_S = 600.0
_PROBE_TIMEOUT_S = 1.0
_PORTS = range(12_000, 32_000)
_PORT_TRIALS_MAX = 50
_ANNOUNCEMENT_BYTES_MAX = 4_096
_LOG_TAIL_BYTES = 8_192
POLL_S = 0.01

State: TypeAlias = Literal["ready", "loading", "silent"]


class ServerEnded(ServerUnavailable):
    """Raised when a server that was started is gone before it took a command."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where the folder's server listens, and its process."""

    url: str = field(repr=False)
    pid: int


def launch(
    folder: Path, lock: FileLock, *, program: Path, options: Mapping[str, str], url: str
) -> None:
    """Hand the held `lock` to a watchdog that runs `program` in `folder`; return at once."""
    (folder / watchdog.ANNOUNCEMENT).unlink(
        missing_ok=True
    )  # its pid and place are a dead server's
    by_link = url.startswith("unix://") and not _is_direct(url, folder)
    order = {
        "url": url,
        "command": [str(program), "-"],
        "config": "".join(_line(name, value) for name, value in options.items()),
        "link": str(short_path(folder)) if by_link else "",
    }
    log = open_private(folder / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        subprocess.run(
            # -I -S: neither the environment nor what lies in the folder changes what it imports
            [sys.executable, "-I", "-S", watchdog.__file__, str(lock.fd)],
            cwd=folder,
            input=json.dumps(order).encode(),
            stdout=log,
            stderr=log,
            pass_fds=[lock.fd],
            start_new_session=True,
            check=True,
        )
    finally:
        os.close(log)
    lock.release()


def _line(name: str, value: str) -> str:
    """One line of the configuration: quoted, so that a value may hold blanks."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name} "{quoted}"\n'


def read_announcement(folder: Path) -> Announcement | None:
    """What the folder's watchdog announced; none before it did, and none that cannot be read."""
    try:
        told = json.loads(read_private(folder / watchdog.ANNOUNCEMENT, _ANNOUNCEMENT_BYTES_MAX))
        return Announcement(str(told["url"]), int(told["pid"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def announced_url(folder: Path, announcement: Announcement) -> str | None:
    """The address to use: the folder's own socket, or a loopback port with a password.

    None for any other: the announcement is a left-over, or somebody else's.
    """
    if _is_direct(announcement.url, folder):
        return announcement.url
    if announcement.url.startswith("unix://"):
        return _socket_url(short_path(folder))
    try:
        parts = urlsplit(announcement.url)
        is_ours = parts.hostname == LOOPBACK and parts.port and parts.password
    except ValueError:
        return None
    return announcement.url if parts.scheme == "redis" and is_ours else None


def wait_until_answers(
    folder: Path,
    sleep: Callable[[float], None] = time.sleep,
    *,
    url: str | None = None,
    append_only: str = "yes",
) -> Announcement:
    """The folder's server, as soon as it takes commands; loading its data may take longer.

    `url` is the address where the caller has it listen, else what is announced counts.
    Raises ServerEnded when nobody holds the folder's lock: what was started is gone again.
    Raises ServerUnavailable when it does not answer in time, or is not configured as it should be.
    """
    ends_at = time.monotonic() + START_S
    loads_until = time.monotonic() + LOAD_S
    while time.monotonic() < ends_at:
        told = read_announcement(folder)
        address = (url or announced_url(folder, told)) if told else None
        state = ask(address, folder, append_only=append_only) if address else "silent"
        if told and address and state == "ready":
            return Announcement(address, told.pid)
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


def ask(url: str, folder: Path, *, append_only: str = "yes") -> State:
    """How the server at `url` does, if it is the one that writes in `folder`.

    A left-over announcement may name a place where another server listens by now. A server that
    writes in the folder and is not configured as ours is ended. Raises ServerUnavailable for it.
    """
    client = probe(url)
    try:
        told = {
            str(name): str(value)
            for name, value in client.config_get("dir", "port", "bind", "appendonly").items()
        }
        if not os.path.samefile(told["dir"], folder):
            return "silent"
        if is_free(folder / watchdog.ALIVE):
            client.shutdown()  # nobody would end it: it makes way for one that has a watchdog
            return "silent"
        wrong = _deviation(told, _expected(url) | {"appendonly": append_only})
        if wrong:
            client.shutdown(nosave=True)
            raise ServerUnavailable(
                f"the server that was started in {folder} has {wrong} and was ended: it did not "
                f"read its configuration; see that its program is an unchanged server"
            )
        client.ping()
    except redis.BusyLoadingError:
        return "loading"
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
        return "silent"  # not listening yet, or somebody else's who wants another password
    except FileNotFoundError:
        return "silent"  # it writes in a folder that this machine does not have
    finally:
        client.close()
    return "ready"


def _expected(url: str) -> dict[str, str]:
    """Where a server at this address listens, in the words of CONFIG GET."""
    if url.startswith("unix://"):
        return {"port": "0"}
    return {"port": str(urlsplit(url).port), "bind": LOOPBACK}


def _deviation(told: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The first setting that is another one than expected; empty when all are as they should be."""
    for name, value in expected.items():
        if told.get(name) != value:
            return f"{name} {told.get(name)!r} instead of {value!r}"
    return ""


def listen_in(folder: Path) -> tuple[str, dict[str, str]]:
    """Where a server of this folder listens, as a URL and as the server's options.

    A unix socket in the folder: who may enter the folder may connect, no port can be taken by
    somebody else. The server, whose working directory is the folder, knows it by its bare name;
    clients by the folder's path, or by a short one that leads there. Where no socket can be made
    (some file systems), a loopback port with a password, since every user of the machine can
    reach it.
    """
    (folder / SOCKET).unlink(missing_ok=True)
    for path_of in (Path, short_path):
        try:
            path = path_of(folder)
            with socket.socket(socket.AF_UNIX) as trial:
                trial.bind(str(path / SOCKET))
            (folder / SOCKET).unlink()
            return _socket_url(path), {"port": "0", "unixsocket": SOCKET, "unixsocketperm": "700"}
        except (OSError, UnicodeEncodeError):
            (folder / SOCKET).unlink(missing_ok=True)
    return listen_on_loopback()


def listen_on_loopback() -> tuple[str, dict[str, str]]:
    """A free port of this machine alone, with a password; as a URL and as the server's options."""
    port, password = str(free_ports(1)[0]), secrets.token_hex(16)
    options = {"port": port, "bind": LOOPBACK, "requirepass": password}
    return f"redis://:{password}@{LOOPBACK}:{port}", options


def _socket_url(folder: Path) -> str:
    """The URL of the folder's socket. Raises UnicodeEncodeError where its path is no text."""
    return f"unix://{quote(str(folder / SOCKET))}"


def _is_direct(url: str, folder: Path) -> bool:
    """Whether the URL holds the folder's own path, not the short one."""
    try:
        return url == _socket_url(folder)
    except UnicodeEncodeError:
        return False


def probe(url: str) -> redis.Redis:
    """A client that asks once and does not wait long."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="surrogateescape",  # a folder's name may be no text
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
        raise ServerUnavailable(f"no free port on {LOOPBACK} in {_PORT_TRIALS_MAX} trials")
    return found


def _binds(trial: socket.socket, port: int) -> bool:
    try:
        trial.bind((LOOPBACK, port))
    except OSError:
        return False
    return True


def log_tail(folder: Path, lines: int = 3) -> str:
    """The last words of the folder's server, in one line."""
    try:
        told = read_private(folder / LOG, _LOG_TAIL_BYTES).decode(errors="replace").split("\n")
    except FileNotFoundError:
        told = []
    return " | ".join([line.strip() for line in told if line.strip()][-lines:])
