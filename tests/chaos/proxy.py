"""A proxy between clients and a server: connections can be cut, delayed and stalled.

Owns: forwarding bytes, and the faults of a network. A request is cut before the server reads it,
or its reply is cut after the server executed it, whole or in the middle.
Must not: parse commands, or decide when a fault occurs (faults.py draws that from the seed).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias
from urllib.parse import quote

Address: TypeAlias = Path | int | Sequence[int]
"""A Unix socket, or a port of the loopback interface; of several, each connection gets one."""
LOOPBACK = "127.0.0.1"
SERVERS = "127.0.0.2"
"""Connections from this address are forwarded without faults: servers replicate over them."""
CHUNK = 256 * 1024
BACKLOG = 256


@dataclass
class NetworkFaults:
    """The present faults. Each probability is per chunk of bytes: a call or a part of a call."""

    cut_before: float = 0.0
    cut_after: float = 0.0
    cut_within: float = 0.0
    delay_s: float = 0.0
    """Each reply is delayed by a half to the whole of this time."""
    is_open: bool = True
    """False: new connections are closed at once."""
    is_stalled: bool = False
    """True: no byte is forwarded, and connections stay open."""

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


class Proxy:
    """One address in front of a server.

    Args:
        name: used in the report, and as the name of the socket.
        folder: the folder of the socket.
        server: the address of the server.
        rng: decides which bytes meet a fault.
        port: listen on this port instead of a socket.
    """

    def __init__(
        self, name: str, folder: Path, server: Address, rng: Random, *, port: int = 0
    ) -> None:
        self.name = name
        self.faults = NetworkFaults()
        self.seen: Counter[str] = Counter()
        """How often each thing happened: `connected`, `refused`, `cut_before`, …"""
        self._path = folder / f"{name}.sock"
        self._port = port
        self.url = f"redis://{LOOPBACK}:{port}" if port else f"unix://{quote(str(self._path))}"
        self._server = server
        self._rng = rng
        self._clients: set[asyncio.Task[None]] = set()
        self._servers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        if self._port:
            server = await asyncio.start_server(self._serve, LOOPBACK, self._port, backlog=BACKLOG)
        else:
            server = await asyncio.start_unix_server(self._serve, self._path, backlog=BACKLOG)
        try:
            yield
        finally:
            server.close()
            connections = [*self._clients, *self._servers]
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    def leads_to(self, server: Address) -> None:
        """New connections go to the server at this address; open connections stay."""
        self._server = server

    def cut_all(self) -> None:
        """Close every open connection of a client."""
        for connection in self._clients:
            connection.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        is_server = bool(peer) and peer[0] == SERVERS
        connections = self._servers if is_server else self._clients
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await self._forward(reader, writer, NetworkFaults() if is_server else self.faults)
        except (OSError, asyncio.CancelledError):
            self.seen["dropped"] += 1
        finally:
            writer.transport.abort()
            connections.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: NetworkFaults
    ) -> None:
        """Forward until one side closes."""
        if not faults.is_open:
            self.seen["refused"] += 1
            return
        try:
            from_server, to_server = await self._connect()
        except OSError:
            self.seen["no_server"] += 1
            return
        self.seen["connected"] += 1
        connection = _Connection(self, faults)
        directions = [
            asyncio.ensure_future(connection.forward_requests(reader, to_server)),
            asyncio.ensure_future(connection.forward_replies(from_server, writer)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            to_server.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._server, Path):
            return await asyncio.open_unix_connection(self._server)
        ports = [self._server] if isinstance(self._server, int) else self._server
        return await asyncio.open_connection(LOOPBACK, self._rng.choice(ports))

    def occurs(self, fault: str, probability: float) -> bool:
        if probability and self._rng.random() < probability:
            self.seen[fault] += 1
            return True
        return False

    def delay_factor(self) -> float:
        return self._rng.uniform(0.5, 1.0)


class _Connection:
    """One connection. A direction ends when either side has closed, or when it is cut."""

    def __init__(self, proxy: Proxy, faults: NetworkFaults) -> None:
        self._proxy = proxy
        self._faults = faults
        self._lost_part = ""
        """The part of the next reply that is lost: its request has been forwarded."""

    async def forward_requests(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        proxy, faults = self._proxy, self._faults
        while data := await source.read(CHUNK):
            await self._until_not_stalled()
            if proxy.occurs("cut_before", faults.cut_before):
                return
            if proxy.occurs("cut_after", faults.cut_after):
                self._lost_part = "whole"
            elif proxy.occurs("cut_within", faults.cut_within):
                self._lost_part = "half"
            target.write(data)
            await target.drain()

    async def forward_replies(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(CHUNK):
            if self._lost_part == "half":
                target.write(data[: len(data) // 2])
                await target.drain()
            if self._lost_part:
                return
            await self._delay()
            await self._until_not_stalled()
            target.write(data)
            await target.drain()

    async def _until_not_stalled(self) -> None:
        while self._faults.is_stalled:  # noqa: ASYNC110 - a plain switch that any fault may set
            await asyncio.sleep(0.01)

    async def _delay(self) -> None:
        if self._faults.delay_s:
            self._proxy.seen["delayed"] += 1
            await asyncio.sleep(self._faults.delay_s * self._proxy.delay_factor())
