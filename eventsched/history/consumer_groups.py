"""The consumer groups of other programs on the log of a cell, and what they hold up.

Owns: position, lag, pending entries and idle time of each group, and what trimming keeps for it.
Must not: write; trim (lua/trim_log.lua decides, by the same rules).
Read next: status.py, cli/consumer_groups.py, docs/consumer-groups.md.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.schema.ids import START, format_id, ms_of, parse_id
from eventsched.store.cell import Store
from eventsched.store.cell_connection import settings_of
from eventsched.store.lag import ARCHIVE
from eventsched.store.replies import decode_lossy, decode_text, named_fields_of


class ConsumerGroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer group of another program on the log of a cell."""

    group: str
    position: str
    """Id of the last entry that it has read."""
    lag: int | None
    """Number of log entries that it has not read; None if the server does not know it, as after a
    start in the middle of the log, until the group has read the last entry once.
    """
    pending: int
    """Number of entries that it has read and not acknowledged."""
    consumers: int
    idle_ms: int | None
    """Time since the last call of one of its consumers; None without consumers."""
    keeps_from: str
    """Id of the oldest log entry that trimming keeps for it; empty if it needs none of the log."""
    holds_up_ms: int
    """How much of the log, in time, the system no longer needs and trimming keeps for the group."""


class _Position(msgspec.Struct, frozen=True):
    """A group on the log as the server reports it."""

    name: str
    fields: dict[str, Any]
    keeps_from: str
    """Trimming keeps the entries from this id on."""
    is_own: bool


async def read_consumer_groups(store: Store, now_ms: int) -> list[ConsumerGroupStatus]:
    """Return the groups of other programs on the log of a cell, by name.

    The reads are not atomic, so that figures may differ by a few entries.
    """
    log = store.keys.log
    if not await store.transport.command("EXISTS", log, key=log):
        return []
    reply = await store.transport.command("XINFO", "GROUPS", log, key=log)
    positions = [await _position(store, named_fields_of(each)) for each in reply]
    others = [each for each in positions if not each.is_own]
    if not others:
        return []
    first, last = await store.first_id(log), await store.last_id(log)
    own = [ms_of(each.keeps_from) for each in positions if each.is_own]
    needed_from_ms = min([await _floor_ms(store, now_ms), ms_of(last), *own])
    statuses = []
    for each in others:
        keeps_from = max(each.keeps_from, first, key=parse_id)
        statuses.append(
            ConsumerGroupStatus(
                group=each.name,
                position=decode_text(each.fields["last-delivered-id"]),
                lag=each.fields["lag"],
                pending=each.fields["pending"],
                consumers=each.fields["consumers"],
                idle_ms=await _idle_ms(store, each.fields["name"]),
                keeps_from=keeps_from if parse_id(keeps_from) <= parse_id(last) else "",
                holds_up_ms=max(0, needed_from_ms - ms_of(keeps_from)),
            )
        )
    return sorted(statuses, key=lambda status: status.group)


async def _position(store: Store, fields: dict[str, Any]) -> _Position:
    """A set acknowledges by its checkpoint; another program by XACK."""
    name, log = decode_lossy(fields["name"]), store.keys.log
    needed = [_after(decode_text(fields["last-delivered-id"]))]
    lease = store.keys.lease(name)
    is_own = name == ARCHIVE or bool(await store.transport.command("EXISTS", lease, key=lease))
    if is_own:
        checkpoint = store.keys.checkpoint(name)
        saved = await store.transport.command("GET", checkpoint, key=checkpoint)
        needed += [_after(decode_text(saved))] if saved else []
    elif fields["pending"]:
        summary = await store.transport.command("XPENDING", log, fields["name"], key=log)
        oldest = summary["min"] if isinstance(summary, dict) else summary[1]
        needed += [decode_text(oldest)] if oldest else []
    return _Position(name, fields, min(needed, key=parse_id), is_own)


async def _floor_ms(store: Store, now_ms: int) -> int:
    """Time before which the log may be trimmed if its consumer groups allow it; 0: never."""
    settings = settings_of(await store.read_hash(store.keys.settings))
    archive = await store.read_hash(store.keys.archive)
    if archive:
        floor = ms_of(archive.get("to", START))
    elif settings.log_retention_ms:
        floor = now_ms - settings.log_retention_ms
    else:
        return 0
    return max(0, min(floor, now_ms - settings.log_keep_ms))


async def _idle_ms(store: Store, group: bytes | str) -> int | None:
    log = store.keys.log
    reply = await store.transport.command("XINFO", "CONSUMERS", log, group, key=log)
    return min((named_fields_of(each)["idle"] for each in reply), default=None)


def _after(entry_id: str) -> str:
    """The smallest id after an id."""
    ms, seq = parse_id(entry_id)
    return format_id(ms, seq + 1)
