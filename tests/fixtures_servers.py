"""Fixtures that bring their own Redis: `server`, `redis`, `cell`, `cells`, `cluster3`, and more.

EVENTSCHED_TEST_SERVERS chooses the kinds of `server` (see server_kinds.py); each test that asks
for it runs once per kind. No test flushes: it takes a fresh cell, and what it left is looked at.

Markers that tests get here, by their fixtures and by their kind of server:

    cluster   needs a cluster, or runs on one although it could do without, unless SAME_ON_CLUSTER
              has its file; a test that starts one without a fixture names the marker itself
    served    asks for a server of any kind
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import pytest_asyncio
import redis
from redis.cluster import RedisCluster

from eventsched.errors import ServerUnavailable
from eventsched.server.testing import LocalCluster, LocalServer
from eventsched.store.client import Client, open_client
from tests import server_kinds
from tests.known_keys import is_known
from tests.server_kinds import Choice, Server

Sweeper: TypeAlias = redis.Redis | RedisCluster
_CHOICE = pytest.StashKey[Choice]()
_CLUSTERS = frozenset({"cluster3", "own_cluster"})
_SERVERS = _CLUSTERS | {"server", "own_server"}
SAME_ON_CLUSTER = (
    "tests/archive/test_query.py",
    "tests/archive/test_reading.py",
    "tests/archive/test_tampering.py",
    "tests/audit/",
    "tests/cli/test_audit.py",
    "tests/client/test_busy_node.py",
    "tests/client/test_handlers.py",
    "tests/client/test_worker_processes.py",
    "tests/fairness/",
    "tests/history/",
    "tests/scripts/test_any_sequence.py",
    "tests/scripts/test_cache.py",
    "tests/speech/",
    "tests/timeline/",
    "tests/tutorial/",
    "tests/verify/",
)
"""Files and folders whose tests look at what was decided or stored, or at processes of a node, and
not at how a server is reached: a cluster makes no difference there. Without `-m cluster` they run
on every kind that is chosen.
"""


def pytest_configure(config: pytest.Config) -> None:
    asked = os.environ.get(server_kinds.VARIABLE) or server_kinds.DEFAULT
    try:
        config.stash[_CHOICE] = server_kinds.choose(asked)
    except ServerUnavailable as error:
        raise pytest.UsageError(str(error)) from error
    if asked == server_kinds.NONE:
        LocalServer.start = _refuse  # type: ignore[method-assign]


def _refuse(self: LocalServer) -> None:
    pytest.fail(f"{server_kinds.VARIABLE}={server_kinds.NONE}: this run may start no server")


def pytest_report_header(config: pytest.Config) -> list[str]:
    choice = config.stash[_CHOICE]
    sources = dict.fromkeys(kind.removesuffix("-cluster") for kind in choice.kinds)
    parts = [f"{source} is {server_kinds.what_is(source)}" for source in sources]
    parts += [f"no {source}: {why}" for source, why in choice.missing.items()]
    return [f"servers: {', '.join(choice.kinds) or server_kinds.NONE} ({'; '.join(parts)})"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test with `server` runs on every chosen kind, unless it names its kinds itself."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "server" in metafunc.fixturenames and not any("server" in mark.args[0] for mark in marks):
        kinds = metafunc.config.stash[_CHOICE].kinds or (server_kinds.NONE,)
        metafunc.parametrize("server", kinds, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before pytest's own hook of this name selects by marker."""
    for item in items:
        if isinstance(item, pytest.Function):
            for marker in _markers_of(item):
                item.add_marker(marker)


def _markers_of(item: pytest.Function) -> Iterator[str]:
    kind = item.callspec.params.get("server", "") if hasattr(item, "callspec") else ""
    is_kind = str(kind).endswith("-cluster") and not item.nodeid.startswith(SAME_ON_CLUSTER)
    if is_kind or not _CLUSTERS.isdisjoint(item.fixturenames):
        yield "cluster"
    if not _SERVERS.isdisjoint(item.fixturenames):
        yield "served"


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server of one kind, for as many tests as use that kind."""
    folder = tmp_path_factory.mktemp(request.param)
    with server_kinds.running(request.param, folder) as running:
        yield running


@pytest_asyncio.fixture(name="redis")
async def redis_client(server: Server) -> AsyncIterator[Client]:
    """A raw client of `server`, opened as eventsched opens one; replies are bytes."""
    client = await open_client(server.url)
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def sweeper(server: Server) -> Iterator[Sweeper]:
    """A client of `server` that deletes what tests leave."""
    kind = RedisCluster if server.is_cluster else redis.Redis
    with kind.from_url(server.url, decode_responses=True) as client:
        yield client
        if isinstance(client, RedisCluster):  # closing it leaves the connections of its nodes open
            client.disconnect_connection_pools()  # type: ignore[no-untyped-call]


@pytest.fixture
def cells(sweeper: Sweeper) -> Iterator[Callable[[], str]]:
    """Fresh cell names, as many as are asked for. Afterwards no key may be left unaccounted."""
    yield lambda: f"t{secrets.token_hex(7)}"
    unknown = _sweep(sweeper)
    assert not unknown, f"keys that eventsched/schema/keys.py does not list: {unknown}"


@pytest.fixture
def cell(cells: Callable[[], str]) -> str:
    """The fresh name of a cell that nobody has used."""
    return cells()


def _sweep(client: Sweeper) -> list[str]:
    """Delete what the test left; name the keys (with their type) that nobody documented."""
    keys = [str(key) for key in client.scan_iter(count=1_000)]
    pipeline: Any = client.pipeline(transaction=False)
    for key in keys:
        pipeline.type(key)
        pipeline.delete(key)
    types = pipeline.execute()[::2]
    # a key that went between the two calls has no type any more
    found = [pair for pair in zip(keys, types, strict=True) if pair[1] != "none"]
    return sorted(f"{key} ({kind})" for key, kind in found if not is_known(key, kind))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LocalServer]:
    """A server of this test alone, with an append-only file: to be killed, paused, restarted."""
    with LocalServer(tmp_path / "own", durable=True) as running:
        yield running


@pytest.fixture(scope="session")
def cluster3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three primaries with a replica each, up and linked. A test that breaks it has its own."""
    with LocalCluster(tmp_path_factory.mktemp("cluster3")) as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """As `cluster3`, durable and of this test alone: to be failed over."""
    with LocalCluster(tmp_path / "cluster", durable=True) as running:
        yield running
