"""Reduces the cost of a call in redis-py's asynchronous client.

Owns: a connection class that packs commands with hiredis, as the synchronous client does, and
writes them to the socket without an extra task; a connection pool without statistics.
Must not: change how redis-py reads, retries or reconnects.
Read next: client.py (opens clients), docs/adr/0013-redis-py-internals.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as Lost

BUFFERED_MAX = 65_536
"""Bytes that may wait for the socket before the sender waits, too; asyncio's high-water mark."""


def fast_connection(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """A subclass of this connection class that sends the same bytes at a fraction of the cost."""

    class FastConnection(kind):  # type: ignore[misc,valid-type]
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

    return FastConnection


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
