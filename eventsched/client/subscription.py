"""The outboxes of a client's sessions in one cell, read in shards.

Owns: the blocking reads over many outboxes, the subscription of each session with its position, the
place of partial results among the outcomes, and the detection of entries that were trimmed before
they were read.
Must not: confirm positions; channel.py sends them along with appends and keepalives.
Read next: outbox_entry.py (the form of an entry), session.py (`results`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy

import anyio
import msgspec
from anyio.abc import TaskGroup

from eventsched.client.outbox_entry import OutboxEntry, StateData, parse
from eventsched.errors import Refused, ServerUnavailable
from eventsched.logs import get_logger
from eventsched.schema.ids import START, id_before, parse_id
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.transport import Entry

BLOCK_MS = 2_000
LATE_BLOCK_MS = 100
"""How long the second read of a shard waits; a further subscription waits for its end."""
AT_ONCE_MS = 1
SHARD_MAX = 64
"""Streams in one read."""
READ_COUNT = 64
"""Entries in one read, or one of each stream if there are more streams."""
LARGE_MIN = 65_536
"""Text and speech of a large entry. A result has at most 577,536 B."""
ENTRIES_MAX = 256
BYTES_MAX = 4 * 1024 * 1024
"""A subscription beyond either bound is not read until its session takes some entries."""

log = get_logger("eventsched.client.subscription")


class Subscription:
    """The entries of one session's outbox that were read and are not taken yet.

    Entries are numbered without holes. Reading starts at the entry `after` itself: if this entry is
    gone, or a number is missing later, entries were trimmed before they were read. Each such hole
    becomes one entry of the kind `truncated`.

    Partial results are read from a stream of their own, if they are wanted. Each has the number of
    the entry that it follows, and the id of the entry before it as its position. A partial result
    that arrives after a later entry is left out, so none follows the outcome of its utterance.
    """

    def __init__(self, session: str, after: str, *, wants_partials: bool = False) -> None:
        self.session = session
        self.wants_partials = wants_partials
        self.position = START if after == START else id_before(after)
        self.partials_position = START
        self.drains = False
        """Read without a bound: the session closes, so the rest of its outbox is bounded."""
        self.closed = anyio.Event()
        self.refusal: Refused | None = None
        """Why nothing more is taken from it."""
        self.waiters = 0
        """How many calls wait for its next entry or for its end."""
        self.waited_s = 0
        """Seconds since the first of them began to wait."""
        self._last_id = after
        """Position after the entries that were added."""
        self._bookmark = "" if after == START else after
        self._expected = 1
        self._entries: deque[OutboxEntry] = deque()
        self._bytes = 0
        self._arrived = anyio.Event()

    @property
    def wants_more(self) -> bool:
        """Whether the reader should read this outbox."""
        if self.closed.is_set():
            return False
        has_room = len(self._entries) < ENTRIES_MAX and self._bytes < BYTES_MAX
        return has_room or self.drains

    @property
    def streams(self) -> int:
        """How many streams are read for it."""
        return 2 if self.wants_partials else 1

    def put(self, entries: Sequence[Entry], partials: Sequence[Entry] = ()) -> None:
        """Add entries and partial results that the reader has read, each once."""
        entries = _after(self.position, entries)
        partials = _after(self.partials_position, partials)
        if entries:
            self.position = entries[-1][0]
        if partials:
            self.partials_position = partials[-1][0]
        parsed = [entry for each in (*entries, *partials) if (entry := self._parse(each))]
        if partials:
            parsed.sort(key=lambda entry: (entry.number, entry.kind == "partial"))
        for entry in parsed:
            if entry.kind == "partial":
                self._enqueue_partial(entry)
            elif not self._is_bookmark(entry):
                self._enqueue(entry)
        self._arrived.set()

    def _parse(self, entry: Entry) -> OutboxEntry | None:
        """None for an entry that no function wrote.

        If it has the number of an outcome, the session receives `truncated` in its place.
        """
        try:
            return parse(entry)
        except (KeyError, ValueError) as error:
            fields = {"session": self.session, "entry": entry[0], "error": f"{error!s:.200}"}
            log.error("outbox entry not understood, skipped", **fields)
            return None

    def _is_bookmark(self, entry: OutboxEntry) -> bool:
        """Whether this is the entry `after` which the session continues; asked once."""
        bookmark, self._bookmark = self._bookmark, ""
        if not bookmark:
            return False
        # If the bookmark is trimmed, no number equals -1: the next entry follows a hole.
        self._expected = entry.number + 1 if entry.id == bookmark else -1
        return entry.id == bookmark

    def _enqueue(self, entry: OutboxEntry) -> None:
        """Append the entry, preceded by a `truncated` entry if entries before it are missing.

        Sets `closed` if the session is closed.
        """
        if entry.number != self._expected:
            self._entries.append(OutboxEntry(id_before(entry.id), 0, "truncated", None, b"", b""))
        self._expected, self._last_id = entry.number + 1, entry.id
        self._entries.append(entry)
        self._bytes += entry.size
        if isinstance(entry.data, StateData) and entry.data.state == "closed":
            self.closed.set()

    def _enqueue_partial(self, entry: OutboxEntry) -> None:
        """Append a partial result, unless a later entry was added or may have been taken before."""
        if self._bookmark or entry.number + 1 < self._expected:
            return
        self._entries.append(msgspec.structs.replace(entry, id=self._last_id))
        self._bytes += entry.size

    def fail(self, refused: Refused) -> None:
        """End the subscription: the next call that takes an entry raises this refusal."""
        self.refusal = refused
        self._arrived.set()

    def end(self) -> None:
        """Nothing more is read for the subscription: it ends after the entries that it has."""
        self.closed.set()
        self._arrived.set()

    def pop(self) -> OutboxEntry | None:
        """Take the oldest entry, if there is one."""
        if not self._entries:
            return None
        entry = self._entries.popleft()
        self._bytes -= entry.size
        return entry

    async def wait(self) -> None:
        """Return when there may be an entry to take."""
        if not self._entries:
            self._arrived = anyio.Event()
            with self.awaited():
                await self._arrived.wait()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """A call waits during the block."""
        if not self.waiters:
            self.waited_s = 0
        self.waiters += 1
        try:
            yield
        finally:
            self.waiters -= 1


def _after(position: str, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries after this position: two reads may have had the same."""
    if not entries or parse_id(entries[0][0]) > parse_id(position):
        return entries
    return [entry for entry in entries if parse_id(entry[0]) > parse_id(position)]


class _Shard:
    """One blocking read over at most SHARD_MAX streams.

    No read is cancelled, because a cancelled one loses its connection and what was sent: a session
    that asks again and again would keep all others waiting. A subscription that is added while the
    read waits is read by a second, short read until the first one ends and includes it. Both may
    read the same entry; the subscription takes it once.

    **Large entries.** A read has at most READ_COUNT entries. If several subscriptions have large
    entries waiting, each read has one of them beside all others, and one entry of each. After a
    read that failed, all its subscriptions count as large: so each read becomes small enough for a
    slow connection, and one session with many results delays no other.
    """

    def __init__(self, store: Store, large: set[str]) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        """By key of the outbox."""
        self.streams = 0
        """How many streams the subscriptions have."""
        self._store = store
        self._changed = anyio.Event()
        self._included: dict[str, int] | None = None
        """The streams of each subscription in the present read; none while nothing is read."""
        self._late: set[str] = set()
        """Keys of the subscriptions that the present read lacks."""
        self._large = large
        self._is_late = anyio.Event()

    def add(self, key: str, subscription: Subscription) -> None:
        """Read for this subscription as well."""
        self.subscriptions[key] = subscription
        self.streams += subscription.streams
        self.read_now(key)

    def remove(self, key: str) -> None:
        """Read no more for this subscription; the present read goes on."""
        self.streams -= self.subscriptions.pop(key).streams

    def read_now(self, key: str) -> None:
        """Read for this subscription, also if the present read does not include it."""
        self._changed.set()
        streams = self.subscriptions[key].streams
        if self._included is not None and self._included.get(key) != streams:
            self._late.add(key)
            self._is_late.set()

    async def run(self) -> None:
        """Read until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._repeat, self._step)
            tasks.start_soon(self._repeat, self._step_late)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self._store.transport, log, cell=self._store.cell)
        while True:
            async with backoff.attempt():
                await step()

    async def _step(self) -> None:
        self._changed = anyio.Event()
        self._late.clear()
        wanted = {key: each for key, each in self.subscriptions.items() if each.wants_more}
        if not wanted:
            await self._changed.wait()
            return
        self._included = {key: each.streams for key, each in wanted.items()}
        try:
            await self._read(wanted, BLOCK_MS)
        finally:
            self._included = None

    async def _step_late(self) -> None:
        wanted = {
            key: each for key, each in self.subscriptions.items()
            if key in self._late and each.wants_more
        }  # fmt: skip
        if not wanted:
            self._is_late = anyio.Event()
            await self._is_late.wait()
            return
        await self._read(wanted, LATE_BLOCK_MS)

    async def _read(self, wanted: Mapping[str, Subscription], block_ms: int) -> None:
        """Read what waits; if nothing does, wait for the first entries."""
        large = [key for key in wanted if key in self._large]
        small = {key: each for key, each in wanted.items() if key not in self._large}
        has_more = False
        if len(large) > 1:
            for key in large:
                has_more |= await self._read_once({**small, key: wanted[key]}, AT_ONCE_MS)
        if not has_more:
            await self._read_once(wanted, block_ms)

    async def _read_once(self, wanted: Mapping[str, Subscription], block_ms: int) -> bool:
        """One read. Returns whether it had entries of an outbox with large ones."""
        partials = {
            key: self._store.keys.partials(name_of(each.session))
            for key, each in wanted.items()
            if each.wants_partials
        }
        positions = {key: subscription.position for key, subscription in wanted.items()}
        positions |= {partials[key]: wanted[key].partials_position for key in partials}
        count = max(1, READ_COUNT // len(positions)) if self._large.isdisjoint(wanted) else 1
        try:
            reply = await self._store.transport.read_blocking(positions, block_ms, count)
        except ServerUnavailable:
            self._large.update(wanted)
            raise
        for key, subscription in wanted.items():
            streams = reply.get(key, ()), reply.get(partials.get(key, ""), ())
            if any(streams):
                self._note_size(key, [*streams[0], *streams[1]])
                if self.subscriptions.get(key) is subscription:
                    subscription.put(*streams)
        return any(key in reply for key in self._large.intersection(wanted))

    def _note_size(self, key: str, entries: Sequence[Entry]) -> None:
        if any(sum(map(len, flat)) >= LARGE_MIN for _, flat in entries):
            self._large.add(key)
        else:
            self._large.discard(key)


class SubscriptionReader:
    """Reads for all subscriptions of one cell while `run` runs.

    Each wake of a read sends the names of its streams again. So a read has at most SHARD_MAX of
    them, and the cost of an outcome does not grow with the subscriptions. A subscription that wants
    partial results has two streams. A read has a connection of its own, and a second one for the
    subscriptions that are added while it waits.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shards: list[_Shard] = []
        self._large: set[str] = set()
        """Keys of the outboxes whose last entries were large, or whose last read has failed. A
        session that asks again has another subscription and the same outbox."""
        self._shard_of: dict[str, _Shard] = {}
        """By key of the outbox."""
        self._tasks: TaskGroup | None = None

    def add(self, subscription: Subscription) -> None:
        """Read for this subscription; it replaces an earlier one of the same session."""
        key = self._key(subscription)
        earlier = self._shard_of.pop(key, None)
        if earlier is not None:
            earlier.remove(key)
        shard = self._free_shard(subscription.streams)
        self._shard_of[key] = shard
        shard.add(key, subscription)

    def _free_shard(self, streams: int) -> _Shard:
        """The first read that can take so many more streams, or a new one."""
        for shard in self._shards:
            if shard.streams + streams <= SHARD_MAX:
                return shard
        shard = _Shard(self._store, self._large)
        self._shards.append(shard)
        if self._tasks is not None:
            self._tasks.start_soon(shard.run)
        return shard

    def want_partials(self, subscription: Subscription) -> None:
        """Read partial results for this subscription as well, from the newest 32 on."""
        if subscription.wants_partials:
            return
        key = self._key(subscription)
        shard = self._shard_of.get(key)
        is_read = shard is not None and shard.subscriptions[key] is subscription
        is_large = key in self._large
        if is_read:
            self.remove(subscription)
        subscription.wants_partials = True
        if is_read:
            self.add(subscription)
        if is_read and is_large:
            self._large.add(key)

    def remove(self, subscription: Subscription) -> None:
        """Stop reading for this subscription."""
        key = self._key(subscription)
        shard = self._shard_of.get(key)
        if shard is not None and shard.subscriptions[key] is subscription:
            shard.remove(key)
            self._large.discard(key)
            del self._shard_of[key]

    def _key(self, subscription: Subscription) -> str:
        return self._store.keys.outbox(name_of(subscription.session))

    async def take(self, subscription: Subscription) -> OutboxEntry | None:
        """Wait for an entry and take it; none once the session is closed and all are taken.

        Raises the refusal with which the subscription has ended.
        """
        while True:
            if subscription.refusal is not None:
                raise copy(subscription.refusal)
            was_full = not subscription.wants_more
            entry = subscription.pop()
            if entry is not None:
                if was_full and subscription.wants_more:
                    self.read_now(subscription)
                return entry
            if subscription.closed.is_set():
                return None
            await subscription.wait()

    def read_now(self, subscription: Subscription) -> None:
        """Read for this subscription: it wants more than when the present read began."""
        key = self._key(subscription)
        shard = self._shard_of.get(key)
        if shard is not None and shard.subscriptions[key] is subscription:
            shard.read_now(key)

    def count_second(self) -> int:
        """A second has passed. Return the seconds since the longest wait began; 0 without one."""
        waiting = [
            subscription
            for shard in self._shards
            for subscription in shard.subscriptions.values()
            if subscription.waiters
        ]
        for subscription in waiting:
            subscription.waited_s += 1
        return max((subscription.waited_s for subscription in waiting), default=0)

    async def run(self) -> None:
        """Read until cancelled."""
        async with anyio.create_task_group() as self._tasks:
            for shard in self._shards:
                self._tasks.start_soon(shard.run)
            await anyio.sleep_forever()
