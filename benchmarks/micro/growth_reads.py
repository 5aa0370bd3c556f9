"""Rows of the benchmark `growth` about reads: the history of a session or a node, the status.

Owns: the bytes that a history takes from the server, the time that a client takes to print it, the
round trips of a status.
Never does: compare sizes (growth.py). Read next: history/index.py, history/node_status.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, cast

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row, net_out_bytes
from benchmarks.micro.stage import Stage
from eventsched.cli.timeline import Timeline
from eventsched.history.log import EntryFilter, History
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.history.status import read_status
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema.codec import encode
from eventsched.schema.events import AnyData, Event, NodeDraining, SessionClosing
from eventsched.store.cell import Store
from eventsched.store.transport import Arg, Transport
from projections import sessions_of

SESSIONS = 2
"""Sessions whose events alternate in the log."""
NODE_EVENTS = 250
"""Events of the node, spread over the log."""
BATCH = 1_000
INDEXES = ProjectionSet("core", (), sessions_of)
"""The indexes without the records of the set `core`."""


async def history_of_a_session(stage: Stage, events: int) -> float:
    """Bytes from the server for each of so many events of one session."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await _append_sessions(stage, store, events)
        cost, count = await _read(stage, store, EntryFilter(session="s0"))
        _check(count, events)
        return cost / events


async def lines_of_a_session(stage: Stage, events: int) -> float:
    """Microseconds of the client for each event of one session that `history` prints."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        await _append_sessions(stage, store, events)
        reader, session = Reader(HistorySource(connection)), store.keys.full("s0")
        timeline, count = Timeline(session), 0
        with redirect_stdout(StringIO()):
            before_s = time.process_time()
            async for event in reader.history(EventFilter(session=session)):
                timeline.show(event)
                count += 1
            cost_s = time.process_time() - before_s
        _check(count, events)
        return cost_s / events * 1e6


async def history_of_a_node(stage: Stage, events: int) -> float:
    """Bytes from the server for the events of one node in a log of so many events."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        node, every = store.keys.full("n0"), max(1, events // NODE_EVENTS)
        of_node = _event(NodeDraining(epoch=1), node=node)
        other = _event(SessionClosing(reason="idle"), session=store.keys.full("s0"))
        log = [other if number % every else of_node for number in range(events)]
        await _append(stage, store, log)
        cost, count = await _read(stage, store, EntryFilter(node=node))
        _check(count, log.count(of_node))
        return cost


async def round_trips_of_status(stage: Stage, nodes: int) -> float:
    """Round trips of a status with so many nodes."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        for number in range(nodes):
            await store.register_node(
                node=store.keys.full(f"n{number}"), token="token", sources=["en"], targets=["es"],
                features=[], slots=1, version="",
            )  # fmt: skip
        counting = _Counting(store.transport)
        store.transport = cast("Transport", counting)
        (cell,) = (await read_status(connection)).cells
        _check(sum(len(each.nodes) for each in cell.classes), nodes)
        return counting.round_trips


class _Counting:
    """A transport that counts round trips."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.round_trips = 0

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self.round_trips += 1
        return await self._transport.run(script, keys, args)

    async def command(self, *parts: Arg, key: str) -> Any:
        self.round_trips += 1
        return await self._transport.command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        self.round_trips += 1
        return await self._transport.commands(calls)


async def _append_sessions(stage: Stage, store: Store, events: int) -> None:
    """Append so many events of each of SESSIONS sessions, in turns."""
    closing = SessionClosing(reason="idle")
    names = [store.keys.full(f"s{number}") for number in range(SESSIONS)]
    log = [_event(closing, session=name) for _ in range(events) for name in names]
    await _append(stage, store, log)


async def _append(stage: Stage, store: Store, events: Sequence[Event]) -> None:
    """Append the events to the log, and to the indexes of their sessions and nodes."""
    await store.fire_timers()
    for first in range(0, len(events), BATCH):
        pipeline = stage.redis.pipeline(transaction=False)
        for event in events[first : first + BATCH]:
            pipeline.xadd(store.keys.log, encode(event))  # type: ignore[arg-type]
        await pipeline.execute()
    views = ProjectionStore(store.transport, store.cell)
    projector = Projector(views, INDEXES, batch_max=BATCH)
    while (await projector.step()).state != "idle":
        pass


async def _read(stage: Stage, store: Store, where: EntryFilter) -> tuple[float, int]:
    """Read the history; return the bytes from the server and the number of entries."""
    views = ProjectionStore(store.transport, store.cell)
    history = await History.open(views, None, INDEXES)
    before, count = await net_out_bytes(stage.redis), 0
    async for batch in history.batches(where=where):
        count += len(batch)
    return await net_out_bytes(stage.redis) - before, count


def _event(data: AnyData, session: str = "", node: str = "") -> Event:
    return Event(id="", type=type(data).__name__, session=session, node=node, data=data)


def _check(count: int, expected: int) -> None:
    if count != expected:
        raise BenchFailed(f"{count} instead of {expected} were read")


READ_ROWS = (
    Row(
        "history of a session, by its events", "bytes from the server an event",
        (1_000, 4_000, 16_000), 0.1, history_of_a_session,
        before="280 / 420 / 980",
    ),
    Row(
        "history of a session as text, by its events", "us of the client an event",
        (1_000, 4_000, 16_000), 0.1, lines_of_a_session,
        before="484 / 502 / not measured",
    ),
    Row(
        "history of a node with 250 events, by events of the log", "bytes from the server",
        (2_000, 8_000, 32_000), 0.1, history_of_a_node,
        before="379,000 / 1,515,000 / 6,056,000",
    ),
    Row(
        "status, by nodes", "round trips",
        (64, 512, 4_096), 0.2, round_trips_of_status,
        before="153 / 1,049 / 8,217",
    ),
)  # fmt: skip
