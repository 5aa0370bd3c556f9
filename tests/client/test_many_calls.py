"""Connections: bounded however many calls come at once, closed however their user ends."""

import anyio
import redis

from eventsched.store.connection import open_connection
from eventsched.store.transport import CALLS_MAX
from tests.server_kinds import Server
from tests.systems import until

OWN = 4
"""Connections by which this test asks, at most: a cluster's client opens several."""


async def test_four_hundred_calls_at_once_wait_for_their_turn(server: Server) -> None:
    answers = []
    async with open_connection(server.url) as connection:
        (store, *_) = connection.stores.values()

        async def ask() -> None:
            answers.append(await store.read_hash(store.keys.settings))

        before = _connections(server)
        async with anyio.create_task_group() as tasks:
            for _ in range(400):
                tasks.start_soon(ask)
        opened = _connections(server) - before
    assert len(answers) == 400
    assert 1 < opened <= CALLS_MAX + OWN


async def test_who_is_cancelled_leaves_no_connection_open(server: Server) -> None:
    before = _clients(server)
    with anyio.CancelScope() as scope:
        async with open_connection(server.url) as connection:
            (store, *_) = connection.stores.values()
            await store.read_hash(store.keys.settings)
            assert _clients(server) > before
            scope.cancel()
    await until("the server has seen them close", lambda: _clients(server) <= before)


def _clients(server: Server) -> int:
    kind = redis.cluster.RedisCluster if server.is_cluster else redis.Redis
    with kind.from_url(server.url) as client:
        return int(client.info("clients")["connected_clients"])


def _connections(server: Server) -> int:
    """What this server counts; connections stay in their pool when a call is over."""
    kind = redis.cluster.RedisCluster if server.is_cluster else redis.Redis
    with kind.from_url(server.url) as client:
        return int(client.info("stats")["total_connections_received"])
