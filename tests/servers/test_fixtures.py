"""The suite's own servers: what a test may rely on."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from eventsched.errors import ServerUnavailable
from eventsched.schema.keys import CELL, Keys
from eventsched.server.testing import LocalCluster, LocalServer, wait_for
from eventsched.store.client import Client, check_server, open_client
from tests import server_kinds
from tests.fixtures_servers import SAME_ON_CLUSTER, Sweeper, _sweep
from tests.known_keys import KNOWN, is_known, types_of
from tests.server_kinds import Server

ROOT = Path(__file__).parents[2]
NO_KEYS = {"absent", "cell", "declared", "full", "prefix"}


async def test_server_is_of_the_kind_that_its_name_says(
    request: pytest.FixtureRequest, server: Server, redis: Client
) -> None:
    facts = await check_server(redis)
    assert facts.is_cluster == server.is_cluster == server.kind.endswith("-cluster")
    assert bool(request.node.get_closest_marker("cluster")) == server.is_cluster
    assert request.node.get_closest_marker("served")


async def test_a_cell_takes_documented_keys_and_is_gone_afterwards(
    sweeper: Sweeper, redis: Client, cell: str
) -> None:
    assert CELL.fullmatch(cell)
    await redis.xadd(Keys(cell).log, {"t": "x"})
    await redis.set(Keys(cell).job("acme:c0.a:0:translation:es:none"), "x")
    assert _sweep(sweeper) == []
    assert await redis.exists(Keys(cell).log) == 0


async def test_a_key_that_is_not_documented_is_told(sweeper: Sweeper, redis: Client) -> None:
    await redis.set("es1:{c0}:surprise", "x")
    await redis.set(Keys("c0").log, "not a stream")
    assert _sweep(sweeper) == ["es1:{c0}:log (string)", "es1:{c0}:surprise (string)"]


def test_every_key_that_the_key_module_builds_is_known() -> None:
    """And of one type; NO_KEYS build none, and the key `absent` never exists."""
    keys = Keys("c0")
    builders = [name for name in vars(Keys) if name[0] != "_"]
    built = [_build(keys, name) for name in builders if name not in NO_KEYS]
    assert len(built) == len(KNOWN)
    assert {key: len(types_of(key)) for key in built} == dict.fromkeys(built, 1)


def _build(keys: Keys, name: str) -> str:
    """The key that the builder called `name` makes of the simplest arguments."""
    builder = getattr(keys, name)
    if isinstance(builder, str):
        return builder
    wanted = inspect.signature(builder).parameters.values()
    texts = {"room": "acme/x"}
    return str(
        builder(
            *(1 if "int" in str(one.annotation) else texts.get(one.name, "x.y") for one in wanted)
        )
    )


def test_name_or_type_that_is_not_in_the_table_is_not_known() -> None:
    keys = Keys("c0")
    assert is_known(keys.requirements, "hash")
    assert is_known(keys.waiting(0, "en:es:"), "zset")
    assert not is_known(keys.requirements, "zset")
    assert not is_known(f"{keys.requirements}:", "zset")
    assert not is_known(f"{keys.log}:x", "stream")


def test_a_run_without_servers_has_no_kind_and_a_cluster_kind_is_one_of_its_group() -> None:
    assert server_kinds.choose(server_kinds.NONE).kinds == ()
    assert "embedded-cluster" in server_kinds.choose("cluster").kinds
    assert not any(kind.endswith("-cluster") for kind in server_kinds.choose("standalone").kinds)
    with pytest.raises(ServerUnavailable, match="'elsewhere' is none of none, all, local"):
        server_kinds.choose("elsewhere")


@pytest.mark.parametrize("fixture", ["server", "own_server"])
def test_a_run_without_servers_fails_a_test_that_starts_one(tmp_path: Path, fixture: str) -> None:
    plugins = 'pytest_plugins = ("tests.fixtures_servers",)'
    (tmp_path / "conftest.py").write_text(plugins)
    (tmp_path / "test_it.py").write_text(f"def test_it({fixture}): pass")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env=os.environ | {server_kinds.VARIABLE: server_kinds.NONE, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "this run may start no server" in done.stdout


def test_files_that_are_the_same_on_a_cluster_exist() -> None:
    assert [path for path in SAME_ON_CLUSTER if not (ROOT / path).exists()] == []


def test_clusters_of_tests_are_fixtures_so_that_none_lacks_the_marker() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    users = {path.name for path in tests if "LocalCluster(" in path.read_text()}
    chaos = "topologies.py"  # of runs that start their own servers
    assert users == {"fixtures_servers.py", chaos, Path(__file__).name}


def test_durable_server_keeps_what_it_answered_over_a_kill(own_server: LocalServer) -> None:
    own_server.call("SET", "a", "1")
    own_server.restart()
    assert own_server.call("GET", "a") == "1"


def test_paused_server_answers_again_after_resume(own_server: LocalServer) -> None:
    own_server.pause()
    with pytest.raises(TimeoutError):
        wait_for("an answer", lambda: _answers(own_server), within_s=0.2)
    own_server.resume()
    wait_for("an answer", lambda: _answers(own_server))


def _answers(server: LocalServer) -> bool:
    try:
        return bool(server.call("PING"))
    except RedisTimeoutError:
        return False


async def test_cluster3_serves_every_slot_and_is_replicated(
    request: pytest.FixtureRequest, cluster3: LocalCluster
) -> None:
    assert request.node.get_closest_marker("cluster")
    client = await open_client(cluster3.url)
    try:
        for number in range(30):
            await client.set(f"served:{number}", number)
    finally:
        await client.aclose()
    holders = [len(server.call("KEYS", "served:*")) for server in cluster3.primaries]
    assert sum(holders) == 30
    assert min(holders) > 0
    wait_for(
        "replicas hold the same",
        lambda: [len(server.call("KEYS", "served:*")) for server in cluster3.replicas] == holders,
    )
