"""Open a client and make sure that the server behind it will do.

Owns: reading a URL, recognising a cluster by asking, the version floor, the memory policy and
the role at connect; what is said of a server that refuses.
Never does: start a server, change its settings. Read next: server/discovery.py (the floor).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import redis.asyncio as aioredis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
)

from eventsched.addresses import ESCAPES, display_url
from eventsched.errors import InvalidMessage, ServerUnavailable
from eventsched.schema.validation import check_url
from eventsched.server.commands import check_commands, refusal_of, without_arguments
from eventsched.server.discovery import FLOOR_TEXT, is_new_enough
from eventsched.store.fast_client import LightPool, light

Client: TypeAlias = "aioredis.Redis | RedisCluster"
_FACTS = ("maxmemory_policy", "maxmemory", "role")
"""What is judged of INFO, beside the version."""
_VERSION = re.compile(r"(\d+)\.(\d+)")
CONNECTIONS_MAX = 1_000
"""Far above what a process reads at once: a pool that is full looks like a server that is away."""
_SHUT = (
    "HELLO must be called", "invalid username-password pair", "NOAUTH", "WRONGPASS",
    "Authentication required", "without any password configured",
)  # fmt: skip
"""Words about user and password that redis-py has no type for on every path and server."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server said of itself when it was found fit."""

    family: str
    version: str
    is_cluster: bool
    maxmemory_bytes: int
    primary: str = ""
    """Of a replica: the host and port that it copies."""
    warnings: tuple[str, ...] = ()


async def open_client(url: str) -> Client:
    """A client for the server at `url`: a cluster client when the server says it is one.

    Raises InvalidMessage for a URL that cannot be read, ServerUnavailable.
    """
    client = _unconnected(url)
    try:
        told = await client.info("cluster")
        if not told.get("cluster_enabled"):
            return client
    except (RedisError, OSError) as error:
        await client.aclose()
        raise away(url, error) from None  # its words may repeat a password
    await client.aclose()
    return await _open_cluster(url)


def _unconnected(url: str) -> aioredis.Redis:
    """The client; no connection is tried yet, but its options are."""
    try:
        pool = LightPool.from_url(check_url(url), max_connections=CONNECTIONS_MAX)
        pool.connection_class = light(pool.connection_class)
        client = aioredis.Redis.from_pool(pool)
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError) as error:
        if isinstance(error, InvalidMessage):
            raise
        raise _unreadable(url) from None
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise InvalidMessage.of("url", "replies are read as bytes", "leave out decode_responses")
    return client


class _Cluster(RedisCluster):
    async def _determine_slot(self, command: str, *args: Any) -> int:
        """redis-py asks the server for the keys of each FCALL, which would double the calls."""
        if command == "FCALL":
            return int(self.keyslot(args[2]))
        return await super()._determine_slot(command, *args)

    def lighten(self) -> None:
        """Before it connects: what its nodes are reached by, those named and those found later.

        redis-py's own look for the writer before and use it after a pause, in which a failover may
        have closed the connection.
        """
        kind = light(self.connection_kwargs["connection_class"])
        for options in (self.connection_kwargs, self.nodes_manager.connection_kwargs):
            options["connection_class"] = kind
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = kind  # type: ignore[assignment]


async def _open_cluster(url: str) -> RedisCluster:
    try:
        client = cast("_Cluster", _Cluster.from_url(url, max_connections=CONNECTIONS_MAX))
        client.lighten()
    except (ValueError, TypeError, RedisError, RedisClusterException):
        raise _unreadable(url) from None
    try:
        return await client.initialize()
    except (RedisError, RedisClusterException, OSError) as error:
        await client.aclose()
        raise away(url, error) from None


def away(url: str, error: Exception) -> ServerUnavailable:
    """What is said of a server that does not answer as it should."""
    place = display_url(url)
    if isinstance(error, AuthenticationError) or any(word in str(error) for word in _SHUT):
        return ServerUnavailable(
            f"the server at {place} refuses user or password; "
            f"name them in the URL, as USER:PASSWORD@ before the host"
        )
    refused = refusal_of(error, f"the server at {place}")
    if refused is not None:
        return refused
    if isinstance(error, NoPermissionError):
        return ServerUnavailable(f"the server at {place}: {refusal(error)}")
    return ServerUnavailable(f"no server answers at {place}: {without_arguments(error)}")


def refusal(error: NoPermissionError) -> str:
    """An access list is in the way."""
    return f"{error}; grant it (ACL SETUSER), or name another user in the URL"


def _unreadable(url: str) -> InvalidMessage:
    # Not redis-py's own words: of a password with a slash in it they show a part.
    return InvalidMessage.of(
        "url",
        f"{display_url(url)!r:.200} is none that redis-py can read",
        f"check port, database and options; in a password, {ESCAPES}",
    )


async def check_server(client: Client) -> ServerFacts:
    """The facts of a server that will do; ServerUnavailable with the remedy of one that will not.

    Of a cluster every primary is asked: one that evicts is enough to lose what was decided.
    """
    told: list[Mapping[str, Any]]
    if isinstance(client, RedisCluster):
        nodes = client.get_primaries()
        told = [await client.info(target_nodes=node) for node in nodes]
    else:
        told = [await client.info()]
    facts = [judge(info) for info in told]
    if isinstance(client, RedisCluster):
        for node in client.get_primaries():
            await check_commands(client, target_nodes=node)
    else:
        await check_commands(client)
    return facts[0]


def judge(info: Mapping[str, Any]) -> ServerFacts:
    """The facts in one server's INFO; ServerUnavailable when it will not do."""
    family = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{family}_version", ""))
    numbers = _VERSION.match(version)
    if numbers and not is_new_enough(family, (int(numbers[1]), int(numbers[2]))):
        raise ServerUnavailable(f"the server is {family} {version}; eventsched needs {FLOOR_TEXT}")
    hidden = [name for name in _FACTS if name not in info] + ([] if numbers else ["version"])
    if hidden:
        raise ServerUnavailable(
            f"the server's INFO has no {', '.join(hidden)}: use a server that tells it"
        )
    policy = str(info["maxmemory_policy"])
    if policy != "noeviction":
        raise ServerUnavailable(
            f"the server's maxmemory-policy is {policy}: it would drop what was decided; "
            f"run: redis-cli CONFIG SET maxmemory-policy noeviction (and set it in its file)"
        )
    maxmemory_bytes = int(info["maxmemory"])
    warnings = () if maxmemory_bytes else ("maxmemory is 0: no pressure is raised by memory",)
    is_cluster = bool(info.get("cluster_enabled"))
    primary = f"{info['master_host']}:{info['master_port']}" if info["role"] == "slave" else ""
    return ServerFacts(family, version, is_cluster, maxmemory_bytes, primary, warnings)
