"""Checks the consumer groups of a cell: I11.

Owns: comparing position, entries read and lag of each group with its stream.
Must not: write; check the groups of other programs, whose position is theirs to choose.
Read next: verify.py (the caller), lua/include/groups.lua (moves the groups).

The reads are not atomic, and a running system moves its groups. The entries after a position up to
a known end of the stream do not change, and every other number is compared with its bounds before
and after.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from eventsched.audit.invariants import Violation
from eventsched.projection.store import ProjectionStore
from eventsched.store.lag import ConsumerLag
from eventsched.store.replies import decode_text, named_fields_of

READ_MAX = 1_000
"""Entries that a read counts."""
LOOKS_MAX = 5
"""How often the dispatch queue is read again because it has changed meanwhile."""
DISPATCH = "dispatch"


class StreamEnd(NamedTuple):
    """The end of a stream at one time."""

    added: int
    """Entries that the stream ever had."""
    length: int
    last: str


class ConsumerGroup(NamedTuple):
    """A consumer group at one time; the server may not know `read` and `lag`."""

    name: str
    position: str
    read: int | None
    lag: int | None


class GroupChecks:
    """The checks of one cell's consumer groups."""

    def __init__(self, store: ProjectionStore) -> None:
        self._store = store
        self._keys = store.keys

    async def run(self) -> list[Violation]:
        """I11: the lag of each group of the system is the number of entries after its position."""
        names = await ConsumerLag(self._store).projection_sets()
        violations: list[Violation] = []
        if names:
            before = await self._end(self._keys.log)
            groups = await self._groups(self._keys.log)
            after = await self._end(self._keys.log)
            for group in groups:
                if group.name in names:
                    violations += await self._check(group, before, after)
        return violations + await self._check_dispatch()

    async def entries_up_to(self, position: str) -> int:
        """How many entries the log ever had up to a position from which nothing is trimmed."""
        end = await self._end(self._keys.log)
        return end.added - await self._count(position, end.last)

    async def _check(
        self, group: ConsumerGroup, before: StreamEnd, after: StreamEnd
    ) -> list[Violation]:
        where = f"consumer_group:{group.name}"
        if group.read is None or group.lag is None:
            return [Violation("I11", where, f"its lag is unknown at {group.position}")]
        up_to = after.added - await self._count(group.position, after.last)
        if group.read != up_to:
            what = f"it has read {group.read} entries, the log had {up_to} up to {group.position}"
            return [Violation("I11", where, what)]
        if not before.added - up_to <= group.lag <= after.added - up_to:
            what = f"its lag is {group.lag}, {before.added - up_to} entries are after its position"
            return [Violation("I11", where, what)]
        return []

    async def _count(self, after: str, upto: str) -> int:
        """The number of log entries after an id."""
        count = 0
        while entries := await self._store.read_log(after, READ_MAX, upto):
            count, after = count + len(entries), entries[-1][0]
        return count

    async def _check_dispatch(self) -> list[Violation]:
        """I11: the lag of dispatch is the length of its queue, which has no entry that was read."""
        key = self._keys.dispatch
        if not await self._store.transport.command("EXISTS", key, key=key):
            return []
        for _ in range(LOOKS_MAX):
            before = await self._end(key)
            lags = [each.lag for each in await self._groups(key) if each.name == DISPATCH]
            if await self._end(key) != before:
                continue
            if lags not in ([before.length], [None]):  # unknown after a deletion by hand
                what = f"its lag is {lags}, the queue has {before.length} entries"
                return [Violation("I11", f"consumer_group:{DISPATCH}", what)]
            break
        return []

    async def _end(self, key: str) -> StreamEnd:
        info = await self._info("STREAM", key)
        fields = named_fields_of(info)
        last = decode_text(fields["last-generated-id"])
        return StreamEnd(int(fields["entries-added"]), int(fields["length"]), last)

    async def _groups(self, key: str) -> list[ConsumerGroup]:
        groups = map(named_fields_of, await self._info("GROUPS", key))
        return [
            ConsumerGroup(
                decode_text(group["name"]),
                decode_text(group["last-delivered-id"]),
                group["entries-read"],
                group["lag"],
            )
            for group in groups
        ]

    async def _info(self, what: str, key: str) -> Any:
        return await self._store.transport.command("XINFO", what, key, key=key)
