"""Sends the spans of a cell's utterances to a collector, from the events of its log.

Owns: the order of reading, sending and acknowledging; the wait while the collector is away.
Must not: make spans (spans.py), know a protocol of collectors (otlp.py).
Read next: client/log_reading.py (the consumer), docs/traces.md.

Events are acknowledged after the collector has taken their spans. So an exporter that dies sends
spans again, with the same ids, and loses none. At most one read of the log is in memory: while the
collector is away, events wait in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic

import anyio.to_thread

from eventsched.client.log_reading import CellConsumer
from eventsched.errors import NotFound
from eventsched.history.position import LogPosition
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.logs import get_logger
from eventsched.projection.fold import decode_event
from eventsched.projection.installed import load_core
from eventsched.schema.events import Event
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry
from eventsched.telemetry.otlp import Collector
from eventsched.telemetry.otlp_sending import CollectorAway
from eventsched.telemetry.spans import HANDLED, Span, Spans, is_exportable

GROUP = "telemetry"
"""The consumer group of all exporters of a cell."""
CLAIM_MS = 60_000
"""Time after which events of an exporter that is gone are sent by another one."""
BLOCK_MS = 2_000
READ_MAX = 500
"""Entries in one read of the log."""
GATHER_S = 0.5
"""Pause after a read of fewer entries, so that a message has spans of more utterances."""
SPANS_MAX = 1_024
"""Spans in one message to the collector, of about 400 bytes each."""
JOB_MS_MAX = 1_800_000
"""How long before an event of a job its earlier attempts began at the earliest."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.1, 30.0
REMIND_S = 60.0

log = get_logger("eventsched.telemetry")


class TraceExporter:
    """Exports the spans of one cell until cancelled.

    Args:
        store: The cell.
        collector: Takes the spans.
        consumer: Name of this exporter in the group, of this process alone.
        start: Where a new group begins: `$` for the end of the log, or an entry id.
        claim_ms: Time after which events of other exporters are claimed.
        pause_s_min: First pause after a failed export; it doubles up to 30 s.
        gather_s: Pause after a read of few entries.
    """

    def __init__(
        self,
        store: Store,
        collector: Collector,
        consumer: str,
        *,
        start: str = "$",
        claim_ms: int = CLAIM_MS,
        pause_s_min: float = PAUSE_S_MIN,
        gather_s: float = GATHER_S,
    ) -> None:
        self._store = store
        self._collector = collector
        self._start = start
        self._pause_s_min = pause_s_min
        self._gather_s = gather_s
        self._consumer = CellConsumer(store, GROUP, consumer, claim_ms, READ_MAX)
        self._spans = Spans()
        self._backoff = Backoff(store.transport, log, cell=store.cell)
        self._source = HistorySource(_OneCell(store), None, [load_core()])

    async def run(self) -> None:
        """Export until cancelled. Raises NotFound if an operator drops the group."""
        try:
            await self.create_group()
            while True:
                if 0 < await self.step(BLOCK_MS) < READ_MAX:
                    await self._store.transport.sleep(self._gather_s)
        finally:
            self._collector.close()

    async def create_group(self) -> None:
        """The consumer group exists. The call waits while the server is away."""
        has_group = False
        while not has_group:
            async with self._backoff.attempt():
                await self._store.create_group(GROUP, self._start)
                has_group = True

    async def step(self, block_ms: int) -> int:
        """Export the next entries of the log; return how many there are.

        Args:
            block_ms: How long to wait for an entry.
        """
        if not await self._consumer.fill(block_ms):
            return 0
        entries = self._consumer.take_all()
        await self._export(entries)
        return len(entries)

    async def _export(self, entries: Sequence[Entry]) -> None:
        spans: list[Span] = []
        for entry in entries:
            if entry[1][1] not in HANDLED:  # the first field is the type
                continue
            event = decode_event(entry)
            if isinstance(event, Event):
                if self._spans.needs_history(event):
                    await self._backoff.call(partial(self._load_history, event))
                made = self._spans.of(event)
                if not all(map(is_exportable, made)):
                    log.warning("event has impossible times, no span", id=event.id, type=event.type)
                    continue
                spans += made
        for start in range(0, len(spans), SPANS_MAX):
            send = partial(self._collector.send, spans[start : start + SPANS_MAX])
            await self._until_sent(send)
        await self._consumer.acknowledge(*entries)

    async def _load_history(self, event: Event) -> None:
        """Learn the earlier attempts of the job, which this process has not read."""
        since = LogPosition(max(event.ms - JOB_MS_MAX, 0), None, "")
        where, ends = EventFilter(job=event.job, since=since), {self._store.cell: event.id}
        earlier: list[Event] = []
        with suppress(NotFound):  # the log has lost them
            earlier = [
                each
                async for each in Reader(self._source).history(where, ends)
                if isinstance(each, Event) and each.id != event.id
            ]
        self._spans.learn(earlier)

    async def _until_sent(self, send: partial[None]) -> None:
        """Call `send` in a thread until it succeeds."""
        pause_s, logged_s = self._pause_s_min, 0.0
        while away := await anyio.to_thread.run_sync(_failure, send, abandon_on_cancel=True):
            if not logged_s or monotonic() - logged_s >= REMIND_S:
                logged_s = monotonic()
                log.warning("collector away, trying again", cell=self._store.cell, reason=str(away))
            await self._store.transport.sleep(max(pause_s, min(away.retry_after_s, PAUSE_S_MAX)))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        if logged_s:
            log.warning("collector is back", cell=self._store.cell)


def _failure(send: partial[None]) -> CollectorAway | None:
    """Call `send`; return why the collector has not taken the spans."""
    try:
        send()
    except CollectorAway as error:
        return error
    return None


class _OneCell:
    """A server of one cell. It implements Server."""

    def __init__(self, store: Store) -> None:
        self.cells = [store.cell]
        self.stores: Mapping[str, Store] = {store.cell: store}
