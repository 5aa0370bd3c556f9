"""Sends calls to Redis and waits. The simulation replaces this module's transport with its own.

Owns: the `Transport` protocol and its implementation with redis-py: FCALL, loading the function
library if the server lacks it, bounded jittered retries (safe, because every script deduplicates),
blocking reads on a connection of their own, testing the access list again after it refused a
command.
Must not: know keys, decide, or classify errors.
Read next: cell_connection.py (the caller), error_replies.py, access.py, library.py,
docs/adr/0014-transport-seam.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from time import monotonic
from typing import Any, Protocol, TypeAlias, cast

import anyio
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import OutOfMemoryError, ResponseError

from eventsched.errors import (
    Backpressure,
    CellUnknown,
    CommandRefused,
    ServerAway,
    ServerUnavailable,
    StateDamaged,
    UnexpectedReply,
    from_reply,
)
from eventsched.instruments import instruments
from eventsched.schema.keys import SINGLE_TYPES, cell_of_key
from eventsched.store import library as lua_library
from eventsched.store.access import check_access
from eventsched.store.client import reconnect
from eventsched.store.error_replies import (
    CLIENT_ERRORS,
    has_other_role,
    is_of_other_type,
    other_types,
    translate,
)
from eventsched.store.library_check import check_library
from eventsched.store.needed_commands import commands_of
from eventsched.store.replies import decode_text

Arg: TypeAlias = bytes | str | int
Entry: TypeAlias = tuple[str, list[bytes]]
"""One stream entry: its id and the flat list of its fields."""

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

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        """The replies of commands that change no key, in the order of `calls`; sent together.

        Each call is the name of a command, one key, and more arguments. All keys are of one cell.
        """

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        """Entries after the given ids, by key; empty if none was added within `block_ms`."""

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        """The next entries of a consumer group; with `noack` nobody acknowledges them.

        Empty if none was added within `block_ms`; with 0 the read does not wait. A read whose reply
        is lost has moved the group.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait; the simulation waits in virtual time."""


def retry_policy() -> Retry:
    """At most three retries, 20 to 500 ms apart, with jitter."""
    return Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), RETRIES)


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
        self._untested: set[str] = set()
        """Scripts whose commands the access list may have lost, because it has refused one."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        observer = instruments.observer
        if observer is None:
            return await self._run_script(script, keys, args)
        began_s = monotonic()
        try:
            return await self._run_script(script, keys, args)
        finally:
            observer.script_called(script, monotonic() - began_s)

    async def _run_script(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        if script in self._untested:
            await self._test_access(script, keys[0])
        call = ("FCALL", lua_library.library().function(script), len(keys), *keys, *args)
        try:
            return await self._run(call, keys[0])
        except CLIENT_ERRORS as error:
            refusal = await self._translated(error)
            if is_of_other_type(error):
                await self._name_other_types(keys[0])
        except CommandRefused as error:
            refusal = error
        if isinstance(refusal, CommandRefused):
            self._untested.update(lua_library.names())
            await self._test_access(script, keys[0])  # raises an error that names all commands
        raise refusal

    async def _run(self, call: Sequence[Arg], key: str) -> Any:
        """Send a call of a function; load the functions first if the server lacks them."""
        try:
            try:
                return await self._send(*call)
            except ResponseError as error:
                if not lua_library.is_missing(error):
                    raise
            await self._load(key)
            return await self._send(*call)
        except OutOfMemoryError:
            # The server ran out of memory before backpressure started: the call changed nothing.
            raise Backpressure("BACKPRESSURE", {"retry_after_ms": "1000"}) from None
        except ResponseError as error:
            if str(error).startswith(CellUnknown.code):
                raise CellUnknown.of(cell_of_key(key)) from None
            if str(error).startswith(StateDamaged.code):
                raise StateDamaged.of(str(error)) from None
            refused = from_reply(str(error))
            if refused is None:
                raise
            raise refused from None

    async def _load(self, key: str) -> None:
        """Load our functions into the server of `key`; other clients may do so at the same time."""
        try:
            await self.command("FUNCTION LOAD", "REPLACE", lua_library.library().source, key=key)
        except CommandRefused as error:
            raise CommandRefused(
                "the server lacks the functions of this release and does not let us load them: "
                f"{error}; connect once as a user with +function|load"
            ) from None
        except ServerAway as error:  # for example, because its memory is full
            raise ServerAway(f"the server lacks the functions of this release: {error}") from None
        except UnexpectedReply:  # for example, because another library has our functions
            await self._check_library(key)
            raise

    async def _check_library(self, key: str) -> None:
        """Raise ServerRefused if the server of `key` has foreign functions with our names."""
        try:
            if isinstance(self._calling, RedisCluster):
                node = self._calling.get_node_from_key(key)
                await check_library(self._calling, target_nodes=node)
            else:
                await check_library(self._calling)
        except CLIENT_ERRORS as error:
            raise await self._translated(error) from None

    async def _test_access(self, script: str, key: str) -> None:
        """Test whether the access list allows what a script needs, before it is called again.

        Raises CommandRefused, which names all commands that are missing. A user who may not ask
        gets no answer; then the call is made.
        """
        try:
            await check_access(self._calling, key, sorted({"FCALL", *commands_of(script)}))
        except CLIENT_ERRORS as error:
            raise await self._translated(error) from None
        self._untested.discard(script)

    async def _name_other_types(self, log_key: str) -> None:
        """Raise UnexpectedReply with the names of the cell's keys of another type, if there are.

        A function that fails does not say at which key. `verify` names those of an entity. A user
        who may not ask for types gets the error of the function.
        """
        prefix = log_key.removesuffix("log")
        expected = {f"{prefix}{name}": kind for name, kind in SINGLE_TYPES.items()}
        try:
            replies = await self.commands([("TYPE", key) for key in expected])
        except CommandRefused:
            return
        kinds = dict(zip(expected, map(decode_text, replies), strict=True))
        wrong = [key for key, kind in kinds.items() if kind not in ("none", expected[key])]
        if wrong:
            raise other_types(wrong)

    async def _translated(self, error: Exception) -> ServerUnavailable:
        """Return the exception of the public interface; connect anew after a change of roles."""
        if has_other_role(error):
            await reconnect(self._calling)
            await reconnect(self._blocking)
        return translate(error)

    async def command(self, *parts: Arg, key: str) -> Any:
        try:
            if isinstance(self._calling, RedisCluster) and parts[0] in _KEYLESS:
                return await self._send(*parts, target_nodes=self._calling.get_node_from_key(key))
            return await self._send(*parts)  # redis-py derives the slot from the command
        except CLIENT_ERRORS as error:
            if is_of_other_type(error):
                raise other_types([key]) from None
            raise await self._translated(error) from None

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        pipeline = self._calling.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command(*call)
        try:
            async with self._slots:
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
            for call, reply in zip(calls, replies, strict=True):
                if isinstance(reply, Exception):
                    if is_of_other_type(reply):
                        raise other_types([str(call[1])])
                    raise reply
        except CLIENT_ERRORS as error:
            raise await self._translated(error) from None
        return replies

    async def _send(self, *parts: Arg, **target: Any) -> Any:
        async with self._slots:
            return await cast("Awaitable[Any]", self._calling.execute_command(*parts, **target))

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        ids = streams.values()
        return await self._read("XREAD", *_limits(block_ms, count), "STREAMS", *streams, *ids)

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        start: tuple[Arg, ...] = ("XREADGROUP", "GROUP", group, consumer)
        limits = (*_limits(block_ms, count), *(("NOACK",) if noack else ()))
        streams = await self._read(*start, *limits, "STREAMS", key, ">")
        return streams.get(key, [])

    async def _read(self, *parts: Arg) -> dict[str, list[Entry]]:
        """Read streams on a connection that may wait."""
        try:
            reply = await cast("Awaitable[Any]", self._blocking.execute_command(*parts))
        except CLIENT_ERRORS as error:
            raise await self._translated(error) from None
        return dict(_by_key(reply))

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def aclose(self) -> None:
        await self._calling.aclose()
        await self._blocking.aclose()


def _limits(block_ms: int, count: int) -> tuple[Arg, ...]:
    """The arguments that bound a read. It does not wait with 0, which would wait without end."""
    return ("COUNT", count, *(("BLOCK", min(block_ms, BLOCK_MS_MAX)) if block_ms else ()))


def _by_key(reply: Any) -> list[tuple[str, list[Entry]]]:
    """The reply of XREAD or XREADGROUP in either protocol version, by key as text."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    return [(decode_text(key), entries_of(entries)) for key, entries in pairs]


def entries_of(reply: Any) -> list[Entry]:
    """The entries of an XRANGE, XREVRANGE, XREAD or XREADGROUP reply."""
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
