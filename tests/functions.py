"""The function library on a server that tests reach without a transport of the product."""

from __future__ import annotations

import redis
import redis.cluster

from eventsched.store import library as lua_library


def load_functions(client: redis.Redis | redis.cluster.RedisCluster) -> None:
    """The server, or each primary, has the functions of this package."""
    client.function_load(lua_library.library().source, replace=True)
