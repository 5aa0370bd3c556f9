"""redis-py's asynchronous client with less Python for each call.

Owns: a connection class that packs with hiredis, as the synchronous one does, and hands a command
to the socket without a task of its own; a pool without statistics.
Never does: reading, retries, reconnecting: all of that stays redis-py's.
Read next: client.py (who opens clients).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as Lost

BUFFERED_MAX = 65_536
"""Bytes that may wait for the socket before whoever sends has to wait, too: asyncio's own mark."""


def light(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """The same kind of connection; what it sends is the same, at a fraction of the cost."""

    class LightConnection(kind):  # type: ignore[misc,valid-type]
        def pack_command(self, *args: Any) -> list[bytes]:
            """`CONFIG GET` and the like are sent as two words."""
            name, *rest = args
            words = name.encode().split() if isinstance(name, str) else name.split()
            return [hiredis.pack_command((*words, *rest))]

        async def send_packed_command(
            self, command: bytes | str | Iterable[bytes], check_health: bool = True
        ) -> None:
            """redis-py makes a task to limit the time; only a full buffer can take any."""
            if self.is_connected and self._writer.is_closing():
                await self.disconnect(nowait=True)
                raise Lost("the connection was lost")  # whoever sends tries again
            if self.is_connected and not self.health_check_interval and isinstance(command, list):
                self._writer.writelines(command)
                if self._writer.transport.get_write_buffer_size() < BUFFERED_MAX:
                    return
                command = []  # it is under way: what is left is to wait, not for ever
            await super().send_packed_command(command, check_health)

    return LightConnection


class LightPool(ConnectionPool):
    """Takes and gives back connections; each is checked when it is taken, as redis-py does."""

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
