"""The server that the model is compared with: scripts and dumps without an event loop.

Owns: a transport whose calls never wait, and one script that reads a whole cell.
Never does: anything that a script of the product does. Read next: machine.py.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import redis
import redis.cluster

from eventsched.errors import from_reply
from eventsched.schema.keys import Keys
from eventsched.store import library as lua_library
from eventsched.store.transport import Arg, Entry
from tests.functions import load_functions
from tests.server_kinds import Server

T = TypeVar("T")
Sync = redis.Redis | redis.cluster.RedisCluster

DUMP = """
local entries = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  local kind, value = redis.call('TYPE', key).ok, ''
  if kind == 'string' then value = redis.call('GET', key) end
  if kind == 'hash' then value = redis.call('HGETALL', key) end
  if kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'set' then value = redis.call('SMEMBERS', key) end
  if kind == 'stream' then
    value = redis.call('XRANGE', key, key == KEYS[1] and '(' .. ARGV[2] or '-', '+')
  end
  entries[#entries + 1] = { key, kind, value }
end
return entries
"""


def connect(server: Server) -> Sync:
    kind = redis.cluster.RedisCluster if server.is_cluster else redis.Redis
    client: Sync = kind.from_url(server.url)
    load_functions(client)
    return client


def run(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


def _version(client: Sync) -> tuple[int, int]:
    """The version of Redis whose commands the server has, as (major, minor)."""
    facts: Any = client.info("server")
    one = facts if "redis_version" in facts else next(iter(facts.values()))
    major, minor, *_ = one["redis_version"].split(".")
    return int(major), int(minor)


class Wire:
    """A transport over a blocking client."""

    def __init__(self, client: Sync) -> None:
        self.client = client
        self.called: set[str] = set()
        """Scripts that were called, of all examples."""
        self.event_types: set[str] = set()
        """Types of the events that were appended."""
        self.drained_max = 0
        """Most held results that a call has delivered."""
        self.version = _version(client)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self.called.add(script)
        call = ("FCALL", lua_library.library().function(script), len(keys), *keys, *args)
        try:
            return self.call(*call)
        except redis.exceptions.ResponseError as error:
            refused = from_reply(str(error))
            if refused is None:
                raise
            raise refused from None

    async def command(self, *parts: Arg, key: str) -> Any:
        return self.call(*parts)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*call, key=str(call[1])) for call in calls]

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        raise AssertionError("nothing here waits")

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        raise AssertionError("nothing here waits")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")

    def call(self, *parts: Arg) -> Any:
        return self.client.execute_command(*parts)  # type: ignore[no-untyped-call]

    def names(self, pattern: str) -> list[str]:
        """Keys that match."""
        names: Any = self.client.keys(pattern)
        return [name.decode() for name in names]

    def dump(self, keys: Keys, after: str) -> dict[str, tuple[str, Any]]:
        """Every key of the cell with its type and content; of the log the entries after an id."""
        dumps = self.call("EVAL", DUMP, 1, keys.log, f"{keys.prefix}*", after)
        return {name.decode(): (kind.decode(), value) for name, kind, value in dumps}
