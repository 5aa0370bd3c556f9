"""Sends calls to Redis and waits. The simulation replaces this module's transport with its own.

Owns: the `Transport` protocol and its implementation with redis-py: FCALL, loading the function
library if the server lacks it, bounded jittered retries (safe, because every script deduplicates),
blocking reads on a connection of their own, connection errors as ServerUnavailable.
Must not: know keys or decide.
Read next: cell_connection.py (the caller), library.py, docs/adr/0014-transport-seam.md.
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
from eventsched.store.client import permission_message
from eventsched.store.replies import decode_text

Arg: TypeAlias = bytes | str | int
Entry: TypeAlias = tuple[str, list[bytes]]
"""One stream entry: its id and the flat list of its fields."""

_UNAVAILABLE = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    OSError,
    # A cluster during a failover, after redis-py has refreshed its slots.
    redis.exceptions.ClusterError,
    redis.exceptions.RedisClusterException,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ReadOnlyError,
)
_UNABLE = ("MISCONF", "NOREPLICAS", "BUSY ")
"""Errors of a server that is reachable but cannot execute: its disk is full, its replicas are gone,
or another client's script does not end."""
_UNLOADABLE = (redis.exceptions.ReadOnlyError, redis.exceptions.NoPermissionError)
_KEYLESS = ("INFO", "TIME", "BGREWRITEAOF", "FUNCTION LOAD")
"""Commands without a key. On a cluster they are sent to the server of the call's `key`."""
RETRIES = 3
CALLS_MAX = 64
"""Concurrent calls, each on a connection of its own; further calls wait."""
BLOCK_MS_MAX = 4_000
"""Below the socket timeout of 5 s, so that an empty read is not an error."""


class Transport(Protocol):
    """Sends calls and waits on behalf of a store."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        """The reply of one script. Raises Refused, ServerUnavailable."""

    async def command(self, *parts: Arg, key: str) -> Any:
        """The reply of one command that changes no key; on a cluster `key` selects the server."""

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        """Entries after the given ids, by key; empty if none was added within `block_ms`."""

    async def sleep(self, seconds: float) -> None:
        """Wait; the simulation waits in virtual time."""


def retry_policy() -> Retry:
    """At most three retries, 20 to 500 ms apart, with jitter."""
    return Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RETRIES)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise ServerUnavailable for a server that is unreachable, loading, or refuses to serve."""
    try:
        yield
    except _UNAVAILABLE as error:
        refused = refusal_of(error)
        if refused is not None:
            raise refused from None  # of HELLO or AUTH: the original has the password
        raise ServerUnavailable(f"no answer from the server: {without_arguments(error)}") from error
    except redis.exceptions.NoPermissionError as error:
        refused = refusal_of(error)
        raise (
            refused or ServerUnavailable(f"the server refuses: {permission_message(error)}")
        ) from error
    except redis.exceptions.ResponseError as error:
        refused = refusal_of(error)
        if refused is not None:
            raise refused from None  # the original error repeats the arguments of the call
        if str(error).startswith(_UNABLE):
            raise ServerUnavailable(f"the server cannot: {error}") from error
        raise


class RedisTransport:
    """The transport over redis-py.

    Args:
        calling: Client for scripts and commands.
        blocking: Client for blocking reads only.
    """

    def __init__(self, calling: Redis | RedisCluster, blocking: Redis | RedisCluster) -> None:
        self._calling = calling
        self._blocking = blocking
        self._slots = anyio.Semaphore(CALLS_MAX, fast_acquire=True)

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
            # The server ran out of memory before backpressure started: the call changed nothing.
            raise Backpressure("BACKPRESSURE", {"retry_after_ms": "1000"}) from None
        except redis.exceptions.ResponseError as error:
            refused = from_reply(str(error))
            if refused is None:
                raise
            raise refused from None

    async def _load(self, key: str) -> None:
        """Load our functions into the server of `key`; other clients may do so at the same time."""
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
        return await self._send(*parts)  # redis-py derives the slot from the command

    async def _send(self, *parts: Arg, **target: Any) -> Any:
        async with self._slots:
            with translate_errors():
                return await cast("Awaitable[Any]", self._calling.execute_command(*parts, **target))

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        block = min(block_ms, BLOCK_MS_MAX)
        ids = streams.values()
        parts: list[Arg] = ["XREAD", "COUNT", count, "BLOCK", block, "STREAMS", *streams, *ids]
        with translate_errors():
            reply = await cast("Awaitable[Any]", self._blocking.execute_command(*parts))
        return dict(_by_key(reply))

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def aclose(self) -> None:
        await self._calling.aclose()
        await self._blocking.aclose()


def _by_key(reply: Any) -> list[tuple[str, list[Entry]]]:
    """The reply of XREAD in either protocol version, by key as text."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    return [(decode_text(key), entries_of(entries)) for key, entries in pairs]


def entries_of(reply: Any) -> list[Entry]:
    """The entries of an XRANGE, XREVRANGE or XREAD reply."""
    return [
        (entry_id.decode(), fields if isinstance(fields, list) else _flat(fields))
        for entry_id, fields in _nested(reply)
    ]


def _nested(reply: Any) -> Any:
    # With RESP3 redis-py wraps the entries of a stream in another list: [[entry, entry, …]].
    if reply and isinstance(reply[0], list) and reply[0] and isinstance(reply[0][0], (list, tuple)):
        return reply[0]
    return reply or []


def _flat(fields: dict[bytes, bytes] | None) -> list[bytes]:
    """The list that redis-py made a dict of; a pending entry that was trimmed has no fields."""
    return [part for pair in (fields or {}).items() for part in pair]
