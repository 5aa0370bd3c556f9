"""Viewers of the stream of events of one gateway, as a part of the benchmark `gateway`.

Owns: connections that read server-sent events, and the cost of the server meanwhile.
Never does: compare (gateway.py). Read next: gateway.py.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from benchmarks.micro.figures import BenchFailed, Figures
from benchmarks.micro.fleet import fleet_of
from benchmarks.micro.measure import metering
from benchmarks.micro.stage import Stage
from benchmarks.micro.tokens import Tokens
from eventsched.client.client import connect

SESSIONS, EVENT = 100, b'"SessionOpened"'
WITHIN_S = 120.0


async def measure_viewers(stage: Stage, count: int) -> Figures:
    """Measure the cost of a session that is opened while so many viewers see its event.

    A tenant may have half of the streams of a gateway.
    """
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        async with fleet_of(stage, store) as fleet, Tokens(stage) as tokens:
            url = await fleet.gateway(tokens.keys, "--streams", str(2 * count))
            viewers = [await _Viewer.open(url, tokens.token("viewer")) for _ in range(count)]
            async with metering(stage.redis, fleet.pids) as cost, asyncio.TaskGroup() as tasks:
                for viewer in viewers:
                    tasks.create_task(viewer.see(SESSIONS))
                await _open_sessions(stage)
            for viewer in viewers:
                viewer.close()
            return cost.per_item(SESSIONS)


async def _open_sessions(stage: Stage) -> None:
    async with connect(stage.url) as es, AsyncExitStack() as stack:
        for _ in range(SESSIONS):
            session = await stack.enter_async_context(es.session("bench", "en", ["es"]))
            session.detach()


class _Viewer:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, token: str) -> _Viewer:
        """Ask for the stream. Raises BenchFailed if it is refused."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        head = f"GET /v1/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}"
        writer.write(f"{head}\r\n\r\n".encode())
        reply = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in reply.partition(b"\r\n")[0]:
            raise BenchFailed(f"the stream was refused: {reply[:200]!r}")
        return cls(reader, writer)

    async def see(self, sessions: int) -> None:
        """Read until so many sessions were opened."""
        seen, rest = 0, b""
        async with asyncio.timeout(WITHIN_S):
            while seen < sessions:
                data = await self._reader.read(65_536)
                if not data:
                    raise BenchFailed(f"a stream ended after {seen} sessions")
                data = rest + data
                seen += data.count(EVENT)
                rest = data[max(0, len(data) - len(EVENT) + 1) :]

    def close(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()
