"""Changes entries of a stream by hand, as a program that has the server's URL could."""

from __future__ import annotations

from eventsched.store.client import Client
from eventsched.store.transport import entries_of

LOG_BODY, OUTBOX_BODY, OUTBOX_DATA = 17, 7, 5
"""Places of the body among the names and values of an entry of the log, and of an outbox; place of
the data of an outbox entry."""


async def replace_value(redis: Client, key: str, number: int, at: int, value: bytes) -> list[str]:
    """Replace one value of an entry; return the ids of all entries.

    Args:
        redis: Client of the server.
        key: Key of the stream.
        number: Number of the entry in the stream, from 0.
        at: Place of the value among the names and values of the entry.
        value: The new value.
    """
    entries = entries_of(await redis.execute_command("XRANGE", key, "-", "+"))
    entries[number][1][at] = value
    await redis.delete(key)
    for entry_id, fields in entries:
        await redis.execute_command("XADD", key, entry_id, *fields)
    return [entry_id for entry_id, _ in entries]
