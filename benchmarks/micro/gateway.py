"""Benchmark `gateway`: one gateway process against an echo server, and against direct clients.

Owns: streams of chunks that are sent as fast as they are acknowledged, results at a fixed rate, the
memory of idle sessions.
Never does: find the limit of live sessions (gateway_sessions.py).
Read next: gateway_viewers.py, raw_socket.py, fleet.py.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import ClassVar

import msgspec

from benchmarks.micro.figures import BenchFailed, Figures, Report, Round, percentiles
from benchmarks.micro.fleet import Fleet, fleet_of, live_sessions
from benchmarks.micro.gateway_viewers import measure_viewers
from benchmarks.micro.latency import CHUNK, open_loop
from benchmarks.micro.measure import metering, ratio
from benchmarks.micro.raw_socket import BINARY, RawSocket, frame
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.tokens import Tokens
from eventsched.client.results import Result
from eventsched.client.session import Session

AUDIO = bytes(3_200)
"""100 ms of PCM16 at 16 kHz."""
WINDOW = 256
"""Chunks on their way: the credit of a gateway."""
RATE = 200
"""Utterances a second."""
CHUNK_S = 0.025
"""Pause between a chunk and the end of its utterance."""


class Gateway(Bench, frozen=True, kw_only=True):
    """The gateway has a process of its own, as have the echo server, the roles and the node."""

    name: ClassVar = "gateway"
    what: ClassVar = "chunks through a gateway and an echo server; finalize -> result, open loop"
    scales: ClassVar = ("chunks", "calls", "idle", "viewers")

    connections: int = 16
    chunks: int = 1_500
    """Chunks of each connection."""
    calls: int = 1_000
    sessions: int = 100
    idle: int = 500
    viewers: int = 2_000

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            parts: dict[str, Figures] = {
                "echo": await self.measure_echo(stage),
                "gateway": await self.measure_gateway(stage),
                "direct results": await self.measure_direct(stage),
                "gateway results": await self.measure_results(stage),
                "one viewer": await measure_viewers(stage, 1),
                "many viewers": await measure_viewers(stage, self.viewers),
            }
            direct, gateway = parts["direct results"], parts["gateway results"]
            added = {f"added_{name}": gateway[name] - direct[name] for name in ("p50_ms", "p99_ms")}
            parts["gateway results"] = {**gateway, **added}
            return Round(
                parts,
                {
                    "gateway / echo, rate_per_s": ratio(parts, "gateway", "echo", "rate_per_s"),
                    "many viewers / one viewer, redis_cpu_us": ratio(
                        parts, "many viewers", "one viewer", "redis_cpu_us"
                    ),
                },
            )

        return await stage.report(self, measure_round)

    # --- chunks ---------------------------------------------------------------------------------

    async def measure_echo(self, stage: Stage) -> Figures:
        """Measure the chunks a second that the echo server returns."""
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            async with fleet_of(stage, store) as fleet:
                url = await fleet.echo()
                sockets = [await RawSocket.open(url, "/") for _ in range(self.connections)]
                return await self._measure_chunks(stage, fleet, sockets, count_echoes)

    async def measure_gateway(self, stage: Stage) -> Figures:
        """Measure the chunks a second that a gateway acknowledges, and the memory of a session."""
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            async with fleet_of(stage, store) as fleet, Tokens(stage) as tokens:
                url = await fleet.gateway(tokens.keys)
                (await _open(url, tokens, [], 1))[0].close()  # loads what is loaded once
                before = resident_bytes(fleet.pids[-1])
                idle = await _open(url, tokens, [], self.idle)
                idle_bytes = (resident_bytes(fleet.pids[-1]) - before) / self.idle
                for socket in idle:
                    socket.close()
                sockets = await _open(url, tokens, [], self.connections)
                figures = await self._measure_chunks(stage, fleet, sockets, count_acks)
                return figures | {"idle_session_bytes": idle_bytes}

    async def _measure_chunks(
        self, stage: Stage, fleet: Fleet, sockets: list[RawSocket], acknowledged: Acknowledged
    ) -> dict[str, float]:
        async with metering(stage.redis, [fleet.pids[-1]]) as cost, asyncio.TaskGroup() as tasks:
            for socket in sockets:
                tasks.create_task(stream(socket, self.chunks, acknowledged))
        for socket in sockets:
            socket.close()
        return cost.per_item(self.chunks * len(sockets))

    # --- results --------------------------------------------------------------------------------

    async def measure_direct(self, stage: Stage) -> Figures:
        """Measure the time from `finalize` to the result at a client of the library."""
        async with (
            live_sessions(stage, self.sessions) as (_, fleet, sessions),
            direct_producers(sessions) as producers,
        ):
            return await self._measure_results(stage, fleet, producers)

    async def measure_results(self, stage: Stage) -> Figures:
        """Measure the time from `finalize` to the result at a client of a gateway."""
        async with live_sessions(stage, 1) as (_, fleet, _sessions), Tokens(stage) as tokens:
            url = await fleet.gateway(tokens.keys)
            sockets = await _open(url, tokens, ["es"], self.sessions)
            async with socket_producers(sockets) as producers:
                figures = await self._measure_results(stage, fleet, producers)
            for socket in sockets:
                socket.close()
            return figures

    async def _measure_results(
        self, stage: Stage, fleet: Fleet, producers: list[Producer]
    ) -> Figures:
        ready: asyncio.Queue[Producer] = asyncio.Queue()
        for producer in producers:
            ready.put_nowait(producer)

        async def call(_: int) -> None:
            producer = await ready.get()
            await producer.speak()
            ready.put_nowait(producer)

        await open_loop(RATE, min(self.calls, 2 * RATE), call)
        for producer in producers:
            producer.waits_ms.clear()
        async with metering(stage.redis, [*fleet.pids]) as cost:
            await open_loop(RATE, self.calls, call)
        waits_ms = [wait_ms for producer in producers for wait_ms in producer.waits_ms]
        if len(waits_ms) != self.calls:
            raise BenchFailed(f"{self.calls} results expected, got {len(waits_ms)}")
        return percentiles(waits_ms) | cost.per_item(self.calls)


async def _open(url: str, tokens: Tokens, targets: list[str], count: int) -> list[RawSocket]:
    return [(await open_session(url, tokens.token(), targets))[0] for _ in range(count)]


async def open_session(url: str, token: str, targets: list[str]) -> tuple[RawSocket, str]:
    """Open a session at a gateway; return its socket and its id."""
    socket = await RawSocket.open(url, "/v1/sessions", token)
    await socket.send_text(type="open", source="en", targets=targets, partials=False)
    opened = msgspec.json.decode(await socket.receive())
    if opened["type"] != "opened":
        raise BenchFailed(f"no session was opened: {opened}")
    return socket, opened["session"]


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- streams of chunks ------------------------------------------------------------------------

Acknowledged = Callable[[bytes, int], int]
"""(frame, chunks acknowledged before) -> chunks acknowledged with the frame."""


def count_echoes(_: bytes, before: int) -> int:
    """Count a frame that the echo server has returned."""
    return before + 1


def count_acks(data: bytes, before: int) -> int:
    """Return the number of chunks that an `ack` covers."""
    reply = msgspec.json.decode(data)
    if reply["type"] == "error":
        raise BenchFailed(f"a chunk was refused: {reply}")
    return int(reply["next_seq"]) if reply["type"] == "ack" else before


async def stream(socket: RawSocket, count: int, acknowledged: Acknowledged) -> None:
    """Send chunks as fast as they are acknowledged."""
    sent = done = 0
    while done < count:
        last = min(count, done + WINDOW)
        frames = [frame(BINARY, struct.pack(">I", n) + AUDIO) for n in range(sent, last)]
        sent = max(sent, last)
        if frames:
            await socket.send(b"".join(frames))
        done = acknowledged(await socket.receive(), done)


# --- producers of utterances ------------------------------------------------------------------


class Producer:
    """Says one utterance at a time, and measures the time to its result."""

    def __init__(self, send: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[object]]):
        self.waits_ms: list[float] = []
        self._send = send
        self._end = end
        self._arrived = asyncio.Event()
        self._arrived_s = 0.0

    async def speak(self) -> None:
        """Send a chunk, end the utterance, and wait for its result."""
        await self._send()
        await asyncio.sleep(CHUNK_S)
        self._arrived.clear()
        start_s = time.perf_counter()
        await self._end()
        await self._arrived.wait()
        self.waits_ms.append(1_000 * (self._arrived_s - start_s))

    def on_result(self) -> None:
        """The result has arrived."""
        self._arrived_s = time.perf_counter()
        self._arrived.set()


@asynccontextmanager
async def direct_producers(sessions: list[Session]) -> AsyncIterator[list[Producer]]:
    """Yield a producer for each session of the library."""

    def producer_of(session: Session) -> Producer:
        async def send() -> None:
            await session.append(CHUNK)

        return Producer(send, session.finalize)

    async def read(session: Session, producer: Producer) -> None:
        async for outcome in session.results():
            if isinstance(outcome, Result):
                producer.on_result()

    producers = [producer_of(session) for session in sessions]
    pairs = zip(sessions, producers, strict=True)
    async with reading([read(session, producer) for session, producer in pairs]):
        yield producers


@asynccontextmanager
async def socket_producers(sockets: list[RawSocket]) -> AsyncIterator[list[Producer]]:
    """Yield a producer for each session of a gateway."""

    def producer_of(socket: RawSocket) -> Producer:
        numbers = iter(range(2**31))

        async def send() -> None:
            await socket.send(frame(BINARY, struct.pack(">I", next(numbers)) + CHUNK))

        async def end() -> None:
            await socket.send_text(type="finalize")

        return Producer(send, end)

    async def read(socket: RawSocket, producer: Producer) -> None:
        while True:
            reply = msgspec.json.decode(await socket.receive())
            if reply["type"] == "result":
                producer.on_result()
                await socket.send_text(type="confirm", id=reply["id"])

    producers = [producer_of(socket) for socket in sockets]
    pairs = zip(sockets, producers, strict=True)
    async with reading([read(socket, producer) for socket, producer in pairs]):
        yield producers


@asynccontextmanager
async def reading(readers: list[Awaitable[None]]) -> AsyncIterator[None]:
    """Run tasks that read results while the block runs."""
    tasks = [asyncio.ensure_future(reader) for reader in readers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
