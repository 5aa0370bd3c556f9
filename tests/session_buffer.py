"""The field `buffer` of a session: its parts by name, and the loss of its last chunks.

Owns: reading and changing the stored field. Must not: interpret it; lua/include/sessions.lua does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("next_seq", "seen", "count", "bytes", "ms", "seq", "at", "first", "last")


def buffer_of(session: Mapping[str, str]) -> dict[str, str]:
    return dict(zip(PARTS, session["buffer"].split("|"), strict=True))


async def forget_chunks(redis: Any, key: str, next_seq: int) -> None:
    """Remove the chunks from `next_seq` on, as a failover that loses them does."""
    _, _, rest = (await redis.hget(key, "buffer")).partition(b"|")
    await redis.hset(key, "buffer", b"%d|%b" % (next_seq, rest))
    clock = key.partition("session:")[0] + "clock"
    before = (await redis.hget(clock, "record")).rpartition(b"|")[0]
    # a generation that no call has stored
    await redis.hset(clock, "record", before + b"|0.1")
