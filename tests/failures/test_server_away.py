"""The server goes away and comes back; no process has to be restarted."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from random import Random
from urllib.parse import unquote

import anyio
import anyio.to_thread
import pytest
import redis

import eventsched
from eventsched.errors import ServerUnavailable
from eventsched.schema.keys import name_of
from eventsched.server.testing import LocalCluster, LocalServer, wait_for
from eventsched.store.cell import Store
from tests.chaos.proxy import Proxy
from tests.chaos.speech import is_silent
from tests.failures.programs import Programs, ask
from tests.outcomes import next_result
from tests.systems import SECOND, serving, system, until

AWAY_S = 4.0


def _wire(folder: Path, server: LocalServer, name: str = "wire") -> Proxy:
    return Proxy(name, folder, Path(unquote(server.url.removeprefix("unix://"))), Random(1))


async def test_up_a_node_and_a_session_outlive_a_killed_server_without_a_busy_loop(
    own_server: LocalServer, fleet: Programs, tmp_path: Path
) -> None:
    """A proxy counts the connections, one for each attempt."""
    roles, nodes = _wire(tmp_path, own_server, "roles"), _wire(tmp_path, own_server, "nodes")
    speakers = _wire(tmp_path, own_server, "speakers")
    async with roles.listening(), nodes.listening(), speakers.listening():
        up = await fleet.role(roles.url, "dispatcher", "projector", "timer")
        node = fleet.start("tests.chaos.worker", nodes.url, "c0.gpu", "2", "es", "0", "1", "async")
        await node.wait_for("ready: ")
        async with eventsched.connect(speakers.url) as es, es.session("a", "en", ["es"]) as session:
            await until("the node serves", lambda: _is_alive(es.stores["c0"], "gpu"))
            results = session.results()
            await session.append(SECOND, end_of_utterance=True)
            with anyio.fail_after(20):
                first = await anext(results)
            await anyio.to_thread.run_sync(own_server.kill)
            before = [wire.seen["no_server"] for wire in (roles, nodes, speakers)]
            begins = time.monotonic()
            status = await anyio.to_thread.run_sync(ask, own_server.url, "status")
            assert status.returncode == 1
            assert status.stdout == ""
            assert status.stderr.startswith("eventsched: no server answers at unix://")
            assert status.stderr.count("\n") == 1
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_come_back, own_server)
                await session.append(SECOND, end_of_utterance=True)  # waits until it is stored
            away_s = time.monotonic() - begins
            with anyio.fail_after(20):
                second = await anext(results)
        tries = [
            wire.seen["no_server"] - count
            for wire, count in zip((roles, nodes, speakers), before, strict=True)
        ]
    jobs = [f"a:{session.id}:{number}:translation:es:none" for number in range(2)]
    drawn = [
        "no_speech" if is_silent(job) else "result" for job in jobs
    ]  # by the worker, as it does
    assert [first.outcome, second.outcome] == drawn
    assert not isinstance(second, eventsched.Truncated)
    assert second.utterance == 1
    # Loops: five of the roles; the node's inbox and heart; the listener, keepalives, the append.
    # Each call makes up to four tries, then waits 50 ms, 100 ms, … 2 s.
    for count, loops in zip(tries, (5, 2, 3), strict=True):
        assert 0 < count <= loops * 4 * (6 + away_s), f"{tries} tries in {away_s:.1f} s"
    assert up.process.poll() is node.process.poll() is None
    for program, loops in ((up, 6), (node, 2)):
        assert 1 <= program.output.count("server away") <= 2 * loops, program.output
    assert ask(own_server.url, "verify").returncode == 0


async def test_a_server_that_is_loading_its_data_is_reported_away_in_one_line(
    tmp_path: Path,
) -> None:
    """The server accepts connections and answers INFO only."""
    slowly = {"enable-debug-command": "yes", "loading-process-events-interval-bytes": "1024"}
    with LocalServer(tmp_path / "slow", options=slowly) as server:
        async with eventsched.connect(server.url):
            server.call("DEBUG", "POPULATE", 60_000, "filling", 100)
        server.call("CONFIG", "SET", "key-load-delay", 1_000)  # microseconds for each key
        loading = await anyio.to_thread.run_sync(_reload, server)
        status = await anyio.to_thread.run_sync(ask, server.url, "status")
        assert status.returncode == 1
        assert status.stderr.startswith("eventsched: the server cannot answer now: LOADING ")
        assert status.stderr.count("\n") == 1
        server.call("CONFIG", "SET", "key-load-delay", 0)
        loading.join()
        assert ask(server.url, "status").returncode == 0


def _reload(server: LocalServer) -> threading.Thread:
    """Return when the server is loading its data."""

    def reload() -> None:
        client = redis.Redis.from_url(server.url, socket_timeout=60)
        client.execute_command("DEBUG", "RELOAD")  # type: ignore[no-untyped-call]
        client.close()

    loading = threading.Thread(target=reload)
    loading.start()
    wait_for("it loads", lambda: _is_loading(server))
    return loading


def _is_loading(server: LocalServer) -> bool:
    return bool(server.call("INFO", "persistence")["loading"])


async def test_a_watching_status_shows_that_the_server_is_away_and_back(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with eventsched.connect(own_server.url):
        watching = fleet.start("eventsched.cli", "--url", own_server.url, "status", "-w")
        await watching.wait_for("cell c0")
        await anyio.to_thread.run_sync(own_server.kill)
        await watching.wait_for("server unavailable: no answer from the server")
        shown = watching.output.count("cell c0")
        await anyio.to_thread.run_sync(own_server.start)
        await until("it shows the cell again", lambda: watching.output.count("cell c0") > shown)


async def _come_back(server: LocalServer) -> None:
    await anyio.sleep(AWAY_S)  # sleeps: the server is away for so long
    await anyio.to_thread.run_sync(server.start)


async def test_missing_functions_are_loaded(
    own_server: LocalServer,
) -> None:
    async with system(own_server.url, "c0") as es, es.session("a", "en") as session:
        await session.append(SECOND)
        own_server.call("FUNCTION", "FLUSH")
        await session.append(SECOND, end_of_utterance=True)
        assert session.utterance == 1


async def test_functions_that_may_not_be_loaded_are_named_with_the_remedy(
    own_server: LocalServer,
) -> None:
    own_server.call("ACL", "SETUSER", "default", "-function|load")
    with pytest.raises(ServerUnavailable, match=r"lacks the functions.*\+function\|load"):
        async with system(own_server.url, "c0"):
            raise AssertionError("it serves without functions")


async def test_audio_buffered_while_the_server_was_away_is_stored_first_and_before_the_close(
    own_server: LocalServer, tmp_path: Path
) -> None:
    """After ServerUnavailable all audio stays buffered, also if the error is raised twice."""
    wire = _wire(tmp_path, own_server)
    node = eventsched.Node("gpu", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=str(len(await job.audio()) - job.padding_ms * 32))

    async with (
        system(own_server.url, "c0", settings={"pause_ms": 60_000}) as roles,
        serving(roles, node),
        wire.listening(),
        eventsched.connect(wire.url) as es,
    ):
        async with es.session("a", "en", ["es"]) as session:
            await session.append(SECOND)
            wire.faults.is_open = False
            wire.cut_all()
            with anyio.fail_after(60):
                for _ in range(2):
                    with pytest.raises(eventsched.ServerUnavailable):
                        await session.append(SECOND)
                with pytest.raises(eventsched.ServerUnavailable):
                    await session.close()
            assert session.next_seq == 3
            wire.faults.is_open = True
        with anyio.fail_after(20):
            result = await next_result(session.results())
        assert result.text == str(3 * len(SECOND))


async def test_a_server_that_cannot_write_is_retried(own_server: LocalServer) -> None:
    """A full disk (MISCONF) or missing replicas (NOREPLICAS) end no role and no node."""
    node = eventsched.Node("gpu", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=job.target)

    async with (
        system(own_server.url, "c0") as es,
        serving(es, node),
        es.session("a", "en", ["es"]) as session,
    ):
        own_server.call("CONFIG", "SET", "min-replicas-to-write", 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_may_write_again, own_server)
            await session.append(SECOND, end_of_utterance=True)
        with anyio.fail_after(20):
            assert (await next_result(session.results())).text == "es"


async def _may_write_again(server: LocalServer) -> None:
    await until("writes are refused", lambda: _refusals(server) >= 3)
    server.call("CONFIG", "SET", "min-replicas-to-write", 0)


def _refusals(server: LocalServer) -> int:
    """The number of commands refused because of missing replicas."""
    counted = server.call("INFO", "errorstats").get("errorstat_NOREPLICAS", {"count": 0})
    return int(counted["count"])


async def test_a_failover_of_a_cluster_is_retried_and_all_processes_continue(
    own_cluster: LocalCluster,
) -> None:
    node = eventsched.Node("c0.gpu", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=str(len(await job.audio()) - job.padding_ms * 32))

    async with system(own_cluster.url, "c0") as es, serving(es, node):
        store = es.stores["c0"]
        async with es.session("a", "en", ["es"]) as session:
            results = session.results()
            await session.append(SECOND, end_of_utterance=True)
            with anyio.fail_after(20):
                assert (await next_result(results)).text == str(len(SECOND))
            await _until_replicated(own_cluster)
            primary = next(one for one in own_cluster.primaries if _has(one, store))
            await anyio.to_thread.run_sync(primary.kill)
            with anyio.fail_after(40):
                await _append_patiently(session)
                assert (await next_result(results)).text == str(len(SECOND))
        log = await store.read_range(store.keys.log, "-", "+", 1_000)
        dispatched = [one for one in log if b"JobDispatched" in one[1]]
        assert len(dispatched) >= 2


async def _append_patiently(session: eventsched.Session) -> None:
    try:
        await session.append(SECOND, end_of_utterance=True)
    except eventsched.ServerUnavailable:
        await session.finalize()  # buffered audio is sent first


async def _until_replicated(cluster: LocalCluster) -> None:
    """A failover loses writes that no replica has; see ARCHITECTURE."""
    for primary in cluster.primaries:
        await anyio.to_thread.run_sync(primary.call, "WAIT", 1, 900)


def _has(server: LocalServer, store: Store) -> bool:
    return bool(server.call("EXISTS", store.keys.log)) if _owns(server, store) else False


def _owns(server: LocalServer, store: Store) -> bool:
    slot = int(server.call("CLUSTER", "KEYSLOT", store.keys.log))
    ours = str(server.call("CLUSTER", "NODES")).partition("myself")[2].splitlines()[0].split()[6:]
    spans = [tuple(map(int, part.split("-"))) for part in ours]
    return any(first <= slot <= last for first, last in spans)


async def _is_alive(store: Store, node: str) -> bool:
    return (await store.read_hash(store.keys.node(name_of(f"c0.{node}")))).get("status") == "alive"
