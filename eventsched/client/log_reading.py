"""Reads the logs of all cells as they grow: as a consumer of a consumer group, or by position.

Owns: the order of the reads, acknowledging, claiming entries of consumers that are gone, waiting.
Must not: decode entries; read from the groups of the system.
Read next: reading.py (the caller), store/group_commands.py, docs/consumer-groups.md.

A consumer gets an entry at least once. It reads, in this order: entries that it has read and not
acknowledged, because a reply was lost or the caller was slow; entries that other consumers have not
acknowledged for `claim_ms`; new entries. A read whose reply is lost leaves its entries to the
first kind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

import anyio

from eventsched.errors import NotFound, ServerAway
from eventsched.history.log import History
from eventsched.logs import get_logger
from eventsched.projection.store import ProjectionStore
from eventsched.schema.ids import START, parse_id
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff, first_error
from eventsched.store.transport import Entry

READ_MAX = 100
"""Entries in one read of a consumer."""
BLOCK_MS = 2_000
IDLE_MS_MAX = 3_600_000
"""Time after which a consumer that has not called is removed."""

log = get_logger("eventsched.client.log_reading")


async def first_of(waits: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Return when one of the calls has returned; cancel the others."""
    if len(waits) == 1:
        await waits[0]()
        return
    try:
        async with anyio.create_task_group() as tasks:

            async def wait(call: Callable[[], Awaitable[object]]) -> None:
                await call()
                tasks.cancel_scope.cancel()

            for call in waits:
                tasks.start_soon(wait, call)
    except BaseExceptionGroup as group:
        raise first_error(group) from None


class CellConsumer:
    """A consumer of a consumer group on the log of one cell.

    Args:
        store: The cell.
        group: The group, which exists.
        consumer: Name of the consumer, of this object alone.
        claim_ms: Time after which entries of other consumers are claimed.
        read_max: Entries in one read.
    """

    def __init__(
        self, store: Store, group: str, consumer: str, claim_ms: int, read_max: int = READ_MAX
    ) -> None:
        self.cell = store.cell
        self._store, self._group, self._consumer = store, group, consumer
        self._claim_ms = claim_ms
        self._read_max = read_max
        self._entries: deque[Entry] = deque()
        self._position = START
        """The last entry that the group is known to have read."""
        self._read_s = 0.0
        self._recovers_s = 0.0
        """When to look for entries that are not acknowledged."""
        self._backoff = Backoff(store.transport, log, cell=store.cell, group=group)

    async def fill(self, block_ms: int = 0) -> bool:
        """Read entries if none is left; return whether there are some.

        Raises:
            NotFound: The group was dropped.
        """
        if not self._entries:
            async with self._backoff.attempt():
                recovers_s, self._recovers_s = self._recovers_s, 0.0  # if the read is cut
                block_ms = min(block_ms, self._claim_ms // 2)
                self._entries.extend(await self._read(recovers_s, block_ms))
                self._read_s = anyio.current_time()
        return bool(self._entries)

    async def _read(self, recovers_s: float, block_ms: int) -> Sequence[Entry]:
        if anyio.current_time() >= recovers_s:
            entries = await self._recover()
            if entries:
                return entries
            recovers_s = anyio.current_time() + self._claim_ms / 2_000
        store = self._store
        entries = await store.read_new(self._group, self._consumer, self._read_max, block_ms)
        if entries:
            self._position = max(self._position, entries[-1][0], key=parse_id)
        self._recovers_s = recovers_s
        return entries

    async def _recover(self) -> Sequence[Entry]:
        """Entries that are not acknowledged: of this consumer, otherwise of one that is gone."""
        store, group, consumer = self._store, self._group, self._consumer
        await self._find_group()
        entries = await store.read_unacknowledged(group, consumer, self._read_max)
        if not entries:
            entries = await store.claim(group, consumer, self._claim_ms, self._read_max)
            await store.remove_idle_consumers(group, consumer, IDLE_MS_MAX)
        return entries

    async def _find_group(self) -> None:
        """Create the group again if the server has lost it.

        It goes on after the entry that it is known to have read; in a log that has lost this entry,
        after the last one.

        Raises:
            NotFound: An operator dropped the group.
        """
        store, group = self._store, self._group
        position = await store.read_position(group)
        if position is not None:
            self._position = max(self._position, position, key=parse_id)
            return
        if not await store.has_log():
            raise ServerAway(f"the log of cell {self.cell} is not on the server")
        if await store.was_dropped(group, self._position):
            raise NotFound(f"cell {self.cell} has no consumer group {group}: it was dropped")
        last_id = await store.last_id(store.keys.log)
        start = min(self._position, last_id, key=parse_id)
        await store.create_group(group, start)
        log.warning("group created again", cell=self.cell, group=group, after=start)

    def take(self) -> Entry | None:
        """The next entry; None if none is left.

        Entries that have waited so long that another consumer may soon claim them are read again.
        """
        self._drop_old()
        return self._entries.popleft() if self._entries else None

    def take_all(self) -> Sequence[Entry]:
        """The entries that were read and not taken, in order; `take` says which."""
        self._drop_old()
        entries = list(self._entries)
        self._entries.clear()
        return entries

    def _drop_old(self) -> None:
        """Drop the entries that another consumer may soon claim."""
        if anyio.current_time() >= self._read_s + self._claim_ms / 2_000:
            self._entries.clear()
            self._recovers_s = 0.0

    async def acknowledge(self, *entries: Entry) -> None:
        """The entries are processed. The call waits while the server is away."""
        is_done = False
        while not is_done:
            async with self._backoff.attempt():
                await self._store.acknowledge(self._group, *(entry[0] for entry in entries))
                is_done = True


async def consume(consumers: Sequence[CellConsumer]) -> AsyncGenerator[tuple[str, Entry]]:
    """Yield the entries of the consumers' cells, each with the name of its cell.

    An entry is acknowledged when the next one is asked for.
    """
    while True:
        ready = [each for each in consumers if await each.fill()]
        for consumer in ready:
            while (entry := consumer.take()) is not None:
                yield consumer.cell, entry
                await consumer.acknowledge(entry)
        if not ready:
            await first_of([partial(consumer.fill, BLOCK_MS) for consumer in consumers])


class CellFollower:
    """The position of a reader without a consumer group on the log of one cell."""

    def __init__(self, store: ProjectionStore, history: History, after: str) -> None:
        self.cell = store.cell
        self._store, self._history, self._after = store, history, after
        self._backoff = Backoff(store.transport, log, cell=store.cell)

    async def read(self) -> Sequence[Entry]:
        """The next entries; empty if there is none.

        Raises:
            ArchiveError: The log was trimmed beyond the position.
        """
        entries: Sequence[Entry] = ()
        async with self._backoff.attempt(), aclosing(self._history.batches(self._after)) as batches:
            # anext() with a default fails with a SystemError if it is cancelled (Python 3.11).
            async for batch in batches:
                entries = batch
                break
        if entries:
            self._after = entries[-1][0]
        return entries

    async def wait(self) -> None:
        """Return when there is an entry, or after a time."""
        async with self._backoff.attempt():
            await self._store.wait_log(self._after, BLOCK_MS)


async def follow(followers: Sequence[CellFollower]) -> AsyncGenerator[tuple[str, Entry]]:
    """Yield the entries of the followers' cells as they are appended, with the name of the cell."""
    while True:
        batches = {follower.cell: await follower.read() for follower in followers}
        for cell, entries in batches.items():
            for entry in entries:
                yield cell, entry
        if not any(batches.values()):
            await first_of([follower.wait for follower in followers])
