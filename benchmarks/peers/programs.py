"""Runs a peer's producer and worker, a process each, and measures both ends.

Owns: the work order, the processes' life, figures with the names that ours have.
Never does: compare (compare.py). Read next: harness.py (inside the processes), environments.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from benchmarks.micro.figures import BenchFailed, Figures, percentiles
from benchmarks.micro.fleet import until
from benchmarks.micro.measure import Cost, metering
from benchmarks.micro.stage import Stage
from benchmarks.peers.environments import Peer
from eventsched.subprocesses import die_with_parent

PRODUCE_S = 120.0
END_S = 10.0


class Seen(msgspec.Struct, frozen=True):
    """What a worker's handlers saw."""

    jobs: list[tuple[int, float, float]]
    """Number; when the producer called and when the handler started, in ns."""
    cpu_s: float
    """Of the worker, from the first job to the last."""


async def drain(stage: Stage, peer: Peer, count: int) -> Figures:
    """Jobs are enqueued beforehand; the clock runs from the first handler's start to the last's."""
    await stage.clear()
    order = _order(stage, peer, count, rate=0)
    with anyio.fail_after(PRODUCE_S):
        async with _running(stage, peer, "produce", order) as producer:
            await _ended(peer, producer)
    async with metering(stage.redis) as cost, _running(stage, peer, "work", order) as worker:
        seen = await _seen(peer, worker, order)
    starts = [started for _, _, started in seen.jobs]
    seconds = (max(starts) - min(starts)) / 1e9
    return _figures(cost, seen, count, seconds)


async def pace(stage: Stage, peer: Peer, *, rate: int, count: int, warm_up: int) -> Figures:
    """An open loop of so many jobs a second; the first `warm_up` of them do not count."""
    await stage.clear()
    order = _order(stage, peer, warm_up + count, rate=rate)
    async with (
        metering(stage.redis) as cost,
        _running(stage, peer, "work", order) as worker,
        _running(stage, peer, "produce", order),
    ):
        seen = await _seen(peer, worker, order)
    waits = [(started - called) / 1e6 for number, called, started in seen.jobs if number >= warm_up]
    starts = [started for _, _, started in seen.jobs]
    seconds = (max(starts) - min(starts)) / 1e9
    return percentiles(waits) | _figures(cost, seen, warm_up + count, seconds)


def _figures(cost: Cost, seen: Seen, count: int, seconds: float) -> dict[str, float]:
    numbers = {number for number, _, _ in seen.jobs}
    if len(numbers) != count:
        raise BenchFailed(f"{len(numbers)} of {count} jobs were handled")
    own = {"client_cpu_us": seen.cpu_s * 1e6 / count}
    return cost.per_item(count, seconds=seconds) | own


def _order(stage: Stage, peer: Peer, count: int, *, rate: int) -> dict[str, str]:
    out = stage.folder / f"{peer.name}.json"
    for left in (out, out.with_suffix(".working")):
        left.unlink(missing_ok=True)
    return {
        "BENCH_URL": stage.url,
        "BENCH_COUNT": str(count),
        "BENCH_RATE": str(rate),
        "BENCH_OUT": str(out),
    }


async def _seen(peer: Peer, worker: subprocess.Popen[bytes], order: Mapping[str, str]) -> Seen:
    out = anyio.Path(order["BENCH_OUT"])

    async def is_done() -> bool:
        if worker.poll() is not None:
            raise BenchFailed(f"{peer.name}'s worker ended by itself")
        return await out.exists()

    await until(is_done, f"{peer.name} has handled all jobs")
    return msgspec.json.decode(await out.read_bytes(), type=Seen)


async def _ended(peer: Peer, producer: subprocess.Popen[bytes]) -> None:
    if await anyio.to_thread.run_sync(producer.wait, abandon_on_cancel=True):
        raise BenchFailed(f"{peer.name}'s producer failed")


@asynccontextmanager
async def _running(
    stage: Stage, peer: Peer, what: str, order: Mapping[str, str]
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The program runs while the block does; it and its children have ended afterwards."""
    log = stage.folder / f"{peer.name}-{what}.log"
    process = _start(peer, what, order, log)
    try:
        yield process
    except BenchFailed as failed:
        words = log.read_text(errors="replace").strip().splitlines()
        raise BenchFailed(f"{failed}: {words[-1]}" if words else str(failed)) from None
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end, process)


def _start(peer: Peer, what: str, order: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as said:
        return subprocess.Popen(
            [*peer.program, what],
            cwd=peer.folder,
            env=os.environ | order,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # a group of its own, with whatever it starts
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into libc, no lock taken
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
