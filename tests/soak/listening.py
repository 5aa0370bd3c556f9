"""Thousands of sessions that listen, for a long time: memory, keys and latency stay flat.

    python -m tests.soak.run --sessions 2000 --minutes 30

Owns: the sessions of one client, which speak at a fixed rate together and are replaced by new ones,
the samples of server and client, the verdict.
Never does: run the server, roles or nodes. Read next: run.py.
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import anyio
import anyio.to_thread
import msgspec

from benchmarks.micro.figures import percentiles
from eventsched.client.client import Client, connect
from eventsched.client.results import Result
from eventsched.client.session import Session

RATE = 10
"""Utterances a second of all sessions."""
UTTERANCES = 4
"""Of one session; then a new one takes its place."""
OPENED_AT_ONCE = 16
SAMPLES_MIN = 9
"""Of one run, so that each third has three."""
SAMPLE_S_MAX = 30.0
PAYLOAD = bytes(3_200)
LIMITS = {
    "memory_bytes": 1.1, "keys": 1.1, "client_bytes": 1.1,
    "append_p99_ms": 1.5, "result_p99_ms": 1.5,
}  # fmt: skip
"""A measure is flat if its median over the last third of the samples is at most this factor of that
over the middle third. The first third is the start: no record has reached its retention yet."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ServerSample(msgspec.Struct, frozen=True):
    """What the server has."""

    memory_bytes: int
    keys: int
    log_entries: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Server and client at one time; latencies since the sample before."""

    at_s: float
    memory_bytes: int
    keys: int
    log_entries: int
    client_bytes: int
    """Resident memory of the process of the client."""
    sessions: int
    results: int
    """Since the start."""
    append_p50_ms: float
    append_p99_ms: float
    result_p50_ms: float
    """From the append that completes an utterance to its result at the listener."""
    result_p99_ms: float


class Measure(msgspec.Struct, frozen=True):
    """How a measure has developed."""

    name: str
    middle: float
    """Median over the middle third of the samples."""
    last: float
    """Median over the last third."""
    factor_max: float
    is_flat: bool


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak of listening sessions saw."""

    sessions: int
    """At the same time."""
    opened: int
    utterances: int
    results: int
    """One for each utterance, or something was lost."""
    samples: int
    measures: list[Measure]
    verified: bool = False

    @property
    def is_good(self) -> bool:
        is_flat = all(measure.is_flat for measure in self.measures)
        return is_flat and self.verified and self.results == self.utterances > 0


def measures_of(samples: Sequence[Sample]) -> list[Measure]:
    """Compare the last third of the samples with the middle third."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    measures = []
    for name, factor_max in LIMITS.items():
        before = float(median(getattr(sample, name) for sample in middle))
        after = float(median(getattr(sample, name) for sample in last))
        measures.append(Measure(name, before, after, factor_max, after <= factor_max * before))
    return measures


class Speakers:
    """The sessions of one client, and the latencies that they measure."""

    def __init__(self, client: Client, sessions: int) -> None:
        self._client, self._sessions = client, sessions
        self._gate = anyio.CapacityLimiter(OPENED_AT_ONCE)
        self._pause_s = sessions / RATE
        self._end, self.all_open = anyio.Event(), anyio.Event()
        self.current = self.opened = self.utterances = self.results = 0
        self.append_ms: list[float] = []
        self.result_ms: list[float] = []

    async def run(self) -> None:
        """Speak and listen until `stop`; return when every session has closed."""
        async with anyio.create_task_group() as tasks:
            for number in range(self._sessions):
                tasks.start_soon(self._serve, number)

    def stop(self) -> None:
        self._end.set()

    async def _serve(self, number: int) -> None:
        """One session after the other. The first sessions are of unequal length, so that sessions
        are replaced at an even rate from the start.
        """
        utterances = 1 + number % UTTERANCES
        while not self._end.is_set():
            async with AsyncExitStack() as stack:
                opening = self._client.session("soak", "en", ["es"])
                async with self._gate:
                    session = await stack.enter_async_context(opening)
                self.opened += 1
                self.current += 1
                if self.current == self._sessions:
                    self.all_open.set()
                await self._speak(session, utterances)
                self.current -= 1
            utterances = UTTERANCES

    async def _speak(self, session: Session, utterances: int) -> None:
        sent_s: list[float] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, session, sent_s)
            for number in range(utterances):
                share = random.uniform(0.5, 1.5) if number else random.random()
                with anyio.move_on_after(self._pause_s * share):
                    await self._end.wait()
                    break
                sent_s.append(time.perf_counter())
                self.utterances += 1
                await session.append(PAYLOAD, end_of_utterance=True)
                self.append_ms.append(1_000 * (time.perf_counter() - sent_s[-1]))
            await session.close()

    async def _listen(self, session: Session, sent_s: Sequence[float]) -> None:
        async for outcome in session.results():
            if isinstance(outcome, Result):
                self.results += 1
                self.result_ms.append(1_000 * (time.perf_counter() - sent_s[outcome.utterance]))


async def soak_sessions(
    url: str, sessions: int, minutes: float, sample_server: Callable[[], ServerSample]
) -> Listening:
    """Let so many sessions listen for so long; compare the samples.

    Args:
        url: A server with roles and nodes.
        sessions: How many sessions are open at the same time.
        minutes: From the time at which all of them are open.
        sample_server: Reads the server; runs in a thread.
    """
    samples: list[Sample] = []
    interval_s = min(SAMPLE_S_MAX, 60 * minutes / SAMPLES_MIN)
    async with connect(url) as client, anyio.create_task_group() as tasks:
        speakers = Speakers(client, sessions)
        tasks.start_soon(speakers.run)
        await speakers.all_open.wait()
        begins_s = time.monotonic()
        for number in range(1, int(60 * minutes / interval_s) + 1):
            await anyio.sleep(begins_s + number * interval_s - time.monotonic())
            server = await anyio.to_thread.run_sync(sample_server)
            samples.append(_sample(time.monotonic() - begins_s, speakers, server))
            sys.stderr.write(msgspec.json.encode(samples[-1]).decode() + "\n")
        speakers.stop()
    return Listening(
        sessions=sessions, opened=speakers.opened, utterances=speakers.utterances,
        results=speakers.results, samples=len(samples), measures=measures_of(samples),
    )  # fmt: skip


def _sample(at_s: float, speakers: Speakers, server: ServerSample) -> Sample:
    """The latencies since the last sample are taken from the speakers. Without any, the latency is
    infinite.
    """
    appends = percentiles(speakers.append_ms or [math.inf])
    results = percentiles(speakers.result_ms or [math.inf])
    speakers.append_ms.clear()
    speakers.result_ms.clear()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Sample(
        at_s=round(at_s, 1), memory_bytes=server.memory_bytes, keys=server.keys,
        log_entries=server.log_entries, client_bytes=pages * PAGE_BYTES,
        sessions=speakers.current, results=speakers.results,
        append_p50_ms=round(appends["p50_ms"], 1), append_p99_ms=round(appends["p99_ms"], 1),
        result_p50_ms=round(results["p50_ms"], 1), result_p99_ms=round(results["p99_ms"], 1),
    )  # fmt: skip
