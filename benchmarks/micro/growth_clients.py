"""Rows of the benchmark `growth` about clients: listening sessions, audio that is kept.

Owns: the streams that a client names while many sessions listen, the latency of an append
meanwhile, the memory of confirmed audio.
Never does: compare sizes (growth.py). Read next: client/subscription.py, client/append_buffer.py.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import anyio

from benchmarks.micro.figures import percentiles
from benchmarks.micro.fleet import live_sessions
from benchmarks.micro.growth_row import Row
from benchmarks.micro.latency import open_loop
from benchmarks.micro.stage import Stage
from eventsched.client.append_buffer import AppendBuffer
from eventsched.client.client import connect
from eventsched.client.session import Session
from eventsched.store.session_commands import Chunk
from eventsched.store.transport import Entry, Transport

AT_ONCE = 16
CLOSED = 20
CHUNK_BYTES = 3_200
RATE = 50
"""Appends a second while sessions listen; each completes an utterance, whose result wakes a
listener."""
APPENDS = 300
STRIDE = 97
"""Between the sessions of two appends, so that their listeners are of different reads."""


class _Counting:
    """A transport that counts the streams that woken reads have named."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.wakes = self.names = 0

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        reply = await self._transport.read_blocking(streams, block_ms, count)
        if reply:
            self.wakes += 1
            self.names += len(streams)
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def streams_of_a_wake(stage: Stage, sessions: int) -> float:
    """How many streams a read names that an outcome wakes, while so many sessions listen."""
    await stage.clear()
    async with connect(stage.url) as client, AsyncExitStack() as stack:
        opened: list[Session] = []
        (store,) = client.stores.values()
        counting = _Counting(store.transport)
        store.transport = cast("Transport", counting)

        async def open_some(count: int) -> None:
            for _ in range(count):
                session = await stack.enter_async_context(client.session("bench", "en", ["es"]))
                session.detach()
                opened.append(session)

        async with anyio.create_task_group() as tasks:
            for number in range(AT_ONCE):
                tasks.start_soon(open_some, len(range(number, sessions, AT_ONCE)))
        async with anyio.create_task_group() as tasks:
            for session in opened:
                tasks.start_soon(_listen, session)
            await anyio.wait_all_tasks_blocked()
            for session in opened[:: max(1, sessions // CLOSED)]:
                await session.close()
            tasks.cancel_scope.cancel()
    return counting.names / counting.wakes


async def append_beside_listeners(stage: Stage, sessions: int) -> float:
    """p99 of an append in ms while so many sessions of the client listen and receive results."""
    latencies_ms: list[float] = []
    async with (
        live_sessions(stage, sessions) as (_, fleet, opened),
        anyio.create_task_group() as tasks,
    ):
        for session in opened:
            tasks.start_soon(_listen, session)
        await anyio.wait_all_tasks_blocked()

        async def append(number: int) -> None:
            session = opened[number * STRIDE % len(opened)]
            start_s = time.perf_counter()
            await session.append(bytes(CHUNK_BYTES), end_of_utterance=True)
            latencies_ms.append((time.perf_counter() - start_s) * 1_000)

        await open_loop(RATE, min(APPENDS, sessions), append)
        await fleet.until_delivered()
        tasks.cancel_scope.cancel()
    return percentiles(latencies_ms)["p99_ms"]


async def _listen(session: Session) -> None:
    async for _ in session.results():
        pass


async def bytes_of_kept_audio(_: Stage, chunks: int) -> float:
    """Bytes that a session keeps after so many confirmed chunks of 100 ms of PCM16."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        buffer = AppendBuffer()
        for number in range(chunks):
            payload = bytes(bytearray(CHUNK_BYTES))
            buffer.add([Chunk(session="c0.s", epoch=1, seq=number, ms=100, payload=payload)])
            buffer.confirm(1)
        return float(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()


CLIENT_ROWS = (
    Row(
        "a read that an outcome wakes, by sessions that listen", "streams named",
        (64, 512, 4_096), 0.1, streams_of_a_wake,
        before="64 / 512 / 4,096",
    ),
    Row(
        "append, by sessions of the client that listen", "ms, p99",
        (500, 2_000, 5_000), 0.4, append_beside_listeners,
    ),
    Row(
        "confirmed audio of a session, by chunks", "bytes",
        (64, 256, 1_024), 0.1, bytes_of_kept_audio,
        before="215,000 / 854,000 / 862,000",
    ),
)  # fmt: skip
