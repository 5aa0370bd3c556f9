"""Backpressure: producers are refused before data is lost, and work in flight finishes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest
from redis.crc import key_slot

import eventsched
from eventsched.audit.verify import Verifier
from eventsched.history.node_status import RecentClasses
from eventsched.history.problems import problems_of
from eventsched.history.status import TenantQueue, _CellReader, read_status
from eventsched.projection.installed import load_core
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.backpressure import BackpressureMonitor, Measurement
from eventsched.roles.projector import Projector
from eventsched.schema.events import BackpressureEnded, BackpressureStarted
from eventsched.schema.keys import Keys, name_of
from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalCluster, LocalServer
from eventsched.store.cell import Store
from eventsched.store.client import Client, check_server, open_client
from eventsched.store.connection import Connection
from eventsched.store.lag import ConsumerLag
from eventsched.store.session_commands import Chunk, SessionGrant
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import SECRET, SECRET_SHA1, TimedStore
from tests.outcomes import next_result
from tests.systems import SECOND, serving, system, until

MIB = 1024 * 1024


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[LocalServer]:
    """A server with 24 MiB, some of which it needs itself."""
    options = {"maxmemory": str(24 * MIB), "maxmemory-policy": "noeviction"}
    with LocalServer(tmp_path / "small", durable=True, options=options) as server:
        yield server


# --- memory, with everything real ---------------------------------------------------------------


async def test_near_maxmemory_producers_are_refused_and_work_in_flight_finishes(
    small_server: LocalServer,
) -> None:
    may_end = anyio.Event()
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=2)

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        audio = await job.audio()
        await may_end.wait()
        return eventsched.Result(text=str(len(audio)))

    settings = {"queue_timeout_ms": 60_000, "close_wait_ms": 1_000}
    async with system(small_server.url, "c0", settings=settings) as es, serving(es, node):
        store = es.stores["c0"]
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(
                SECOND, end_of_utterance=True
            )  # in flight until the end of this test
            async with es.session("acme", "en", ["fr"]) as hog:
                refused = await _fill(hog)
                assert refused.retry_after_ms > 0
                await until("memory has started backpressure", lambda: _is_memory_active(store))
                with pytest.raises(eventsched.Backpressure):
                    async with es.session("acme", "en"):
                        pytest.fail("a session opened under backpressure")
                with pytest.raises(eventsched.Backpressure):
                    await session.append(SECOND)
                may_end.set()
                with anyio.fail_after(20):
                    result = await next_result(session.results())
                assert result.text == str(len(SECOND) + 280 * 32)
                stored = await _chunks(store, hog.id)
                assert stored == hog.next_seq, "every acknowledged chunk is stored"
            # The audio of `hog` is trimmed when its session closes, so the backpressure ends.
            await until("backpressure has ended", lambda: _has_ended(store))
            await session.append(SECOND, end_of_utterance=True)
        assert small_server.call("INFO", "stats")["evicted_keys"] == 0
        assert await _violations(store) == []


async def test_a_full_server_refuses_before_any_measurement_as_backpressure_does(
    small_server: LocalServer,
) -> None:
    """The server refuses the scripts of producers and nodes; all others run (allow-oom)."""
    async with _bare(small_server.url) as store:
        grant, other = await _opened(store, "s1"), await _opened(store, "other")
        last = Chunk(session=other.session, epoch=1, seq=0, ms=100, payload=bytes(3200),
                     end_of_utterance=True)  # fmt: skip
        await store.append_audio([last, msgspec.structs.replace(last, seq=1)])
        assert await _play(store, other, 0, started=True) == "ok"
        async with eventsched.connect(small_server.url):
            pass  # the cells are listed now
        small_server.call("CONFIG", "SET", "maxmemory", 1)
        chunks = [
            Chunk(session=grant.session, epoch=grant.epoch, seq=seq, ms=100, payload=bytes(3200))
            for seq in range(3)
        ]
        replies = await store.append_audio(chunks)
        assert [type(reply) for reply in replies] == [eventsched.Backpressure] * 3
        assert await _chunks(store, grant.session) == 0
        with pytest.raises(eventsched.Backpressure) as caught:
            await _opened(store, "s2")
        assert caught.value.retry_after_ms == 1_000
        with pytest.raises(eventsched.Backpressure):
            await _play(store, other, 1, started=True)
        assert await _play(store, other, 0, started=False) == "ok"
        assert (await store.resume_session(other.session, SECRET, "again")).epoch == 2
        assert await store.close_session(grant.session, grant.epoch) == "ok"
        async with eventsched.connect(small_server.url) as es:  # a new client can still connect
            assert es.cells == ["c0"]
        small_server.call("CONFIG", "SET", "maxmemory", 0)
        await _opened(store, "s2")


async def test_without_a_maxmemory_memory_never_starts_backpressure(
    own_server: LocalServer,
) -> None:
    own_server.call("CONFIG", "SET", "maxmemory", 10 * MIB * 1024)
    async with _bare(own_server.url) as store:
        await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
        measurements = await BackpressureMonitor(store).step()
        assert [measurement.reason for measurement in measurements] == [
            "memory",
            "group",
            "dead_letters",
        ]
        assert await _active_reasons(store) == set()
        await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
        own_server.call("CONFIG", "SET", "maxmemory", 0)
        measurements = await BackpressureMonitor(store).step()
        assert [measurement.reason for measurement in measurements] == ["group", "dead_letters"]
        assert await _active_reasons(store) == set()


async def test_on_a_cluster_each_cell_measures_the_primary_that_serves_it(
    own_cluster: LocalCluster,
) -> None:
    async with _bare(own_cluster.url, "c0", "c1", "c2") as store:
        stores = [Store(store.transport, cell) for cell in ("c0", "c1", "c2")]
        serving_c1 = next(s for s in own_cluster.primaries if _serves(s, stores[1].keys))
        serving_c1.call("CONFIG", "SET", "maxmemory", 1)
        for cell_store in stores:
            await BackpressureMonitor(cell_store).step()
        under_backpressure = {
            each.cell for each in stores if "memory" in await _active_reasons(each)
        }
        assert under_backpressure == {
            each.cell for each in stores if _serves(serving_c1, each.keys)
        }
        assert "c1" in under_backpressure


# --- consumer lag, dead letters, hysteresis ------------------------------------------


async def test_a_lagging_projection_set_has_backpressure_until_it_has_caught_up(
    store: TimedStore,
) -> None:
    await store.configure_cell({"projection_lag_max": 20}, overwrite=True)
    projector = Projector(_views(store), _core(), owner="h")
    await projector.step()
    monitor = BackpressureMonitor(store)
    grant = await store.open()
    for seq in range(25):
        await store.say(grant, seq, end_of_utterance=True)
    await monitor.step()
    assert await _active_reasons(store) == {"group"}
    (started,) = await store.log("BackpressureStarted")
    assert isinstance(started.data, BackpressureStarted)
    assert (started.data.reason, started.data.limit) == ("group", 20)
    with pytest.raises(eventsched.Backpressure):
        await store.say(grant, 25)
    while (await projector.step()).state == "folded":
        pass
    await monitor.step()
    assert await _active_reasons(store) == set()
    await store.say(grant, 25)


async def test_a_long_dispatch_stream_starts_backpressure(store: TimedStore) -> None:
    await store.configure_cell({"dispatch_queue_max": 5}, overwrite=True)
    grant = await store.open()
    for seq in range(6):
        await store.say(grant, seq, end_of_utterance=True)
    await BackpressureMonitor(store).step()
    assert await _active_reasons(store) == {"group"}
    await store.dispatch()
    await BackpressureMonitor(store).step()
    assert await _active_reasons(store) == set()


async def test_too_many_dead_letters_start_backpressure(store: TimedStore) -> None:
    await store.configure_cell({"dead_letters_max": 2}, overwrite=True)
    for _ in range(2):
        await store.transport.command("XADD", store.keys.dispatch, "*", "k", "utterance", "d", "[",
                                      key=store.keys.dispatch)  # fmt: skip
    await store.dispatch()
    await BackpressureMonitor(store).step()
    assert await _active_reasons(store) == {"dead_letters"}
    assert (
        await store.transport.command("XLEN", store.keys.dead_letters, key=store.keys.dead_letters)
        == 2
    )


async def test_any_number_of_timers_may_measure(store: TimedStore) -> None:
    await store.configure_cell({"dispatch_queue_max": 1}, overwrite=True)
    grant = await store.open()
    await store.say(grant, 0, end_of_utterance=True)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(BackpressureMonitor(store).step)
    assert len(await store.log("BackpressureStarted")) == 1
    await store.dispatch()
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(BackpressureMonitor(store).step)
    assert len(await store.log("BackpressureEnded")) == 1


@pytest.mark.parametrize(
    ("seen", "was_active", "is_active"),
    [(100, False, True), (99, False, False), (99, True, True), (90, True, True), (89, True, False)],
)
def test_backpressure_ends_below_nine_tenths_of_the_limit(
    seen: int, was_active: bool, is_active: bool
) -> None:
    assert Measurement("dead_letters", seen, 100).is_active(was_active=was_active) is is_active


async def test_the_lag_of_a_set_is_exact_and_the_one_that_status_shows(
    store: TimedStore,
) -> None:
    lag = ConsumerLag(store)
    assert await lag.projection_sets() == []
    grant = await store.open()
    projector = Projector(_views(store), _core(), owner="h", batch_max=2)
    for seq in range(5):
        await store.say(grant, seq, end_of_utterance=True)
    assert await lag.of_set("core") == 6  # no projector has run yet
    await projector.step()
    assert await lag.projection_sets() == ["core"]
    assert await lag.of_set("core") == 4
    consumers = (await _CellReader(store, RecentClasses()).read()).consumers
    assert [(each.consumer, each.lag) for each in consumers] == [("dispatch", 5), ("core", 4)]


async def test_a_newer_version_s_settings_reach_a_cell_that_exists(store: TimedStore) -> None:
    await store.transport.command(
        "HDEL", store.keys.settings, "dead_letters_max", key=store.keys.settings
    )
    assert (
        await store.configure_cell({"dead_letters_max": 7, "pause_ms": 1}, overwrite=False)
        == "kept"
    )
    stored = await store.read_hash(store.keys.settings)
    assert (stored["dead_letters_max"], stored["pause_ms"]) == ("7", "3000")


# --- helpers --------------------------------------------------------------------------------------


@asynccontextmanager
async def _bare(url: str, *cells: str) -> AsyncIterator[Store]:
    """Cells without any role."""
    client = await open_client(url)
    try:
        transport = RedisTransport(client, client)
        stores = [Store(transport, cell) for cell in cells or ("c0",)]
        for store in stores:
            await store.configure_cell(_defaults(), overwrite=False)
        yield stores[0]
    finally:
        await client.aclose()


def _defaults() -> dict[str, int]:
    settings = Settings()
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


async def test_a_tenant_that_is_refused_for_its_backlog_is_in_the_log_and_in_status(
    store: TimedStore, redis: Client
) -> None:
    await store.configure_cell({"tenant_queue_max": 2}, overwrite=True)
    session, monitor = await store.open(), BackpressureMonitor(store)
    for seq in range(2):
        await store.say(session, seq, end_of_utterance=True)
    await monitor.step()
    await monitor.step()
    (started,) = await store.log("BackpressureStarted")
    assert started.data == BackpressureStarted(
        reason="tenant_queue", tenant="acme", seen=2, limit=2
    )
    connection = Connection("", await check_server(redis), store.transport, {store.cell: store})  # type: ignore[arg-type]
    status = await read_status(connection)
    assert status.cells[0].queues == [TenantQueue(tenant="acme", jobs=2, is_refused=True)]
    assert f"{store.cell}: tenant acme is refused: 2 jobs wait" in problems_of(status)
    await store.join(slots=4)
    await store.dispatch()
    await monitor.step()
    (ended,) = await store.log("BackpressureEnded")
    assert ended.data == BackpressureEnded(reason="tenant_queue", tenant="acme", seen=0, limit=2)


async def _opened(store: Store, name: str) -> SessionGrant:
    return await store.open_session(
        name=name, token=f"token-{name}", secret_sha1=SECRET_SHA1, tenant="acme",
        source="en", targets=["es"], features=[],
        features_hash="none", encoding="pcm16", sample_rate=16_000, priority=1, room="",
        listen_language="",
        traceparent="",
    )  # fmt: skip


async def _play(store: Store, grant: SessionGrant, utterance: int, *, started: bool) -> str:
    """A playback of the session's own result starts or ends."""
    return await store.mark_playback(
        grant.session, grant.epoch, origin=grant.session, target="es", utterance=utterance,
        started=started,
    )  # fmt: skip


async def _fill(session: eventsched.Session) -> eventsched.Backpressure:
    """Append until the append is refused."""
    with anyio.fail_after(60):
        while True:
            try:
                await session.append(SECOND)
            except eventsched.Backpressure as refused:
                return refused


async def _active_reasons(store: Store) -> set[str]:
    reasons = (await store.read_hash(store.keys.counters)).get("backpressure", "")
    return {reason for reason in reasons.split(",") if reason}


async def _is_memory_active(store: Store) -> bool:
    return await _active_reasons(store) == {"memory"}


async def _has_ended(store: Store) -> bool:
    return not await _active_reasons(store)


async def _chunks(store: Store, session: str) -> int:
    key = store.keys.audio(name_of(session))
    return int(await store.transport.command("XLEN", key, key=key))


def _serves(server: LocalServer, keys: Keys) -> bool:
    """Whether this primary has the slot of the cell."""
    ours = str(server.call("CLUSTER", "NODES")).partition("myself")[2].splitlines()[0].split()[6:]
    slots = [tuple(map(int, part.split("-"))) for part in ours]
    return any(first <= key_slot(keys.log.encode()) <= last for first, last in slots)


def _core() -> ProjectionSet:
    return load_core()


def _views(store: TimedStore) -> ProjectionStore:
    return ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)


async def _violations(store: Store) -> list[str]:
    views = ProjectionStore(store.transport, store.cell)
    report = await Verifier(views, _core()).run()
    return [str(violation) for violation in report.violations]
