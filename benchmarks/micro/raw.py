"""`bench raw`: what the parts cost without a scheduler, by the same client on the same server.

Owns: the floor: ping, XADD, a script that does nothing, XRANGE; the memory of a log entry.
Never does: anything of the scheduler's, save filling the log whose memory is looked at.
Read next: append.py, project.py, which compare with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from redis.asyncio import Redis

from benchmarks.micro.figures import Figures, Report, Round
from benchmarks.micro.load import PCM16_BYTES_PER_MS
from benchmarks.micro.measure import metering
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.worked import worked_log

STREAM = "bench:raw"
BATCH = 64
NOOP = "#!lua flags=allow-oom\nreturn 1"
CHUNK_MS = 100
READ_COUNT = 1_000


class Raw(Bench, frozen=True, kw_only=True):
    """One client, one connection; `pipelined` sends 64 commands at once."""

    name: ClassVar = "raw"
    what: ClassVar = "floor: bare commands by the same client; memory of a log entry"
    scales: ClassVar = ("calls", "jobs")

    calls: int = 20_000
    jobs: int = 2_000

    async def run(self, stage: Stage) -> Report:
        async def one() -> Round:
            return Round(await self._floor(stage) | {"log": await self._log(stage)})

        return await stage.report(self, one)

    async def _floor(self, stage: Stage) -> dict[str, Figures]:
        await stage.clear()
        redis: Any = stage.redis  # its own types leave out what it returns
        payload = bytes(CHUNK_MS * PCM16_BYTES_PER_MS)
        sha = await redis.script_load(NOOP)
        few = self.calls // 4
        return {
            "ping": await self._each(redis, few, redis.ping),
            "xadd": await self._each(redis, few, lambda: redis.xadd(STREAM, {"d": payload})),
            "script": await self._each(redis, few, lambda: redis.evalsha(sha, 1, STREAM)),
            "xadd pipelined": await xadd_pipelined(redis, self.calls, payload),
            "xrange": await self._xrange(redis),
        }

    async def _each(self, redis: Any, count: int, call: Callable[[], Awaitable[Any]]) -> Figures:
        """One call after the other: the rate is that of round trips."""
        async with metering(redis) as cost:
            for _ in range(count):
                await call()
        return cost.per_item(count) | {"round_trip_us": cost.seconds * 1e6 / count}

    async def _xrange(self, redis: Any) -> Figures:
        """All entries that are there, 1,000 a call."""
        last, count = "-", 0
        async with metering(redis) as cost:
            while found := await redis.xrange(STREAM, last, "+", READ_COUNT):
                last, count = f"({found[-1][0].decode()}", count + len(found)
        return cost.per_item(count)

    async def _log(self, stage: Stage) -> Figures:
        """The stream's own memory: MEMORY USAGE less the bytes of all values in it."""
        redis: Any = stage.redis
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            await worked_log(store, self.jobs)
            log = store.keys.log
            used = await redis.memory_usage(log, samples=0)
            entries = await redis.xrange(log)
        values = sum(len(value) for _, fields in entries for value in fields.values())
        return {
            "overhead_bytes": (used - values) / len(entries),
            "values_bytes": values / len(entries),
        }


async def xadd_pipelined(redis: Redis, count: int, payload: bytes) -> Figures:
    """Bare appends of the same bytes, as fast as the client can send them."""
    async with metering(redis) as cost:
        for _ in range(0, count, BATCH):
            async with redis.pipeline(transaction=False) as pipe:
                for _ in range(BATCH):
                    pipe.xadd(STREAM, {"d": payload})
                await pipe.execute()
    return cost.per_item(-(-count // BATCH) * BATCH)
