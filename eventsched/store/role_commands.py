"""Calls of the roles: dispatch, timers, presence, backpressure.

Owns: the arguments and replies of these scripts.
Must not: decide, retry or wait; the scripts decide, the roles loop.
Read next: lua/README.md (what each script decides), roles/dispatcher.py, roles/timer.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import msgspec

from eventsched.schema.events import TenantReason
from eventsched.store.cell_connection import CellConnection
from eventsched.store.replies import fields_of

_PRESENCE_NAME = re.compile(r"(?P<role>[^|]+)\|(?P<set>[^|]*)\|(?P<instance>[^|]+)")
_PRESENCE = re.compile(
    r"(?P<seen>\d{1,15})\|(?P<since>\d{1,15})\|(?P<state>running|failing|ended)\|(?P<error>.*)"
)


class DispatchReply(msgspec.Struct, frozen=True):
    """What one call of the dispatch script did."""

    last_id: str
    left: int
    """Entries of the dispatch stream that are not read yet."""
    jobs: int
    waiting: int
    """Of these jobs, those that were queued because no node has a free slot."""


class TimerReply(msgspec.Struct, frozen=True):
    """What one call of the timer script did."""

    fired: int
    next_ms: int | None
    now_ms: int


PRESENCE_MS = 15_000
"""A process whose last renewal is older is gone."""


class RolePresence(msgspec.Struct, frozen=True):
    """A role of a process: its state at the last renewal."""

    role: str
    projection_set: str
    """The set of a projector; empty for other roles."""
    state: Literal["running", "failing", "ended"]
    error: str = ""
    """The last error of a failing role, one line."""


class StoredPresence(RolePresence, frozen=True, kw_only=True):
    """A role of a process as the cell has it."""

    instance: str
    """Opaque id of the process; for a projector or archiver it is the owner of the lease too."""
    since_ms: int
    seen_ms: int
    """Time of the last renewal."""


class RoleCommands(CellConnection):
    """The calls of a cell that roles make."""

    async def set_backpressure(
        self, reason: str, *, is_active: bool, seen: int, limit: int
    ) -> Literal["started", "ended", "unchanged"]:
        """The cell refuses audio for this reason, or no longer does."""
        reply = await self.run("set_backpressure", reason, int(is_active), seen, limit)
        return reply.decode()  # type: ignore[no-any-return]

    async def set_tenant_lag(self, tenant: str, entries: int) -> None:
        """The cell refuses the tenant for this many entries that are not folded; 0: no longer."""
        await self.run("set_tenant_lag", tenant, entries)

    async def set_tenant_backpressure(
        self, tenant: str, reason: TenantReason, *, is_active: bool, seen: int, limit: int
    ) -> Literal["started", "ended", "unchanged"]:
        """The log says that the tenant is refused for this backlog, or no longer is."""
        reply = await self.run(
            "set_tenant_backpressure", tenant, reason, int(is_active), seen, limit
        )
        return reply.decode()  # type: ignore[no-any-return]

    async def tenant_queues(self) -> dict[str, int]:
        """The jobs of each tenant that wait, with its outcomes in the dispatch queue."""
        waiting: Counter[str] = Counter()
        for key in (self.keys.tenant_queued, self.keys.tenant_undispatched):
            waiting.update(await self.read_numbers(key))
        return dict(waiting)

    async def dispatch_jobs(self, lease_ms: int = 0, consumer: str = "dispatcher") -> DispatchReply:
        """Dispatch or queue the jobs of up to 12 entries of the dispatch stream.

        Args:
            lease_ms: How long the presence lease of the dispatcher lasts. Until it expires, a call
                that finalizes an utterance may assign its jobs itself if the dispatch stream is
                empty.
            consumer: Name of the caller as consumer of the group `dispatch`.
        """
        last_id, left, jobs, waiting = await self.run("dispatch_jobs", lease_ms, consumer)
        return DispatchReply(last_id.decode(), left, jobs, waiting)

    async def fire_timers(self) -> TimerReply:
        """Up to 16 due timers have fired."""
        fired, next_ms, now_ms = await self.run("fire_timers")
        return TimerReply(fired, None if next_ms < 0 else next_ms, now_ms)

    async def renew_presence(
        self, instance: str, since_ms: int, roles: Sequence[RolePresence]
    ) -> int:
        """The roles of this process are there. Return the time of the first renewal.

        Args:
            instance: Opaque id of the process.
            since_ms: The reply of the first renewal; 0 at the first one.
            roles: The roles of the process, at most 64.
        """
        texts = [
            text
            for each in roles
            for text in (each.role, each.projection_set, each.state, each.error)
        ]
        return int(await self.run("renew_presence", instance, since_ms, *texts))

    async def read_presence(self) -> list[StoredPresence]:
        """Return the roles of the processes that were seen within the last hour.

        Fields that `renew_presence` did not write are left out.
        """
        reply = await self.transport.command("HGETALL", self.keys.presence, key=self.keys.presence)
        found = (_presence(name, value) for name, value in fields_of(reply).items())
        return [presence for presence in found if presence is not None]


def _presence(name: bytes, value: bytes) -> StoredPresence | None:
    """Decode a field of the key `presence`, which lua/renew_presence.lua writes; None if other."""
    name_match = _PRESENCE_NAME.fullmatch(name.decode(errors="replace"))
    match = _PRESENCE.fullmatch(value.decode(errors="replace"))
    if name_match is None or match is None:
        return None
    return StoredPresence(
        name_match["role"],
        name_match["set"],
        match["state"],  # type: ignore[arg-type]
        match["error"],
        instance=name_match["instance"],
        since_ms=int(match["since"]),
        seen_ms=int(match["seen"]),
    )
