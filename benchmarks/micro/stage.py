"""The server of a benchmark: a temporary server on loopback.

Owns: starting and ending it (the program on PATH, else the wheel's; without persistence), an empty
server for each round, the description of server and machine in a report.
Never does: use a server that a user named. Read next: measure.py.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

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
SETTINGS = {"tenant_queue_max": 1_000_000}
"""All load is of one tenant, and is finalized before it is dispatched."""
Progress = Callable[[int], None]


class _LoopbackServer(LocalServer):
    """A server with a TCP address, as in production; all clients of a comparison use it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        port = str(free_ports(1)[0])
        self.url = f"redis://127.0.0.1:{port}"
        options = {"save": "", "appendonly": "no"} | ENCODING_OPTIONS
        self.options = options | {"port": port, "bind": "127.0.0.1"}


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark. Its fields are its settings, which are part of the report."""

    name: ClassVar[str]
    what: ClassVar[str]
    """Description of the measurement, with its start and its end."""
    scales: ClassVar[tuple[str, ...]] = ()
    """Names of the fields with the amount of work."""

    def scaled(self, by: float) -> Self:
        """Return the benchmark with the amount of work multiplied by `by`."""
        fields = {name: max(1, round(getattr(self, name) * by)) for name in self.scales}
        return msgspec.structs.replace(self, **fields)

    def steps(self, rounds: int) -> int:
        """Return the number of steps of the progress bar."""
        return 1 + rounds

    async def run(self, stage: Stage) -> Report:
        """Measure and return the report. Raises BenchFailed if the work was not done."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, a client of it, and the number of rounds."""

    url: str
    server: str
    redis: Redis
    folder: Path
    rounds: int = ROUNDS
    on_progress: Progress = lambda _: None

    async def clear(self) -> None:
        """Delete all data of the server."""
        await self.redis.flushall()

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Connection]:
        """Yield a connection to the emptied server, with one new cell."""
        await self.clear()
        async with open_connection(self.url, settings=SETTINGS) as connection:
            yield connection

    async def report(
        self,
        bench: Bench,
        measure_round: Callable[[], Awaitable[Round]],
        *,
        curves: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Report:
        """Measure the rounds and return the report of the benchmark.

        Args:
            bench: the benchmark.
            measure_round: measures one round.
            curves: name of a curve -> its points, as name of a part -> x value.
        """
        rounds = await in_rounds(self.rounds, measure_round, self.on_progress)
        points = {
            name: [Point(x, rounds.parts.pop(part)) for part, x in x_values.items()]
            for name, x_values in (curves or {}).items()
        }
        return self.report_of(bench, rounds, curves=points)

    def report_of(self, bench: Bench, rounds: Rounds, *, curves: dict[str, list[Point]]) -> Report:
        """Return the report of measured rounds."""
        return Report(
            bench=bench.name,
            what=bench.what,
            server=self.server,
            machine=machine(),
            settings=msgspec.structs.asdict(bench),
            rounds=rounds.rounds,
            repeated=rounds.repeated,
            stolen_percent=rounds.stolen_percent,
            parts=rounds.parts,
            ratios=rounds.ratios,
            curves=curves,
        )


async def server_cpu_s(stage: Stage) -> float:
    """Return the processor time of the server so far."""
    info: dict[str, Any] = await stage.redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def machine() -> str:
    """Return a description of the machine without its name."""
    cores, python = os.cpu_count(), platform.python_version()
    return f"{cores} cores, {platform.machine()}, {platform.system()}, Python {python}"


@asynccontextmanager
async def open_stage(
    rounds: int = ROUNDS, on_progress: Progress = lambda _: None
) -> AsyncIterator[Stage]:
    """Start a server that ends with the block, and yield its stage."""
    with tempfile.TemporaryDirectory(prefix="eventsched-bench-") as name:
        folder = Path(name)
        server = _LoopbackServer(folder / "server")
        await anyio.to_thread.run_sync(server.start)
        redis = Redis.from_url(server.url)
        try:
            yield Stage(server.url, str(server.binary), redis, folder, rounds, on_progress)
        finally:
            with anyio.CancelScope(shield=True):
                await redis.aclose()
                await anyio.to_thread.run_sync(server.stop)
