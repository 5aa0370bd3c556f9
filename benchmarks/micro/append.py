"""Benchmark `append`: audio appended through the public API.

Owns: many sessions of one producer process, compared with plain XADD of the same client library.
Never does: dispatch jobs. Read next: client/session.py, client/channel.py, raw.py.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

import anyio

from benchmarks.micro.figures import BenchFailed, Figures, Report, Round
from benchmarks.micro.load import PCM16_BYTES_PER_MS
from benchmarks.micro.measure import metering, ratio
from benchmarks.micro.raw import xadd_pipelined
from benchmarks.micro.stage import Bench, Stage
from eventsched.client.client import connect
from eventsched.client.session import Session
from eventsched.schema.keys import Keys, cell_of, name_of

CHUNK_MS = 100
CHUNK = bytes(CHUNK_MS * PCM16_BYTES_PER_MS)


class Append(Bench, frozen=True, kw_only=True):
    """Each session waits for its receipt before it appends the next chunk."""

    name: ClassVar = "append"
    what: ClassVar = "100 ms chunks of PCM16, many sessions, one producer process"
    scales: ClassVar = ("chunks",)

    sessions: int = 200
    chunks: int = 150
    """Chunks of each session."""

    async def run(self, stage: Stage) -> Report:
        count = self.sessions * self.chunks

        async def measure_round() -> Round:
            parts = {"append": await self._append(stage)}
            await stage.clear()
            parts["xadd pipelined"] = await xadd_pipelined(stage.redis, count, CHUNK)
            rate_ratio = ratio(parts, "append", "xadd pipelined", "rate_per_s")
            return Round(parts, {"append / xadd pipelined, rate_per_s": rate_ratio})

        return await stage.report(self, measure_round)

    async def _append(self, stage: Stage) -> Figures:
        count = self.sessions * self.chunks
        await stage.clear()
        async with connect(stage.url) as es, AsyncExitStack() as stack:
            sessions = [
                await stack.enter_async_context(es.session("bench", "en", ["es"]))
                for _ in range(self.sessions)
            ]
            for session in sessions:
                session.detach()  # without nodes, a close would wait for outcomes in vain
            async with metering(stage.redis) as cost, anyio.create_task_group() as tasks:
                for session in sessions:
                    tasks.start_soon(self._speak, session)
            stored = sum([await stage.redis.xlen(_audio(session.id)) for session in sessions])
        if stored != count:
            raise BenchFailed(f"{stored} of {count} chunks were stored")
        return cost.per_item(count)

    async def _speak(self, session: Session) -> None:
        for _ in range(self.chunks):
            await session.append(CHUNK)


def _audio(session: str) -> str:
    return Keys(cell_of(session)).audio(name_of(session))
