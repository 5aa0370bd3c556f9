"""Run a peer's producer and worker, one process each, and measure them.

Owns: the order for the processes, their start and end, figures with the same names as ours.
Never does: compare (compare.py). Read next: harness.py (in the processes), environments.py.
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


class Starts(msgspec.Struct, frozen=True):
    """The starts of a worker's handlers."""

    jobs: list[tuple[int, float, float]]
    """Number of the job, time of the producer's call, time of the handler's start, in ns."""
    cpu_s: float
    """CPU time of the worker, from the first job to the last."""


async def drain(stage: Stage, peer: Peer, count: int) -> Figures:
    """Measure enqueued jobs, from the start of the first handler to the start of the last."""
    await stage.clear()
    order = _order(stage, peer, count, rate=0)
    with anyio.fail_after(PRODUCE_S):
        async with _running(stage, peer, "produce", order) as producer:
            await _ended(peer, producer)
    async with metering(stage.redis) as cost, _running(stage, peer, "work", order) as worker:
        starts = await _starts(peer, worker, order)
    return _figures(cost, starts, count)


async def pace(stage: Stage, peer: Peer, *, rate: int, count: int, warm_up: int) -> Figures:
    """Measure an open loop of `rate` jobs per second, without the first `warm_up` jobs."""
    await stage.clear()
    order = _order(stage, peer, warm_up + count, rate=rate)
    async with (
        metering(stage.redis) as cost,
        _running(stage, peer, "work", order) as worker,
        _running(stage, peer, "produce", order),
    ):
        starts = await _starts(peer, worker, order)
    waits_ms = [
        (started_ns - called_ns) / 1e6
        for number, called_ns, started_ns in starts.jobs
        if number >= warm_up
    ]
    return percentiles(waits_ms) | _figures(cost, starts, warm_up + count)


def _figures(cost: Cost, starts: Starts, count: int) -> dict[str, float]:
    """Return the figures per job. Raises BenchFailed if a job was not handled."""
    numbers = {number for number, _, _ in starts.jobs}
    if len(numbers) != count:
        raise BenchFailed(f"{len(numbers)} of {count} jobs were handled")
    times_ns = [started_ns for _, _, started_ns in starts.jobs]
    seconds = (max(times_ns) - min(times_ns)) / 1e9
    client_cpu = {"client_cpu_us": starts.cpu_s * 1e6 / count}
    return cost.per_item(count, seconds=seconds) | client_cpu


def _order(stage: Stage, peer: Peer, count: int, *, rate: int) -> dict[str, str]:
    out = stage.folder / f"{peer.name}.json"
    for old in (out, out.with_suffix(".working")):
        old.unlink(missing_ok=True)
    return {
        "BENCH_URL": stage.url,
        "BENCH_COUNT": str(count),
        "BENCH_RATE": str(rate),
        "BENCH_OUT": str(out),
    }


async def _starts(peer: Peer, worker: subprocess.Popen[bytes], order: Mapping[str, str]) -> Starts:
    """Wait until the worker has written its record, and return it. Raises BenchFailed."""
    out = anyio.Path(order["BENCH_OUT"])

    async def is_done() -> bool:
        if worker.poll() is not None:
            raise BenchFailed(f"{peer.name}'s worker ended by itself")
        return await out.exists()

    await until(is_done, f"{peer.name} has handled all jobs")
    return msgspec.json.decode(await out.read_bytes(), type=Starts)


async def _ended(peer: Peer, producer: subprocess.Popen[bytes]) -> None:
    if await anyio.to_thread.run_sync(producer.wait, abandon_on_cancel=True):
        raise BenchFailed(f"{peer.name}'s producer failed")


@asynccontextmanager
async def _running(
    stage: Stage, peer: Peer, program: str, order: Mapping[str, str]
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run the program `work` or `produce`; it and its children end with the block."""
    log = stage.folder / f"{peer.name}-{program}.log"
    process = _start(peer, program, order, log)
    try:
        yield process
    except BenchFailed as error:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise BenchFailed(f"{error}: {lines[-1]}" if lines else str(error)) from None
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end, process)


def _start(
    peer: Peer, program: str, order: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [*peer.program, program],
            cwd=peer.folder,
            env=os.environ | order,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a process group of its own, with its children
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
