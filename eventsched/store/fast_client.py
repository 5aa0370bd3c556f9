"""Reduces the cost of a call in redis-py's asynchronous client.

Owns: a connection class that packs commands with hiredis, as the synchronous client does, writes
them to the socket without an extra task, returns a reply that has arrived already without a time
limit, and refuses a Unix socket whose server has another user than before; a connection pool
without statistics.
Must not: change how redis-py waits for replies, retries or reconnects.
Read next: client.py (opens clients), docs/adr/0013-redis-py-internals.md.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import Any

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import ResponseError

BUFFERED_MAX = 65_536
"""Bytes that may wait for the socket before the sender waits, too; asyncio's high-water mark."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of the other end of a Unix socket."""
server_users: dict[str, int] = {}
"""User of the server at the other end of each Unix socket, by its path, once this process was
connected to it."""


def fast_connection(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """A subclass of this connection class that sends the same bytes at a fraction of the cost.

    All connections of the process by one Unix socket have servers of one user, that of the first
    connection, whichever client opened it. Another user who may write to a folder on the path of
    the socket could put a server of its own there, and would receive the calls of each new
    connection.
    """

    class FastConnection(kind):  # type: ignore[misc,valid-type]
        async def on_connect_check_health(self, check_health: bool = True) -> None:
            """Check the server's user before anything is sent."""
            _check_user(self)
            await super().on_connect_check_health(check_health)

        def pack_command(self, *args: Any) -> list[bytes]:
            """Pack a command; a name such as `CONFIG GET` is sent as two words."""
            name, *rest = args
            words = name.encode().split() if isinstance(name, str) else name.split()
            return [hiredis.pack_command((*words, *rest))]

        async def send_packed_command(
            self, command: bytes | str | Iterable[bytes], check_health: bool = True
        ) -> None:
            """Send without the task that redis-py starts for its timeout.

            Only a full buffer can block.
            """
            if self.is_connected and self._writer.is_closing():
                await self.disconnect(nowait=True)
                raise Lost("the connection was lost")  # redis-py retries
            if self.is_connected and not self.health_check_interval and isinstance(command, list):
                self._writer.writelines(command)
                if self._writer.transport.get_write_buffer_size() < BUFFERED_MAX:
                    return
                command = []  # already written: only wait for the buffer, with redis-py's timeout
            await super().send_packed_command(command, check_health)

        async def read_response(self, *args: Any, **options: Any) -> Any:
            """Return the next reply, without a time limit if it has arrived already.

            Most replies of a pipeline arrive together. redis-py sets and cancels a time limit for
            each, which costs more than the reply.
            """
            reply = NOT_ENOUGH_DATA
            if not (args or options or self.health_check_interval):
                reply = await _arrived_reply(self)
            if reply is NOT_ENOUGH_DATA:
                return await super().read_response(*args, **options)
            if isinstance(reply, ResponseError):
                raise reply
            return reply

    return FastConnection


async def _arrived_reply(connection: Any) -> Any:
    """Return the next reply of a connection; NOT_ENOUGH_DATA if redis-py has to read it.

    A reply that ends the connection is raised, as redis-py does.
    """
    parser: Any = connection._parser
    if not isinstance(parser, _AsyncHiredisParser) or not parser._connected:
        return NOT_ENOUGH_DATA
    reader: Any = parser._reader
    handle_push: Any = parser.handle_push_response
    try:
        reply = reader.gets()
        if isinstance(reply, hiredis.PushNotification):
            await handle_push(reply)
            return NOT_ENOUGH_DATA
        first = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(first, Lost):
            raise first
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return reply


def _check_user(connection: Any) -> None:
    """Check that the server at a Unix socket has the user of the first connection to it."""
    user = _user_at(connection._writer.get_extra_info("socket"))
    if user is None:
        return
    known = server_users.setdefault(connection.path, user)
    if known != user:
        raise Lost(f"the server at the Unix socket has user {user}, it had user {known}")


def _user_at(connected: Any) -> int | None:
    """The user of the other end of a Unix socket; None if the system does not tell it."""
    if connected.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None
    with socket.socket(fileno=os.dup(connected.fileno())) as peer:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


class FastPool(ConnectionPool):
    """A pool that checks each connection when it is taken, as redis-py does."""

    async def get_connection(
        self, command_name: Any = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        connection: AbstractConnection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        self._in_use_connections.remove(connection)
        if connection.should_reconnect():  # type: ignore[no-untyped-call]
            await connection.disconnect()
        self._available_connections.append(connection)
