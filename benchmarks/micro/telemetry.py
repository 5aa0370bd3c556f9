"""What metrics and traces cost: the CPU of the server and of the processes, as shares of a job's.

    python benchmarks/micro/telemetry.py

Owns: three cells of one server that do the same work in turns: without metrics, with them, and with
metrics and traces; a node with and without the measurements of its process.
Never does: compare two runs. All figures are CPU times and ratios within one run, so that the load
of the machine matters little. Read next: written_bytes.py (the work), docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from statistics import median

import anyio
from redis.asyncio import Redis

import eventsched
from benchmarks.micro.written_bytes import CHUNK, Cell
from eventsched.client.client import Client, running_client
from eventsched.current_span import current_span, log_fields
from eventsched.instruments import instruments
from eventsched.projection.installed import load_core
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema.trace_context import handler_traceparent
from eventsched.server.launch import free_ports
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.connection import STREAM_READS
from eventsched.store.session_commands import Chunk
from eventsched.store.transport import RedisTransport
from eventsched.telemetry.otlp import OtlpCollector
from eventsched.telemetry.process_metrics import measure_process
from eventsched.telemetry.trace_exporter import TraceExporter

TOGETHER, JOBS, WARM_UP = (8, 64), 3_200, 3
EXPORTED = 64
"""Jobs that an exporter exports together: what it gathers in its pause at 128 jobs a second."""
NODE_JOBS, NODE_ROUNDS = 128, 40
POLL_S = 0.02
EVENTS_PER_JOB = 2
"""JobDispatched and ResultRecorded."""
COLLECTOR = """
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""
"""A collector that takes everything and keeps nothing."""


@dataclass
class Variant:
    """A cell of one kind, and what it has used."""

    name: str
    cell: Cell
    exporter: TraceExporter | None = None
    redis_s: list[float] = field(default_factory=list)
    """CPU time of the server in each round."""
    export_s: list[float] = field(default_factory=list)
    """CPU time of the exporter for each EXPORTED jobs."""
    export_redis_s: list[float] = field(default_factory=list)
    """CPU time of the server meanwhile."""
    jobs: int = 0

    def us_a_job(self, seconds: list[float], together: int) -> float:
        """The median of the rounds after the warm-up: other work of the machine disturbs some."""
        return median(seconds[WARM_UP:]) * 1e6 / together if seconds else 0.0

    async def round(self, client: Redis, together: int) -> None:
        before = await _redis_cpu_s(client)
        await self.cell.round()
        self.redis_s.append(await _redis_cpu_s(client) - before)
        self.jobs += together
        if self.exporter is not None and self.jobs % EXPORTED == 0:
            before, start_s = await _redis_cpu_s(client), time.process_time()
            while await self.exporter.step(0):
                pass
            self.export_s.append(time.process_time() - start_s)
            self.export_redis_s.append(await _redis_cpu_s(client) - before)


async def _redis_cpu_s(client: Redis) -> float:
    cpu = await client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def _set_without_metrics() -> ProjectionSet:
    core = load_core()
    projections = tuple(each for each in core.projections if each.name != "metrics")
    return ProjectionSet(core.name, projections, core.sessions)


async def server_costs(url: str, collector: str, together: int) -> list[Variant]:
    """Do the same rounds in the three cells, in turns, and return what they used a job."""
    client = await open_client(url)
    assert isinstance(client, Redis)
    for command in STREAM_READS:  # as in the connections of the roles
        client.response_callbacks.pop(command, None)
    variants, to_collector = [], OtlpCollector(collector, "benchmark")
    for name in ("without", "metrics", "traces"):
        store = Store(RedisTransport(client, client), f"{name[0]}{together}")
        cell = Cell(store)
        if name == "without":
            views = ProjectionStore(store.transport, store.cell)
            cell.projector = Projector(views, _set_without_metrics())
        await cell.open(together)
        exporter = None
        if name == "traces":
            exporter = TraceExporter(store, to_collector, "benchmark")
            await exporter.create_group()
        variants.append(Variant(name, cell, exporter))
    orders = list(permutations(range(len(variants))))
    for number in range(WARM_UP + JOBS // together):
        for at in orders[number % len(orders)]:  # none always follows the same one
            await variants[at].round(client, together)
    to_collector.close()
    await client.aclose()
    return variants


async def node_costs(url: str) -> tuple[float, float]:
    """CPU time in µs a job of a node's process, without and with its metrics, in turns."""
    client, blocking = await open_client(url), await open_client(url)
    store = Store(RedisTransport(client, blocking), "node")
    node = eventsched.Node("n1", sources=["en"], targets=["es"], slots=NODE_JOBS)

    @node.job
    async def _(_: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text="hola")

    used_s: tuple[list[float], list[float]] = ([], [])
    metrics = measure_process()
    async with running_client(Client({store.cell: store}, url=url)) as es:
        cell = Cell(store)
        await cell.open(NODE_JOBS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.run, es)
            await _until(partial(_is_registered, store))
            for number in range(2 * (NODE_ROUNDS + WARM_UP)):
                is_measured = number % 2
                instruments.observer = metrics if is_measured else None
                for grant in cell.sessions:
                    chunk = Chunk(
                        session=grant.session, epoch=grant.epoch, seq=number, ms=100,
                        payload=CHUNK, end_of_utterance=True,
                    )  # fmt: skip
                    await store.append_audio([chunk])
                ends = await _log_length(store) + EVENTS_PER_JOB * NODE_JOBS
                start_s = time.process_time()
                while (await store.dispatch_jobs(0)).left:
                    pass
                await _until(partial(_has_length, store, ends))
                used_s[is_measured].append(time.process_time() - start_s)
            tasks.cancel_scope.cancel()
    await client.aclose()
    await blocking.aclose()
    instruments.observer = None
    without_us, with_us = (median(each[WARM_UP:]) * 1e6 / NODE_JOBS for each in used_s)
    return without_us, with_us


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when it holds; the polls cost little CPU."""
    done = anyio.Event()
    while not done.is_set():
        if await holds():
            done.set()
        else:
            with anyio.move_on_after(POLL_S):
                await done.wait()


async def _is_registered(store: Store) -> bool:
    """Whether the node has taken the place of the one that `Cell.open` has registered."""
    return (await store.read_hash(store.keys.node("n1"))).get("epoch") == "2"


async def _has_length(store: Store, length: int) -> bool:
    return await _log_length(store) >= length


async def _log_length(store: Store) -> int:
    return int(await store.transport.command("XLEN", store.keys.log, key=store.keys.log))


def observations_us(count: int = 20_000) -> float:
    """CPU time of the metrics of a job alone: a call of a script, a start and an end of a handler.

    It is less than the noise of `node_costs`.
    """
    metrics = measure_process()
    instruments.observer = None
    start_s = time.process_time()
    for _ in range(count):
        metrics.script_called("record_results", 0.001)
        metrics.handler_starts(0.002)
        metrics.handler_ended("ok", 0.1)
    return (time.process_time() - start_s) * 1e6 / count


def handler_span_us(count: int = 20_000) -> float:
    """CPU time of a node's work for traces, a job: the ids, the log fields, the current span."""
    job, given = "acme:c0.s1:0:translation:es:none", f"00-{'1' * 32}-{'2' * 16}-01"
    start_s = time.process_time()
    for _ in range(count):
        traceparent = handler_traceparent(given, job, 1)
        log_fields(traceparent)
        with current_span(traceparent):
            pass
    return (time.process_time() - start_s) * 1e6 / count


@contextmanager
def _collecting() -> Iterator[str]:
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-c", COLLECTOR, str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--together", type=int, nargs="*", default=TOGETHER)
    asked = parser.parse_args().together
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer(Path(folder), has_port=True, options={"hz": "1"}) as server,
        _collecting() as collector,
    ):
        print(server.binary)  # noqa: T201
        for together in asked:
            variants = asyncio.run(server_costs(server.url, collector, together))
            base = variants[0].us_a_job(variants[0].redis_s, together)
            for each in variants:
                server_us = each.us_a_job(each.redis_s, together)
                server_us += each.us_a_job(each.export_redis_s, EXPORTED)
                export_us = each.us_a_job(each.export_s, EXPORTED)
                print(  # noqa: T201
                    f"{together:3} together, {each.name:8} server {server_us:7.1f} µs a job"
                    f" ({server_us / base - 1:+.1%}), exporter {export_us:6.1f} µs a job"
                )
        node_us, measured_us = asyncio.run(node_costs(server.url))
        print(  # noqa: T201
            f"node {node_us:.1f} µs a job, with its metrics {measured_us:.1f} µs"
            f" ({measured_us / node_us - 1:+.1%}); the metrics of a job alone"
            f" {observations_us():.1f} µs, the current span of its handler"
            f" {handler_span_us():.1f} µs"
        )


if __name__ == "__main__":
    main()
