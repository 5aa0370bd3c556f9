"""The roles of a cell for `eventsched status`: how many run, since when, and errors.

Owns: the list of the roles that a cell needs, and the reads for their status.
Must not: write, decide.
Read next: store/role_commands.py (presence), status.py, cli/status_view.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from eventsched.projection.installed import enabled_names
from eventsched.store.cell import Store
from eventsched.store.lag import ARCHIVE
from eventsched.store.replies import stored_number
from eventsched.store.role_commands import PRESENCE_MS, StoredPresence

PROJECTOR, ARCHIVER, GATEWAY = "projector", "archiver", "gateway"
MEANINGS = {
    "dispatcher": "jobs wait in the dispatch queue",
    "timer": "no deadline passes: pauses, idle sessions and lost nodes go unnoticed",
    PROJECTOR: "views are not updated",
    ARCHIVER: "the log is not archived, and not trimmed",
    GATEWAY: "no client connects through it",
    "traces": "traces are not exported, and the log keeps what they need",
}
"""Role -> what happens while none runs."""


class RoleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One role of a cell, and the processes that run it."""

    role: str
    projection_set: str
    """The set of a projector; empty for other roles."""
    running: int
    """Number of processes that were seen within the last 15 s."""
    failing: int
    """Of these, those whose role has failed and is started again."""
    standbys: int
    """Of these, those that wait for the lease of a projector or archiver."""
    owner: str
    """Opaque id of the process that has the lease; empty without one."""
    since_ms: int
    """When the first of these processes began; 0 if none runs."""
    seen_ms: int
    """When one of these processes was last seen; 0 if none was within an hour."""
    error: str
    """The last error of a failing role, one line."""

    @property
    def name(self) -> str:
        return f"{self.role} {self.projection_set}".strip()

    @property
    def problem(self) -> str:
        """What a person must look at; empty if the role runs."""
        if not self.running:
            return f"none runs: {MEANINGS.get(self.role, '')}".removesuffix(": ")
        return f"{self.failing} of {self.running} failing: {self.error}" if self.failing else ""


async def read_roles(
    store: Store, now_ms: int, roles: Iterable[str] | None = None
) -> list[RoleStatus]:
    """Return the status of each role that the cell needs or has; with `roles` of these alone.

    A role that the cell does not need, such as the gateway, is listed until its processes have
    ended in order, or are gone for an hour.
    """
    stored = await store.read_presence()
    others = [(each.role, each.projection_set) for each in stored if each.state != "ended"]
    names = dict.fromkeys([*await _needed(store), *others])
    if roles is not None:
        wanted = dict.fromkeys(roles)
        names = {name: None for name in names if name[0] in wanted}
        names |= {(role, ""): None for role in wanted if not any(role == name[0] for name in names)}
    return [
        _status(
            role,
            projection_set,
            [each for each in stored if (each.role, each.projection_set) == (role, projection_set)],
            now_ms,
            await _owner(store, role, projection_set, now_ms),
        )
        for role, projection_set in names
    ]


async def _needed(store: Store) -> list[tuple[str, str]]:
    """The roles without which the cell does not do its work, each with its projection set."""
    has_archive = await store.transport.command(
        "EXISTS", store.keys.archive, key=store.keys.archive
    )
    return [
        ("dispatcher", ""),
        *((PROJECTOR, name) for name in enabled_names()),
        ("timer", ""),
        *([(ARCHIVER, "")] if has_archive else []),
    ]


async def _owner(store: Store, role: str, projection_set: str, now_ms: int) -> str:
    """The owner of the lease of a projector or archiver; empty if nobody has it."""
    leased = ARCHIVE if role == ARCHIVER else projection_set
    key = store.keys.lease(leased)
    lease = await store.read_hash(key) if leased else {}
    until_ms = stored_number(lease.get("until", "0"), key)
    return lease.get("owner", "") if until_ms > now_ms else ""


def _status(
    role: str, projection_set: str, stored: Sequence[StoredPresence], now_ms: int, owner: str
) -> RoleStatus:
    present = [
        each for each in stored if each.state != "ended" and now_ms - each.seen_ms <= PRESENCE_MS
    ]
    failing = [each for each in present if each.state == "failing"]
    owners = [each for each in present if each.instance == owner]
    return RoleStatus(
        role=role,
        projection_set=projection_set,
        running=len(present),
        failing=len(failing),
        standbys=len(present) - len(owners) if projection_set or role == ARCHIVER else 0,
        owner=owner,
        since_ms=min((each.since_ms for each in present), default=0),
        seen_ms=max((each.seen_ms for each in stored), default=0),
        error=max(failing, key=lambda each: each.seen_ms).error if failing else "",
    )
