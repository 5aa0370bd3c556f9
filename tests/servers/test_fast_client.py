"""Our connections behave like redis-py's own: lost ones are replaced, replies match their calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from eventsched.errors import ServerUnavailable
from eventsched.server.embedded import using
from eventsched.server.testing import LocalCluster, LocalServer, wait_for
from eventsched.store import fast_client
from eventsched.store.client import open_client
from eventsched.store.fast_client import BUFFERED_MAX
from tests.systems import until

NOBODY = 65_534


@pytest_asyncio.fixture
async def client(own_server: LocalServer) -> AsyncIterator[Redis]:
    opened = await open_client(own_server.url)
    assert isinstance(opened, Redis)
    yield opened
    await opened.aclose()


async def test_a_connection_that_the_server_closed_is_replaced(
    client: Redis, own_server: LocalServer
) -> None:
    async with Redis.from_url(own_server.url) as other:
        for _ in range(3):
            assert await client.echo("x") == b"x"
            await other.client_kill_filter(_type="normal", skipme=True)
            await until(
                "the client notices that its connections are closed",
                lambda: all(map(_is_ended, _idle(client))),
            )
        assert await client.echo("y") == b"y"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder that other users may enter, and whose path leaves room for the path of a socket."""
    with tempfile.TemporaryDirectory(prefix="es") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


LISTENER = """
import os, socket, sys
if sys.argv[2:]:
    os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind("bound.sock")
    os.chmod("bound.sock", 0o777)
    listening.listen()
    os.rename("bound.sock", sys.argv[1])  # the socket is seen only once it listens
    while True:
        with listening.accept()[0] as accepted:
            os.write(1, b"received:" + accepted.recv(1_000) + b";")
"""
"""A program that shows all that it receives at a Unix socket, as the user that it is given."""


@contextmanager
def listener_in_place_of(data: Path, moved: Path, received: Path) -> Iterator[None]:
    """Another user has put a folder and a listener in the place of the data folder."""
    data.rename(moved)
    data.mkdir()
    data.chmod(0o777)
    program = [sys.executable, "-c", LISTENER, str(data / "server.sock")]
    program += [str(NOBODY)] * (os.geteuid() == 0)
    with received.open("wb") as output:
        listener = subprocess.Popen(program, stdout=output, cwd=data)
    try:
        wait_for("the other user listens", (data / "server.sock").is_socket)
        yield
    finally:
        listener.terminate()
        listener.wait(20)
        shutil.rmtree(data)
        moved.rename(data)


async def test_a_unix_socket_at_which_another_user_listens_gets_nothing(
    short_path: Path,
) -> None:
    """The listener accepts the connection, and receives nothing."""
    data, received = short_path / "data", short_path / "received"
    with using(data=data) as url:
        client = await open_client(url)
        assert isinstance(client, Redis)
        assert await client.echo("x") == b"x"
        connection: Any = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        path = connection.path
        assert fast_client.server_users[path] == os.geteuid()
        if os.geteuid():  # no other user can listen here: the first server was that of another one
            fast_client.server_users[path] = NOBODY
        with listener_in_place_of(data, short_path / "moved", received):
            with pytest.raises(RedisConnectionError, match="at the Unix socket has user"):
                await connection.connect()
            with pytest.raises(ServerUnavailable, match="at the Unix socket has user"):
                await open_client(url)
        assert set(received.read_bytes().split(b";")) <= {b"received:", b""}
        await client.aclose()


def _idle(client: Redis) -> list[AbstractConnection]:
    """The idle connections of the client."""
    return list(client.connection_pool._available_connections)


def _is_ended(connection: AbstractConnection) -> bool:
    """Whether the client has noticed that the server closed the connection."""
    reader, writer = connection._reader, connection._writer
    return reader is None or writer is None or reader.at_eof() or writer.transport.is_closing()


async def test_a_lost_connection_is_an_error_and_is_not_reopened_during_a_handshake(
    client: Redis,
) -> None:
    """A handshake sends several commands: reopened between them, replies would not match calls."""
    connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    await connection.connect()
    connection._writer.transport.abort()
    with pytest.raises(RedisConnectionError, match="was lost"):
        await connection.send_command("PING")
    assert not connection.is_connected
    await connection.send_command("PING")
    assert await connection.read_response() == b"PONG"
    await connection.disconnect()


async def test_every_node_of_a_cluster_uses_our_connection_class(cluster3: LocalCluster) -> None:
    """redis-py's class checks its writer, pauses, and uses a writer that a failover has closed."""
    client = await open_client(cluster3.url)
    assert isinstance(client, RedisCluster)
    kinds = {node.connection_class.send_packed_command for node in client.get_nodes()}
    assert AbstractConnection.send_packed_command not in kinds
    await client.aclose()


async def test_a_redirection_to_a_server_that_is_not_known_yet_is_followed(
    own_cluster: LocalCluster,
) -> None:
    """redis-py lists only the servers that are there; a restarted server may get a slot later."""
    source, target, *_ = own_cluster.primaries
    slot = 0
    key = next(name for name in map(str, range(1_000_000)) if key_slot(name.encode()) == slot)
    source_id, target_id = (server.call("CLUSTER", "MYID") for server in (source, target))
    client = await open_client(own_cluster.url)
    assert isinstance(client, RedisCluster)
    target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    del client.nodes_manager.nodes_cache[f"127.0.0.1:{target.options['port']}"]
    assert await client.get(key) is None
    await client.aclose()


@pytest.mark.parametrize("size", [BUFFERED_MAX - 100, BUFFERED_MAX, 8_000_000])
async def test_a_command_of_any_size_arrives_complete(client: Redis, size: int) -> None:
    message = bytes(range(256)) * (size // 256)
    assert await client.echo(message) == message


async def test_a_cancelled_command_leaves_no_reply_for_the_next(client: Redis) -> None:
    for number in range(20):
        with anyio.move_on_after(0.000_05 * number):
            await client.echo(f"lost {number}")
        assert await client.echo(f"next {number}") == f"next {number}".encode()


async def test_many_at_once_each_get_their_own_reply(client: Redis) -> None:
    async def ask(number: int) -> None:
        assert await client.echo(str(number)) == str(number).encode()

    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(ask, number)


# --- replies that have arrived already ----------------------------------------------------------

ERROR = "return redis.error_reply(ARGV[1])"
CONVERSATIONS: dict[str, list[tuple[str | int | bytes, ...]]] = {
    "replies of each form": [
        ("ECHO", b"\x00\xff"), ("SET", "k", "v"), ("INCR", "n"), ("GET", "no"), ("HGETALL", "no"),
        ("EVAL", "return {1, {'a', false}, {}}", 0), ("ECHO", "x" * 100_000), ("ECHO", "last"),
    ],
    "an error": [("ECHO", "a"), ("LPUSH", "k"), ("ECHO", "b"), ("EVAL", ERROR, 0, "NOSCRIPT"),
                 ("EVAL", ERROR, 0, "MOVED 1 host:1"), ("EVAL", ERROR, 0, "own"), ("ECHO", "c")],
    "an error that ends the connection": [
        ("ECHO", "a"), ("EVAL", ERROR, 0, "LOADING now"), ("ECHO", "b"),
    ],
    "a transaction with an error": [
        ("MULTI",), ("ECHO", "a"), ("LPUSH", "text", "a"), ("EXEC",), ("ECHO", "b"),
    ],
    "pushed messages": [
        ("CLIENT", "TRACKING", "ON", "BCAST"), ("SET", "pushed", "1"), ("ECHO", "a"),
        ("SET", "pushed", "2"), ("SET", "pushed", "3"), ("ECHO", "b"),
    ],
    "an end": [("ECHO", "a"), ("QUIT",), ("ECHO", "b")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "protocol"),
    [(name, protocol) for name in CONVERSATIONS for protocol in (2, 3)
     if (name, protocol) != ("pushed messages", 2)],
)  # fmt: skip
async def test_replies_that_arrive_together_are_those_of_redis_py(
    client: Redis, own_server: LocalServer, name: str, protocol: int
) -> None:
    plain = Redis.from_url(own_server.url, protocol=protocol)
    expected = await _converse(plain.connection_pool.make_connection(), CONVERSATIONS[name])  # type: ignore[no-untyped-call]
    await client.flushall()
    ours = client.connection_pool.connection_class(
        **client.connection_pool.connection_kwargs | {"protocol": protocol}
    )
    assert await _converse(ours, CONVERSATIONS[name]) == expected
    await plain.aclose()


async def _converse(connection: Any, commands: list[tuple[str | int | bytes, ...]]) -> list[object]:
    """Send all commands together; return each reply or error, and whether it left a connection."""
    await connection.connect()
    await connection.send_packed_command(connection.pack_commands(commands))
    outcomes: list[object] = []
    for _ in commands:
        try:
            outcomes.append(await connection.read_response())
        except RedisError as error:
            outcomes.append((type(error), str(error), connection.is_connected))
            if not connection.is_connected:
                break
    await connection.disconnect()
    return outcomes
