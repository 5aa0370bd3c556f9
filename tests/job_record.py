"""The record of a job as it is stored, and broken by hand.

Owns: its parts by name, as `jobs.fields` of eventsched/lua/include/jobs.lua tells them; replacing
one. Never does: what a part means, which is said there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.store.cell import Store

ORDER = (
    "status", "attempt", "node", "epoch", "dispatched", "deadline", "place", "outcome", "refused",
    "core",
)  # fmt: skip


def parts_of(key: str, record: bytes) -> dict[str, str]:
    """Each part by its name; those that say nothing are empty, or not there."""
    parts = dict(zip(ORDER, record.decode().split("|", len(ORDER) - 1), strict=True))
    if place := parts.pop("place"):
        parts["priority"], parts["tag"], entry = place.split(",")
        parts["member"] = f"{entry}:{key}"
    return parts


async def job_record(store: Store, key: str) -> dict[str, str]:
    """As it is stored, with the `code` in its core; none of a job that is not there."""
    place = store.keys.job(key)
    record = await store.transport.command("GET", place, key=place)
    if record is None:
        return {}
    parts = parts_of(key, record)
    return parts | {"code": msgspec.json.decode(parts["core"]).get("code", "")}


async def falsify(redis: Any, store: Store, key: str, part: str, value: int) -> None:
    """One part says something else, as if by a fault."""
    place = store.keys.job(key)
    parts = (await redis.get(place)).split(b"|", len(ORDER) - 1)
    parts[ORDER.index(part)] = b"%d" % value
    await redis.set(place, b"|".join(parts))
