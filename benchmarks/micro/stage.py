"""Where benchmarks run: a server on loopback that is theirs to use up.

Owns: starting and ending it (the server on PATH, else the wheel's; nothing is kept on disk), a
fresh start for each round, what is said of server and machine in a report.
Never does: touch a server that somebody named. Read next: measure.py.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import anyio
import anyio.to_thread
import msgspec
from redis.asyncio import Redis

from benchmarks.micro.figures import Point, Report, Round
from benchmarks.micro.measure import Rounds, in_rounds
from eventsched.server.embedded import ENCODING_OPTIONS
from eventsched.server.launch import free_ports
from eventsched.server.testing import LocalServer
from eventsched.store.connection import Connection, open_connection

ROUNDS = 5
Moved = Callable[[int], None]


class _LoopbackServer(LocalServer):
    """Reached by TCP, as servers are in earnest; every client of a comparison goes this way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        port = str(free_ports(1)[0])
        self.url = f"redis://127.0.0.1:{port}"
        kept = {"save": "", "appendonly": "no"} | ENCODING_OPTIONS
        self.options = kept | {"port": port, "bind": "127.0.0.1"}


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark; its fields are its settings, as a report shows them."""

    name: ClassVar[str]
    what: ClassVar[str]
    """What is measured, between which moments."""
    scales: ClassVar[tuple[str, ...]] = ()
    """Fields that say how much work there is."""

    def scaled(self, by: float) -> Self:
        """As much work, times `by`."""
        changed = {name: max(1, round(getattr(self, name) * by)) for name in self.scales}
        return msgspec.structs.replace(self, **changed)

    def steps(self, rounds: int) -> int:
        """How many steps of progress there are."""
        return 1 + rounds

    async def run(self, stage: Stage) -> Report:
        """Measures. Raises BenchFailed when the work was not done."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, a plain client of it, and how many rounds are to count."""

    url: str
    server: str
    redis: Redis
    folder: Path
    rounds: int = ROUNDS
    moved: Moved = lambda _: None

    async def clear(self) -> None:
        """Nothing is left of earlier rounds."""
        await self.redis.flushall()

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Connection]:
        """A connection to an empty server with one new cell."""
        await self.clear()
        async with open_connection(self.url) as connection:
            yield connection

    async def report(
        self,
        bench: Bench,
        one: Callable[[], Awaitable[Round]],
        *,
        curves: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Report:
        """Rounds of `one`, told as the report of `bench`. `curves` names, for each curve, the
        parts that are its points, with their places."""
        seen = await in_rounds(self.rounds, one, self.moved)
        points = {
            name: [Point(x, seen.parts.pop(part)) for part, x in places.items()]
            for name, places in (curves or {}).items()
        }
        return self.told(bench, seen, curves=points)

    def told(self, bench: Bench, seen: Rounds, *, curves: dict[str, list[Point]]) -> Report:
        """The report of what was seen."""
        return Report(
            bench=bench.name,
            what=bench.what,
            server=self.server,
            machine=machine(),
            settings=msgspec.structs.asdict(bench),
            rounds=seen.rounds,
            repeated=seen.repeated,
            stolen_percent=seen.stolen_percent,
            parts=seen.parts,
            ratios=seen.ratios,
            curves=curves,
        )


def machine() -> str:
    """What the figures were seen on, without naming the machine."""
    cores, python = os.cpu_count(), platform.python_version()
    return f"{cores} cores, {platform.machine()}, {platform.system()}, Python {python}"


@asynccontextmanager
async def open_stage(rounds: int = ROUNDS, moved: Moved = lambda _: None) -> AsyncIterator[Stage]:
    """A server that is gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="eventsched-bench-") as name:
        folder = Path(name)
        server = _LoopbackServer(folder / "server")
        await anyio.to_thread.run_sync(server.start)
        redis = Redis.from_url(server.url)
        try:
            yield Stage(server.url, str(server.binary), redis, folder, rounds, moved)
        finally:
            with anyio.CancelScope(shield=True):
                await redis.aclose()
                await anyio.to_thread.run_sync(server.stop)
