"""Start one server under a watchdog, and wait until that server answers.

Owns: the address of a server, its configuration file, the order for the watchdog, reading the
announcement, the check that the answering server is the started one.
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
    """Raised when a started server ends before it answers a command."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The URL and the process id of the folder's server."""

    url: str = field(repr=False)
    pid: int


def launch(
    folder: Path, lock: FileLock, *, program: Path, options: Mapping[str, str], url: str
) -> None:
    """Start a watchdog that runs `program` in `folder` and inherits `lock`; return at once.

    Args:
        folder: the data folder.
        lock: the exclusive lock on SERVER_LOCK; it is released in this process.
        program: the server program.
        options: options of the server, by name.
        url: the address at which the options let the server listen.
    """
    (folder / watchdog.ANNOUNCEMENT).unlink(missing_ok=True)  # of a server that has ended
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
            # -I -S: neither the environment nor the folder changes the imported modules
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
    """Return one line of the configuration, with the value quoted because it may have blanks."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name} "{quoted}"\n'


def read_announcement(folder: Path) -> Announcement | None:
    """Return the announcement of the folder's watchdog; None if it is missing or unreadable."""
    try:
        fields = json.loads(read_private(folder / watchdog.ANNOUNCEMENT, _ANNOUNCEMENT_BYTES_MAX))
        return Announcement(str(fields["url"]), int(fields["pid"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def announced_url(folder: Path, announcement: Announcement) -> str | None:
    """Return the URL at which a client reaches the announced server.

    For any announced Unix socket, this is the URL of the folder's own socket. An announced loopback
    port is returned only with a password. Returns None for any other address.
    """
    if _is_direct(announcement.url, folder):
        return announcement.url
    if announcement.url.startswith("unix://"):
        return _socket_url(short_path(folder))
    try:
        parts = urlsplit(announcement.url)
        is_valid = parts.hostname == LOOPBACK and parts.port and parts.password
    except ValueError:
        return None
    return announcement.url if parts.scheme == "redis" and is_valid else None


def wait_until_answers(
    folder: Path,
    sleep: Callable[[float], None] = time.sleep,
    *,
    url: str | None = None,
    append_only: str = "yes",
) -> Announcement:
    """Wait until the folder's server accepts commands and return its address and process.

    Args:
        folder: the data folder.
        sleep: called between two attempts with the seconds to wait.
        url: the address at which the server listens; the default is the announced address.
        append_only: the expected value of the server's option `appendonly`.

    Raises:
        ServerEnded: the server lock is free, so the server has ended.
        ServerUnavailable: the server does not answer in time, or has other options than expected.
    """
    ends_at = time.monotonic() + START_S
    loads_until = time.monotonic() + LOAD_S
    while time.monotonic() < ends_at:
        announcement = read_announcement(folder)
        address = (url or announced_url(folder, announcement)) if announcement else None
        state = ask(address, folder, append_only=append_only) if address else "silent"
        if announcement and address and state == "ready":
            return Announcement(address, announcement.pid)
        if state == "loading":
            ends_at = min(time.monotonic() + START_S, loads_until)
        if is_free(folder / SERVER_LOCK):
            raise ServerEnded(f"the server in {folder} ended at once: {log_tail(folder)}")
        sleep(POLL_S)
    raise ServerUnavailable(f"the server in {folder} does not answer: {log_tail(folder)}")


def is_free(path: Path) -> bool:
    """Whether no process has the lock at this moment."""
    lock = FileLock(path)
    try:
        return lock.try_exclusive()
    finally:
        lock.release()


def ask(url: str, folder: Path, *, append_only: str = "yes") -> State:
    """Return the state of the server at `url`; "silent" if it does not write in `folder`.

    An old announcement may name the address of another server. A server that writes in the folder
    with other options than expected is shut down.

    Raises:
        ServerUnavailable: the server had other options than expected.
    """
    client = probe(url)
    try:
        actual = {
            str(name): str(value)
            for name, value in client.config_get("dir", "port", "bind", "appendonly").items()
        }
        if not os.path.samefile(actual["dir"], folder):
            return "silent"
        if is_free(folder / watchdog.ALIVE):
            client.shutdown()  # it has no watchdog; the next server gets one
            return "silent"
        difference = _difference(actual, _listen_options(url) | {"appendonly": append_only})
        if difference:
            client.shutdown(nosave=True)
            raise ServerUnavailable(
                f"the server that was started in {folder} has {difference} and was shut down: it "
                f"did not read its configuration; check that its program is an unchanged server"
            )
        client.ping()
    except redis.BusyLoadingError:
        return "loading"
    except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
        return "silent"  # it does not listen yet, or is another server with another password
    except FileNotFoundError:
        return "silent"  # it writes in a folder that does not exist on this machine
    finally:
        client.close()
    return "ready"


def _listen_options(url: str) -> dict[str, str]:
    """Return the options that CONFIG GET must show for a server at this URL.

    These are the port, and for a TCP URL the bind address.
    """
    if url.startswith("unix://"):
        return {"port": "0"}
    return {"port": str(urlsplit(url).port), "bind": LOOPBACK}


def _difference(actual: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Return the first option that is not as expected; empty if all are."""
    for name, value in expected.items():
        if actual.get(name) != value:
            return f"{name} {actual.get(name)!r} instead of {value!r}"
    return ""


def listen_in(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the address of a server of this folder, as a URL and as the server's options.

    The address is a unix socket in the folder, which only users with access to the folder can
    reach. The server uses the socket's name alone, since the folder is its working directory;
    clients use the folder's path or a short path. On a file system without sockets, the address is
    a loopback port with a password, since every user of the machine can reach a port.
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
    """Return a free loopback port with a password, as a URL and as the server's options."""
    port, password = str(free_ports(1)[0]), secrets.token_hex(16)
    options = {"port": port, "bind": LOOPBACK, "requirepass": password}
    return f"redis://:{password}@{LOOPBACK}:{port}", options


def _socket_url(folder: Path) -> str:
    """Return the URL of the folder's socket. Raises UnicodeEncodeError if its path is not text."""
    return f"unix://{quote(str(folder / SOCKET))}"


def _is_direct(url: str, folder: Path) -> bool:
    """Whether the URL has the folder's own path, not the short path."""
    try:
        return url == _socket_url(folder)
    except UnicodeEncodeError:
        return False


def probe(url: str) -> redis.Redis:
    """Return a client with a short timeout and without retries."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="surrogateescape",  # the name of a folder may not be valid Unicode
        socket_timeout=_PROBE_TIMEOUT_S,
        socket_connect_timeout=_PROBE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,  # redis-py would read its version from the metadata of its package
    )


def free_ports(count: int) -> list[int]:
    """Return different loopback ports that were free a moment ago.

    The ports are below the range for outgoing connections, whose ports are too often in use to
    stay free until a server binds them.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(_PORTS, _PORT_TRIALS_MAX):
            trial = stack.enter_context(socket.socket())
            if len(ports) < count and _binds(trial, port):
                ports.append(port)
    if len(ports) < count:
        raise ServerUnavailable(f"no free port on {LOOPBACK} in {_PORT_TRIALS_MAX} trials")
    return ports


def _binds(trial: socket.socket, port: int) -> bool:
    try:
        trial.bind((LOOPBACK, port))
    except OSError:
        return False
    return True


def log_tail(folder: Path, lines: int = 3) -> str:
    """Return the last lines of the server's log, joined to one line."""
    try:
        log = read_private(folder / LOG, _LOG_TAIL_BYTES).decode(errors="replace").split("\n")
    except FileNotFoundError:
        log = []
    return " | ".join([line.strip() for line in log if line.strip()][-lines:])
