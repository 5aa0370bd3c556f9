"""Opens a client and checks that its server is usable.

Owns: parsing the URL, the warning about TLS without authentication, detecting a cluster, the checks
of version, memory policy and role at connect, closing connections to a server whose role has
changed.
Must not: start a server or change its settings.
Read next: server/discovery.py (the minimum version), error_replies.py, access.py, library_check.py,
fast_client.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, cast

import redis.asyncio as aioredis
from redis import DriverInfo
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError

from eventsched.addresses import ESCAPES, display_url
from eventsched.errors import InvalidMessage, ServerRefused
from eventsched.logs import get_logger
from eventsched.schema.validation import check_url
from eventsched.server.discovery import FLOOR_TEXT, is_new_enough
from eventsched.store.access import check_commands
from eventsched.store.error_replies import CLIENT_ERRORS, translate
from eventsched.store.fast_client import FastPool, fast_connection
from eventsched.store.library_check import check_library

Client: TypeAlias = "aioredis.Redis | RedisCluster"
_FACTS = ("maxmemory_policy", "maxmemory", "role")
"""Fields of INFO that are checked, besides the version."""
_VERSION = re.compile(r"(\d+)\.(\d+)")
CONNECTIONS_MAX = 1_000
"""Far more than a process uses at once: an exhausted pool looks like an unreachable server."""

log = get_logger("eventsched.store.client")


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Facts about a server that passed the checks."""

    family: str
    version: str
    is_cluster: bool
    maxmemory_bytes: int
    primary: str = ""
    """If the server is a replica: host and port of its primary."""
    warnings: tuple[str, ...] = ()


async def open_client(url: str) -> Client:
    """Open a client for the server at `url`; a cluster client if the server is part of one.

    Raises InvalidMessage for a URL that cannot be parsed, ServerUnavailable.
    """
    client = _make_client(url)
    _warn_about_tls(url, client)
    try:
        info = await client.info("cluster")
        if not info.get("cluster_enabled"):
            return client
    except CLIENT_ERRORS as error:
        await client.aclose()
        raise translate(error, display_url(url)) from None  # redis-py's may contain a password
    await client.aclose()
    return await _open_cluster(url)


@cache
def _options() -> dict[str, Any]:
    """Options of every client.

    redis-py names itself to the server on each connection. It would read its version from the
    metadata of its package each time, for a millisecond.
    """
    return {"max_connections": CONNECTIONS_MAX, "driver_info": DriverInfo()}


def _make_client(url: str) -> aioredis.Redis:
    """Return a client that is not connected yet; check its options."""
    try:
        pool = FastPool.from_url(check_url(url), **_options())
        pool.connection_class = fast_connection(pool.connection_class)
        client = aioredis.Redis.from_pool(pool)
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError) as error:
        if isinstance(error, InvalidMessage):
            raise
        raise _unreadable(url) from None
    if client.connection_pool.connection_kwargs.get("decode_responses"):
        raise InvalidMessage.of("url", "replies are read as bytes", "leave out decode_responses")
    return client


def _warn_about_tls(url: str, client: aioredis.Redis) -> None:
    """Log a warning if the options of a URL switch off a check of the server's certificate."""
    options = client.connection_pool.connection_kwargs
    if options.get("ssl_cert_reqs") == "none":
        _warn(display_url(url), "ssl_cert_reqs=none: the server's certificate is not checked")
    elif options.get("ssl_check_hostname") is False:
        _warn(display_url(url), "ssl_check_hostname=false: any host's certificate is accepted")


@cache
def _warn(server: str, option: str) -> None:
    """Log the warning, once per process and server."""
    log.warning(
        "the connection is encrypted, but its other end may be anybody",
        server=server,
        option=option,
        remedy="leave the option out, and name your authority with ssl_ca_certs=FILE",
    )


class _Cluster(RedisCluster):
    async def _determine_slot(self, command: str, *args: Any) -> int:
        """FCALL has its key here: redis-py would ask the server for it at every call."""
        if command == "FCALL":
            return int(self.keyslot(args[2]))
        return await super()._determine_slot(command, *args)

    def get_node(
        self, host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> ClusterNode:
        """Raise ClusterDownError for a server that is not known yet, so that redis-py looks again.

        A server may redirect (ASK) to one that was away when redis-py listed the servers; redis-py
        itself would send the command to None.
        """
        node = super().get_node(host, port, node_name)
        if node is None:
            raise ClusterDownError(f"redirected to {node_name or port}, which is not known yet")
        return node

    def use_fast_connections(self) -> None:
        """Use our connection class for all nodes, named or discovered. Call before connecting.

        redis-py's class checks its writer, pauses and then uses it; a failover may close the
        connection during the pause.
        """
        kind = fast_connection(self.connection_kwargs["connection_class"])
        for options in (self.connection_kwargs, self.nodes_manager.connection_kwargs):
            options["connection_class"] = kind
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = kind  # type: ignore[assignment]


async def _open_cluster(url: str) -> RedisCluster:
    try:
        client = cast("_Cluster", _Cluster.from_url(url, **_options()))
        client.use_fast_connections()
    except (ValueError, TypeError, RedisError, RedisClusterException):
        raise _unreadable(url) from None
    try:
        return await client.initialize()
    except CLIENT_ERRORS as error:
        await client.aclose()
        raise translate(error, display_url(url)) from None


def _unreadable(url: str) -> InvalidMessage:
    # redis-py's own message would show part of a password that contains a slash.
    return InvalidMessage.of(
        "url",
        f"{display_url(url)!r:.200} cannot be parsed by redis-py",
        f"check port, database and options; in a password, {ESCAPES}",
    )


async def check_server(client: Client) -> ServerFacts:
    """Check a server and return its facts. Raises ServerRefused with the remedy.

    Every primary of a cluster is checked: one that evicts keys is enough to lose decisions.
    """
    infos: list[Mapping[str, Any]]
    if isinstance(client, RedisCluster):
        nodes = client.get_primaries()
        infos = [await client.info(target_nodes=node) for node in nodes]
    else:
        infos = [await client.info()]
    facts = [check_info(info) for info in infos]
    if isinstance(client, RedisCluster):
        for node in client.get_primaries():
            await check_commands(client, target_nodes=node)
            await check_library(client, target_nodes=node)
    else:
        await check_commands(client)
        await check_library(client)
    return facts[0]


def check_info(info: Mapping[str, Any]) -> ServerFacts:
    """The facts in a server's INFO. Raises ServerRefused if the server is not usable."""
    family = "valkey" if "valkey_version" in info else "redis"
    version = str(info.get(f"{family}_version", ""))
    numbers = _VERSION.match(version)
    if numbers and not is_new_enough(family, (int(numbers[1]), int(numbers[2]))):
        raise ServerRefused(f"the server is {family} {version}; eventsched needs {FLOOR_TEXT}")
    hidden = [name for name in _FACTS if name not in info] + ([] if numbers else ["version"])
    if hidden:
        raise ServerRefused(
            f"the server's INFO has no {', '.join(hidden)}: use a server that tells it"
        )
    policy = str(info["maxmemory_policy"])
    if policy != "noeviction":
        raise ServerRefused(
            f"the server's maxmemory-policy is {policy}: it would drop what was decided; "
            f"run: redis-cli CONFIG SET maxmemory-policy noeviction (and set it in its file)"
        )
    maxmemory_bytes = int(info["maxmemory"])
    warnings = () if maxmemory_bytes else ("maxmemory is 0: memory never starts backpressure",)
    is_cluster = bool(info.get("cluster_enabled"))
    primary = f"{info['master_host']}:{info['master_port']}" if info["role"] == "slave" else ""
    return ServerFacts(family, version, is_cluster, maxmemory_bytes, primary, warnings)


async def reconnect(client: Client) -> None:
    """Close the client's connections: each call that follows opens a new one.

    A connection outlives a change of roles, after which the address of the URL may belong to
    another server. A connection that is in use is closed when its call ends. A cluster client
    follows a change of roles itself.
    """
    if isinstance(client, RedisCluster):
        return
    pool = client.connection_pool
    await pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
    await pool.disconnect(inuse_connections=False)
