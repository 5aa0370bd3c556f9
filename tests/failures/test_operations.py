"""What an operator may do to the server ends no process: roles, a node and a producer continue."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import unquote

import anyio
import anyio.to_thread
import pytest
import redis

import eventsched
from eventsched.server.launch import free_ports
from eventsched.server.testing import LocalCluster, LocalServer
from eventsched.store.cell import Store
from tests.chaos.proxy import Proxy
from tests.failures.programs import Program, Programs, ask
from tests.failures.slot_moves import count_errors
from tests.failures.test_server_away import _has
from tests.outcomes import next_result
from tests.systems import SECOND, serving, system, until

ROLES = ("dispatcher", "projector", "timer", "archiver")
PAUSE_S = 0.2
RECOVERY_S = 40.0


@dataclass
class Running:
    """Processes of all roles and of a node, and a session in this process that talks."""

    roles: Program
    node: Program
    store: Store
    outcomes: list[str] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)
    """Classes of the errors that the producer's calls raised."""

    async def wait_for_outcomes(self, count: int = 3) -> None:
        """Return when so many more outcomes have arrived, with all processes alive."""
        expected = len(self.outcomes) + count
        await until("outcomes arrive", lambda: len(self.outcomes) >= expected, RECOVERY_S)
        for program in (self.roles, self.node):
            assert program.process.poll() is None, program.output[-3_000:]
            lines = program.output.splitlines()
            assert [line for line in lines if "Traceback" in line] == []


@asynccontextmanager
async def running(fleet: Programs, folder: Path, url: str) -> AsyncIterator[Running]:
    """Run everything while the block lasts; afterwards `verify` finds nothing."""
    archive = str(folder / "archive")
    words = ("--url", url)
    roles = fleet.start("eventsched.cli", *words, "run", *ROLES, "--archive", archive)
    await roles.wait_for("ready: ")
    node = fleet.start("eventsched.cli", *words, "node", "tests.cli.workers:echo")
    await node.wait_for("serving")
    async with eventsched.connect(url) as es, es.session("acme", "en", ["es"]) as session:
        system = Running(roles, node, es.store_of(session.id))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_talk, session, system)
            tasks.start_soon(_listen, session, system)
            await system.wait_for_outcomes()
            yield system
            await system.wait_for_outcomes()
            tasks.cancel_scope.cancel()
    verified = await anyio.to_thread.run_sync(ask, url, "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert set(system.outcomes) == {"result"}


async def _talk(session: eventsched.Session, system: Running) -> None:
    """Append an utterance again and again; a call that fails is repeated."""
    while True:
        try:
            await session.append(SECOND, end_of_utterance=True)
        except (eventsched.ServerUnavailable, eventsched.Backpressure) as error:
            system.refusals.add(type(error).__name__)
        await anyio.sleep(PAUSE_S)  # sleeps: the speed of the speaker


async def _listen(session: eventsched.Session, system: Running) -> None:
    async for outcome in session.results():
        system.outcomes.append(outcome.outcome)


# --- blocked clients, pauses, scripts -------------------------------------------------------


async def test_blocked_clients_that_are_unblocked_with_an_error_read_on(
    own_server: LocalServer, fleet: Programs, tmp_path: Path
) -> None:
    async with running(fleet, tmp_path, own_server.url) as system:
        for _ in range(3):
            await until("clients are blocked", lambda: _unblock_all(own_server) > 0)
        await system.roles.wait_for("cannot answer now: UNBLOCKED")
        await system.node.wait_for("cannot answer now: UNBLOCKED")


def _unblock_all(server: LocalServer) -> int:
    clients = str(server.call("CLIENT", "LIST"))
    blocked = re.findall(r"^id=(\d+) .* flags=\w*b\w* ", clients, re.MULTILINE)
    return sum(int(server.call("CLIENT", "UNBLOCK", client, "ERROR")) for client in blocked)


async def test_a_script_of_another_client_that_does_not_end_is_waited_for(
    fleet: Programs, tmp_path: Path
) -> None:
    options = {"busy-reply-threshold": "200"}
    with LocalServer(tmp_path / "own", durable=True, options=options) as server:
        async with running(fleet, tmp_path, server.url) as system:
            await anyio.to_thread.run_sync(_run_endless_script, server)
            await system.roles.wait_for("cannot answer now: BUSY")
            await system.node.wait_for("cannot answer now: BUSY")
            server.call("SCRIPT", "KILL")


def _run_endless_script(server: LocalServer) -> None:
    """The caller's connection has a timeout; the script has none."""
    with suppress(redis.exceptions.TimeoutError, redis.exceptions.ResponseError):
        server.call("EVAL", "while true do end", 0)


async def test_a_pause_of_all_clients_that_is_longer_than_their_timeout_is_waited_for(
    own_server: LocalServer, fleet: Programs, tmp_path: Path
) -> None:
    async with running(fleet, tmp_path, own_server.url):
        own_server.call("CLIENT", "PAUSE", 7_000, "ALL")


# --- users ----------------------------------------------------------------------------------


def _with_user(server: LocalServer, *rules: str) -> str:
    server.call("ACL", "SETUSER", "app", "reset", "on", ">one", "~*", "+@all", *rules)
    return server.url.replace("://", "://app:one@")


async def test_a_password_that_rotates_and_rotates_back_is_waited_for(
    own_server: LocalServer, fleet: Programs, tmp_path: Path
) -> None:
    """Every connection is closed, so each process has to log in again, with the URL's password."""
    async with running(fleet, tmp_path, _with_user(own_server)) as system:
        own_server.call("ACL", "SETUSER", "app", "resetpass", ">two")
        own_server.call("CLIENT", "KILL", "USER", "app")
        for program in (system.roles, system.node):
            await program.wait_for("the server refuses user or password")
        await until("the producer learns it", lambda: bool(system.refusals), RECOVERY_S)
        own_server.call("ACL", "SETUSER", "app", ">one")


async def test_an_access_list_that_becomes_narrower_and_wider_again_is_waited_for(
    own_server: LocalServer, fleet: Programs, tmp_path: Path
) -> None:
    async with running(fleet, tmp_path, _with_user(own_server)) as system:
        own_server.call("ACL", "SETUSER", "app", "-fcall", "-xread", "-xadd")
        for program in (system.roles, system.node):
            await program.wait_for("the access list of the user app lacks ")
        await until("the producer learns it", lambda: bool(system.refusals), RECOVERY_S)
        own_server.call("ACL", "SETUSER", "app", "+@all")


async def test_a_handler_waits_for_audio_that_the_access_list_refuses(
    own_server: LocalServer,
) -> None:
    """An attempt that failed at once would use up all attempts of the job within a second."""
    attempts: list[int] = []
    node = eventsched.Node("gpu", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        attempts.append(job.attempt)
        return eventsched.Result(text=str(len(await job.audio()) - job.padding_ms * 32))

    url = _with_user(own_server)
    async with (
        system(own_server.url, "c0"),
        eventsched.connect(url) as nodes,
        serving(nodes, node),
        eventsched.connect(own_server.url) as es,
        es.session("acme", "en", ["es"]) as session,
    ):
        own_server.call("ACL", "SETUSER", "app", "-xrange")
        await session.append(SECOND, end_of_utterance=True)
        await until("the audio is refused", lambda: count_errors(own_server, "NOPERM") > 1)
        own_server.call("ACL", "SETUSER", "app", "+xrange")
        with anyio.fail_after(RECOVERY_S):
            outcome = await next_result(session.results())
    assert outcome.text == str(len(SECOND))
    assert attempts == [1]


# --- memory ---------------------------------------------------------------------------------


async def test_functions_that_are_flushed_while_the_memory_is_full_are_waited_for(
    own_server: LocalServer, fleet: Programs, tmp_path: Path
) -> None:
    async with running(fleet, tmp_path, own_server.url) as system:
        own_server.call("CONFIG", "SET", "maxmemory", 1)
        own_server.call("FUNCTION", "FLUSH")
        for program in (system.roles, system.node):
            await program.wait_for("lacks the functions of this release: ")
        assert "OOM" in system.roles.output
        own_server.call("CONFIG", "SET", "maxmemory", 0)


# --- changes of roles -----------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[LocalServer, LocalServer]]:
    """A primary and its replica."""
    fast = {"repl-diskless-sync-delay": "0"}
    with (
        LocalServer(tmp_path / "first", durable=True, options=fast) as first,
        LocalServer(tmp_path / "second", durable=True, options=fast) as second,
    ):
        for server, port in zip((first, second), free_ports(2), strict=True):
            server.call("CONFIG", "SET", "bind", "127.0.0.1")
            server.call("CONFIG", "SET", "port", port)
        second.call("REPLICAOF", "127.0.0.1", _port_of(first))
        yield first, second


def _port_of(server: LocalServer) -> int:
    """The port at which its replica connects; everybody else uses the socket."""
    return int(server.call("CONFIG GET", "port")["port"])


async def _hand_over(primary: LocalServer, replica: LocalServer) -> None:
    """Exchange the roles of two servers without losing a write."""
    await until("the replica is linked", lambda: _is_linked(replica))
    primary.call("FAILOVER", "TO", "127.0.0.1", _port_of(replica))
    await until("the roles are exchanged", lambda: _is_linked(primary))


def _is_linked(server: LocalServer) -> bool:
    return bool(server.call("INFO", "replication").get("master_link_status") == "up")


async def test_a_primary_that_becomes_a_replica_and_a_primary_again_is_waited_for(
    pair: tuple[LocalServer, LocalServer], fleet: Programs, tmp_path: Path
) -> None:
    first, second = pair
    async with running(fleet, tmp_path, first.url) as system:
        for _ in range(2):
            await _hand_over(first, second)
            for program in (system.roles, system.node):
                await program.wait_for("cannot answer now: READONLY")
            await _hand_over(second, first)
            await system.wait_for_outcomes()


async def test_servers_that_change_places_behind_one_address_are_followed(
    pair: tuple[LocalServer, LocalServer], fleet: Programs, tmp_path: Path
) -> None:
    """No connection is cut: each process leaves the old primary by itself."""
    first, second = pair
    wire = Proxy("wire", tmp_path, _socket_of(first), Random(1))
    async with wire.listening(), running(fleet, tmp_path, wire.url) as system:
        for primary, replica in ((first, second), (second, first)):
            wire.leads_to(_socket_of(replica))
            await _hand_over(primary, replica)
            await system.wait_for_outcomes()


def _socket_of(server: LocalServer) -> Path:
    return Path(unquote(server.url.removeprefix("unix://")))


@pytest.mark.cluster
async def test_a_planned_failover_of_a_cluster_and_back_is_waited_for(
    own_cluster: LocalCluster, fleet: Programs, tmp_path: Path
) -> None:
    async with running(fleet, tmp_path, own_cluster.url) as system:
        number = next(
            number for number, each in enumerate(own_cluster.primaries) if _has(each, system.store)
        )
        pair = own_cluster.primaries[number], own_cluster.replicas[number]
        for primary, replica in (pair, pair[::-1]):
            await until("the replica is linked", lambda: _is_linked(replica))  # noqa: B023
            replica.call("CLUSTER", "FAILOVER")
            await until("the roles are exchanged", lambda: _is_linked(primary))  # noqa: B023
            await system.wait_for_outcomes()


# --- signals while the server is away -------------------------------------------------------


@pytest.mark.parametrize("away", ["killed", "silent"])
async def test_a_signal_ends_roles_and_a_node_whose_server_is_away(
    own_server: LocalServer, fleet: Programs, away: str
) -> None:
    roles = await fleet.role(own_server.url, "dispatcher", "projector", "timer")
    node = fleet.start("eventsched.cli", "--url", own_server.url, "node", "tests.cli.workers:echo")
    await node.wait_for("serving")
    if away == "killed":
        await anyio.to_thread.run_sync(own_server.kill)
        for program in (roles, node):
            await program.wait_for("server away")
    else:
        own_server.pause()
    for program in (roles, node):
        program.process.terminate()
    with anyio.fail_after(20):
        assert await anyio.to_thread.run_sync(roles.process.wait) == 0
        assert await anyio.to_thread.run_sync(node.process.wait) == 0
    assert "drain without its server" in node.output
    if away == "silent":
        own_server.resume()


async def test_a_second_signal_ends_a_node_whose_server_is_away(
    own_server: LocalServer, fleet: Programs
) -> None:
    node = fleet.start("eventsched.cli", "--url", own_server.url, "node", "tests.cli.workers:echo")
    await node.wait_for("serving")
    await anyio.to_thread.run_sync(own_server.kill)
    node.process.terminate()
    await node.wait_for("draining")
    node.process.terminate()
    with anyio.fail_after(12):
        assert await anyio.to_thread.run_sync(node.process.wait) == 143


async def test_a_node_that_waits_to_register_again_ends_with_a_signal(
    own_server: LocalServer, fleet: Programs
) -> None:
    node = fleet.start("eventsched.cli", "--url", own_server.url, "node", "tests.cli.workers:echo")
    await node.wait_for("serving")
    own_server.call("ACL", "SETUSER", "default", "-zadd")
    own_server.call("DEL", "es1:{c0}:node:echo-1")
    own_server.call("FUNCTION", "FLUSH")  # a heartbeat may have stored the node in their cache
    await node.wait_for("registering again")
    await node.wait_for("server refuses, trying again")
    node.process.terminate()
    with anyio.fail_after(15):
        assert await anyio.to_thread.run_sync(node.process.wait) == 0
