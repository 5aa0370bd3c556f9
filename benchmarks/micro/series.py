"""The number of series of /metrics under many sessions and tenants: it has a bound.

    python benchmarks/micro/series.py
    python benchmarks/micro/series.py --sessions 100 --tenants 10

Owns: a cell with the sessions, each of which speaks once; half of the tenants ask for a feature
that no node has, so that their jobs wait. The series are those of a gateway, and those of the
process that makes all calls of roles and nodes. It fails if a series names a session or a tenant,
or if there are more than SERIES_MAX.
Never does: measure time. Read next: telemetry/catalog.py (the labels), written_bytes.py.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.micro.figures import BenchFailed
from eventsched.instruments import instruments
from eventsched.logs import configure_logs
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from eventsched.store.node_commands import NodeResult
from eventsched.store.session_commands import Chunk, SessionGrant, hash_secret
from eventsched.telemetry.cell_metrics import cell_metrics
from eventsched.telemetry.process_metrics import ProcessMetrics

SESSIONS, TENANTS = 10_000, 1_000
SERIES_MAX = 500
NODES, SLOTS = 4, 256
AT_ONCE, CHUNKS, RESULTS, READ_MAX = 16, 8, 16, 1_000
AUDIO = bytes(640)
NAMED = re.compile(r"session-\d|tenant-\d")


class Load:
    """The sessions of a cell, and the calls of all its processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._projector = Projector(ProjectionStore(store.transport, store.cell), load_core())

    async def run(self, sessions: int, tenants: int) -> None:
        """Each session opens, speaks one utterance, gets its result if a node can serve it, and
        closes."""
        store = self._store
        nodes = [
            await store.register_node(
                node=store.keys.full(f"n{number}"), token="t", sources=["en"], targets=["es"],
                features=[], slots=SLOTS, version="",
            )
            for number in range(NODES)
        ]  # fmt: skip
        read_to = dict.fromkeys((grant.node for grant in nodes), "0-0")
        part = NODES * SLOTS
        for first in range(0, sessions, part):
            numbers = range(first, min(first + part, sessions))
            grants = await self._opened(numbers, tenants)
            await self._speak(grants)
            for node in nodes:
                inbox = store.keys.inbox(node.node.partition(".")[2])
                entries = await store.read_range(inbox, f"({read_to[node.node]}", "+", READ_MAX)
                jobs = [fields[fields.index(b"j") + 1].decode() for _, fields in entries]
                read_to[node.node] = entries[-1][0] if entries else read_to[node.node]
                for start in range(0, len(jobs), RESULTS):
                    await store.record_results(node.node, node.epoch, [
                        NodeResult(job=job, attempt=1, status="ok")
                        for job in jobs[start : start + RESULTS]
                    ])  # fmt: skip
            await _in_turns([(store.close_session, (each.session, 1)) for each in grants[::2]])
            while (await self._projector.step()).state in ("folded", "moved"):
                pass

    async def _opened(self, numbers: Sequence[int], tenants: int) -> list[SessionGrant]:
        grants: list[SessionGrant] = []

        async def open_session(number: int) -> None:
            tenant = number % tenants
            features = [f"feature-{tenant}"] if tenant % 2 else []
            grant = await self._store.open_session(
                name=f"session-{number}", token="t", secret_sha1=hash_secret("0" * 32),
                tenant=f"tenant-{tenant}", source="en", targets=["es"], features=features,
                features_hash=f"{tenant:016x}" if features else "none", encoding="pcm16",
                sample_rate=16_000, priority=1, room="", listen_language="", traceparent="",
            )  # fmt: skip
            grants.append(grant)

        await _in_turns([(open_session, (number,)) for number in numbers])
        return grants

    async def _speak(self, grants: Sequence[SessionGrant]) -> None:
        for start in range(0, len(grants), CHUNKS):
            replies = await self._store.append_audio([
                Chunk(session=grant.session, epoch=grant.epoch, seq=0, ms=20, payload=AUDIO,
                      end_of_utterance=True)
                for grant in grants[start : start + CHUNKS]
            ])  # fmt: skip
            for reply in replies:
                if isinstance(reply, Exception):
                    raise BenchFailed(f"an utterance was not finalized: {reply}")
        while (await self._store.dispatch_jobs(0)).left:
            pass


async def _in_turns(calls: Sequence[tuple[object, tuple[object, ...]]]) -> None:
    """Make the calls, AT_ONCE at a time."""
    waiting = iter(calls)

    async def make_some() -> None:
        for call, arguments in waiting:
            await call(*arguments)  # type: ignore[operator]

    await asyncio.gather(*(make_some() for _ in range(AT_ONCE)))


def series_of(text: bytes) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """The name and the labels of each series. Raises BenchFailed if one names what has no bound."""
    found = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    named = [labels for _, labels in found if any(NAMED.search(value) for _, value in labels)]
    if named:
        raise BenchFailed(f"a series has a label without bound: {named[0]}")
    return found


async def count_series(url: str, sessions: int, tenants: int) -> tuple[int, int]:
    """Series of a gateway and of the process, after the load."""
    process, before = ProcessMetrics(), instruments.observer
    instruments.observer = process
    try:
        async with open_connection(url) as connection:
            (store,) = connection.stores.values()
            await Load(store).run(sessions, tenants)
            for outcome in ("ok", "no_speech", "failed", "cancelled"):
                process.handler_ended(outcome, 0.1)
            return len(series_of(await cell_metrics(connection))), len(series_of(process.text()))
    finally:
        instruments.observer = before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--tenants", type=int, default=TENANTS)
    asked = parser.parse_args()
    configure_logs(0, quiet=True, is_service=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer(Path(folder), has_port=True) as server,
    ):
        gateway, process = asyncio.run(count_series(server.url, asked.sessions, asked.tenants))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(  # noqa: T201
        f"{asked.sessions:,} sessions of {asked.tenants:,} tenants: {gateway} series of a gateway,"
        f" {process} of a process; {used.ru_utime + used.ru_stime:.0f} s of CPU here"
    )
    if max(gateway, process) > SERIES_MAX:
        raise BenchFailed(f"more than {SERIES_MAX} series")
    return 0


if __name__ == "__main__":
    sys.exit(main())
