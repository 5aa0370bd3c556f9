"""How stores reach Redis and wait: the seam behind which a simulator can stand.

Owns: the `Transport` protocol and the real one over redis-py: FCALL, and the library loaded where
the server has no such function; bounded jittered retries (harmless: every script has its own
dedupe), blocking reads on their own connection, errors of the connection as ServerUnavailable.
Never does: keys, decisions. Read next: cell.py, library.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias, cast

import anyio
import redis.exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from eventsched.errors import Backpressure, ServerUnavailable, from_reply
from eventsched.server.commands import refusal_of, without_arguments
from eventsched.store import library as lua_library
from eventsched.store.client import refusal

Arg: TypeAlias = bytes | str | int
Entry: TypeAlias = tuple[str, list[bytes]]
"""One stream entry: its id and the flat list of its fields."""

_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
    # A cluster amid a failover, after redis-py has asked for its slots again.
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ReadOnlyError,
)
_UNABLE = ("MISCONF", "NOREPLICAS", "BUSY ")
"""What a server says that is there and cannot: its disk is full, its replicas are gone, or
somebody's script goes on and on."""
_UNLOADABLE = (redis.exceptions.ReadOnlyError, redis.exceptions.NoPermissionError)
_KEYLESS = ("INFO", "TIME", "BGREWRITEAOF", "FUNCTION LOAD")
"""Commands to the server itself: on a cluster the one that serves the key."""
RETRIES = 3
CALLS_MAX = 64
"""Calls under way at once, each on a connection of its own; further ones wait for a place."""
BLOCK_MS_MAX = 4_000
"""Below the socket's own limit of 5 s, so that an empty read is no error."""


class Transport(Protocol):
    """What a store is given to reach Redis and to wait."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """The reply of one script. Raises Refused, ServerUnavailable."""

    async def command(self, *parts: Arg, key: str) -> Any:
        """The reply of one command that changes no key; `key` says where it goes on a cluster."""

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        """Entries after the given ids, by key; none when nothing came within `block_ms`."""

    async def sleep(self, seconds: float) -> None:
        """Wait; virtual time in a simulator."""


def retry_policy() -> Retry:
    """At most three more tries, 20 to 500 ms apart, jittered."""
    return Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RETRIES)


@contextmanager
def answering() -> Iterator[None]:
    """ServerUnavailable is what becomes of a server that is away, loads, or will not serve us."""
    try:
        yield
    except _AWAY as error:
        refused = refusal_of(error)
        if refused is not None:
            raise refused from None  # of HELLO or AUTH at a reconnect, with the password
        raise ServerUnavailable(f"no answer from the server: {without_arguments(error)}") from error
    except redis.exceptions.NoPermissionError as error:
        refused = refusal_of(error)
        raise (refused or ServerUnavailable(f"the server refuses: {refusal(error)}")) from error
    except redis.exceptions.ResponseError as error:
        refused = refusal_of(error)
        if refused is not None:
            raise refused from None  # its words repeat the arguments of the call
        if str(error).startswith(_UNABLE):
            raise ServerUnavailable(f"the server cannot: {error}") from error
        raise


class RedisTransport:
    """The real one. `calling` serves scripts and reads, `blocking` only waits."""

    def __init__(self, calling: Redis | RedisCluster, blocking: Redis | RedisCluster) -> None:
        self._calling = calling
        self._blocking = blocking
        self._places = anyio.Semaphore(CALLS_MAX, fast_acquire=True)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        call = ("FCALL", lua_library.library().function(script), len(keys), *keys, *args)
        try:
            try:
                return await self._send(*call)
            except redis.exceptions.ResponseError as error:
                if not lua_library.is_missing(error):
                    raise
            await self._load(keys[0])
            return await self._send(*call)
        except redis.exceptions.OutOfMemoryError:
            # The server is full before pressure was raised: it refused, and nothing was changed.
            raise Backpressure("BACKPRESSURE", {"retry_after_ms": "1000"}) from None
        except redis.exceptions.ResponseError as error:
            refused = from_reply(str(error))
            if refused is None:
                raise
            raise refused from None

    async def _load(self, key: str) -> None:
        """The server that serves `key` has our functions, whoever else gives them to it."""
        try:
            await self.command("FUNCTION LOAD", "REPLACE", lua_library.library().source, key=key)
        except ServerUnavailable as error:
            if not isinstance(error.__cause__, _UNLOADABLE):
                raise
            kind = type(error)
            raise kind(
                "the server lacks the functions of this release and does not let us load them: "
                f"{error.__cause__}; run `eventsched status` once against its primary, or as a "
                "user with +function|load; eventsched needs FUNCTION, because its decisions are "
                "functions on the server"
            ) from error

    async def command(self, *parts: Arg, key: str) -> Any:
        if isinstance(self._calling, RedisCluster) and parts[0] in _KEYLESS:
            return await self._send(*parts, target_nodes=self._calling.get_node_from_key(key))
        return await self._send(*parts)  # redis-py finds the slot by the command itself

    async def _send(self, *parts: Arg, **where: Any) -> Any:
        async with self._places:
            with answering():
                return await cast("Awaitable[Any]", self._calling.execute_command(*parts, **where))

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        block = min(block_ms, BLOCK_MS_MAX)
        ids = streams.values()
        parts: list[Arg] = ["XREAD", "COUNT", count, "BLOCK", block, "STREAMS", *streams, *ids]
        with answering():
            reply = await cast("Awaitable[Any]", self._blocking.execute_command(*parts))
        return dict(_by_key(reply))

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def aclose(self) -> None:
        await self._calling.aclose()
        await self._blocking.aclose()


def _by_key(reply: Any) -> list[tuple[str, list[Entry]]]:
    """XREAD's reply in either protocol version, keys as text."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    return [(_text(key), entries_of(found)) for key, found in pairs]


def entries_of(reply: Any) -> list[Entry]:
    """The entries of an XRANGE, XREVRANGE or XREAD reply."""
    return [
        (entry_id.decode(), fields if isinstance(fields, list) else _flat(fields))
        for entry_id, fields in _nested(reply)
    ]


def _nested(reply: Any) -> Any:
    # With RESP3 redis-py wraps a stream's entries once more: [[entry, entry, …]].
    if reply and isinstance(reply[0], list) and reply[0] and isinstance(reply[0][0], (list, tuple)):
        return reply[0]
    return reply or []


def _flat(fields: dict[bytes, bytes] | None) -> list[bytes]:
    """Of what redis-py makes a dict; a pending entry that was trimmed has no fields."""
    return [part for pair in (fields or {}).items() for part in pair]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
