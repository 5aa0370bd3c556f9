"""A wire between clients and the server that can be cut, slowed and stopped.

Owns: forwarding bytes, and the faults that a network puts on them. A request is cut before the
server sees it, or its reply is cut after the server acted on it, whole or in the middle.
Never does: understand what is said; decide when (run.py draws it from the seed).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import quote

CHUNK = 256 * 1024


@dataclass
class Weather:
    """What the wire does now. Chances are per chunk of bytes, which is a call or a part of one."""

    cut_before: float = 0.0
    cut_after: float = 0.0
    cut_amid: float = 0.0
    delay_s: float = 0.0
    """Each reply comes between half of this and this later."""
    is_open: bool = True
    """False: nobody gets a connection, and those that were there are cut."""
    flows: bool = True
    """False: nothing moves, and nobody is told."""

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


class Proxy:
    """One socket in front of the server's socket, for one kind of client."""

    def __init__(self, name: str, folder: Path, server: Path, rng: Random) -> None:
        self.name = name
        self.weather = Weather()
        self.seen: Counter[str] = Counter()
        """How often each thing happened: `connected`, `refused`, `cut_before`, …"""
        self.url = f"unix://{quote(str(folder / f'{name}.sock'))}"
        self._path = folder / f"{name}.sock"
        self._server = server
        self._rng = rng
        self._open: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, self._path, backlog=256)
        try:
            yield
        finally:
            server.close()
            self.cut_all()
            await asyncio.gather(*self._open, return_exceptions=True)

    def cut_all(self) -> None:
        """Every connection that is there ends now."""
        for one in self._open:
            one.cancel()

    def leads_to(self, server: Path) -> None:
        """New connections go to the socket of this server; those that are open stay."""
        self._server = server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            self.seen["dropped"] += 1
        finally:
            writer.transport.abort()
            self._open.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.weather.is_open:
            self.seen["refused"] += 1
            return
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server)
        except OSError:
            self.seen["no_server"] += 1
            return
        self.seen["connected"] += 1
        wire = _Wire(self)
        ways = [
            asyncio.ensure_future(wire.carry_requests(reader, to_server)),
            asyncio.ensure_future(wire.carry_replies(from_server, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_server.transport.abort()

    def happens(self, fault: str, chance: float) -> bool:
        if chance and self._rng.random() < chance:
            self.seen[fault] += 1
            return True
        return False

    async def may_flow(self) -> None:
        while not self.weather.flows:  # noqa: ASYNC110 - it is a plain switch, set by anybody
            await asyncio.sleep(0.01)

    async def delay(self) -> None:
        if self.weather.delay_s:
            self.seen["delayed"] += 1
            await asyncio.sleep(self.weather.delay_s * self._rng.uniform(0.5, 1.0))


class _Wire:
    """One connection. A way ends when either side has gone, or when it is cut."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._reply_is_lost = ""
        """How the next reply is lost: its request has been forwarded."""

    async def carry_requests(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        proxy, weather = self._proxy, self._proxy.weather
        while data := await source.read(CHUNK):
            await proxy.may_flow()
            if proxy.happens("cut_before", weather.cut_before):
                return
            if proxy.happens("cut_after", weather.cut_after):
                self._reply_is_lost = "whole"
            elif proxy.happens("cut_amid", weather.cut_amid):
                self._reply_is_lost = "half"
            target.write(data)
            await target.drain()

    async def carry_replies(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        proxy = self._proxy
        while data := await source.read(CHUNK):
            if self._reply_is_lost == "half":
                target.write(data[: len(data) // 2])
                await target.drain()
            if self._reply_is_lost:
                return
            await proxy.delay()
            await proxy.may_flow()
            target.write(data)
            await target.drain()
