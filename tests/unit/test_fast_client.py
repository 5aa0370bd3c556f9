"""Commands packed in C are byte for byte what redis-py sends."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import Connection, UnixDomainSocketConnection

from eventsched.store.fast_client import fast_connection

COMMANDS: list[tuple[Any, ...]] = [
    ("GET", "key"),
    ("CONFIG GET", "maxmemory-policy"),
    (b"XINFO STREAM", b"log"),
    ("EVALSHA", "0" * 40, 1, "log", "", "text with spaces", "größer", bytes(range(256))),
    ("EVALSHA", "0" * 40, 1, "log", 0, -7, 10**14, b""),
    ("XADD", "audio", "*", "b", b"\x00" * 70_000),
]


@pytest.mark.parametrize("kind", [Connection, UnixDomainSocketConnection])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_a_command_is_packed_as_redis_py_packs_it(kind: Any, command: tuple[Any, ...]) -> None:
    plain, packed = kind().pack_command(*command), fast_connection(kind)().pack_command(*command)
    assert b"".join(packed) == b"".join(plain)
