"""Open a client and make sure that the server behind it will do.

Owns: recognising a cluster by asking, the version floor and the memory policy at connect.
Never does: start a server, change its settings. Read next: binaries.py (the floor).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import redis.asyncio as aioredis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from eventsched.errors import InvalidMessage, ServerUnavailable
from eventsched.server.binaries import FLOOR_TEXT, is_new_enough

Client: TypeAlias = "aioredis.Redis | RedisCluster"
SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server said of itself when it was found fit."""

    family: str
    version: str
    is_cluster: bool
    maxmemory_bytes: int
    warnings: tuple[str, ...] = ()


def check_url(url: str) -> str:
    """The same `url`, of a kind that can be opened; InvalidMessage otherwise."""
    if not url.startswith(SCHEMES):
        raise InvalidMessage.of("url", f"must start with {', '.join(SCHEMES)}", f"got {url!r}")
    return url


async def open_client(url: str) -> Client:
    """A client for the server at `url`: a cluster client when the server says it is one."""
    client = aioredis.Redis.from_url(check_url(url))
    try:
        told = await client.info("cluster")
    except (RedisError, OSError) as error:
        await client.aclose()
        raise ServerUnavailable(f"no server answers at {_without_secret(url)}: {error}") from error
    if not told.get("cluster_enabled"):
        return client
    await client.aclose()
    return await RedisCluster.from_url(url).initialize()


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
    return facts[0]


def judge(info: Mapping[str, Any]) -> ServerFacts:
    """The facts in one server's INFO; ServerUnavailable when it will not do."""
    family = "valkey" if "valkey_version" in info else "redis"
    version = str(info[f"{family}_version"])
    if not is_new_enough(family, tuple(int(part) for part in version.split(".")[:2])):
        raise ServerUnavailable(f"the server is {family} {version}; eventsched needs {FLOOR_TEXT}")
    policy = str(info["maxmemory_policy"])
    if policy != "noeviction":
        raise ServerUnavailable(
            f"the server's maxmemory-policy is {policy}: it would drop what was decided; "
            f"run: redis-cli CONFIG SET maxmemory-policy noeviction (and set it in its file)"
        )
    maxmemory_bytes = int(info["maxmemory"])
    warnings = () if maxmemory_bytes else ("maxmemory is 0: no pressure is raised by memory",)
    is_cluster = bool(info.get("cluster_enabled"))
    return ServerFacts(family, version, is_cluster, maxmemory_bytes, warnings)


def _without_secret(url: str) -> str:
    """The address without user and password, fit for a message."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
