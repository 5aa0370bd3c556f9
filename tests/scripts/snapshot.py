"""The records of a cell at one moment, read in one call, for checks that look at many keys.

Owns: the copy, and the answers of commands that read it. Streams are not copied: commands on a
stream read the server. Never does: check anything. Read next: cell_state.py, session_state.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from eventsched.store.transport import Arg, Entry, Transport
from tests.fixtures_store import TimedStore

READ = """
local function read(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'string' then return redis.call('GET', key) end
  if kind == 'hash' then return redis.call('HGETALL', key) end
  if kind == 'set' then return redis.call('SMEMBERS', key) end
  if kind == 'zset' then return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
end

local records = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  records[#records + 1] = key
  records[#records + 1] = read(key) or false
end
return records
"""
WHOLE: dict[str, tuple[Arg, ...]] = {
    "GET": (), "HGETALL": (), "SMEMBERS": (), "ZRANGE": (0, -1, "WITHSCORES"),
}  # fmt: skip
"""Commands that read a whole record, with the arguments that do."""


async def snapshot(store: TimedStore) -> TimedStore:
    """A store whose reads see the records as they are now; it changes nothing."""
    keys = store.keys
    reply = await store.transport.command(
        "EVAL", READ, 1, keys.log, f"{keys.prefix}*", key=keys.log
    )
    records = dict(zip(map(bytes.decode, reply[::2]), reply[1::2], strict=True))
    copy = TimedStore(_CopiedRecords(records, store.transport), store.cell)
    copy.at_ms = store.at_ms
    return copy


class _CopiedRecords:
    """Answers commands that read a record from the copy, and others from the server."""

    def __init__(self, records: Mapping[str, Any], server: Transport) -> None:
        self._records = records
        self._server = server

    async def command(self, *parts: Arg, key: str) -> Any:
        name, _, *arguments = parts
        if name == "EXISTS":
            return int(key in self._records)
        if WHOLE.get(str(name)) == tuple(arguments):
            return self._records.get(key, None if name == "GET" else [])
        assert str(name).startswith("X"), f"not a read of a whole record: {parts}"
        return await self._server.command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*parts, key=str(parts[1])) for parts in calls]

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> NoReturn:
        raise AssertionError(f"{script} would change the cell")

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        return await self._server.read_blocking(streams, block_ms, count)

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        return await self._server.read_group(
            key, group, consumer, block_ms=block_ms, count=count, noack=noack
        )

    async def sleep(self, seconds: float) -> None:
        await self._server.sleep(seconds)
