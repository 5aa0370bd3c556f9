"""Commands of the operator: to servers, and of the `eventsched` command line.

Owns: a timeout that a busy machine does not reach, and the parsed replies.
Must not: go through a proxy of the clients, or judge.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from eventsched.server.testing import LocalServer, wait_for

TIMEOUT_S = 30.0
WAIT_S = 60.0


@contextmanager
def client_of(server: LocalServer) -> Iterator[redis.Redis]:
    """A client of this server alone; replies are text."""
    client = redis.Redis.from_url(
        server.url,
        decode_responses=True,
        encoding_errors="surrogateescape",
        socket_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        yield client
    finally:
        client.close()


def call(server: LocalServer, *command: str | int) -> Any:
    """Send one command to this server."""
    with client_of(server) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]


def call_until_accepted(server: LocalServer, *command: str | int) -> None:
    """Send one command until the server accepts it: it may not have seen another server yet."""
    error = ""

    def is_accepted() -> bool:
        nonlocal error
        try:
            call(server, *command)
        except redis.ResponseError as refused:
            error = str(refused)
            return False
        return True

    try:
        wait_long(f"the server accepts {command}", is_accepted)
    except TimeoutError as late:
        raise TimeoutError(f"{late}: {error}") from late


def info(server: LocalServer, section: str) -> dict[str, Any]:
    fields: dict[str, Any] = call(server, "INFO", section)
    return fields


def has(server: LocalServer, command: str, subcommand: str) -> bool:
    """Whether the server has the subcommand."""
    (details,) = call(server, "COMMAND INFO", f"{command}|{subcommand}")
    return bool(details)


async def run_command(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run `eventsched` with these words to its end."""
    return await anyio.run_process([sys.executable, "-m", "eventsched.cli", *words], check=False)


def wait_long(what: str, condition: Any) -> None:
    """Wait for a change of roles, which a busy machine delays."""
    wait_for(what, condition, WAIT_S)
