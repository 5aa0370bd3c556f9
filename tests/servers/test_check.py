"""What is asked of a server at connect, and what is said of one that will not do."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio.cluster import RedisCluster

from eventsched.errors import InvalidMessage, ServerUnavailable
from eventsched.server.check import Client, check_server, judge, open_client
from eventsched.testing import LocalCluster, LocalServer
from tests.server_kinds import Server


async def test_cluster_is_recognised_by_asking(server: Server, redis: Client) -> None:
    assert isinstance(redis, RedisCluster) == server.is_cluster
    assert (await check_server(redis)).is_cluster == server.is_cluster


async def test_evicting_server_is_refused_with_the_command_that_helps(
    own_server: LocalServer,
) -> None:
    own_server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    client = await open_client(own_server.url)
    with pytest.raises(ServerUnavailable, match="CONFIG SET maxmemory-policy noeviction"):
        await check_server(client)
    own_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await check_server(client)
    await client.aclose()


async def test_one_evicting_primary_is_enough_to_refuse_a_cluster(cluster3: LocalCluster) -> None:
    last = cluster3.primaries[-1]
    client = await open_client(cluster3.url)
    last.call("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    with pytest.raises(ServerUnavailable, match="volatile-ttl"):
        await check_server(client)
    last.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert (await check_server(client)).is_cluster
    await client.aclose()


async def test_server_without_a_memory_limit_is_a_warning(own_server: LocalServer) -> None:
    client = await open_client(own_server.url)
    assert (await check_server(client)).warnings == (
        "maxmemory is 0: no pressure is raised by memory",
    )
    own_server.call("CONFIG", "SET", "maxmemory", "100mb")
    facts = await check_server(client)
    assert (facts.warnings, facts.maxmemory_bytes) == ((), 100 * 1024 * 1024)
    await client.aclose()


@pytest.mark.parametrize(
    "versions",
    [
        {"redis_version": "6.2.14"},
        {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "7.2.5"},
    ],
)
def test_server_below_the_floor_is_refused(versions: dict[str, str]) -> None:
    with pytest.raises(ServerUnavailable, match=r"needs Redis 7\.0\+ or Valkey 8\+"):
        judge({**versions, "maxmemory_policy": "noeviction", "maxmemory": 0})


async def test_no_answer_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailable, match=r"redis://127\.0\.0\.1:1") as refused:
        await open_client("redis://me:secret@127.0.0.1:1")
    assert "secret" not in str(refused.value)
    with pytest.raises(ServerUnavailable, match=r"no server answers at unix://"):
        await open_client(f"unix://{tmp_path}/none.sock")


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost"])
async def test_url_of_another_kind_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        await open_client(url)
    assert refused.value.fields["field"] == "url"
