"""The ratio of the benchmark `growth`: an append of one tenant beside the flood of another.

Owns: the flooding process (a room of 32 languages, as fast as it can, with a dispatcher), and the
latency of appends alone and beside it, in turns.
Never does: bound the ratio (growth.py). Read next: lua/append_audio.lua.
"""

from __future__ import annotations

import sys
import time
from contextlib import AsyncExitStack

import anyio

from benchmarks.micro.figures import percentiles
from benchmarks.micro.stage import Stage
from eventsched.client.client import connect
from eventsched.client.session import Session
from eventsched.errors import Backpressure
from eventsched.roles.dispatcher import Dispatcher
from eventsched.runtime import run_async

LANGUAGES = [first + second for first in "abcd" for second in "abcdefgh"]
CHUNK = bytes(640)
EVERY_S = 0.005


async def flood_ratio(stage: Stage, appends: int, turns: int) -> float:
    """p99 of an append while another tenant floods, as a multiple of the p99 without the flood.

    The lowest of several turns: other processes only add to it.
    """
    ratios = []
    for _ in range(turns):
        await stage.clear()
        async with (
            connect(stage.url, settings={"tenant_queue_max": 10_000}) as client,
            client.session("acme", "en", ["es"]) as session,
        ):
            session.detach()
            alone = await _latency(session, appends)
            command = [sys.executable, "-m", "benchmarks.micro.growth_flood", stage.url]
            async with await anyio.open_process(command, stderr=None) as flood:
                assert flood.stdout is not None
                await flood.stdout.receive()
                beside = await _latency(session, appends)
                flood.terminate()
        ratios.append(beside / alone)
    return min(ratios)


async def _latency(session: Session, appends: int) -> float:
    """p99 of an append in ms, from the call to its receipt."""
    latencies = []
    for _ in range(appends):
        start_s = time.perf_counter()
        await session.append(CHUNK)
        latencies.append((time.perf_counter() - start_s) * 1_000)
        await anyio.sleep(EVERY_S)
    return percentiles(latencies)["p99_ms"]


async def _flood(url: str) -> None:
    """Append final chunks in a room of 32 languages until terminated."""
    async with (
        connect(url) as client,
        AsyncExitStack() as stack,
        anyio.create_task_group() as tasks,
    ):
        (store,) = client.stores.values()
        tasks.start_soon(Dispatcher(store).run)
        sessions = [
            await stack.enter_async_context(
                client.session("mallory", "en", room="flood", listen_language=language)
            )
            for language in LANGUAGES
        ]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            try:
                await sessions[0].append(CHUNK, end_of_utterance=True)
            except Backpressure as refused:
                await anyio.sleep(refused.retry_after_ms / 1_000)


if __name__ == "__main__":
    run_async(lambda: _flood(sys.argv[1]))
