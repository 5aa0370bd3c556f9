"""Calls of the consumer groups of other programs on the log of a cell.

Owns: the commands by which their consumers read and acknowledge; the removal of idle consumers.
Must not: read from the groups of the system; decode entries other than the drop of a group; retry.
Read next: client/log_reading.py (the caller), operator_commands.py (which drops a group),
docs/consumer-groups.md.
"""

from __future__ import annotations

from typing import Any

from eventsched.errors import InvalidMessage
from eventsched.schema.codec import UndecodableEvent, decode
from eventsched.schema.events import ConsumerGroupDropped
from eventsched.schema.ids import START
from eventsched.store.cell_connection import CellConnection
from eventsched.store.replies import decode_text, named_fields_of
from eventsched.store.transport import Entry, entries_of

SYSTEM_GROUPS = frozenset({"archive", "core", "dispatch"})
"""Of the system in every cell; so is each group with the name of a projection set that has run."""
READ_MAX = 1_000
"""Entries in one read for the event of a drop."""
_DROPPED = ConsumerGroupDropped.__name__.encode()


class GroupCommands(CellConnection):
    """The calls of a cell that consumers of other programs make."""

    async def has_log(self) -> bool:
        """Whether the log exists: a server that came back empty has none before the next event."""
        log = self.keys.log
        return bool(await self.transport.command("EXISTS", log, key=log))

    async def read_position(self, group: str) -> str | None:
        """Id of the last entry that the consumer group has read; None if there is no such group.

        Raises ServerUnavailable.
        """
        log = self.keys.log
        if not await self.has_log():
            return None
        reply = await self.transport.command("XINFO", "GROUPS", log, key=log)
        groups = {each["name"]: each for each in map(named_fields_of, reply)}
        found = groups.get(group.encode())
        return decode_text(found["last-delivered-id"]) if found else None

    async def was_dropped(self, group: str, after: str) -> bool:
        """Whether the log says, in an entry after this id, that an operator dropped the group."""
        while entries := await self.read_range(self.keys.log, f"({after}", "+", READ_MAX):
            if any(_drops(entry, group) for entry in entries):
                return True
            after = entries[-1][0]
        return False

    async def create_group(self, group: str, start: str) -> None:
        """The log has the consumer group. A new one reads the entries after `start`.

        Args:
            group: Its name.
            start: Id of an entry, or `$` for the end of the log.

        Raises:
            InvalidMessage: The group is one of the system.
        """
        log, lease = self.keys.log, self.keys.lease(group)
        if group in SYSTEM_GROUPS or await self.transport.command("EXISTS", lease, key=lease):
            raise InvalidMessage.of("group", f"{group} is one of the system", "name another one")
        if await self.read_position(group) is None:
            call = ("XGROUP", "CREATE", log, group, start, "MKSTREAM")
            await self.transport.command(*call, key=log)

    async def read_new(self, group: str, consumer: str, count: int, block_ms: int) -> list[Entry]:
        """The next entries of the group; waits for one at most `block_ms`."""
        return await self.transport.read_group(
            self.keys.log, group, consumer, block_ms=block_ms, count=count, noack=False
        )

    async def read_unacknowledged(self, group: str, consumer: str, count: int) -> list[Entry]:
        """The first entries that the consumer has read and not acknowledged, and still has.

        The server counts the time since their delivery anew.
        """
        log = self.keys.log
        start = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count)
        reply = await self.transport.command(*start, "STREAMS", log, START, key=log)
        streams = reply.values() if isinstance(reply, dict) else [pair[1] for pair in reply or []]
        return [entry for entries in streams for entry in entries_of(entries)]

    async def claim(self, group: str, consumer: str, idle_ms: int, count: int) -> list[Entry]:
        """Entries that other consumers have not acknowledged for `idle_ms` are the consumer's."""
        log, cursor = self.keys.log, START
        while True:
            call = ("XAUTOCLAIM", log, group, consumer, idle_ms, cursor, "COUNT", count)
            reply: Any = await self.transport.command(*call, key=log)
            entries, cursor = entries_of(reply[1]), decode_text(reply[0])
            if entries or cursor == START:
                return entries

    async def acknowledge(self, group: str, *entry_ids: str) -> None:
        """The entries are processed. A repeated call has no effect."""
        log = self.keys.log
        await self.transport.command("XACK", log, group, *entry_ids, key=log)

    async def remove_idle_consumers(self, group: str, consumer: str, idle_ms: int) -> int:
        """Remove the other consumers that have not called for `idle_ms` and have no entries.

        Returns:
            Their number.

        Raises:
            InvalidMessage: The group is one of the system.
        """
        return int(await self.run("remove_idle_consumers", group, consumer, idle_ms))


def _drops(entry: Entry, group: str) -> bool:
    """Whether an entry of the log is the event that an operator dropped the group."""
    if _DROPPED not in entry[1]:
        return False
    try:
        data = decode(*entry).data
    except UndecodableEvent:
        return False
    return isinstance(data, ConsumerGroupDropped) and data.group == group
