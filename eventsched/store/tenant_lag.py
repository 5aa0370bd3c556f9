"""How many log entries of each tenant a projection set has not folded.

Owns: counting these entries in the log itself, after the checkpoint of the set. So the count is
right after a restart, a failover or a rebuild, and calls and saves have nothing to count.
Must not: write; decide which tenant is refused.
Read next: lag.py (the lag of a set), roles/backpressure.py (refuses tenants).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from eventsched.schema.ids import START, parse_id
from eventsched.schema.keys import cell_of, name_of
from eventsched.store.cell_connection import CellConnection
from eventsched.store.replies import fields_of
from eventsched.store.transport import Entry

ENTRIES_MAX = 100_000
"""Entries that are counted, the oldest ones: by default twice the lag at which the cell is refused.
They take some 15 MB."""
READ_MAX = 256
"""Entries of one read: less than a millisecond of the server's time."""


class TenantLag:
    """Counts the entries by tenant. Entries that were counted before are not read again."""

    def __init__(self, cell: CellConnection) -> None:
        self._cell = cell
        self._after = self._last = START
        self._unfolded: deque[tuple[str, str]] = deque()
        """(id, tenant) of the entries after `_after` up to `_last`; those of nodes have no tenant.
        """
        self._counts: Counter[str] = Counter()
        self._tenants: dict[str, str] = {}
        """By session; empty for a deleted session."""

    def clear(self) -> None:
        """Forget what was read."""
        self._after = self._last = START
        self._unfolded.clear()
        self._counts.clear()
        self._tenants.clear()

    async def count(self, projection_set: str) -> Mapping[str, int]:
        """The entries by tenant; those of nodes and of the cell belong to no tenant."""
        key = self._cell.keys.checkpoint(projection_set)
        checkpoint = await self._cell.transport.command("GET", key, key=key)
        self._move_to(checkpoint.decode() if checkpoint else START)
        while len(self._unfolded) < ENTRIES_MAX:
            entries = await self._cell.read_range(
                self._cell.keys.log, f"({self._last}", "+", READ_MAX
            )
            await self._add(entries)
            if len(entries) < READ_MAX:
                break
        return {tenant: count for tenant, count in self._counts.items() if tenant and count}

    def _move_to(self, checkpoint: str) -> None:
        """Drop the entries up to the checkpoint; all of them if it is an earlier one."""
        after = parse_id(checkpoint)
        if after < parse_id(self._after):
            self.clear()
        while self._unfolded and parse_id(self._unfolded[0][0]) <= after:
            _, tenant = self._unfolded.popleft()
            self._counts[tenant] -= 1
        if not self._unfolded:
            self.clear()
            self._last = checkpoint
        self._after = checkpoint

    async def _add(self, entries: Iterable[Entry]) -> None:
        sessions = [(id_, self._session_of(fields)) for id_, fields in entries]
        await self._read_tenants({session for _, session in sessions if session})
        for id_, session in sessions:
            self._last = id_
            tenant = self._tenants[session] if session else ""
            self._unfolded.append((id_, tenant))
            self._counts[tenant] += 1

    def _session_of(self, fields: Sequence[bytes]) -> str:
        """The session of an entry, which anybody with access to the log may have appended."""
        session = fields_of(fields).get(b"s", b"").decode(errors="replace")
        return session if cell_of(session) == self._cell.cell else ""

    async def _read_tenants(self, sessions: set[str]) -> None:
        """Read the tenants of these sessions that are not known yet."""
        if len(self._tenants) > ENTRIES_MAX:
            self._tenants.clear()
        keys = self._cell.keys
        unknown = sorted(sessions - self._tenants.keys())
        calls = [("HGET", keys.session(name_of(session)), "tenant") for session in unknown]
        replies = await self._cell.read_many(calls)
        for session, tenant in zip(unknown, replies, strict=True):
            self._tenants[session] = (tenant or b"").decode()
