"""What a session has heard, as it is stored: its parts, and a server that has forgotten some of it.

Owns: the parts of the field `heard` by name. Never does: what they mean, which is said in
eventsched/lua/include/sessions.lua.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("next_seq", "seen", "count", "bytes", "ms", "seq", "at", "first", "last")


def heard_of(session: Mapping[str, str]) -> dict[str, str]:
    return dict(zip(PARTS, session["heard"].split("|"), strict=True))


async def forget_chunks(redis: Any, key: str, next_seq: int) -> None:
    """As after a failover: the chunks from this one on never came."""
    _, _, rest = (await redis.hget(key, "heard")).partition(b"|")
    await redis.hset(key, "heard", b"%d|%b" % (next_seq, rest))
    clock = key.partition("session:")[0] + "clock"
    before, _, stamp = (await redis.get(clock)).rpartition(b"|")
    await redis.set(clock, b"%b|%d" % (before, int(stamp) - 1))
