"""A tenant that appends faster than the projections fold is refused alone, long before the cell.

The first test runs everything in real time; the others move the monitor and the projector by hand.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import anyio
import pytest

import eventsched
from eventsched.audit.verify import Verifier
from eventsched.history.problems import problems_of
from eventsched.history.status import RefusedTenant, read_status
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.projector import Projector
from eventsched.schema.codec import decode
from eventsched.schema.events import BackpressureEnded, BackpressureStarted
from eventsched.schema.ids import parse_id
from eventsched.schema.keys import name_of
from eventsched.store import tenant_lag
from eventsched.store.cell import Store
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from eventsched.store.lag import ConsumerLag
from eventsched.store.session_commands import SessionGrant
from eventsched.store.tenant_lag import TenantLag
from tests.fixtures_store import TimedStore
from tests.server_kinds import Server
from tests.systems import system, until

CHUNK = bytes(640)
"""20 ms of audio."""
LIMIT = {"tenant_lag_max": 20, "projection_lag_max": 1_000}


async def test_a_tenant_that_floods_is_refused_alone_and_others_go_on(
    server: Server, cell: str
) -> None:
    """The projector starts late, so the lag grows on a machine of any speed."""
    settings = {"tenant_lag_max": 300, "projection_lag_max": 10_000}
    refusals: list[eventsched.Backpressure] = []
    async with system(server.url, cell, roles=["dispatcher", "timer"], settings=settings) as es:
        store = es.stores[cell]
        views = ProjectionStore(store.transport, cell)
        await views.acquire(load_core(), "the last projector", 1)

        async def flood(session: eventsched.Session) -> None:
            while True:
                try:
                    await session.append(CHUNK, end_of_utterance=True)
                except eventsched.Backpressure as refused:
                    # A flood may have as many open outcomes as a session can have before it is
                    # measured.
                    if refused.fields["cause"] != "session_outcomes":
                        refusals.append(refused)
                    await anyio.sleep(0.05)  # sleeps: the flood tries again

        async with (
            es.session("flood", "en", ["es"]) as flooding,
            anyio.create_task_group() as tasks,
        ):
            flooding.detach()
            tasks.start_soon(flood, flooding)
            await until("the flood is refused", lambda: bool(refusals))
            with pytest.raises(eventsched.Backpressure):
                async with es.session("flood", "en"):
                    pytest.fail("a session of the flood opened")
            await _work(es, "other")  # opens, appends and closes
            assert await ConsumerLag(store).of_set("core") < settings["projection_lag_max"]
            tasks.start_soon(Projector(views, load_core()).run)
            await until("the flood is served again", lambda: _is_served(store))
            await _work(es, "other")
            tasks.cancel_scope.cancel()
        causes = {(each.fields["cause"], each.fields["tenant"]) for each in refusals}
        assert causes == {("tenant_lag", "flood")}
        assert int(refusals[0].fields["seen"]) >= int(refusals[0].fields["limit"]) == 300
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Projector(views, load_core()).run)
            await until("everything is folded", lambda: _is_folded(store))
            tasks.cancel_scope.cancel()
        events = await store.read_range(store.keys.log, "-", "+", 100_000)
        started = [decode(*entry).data for entry in events if entry[1][1] == b"BackpressureStarted"]
        assert {(each.reason, each.tenant) for each in started} == {("tenant_lag", "flood")}  # type: ignore[union-attr]
        assert (await Verifier(views, load_core()).run()).violations == []


async def test_a_tenant_is_refused_until_the_projector_has_folded_its_entries(
    store: TimedStore, redis: Client
) -> None:
    await store.configure_cell(LIMIT, overwrite=True)
    projector = await _projector(store)
    monitor = BackpressureMonitor(store)
    session, other = await store.open(), await store.open("other", tenant="other")
    for seq in range(25):
        await store.say(session, seq, end_of_utterance=True)
    for seq in range(3):
        await store.say(other, seq, end_of_utterance=True)
    await monitor.step()
    assert await _refused(store) == {"acme": 26}
    with pytest.raises(eventsched.Backpressure):
        await store.say(session, 25)
    await store.say(other, 3, end_of_utterance=True)
    status = await read_status(
        Connection("", await check_server(redis), store.transport, {store.cell: store})  # type: ignore[arg-type]
    )
    assert status.cells[0].lagging_tenants == [RefusedTenant(tenant="acme", lag=26)]
    assert status.cells[0].backpressure == []
    assert any("tenant acme is refused: 26 entries" in line for line in problems_of(status))
    lag: dict[str, Any] = {"reason": "tenant_lag", "tenant": "acme", "limit": 20}
    assert [each.data for each in await store.log("BackpressureStarted")] == [
        BackpressureStarted(**lag, seen=26)
    ]
    while (await projector.step()).state == "folded":
        pass
    await monitor.step()
    assert await _refused(store) == {}
    assert [each.data for each in await store.log("BackpressureEnded")] == [
        BackpressureEnded(**lag, seen=0)
    ]
    await store.say(session, 25)


async def test_a_tenant_is_served_again_below_nine_tenths_of_its_limit(store: TimedStore) -> None:
    """By a monitor that has not counted before, too."""
    await store.configure_cell(LIMIT, overwrite=True)
    projector = await _projector(store, batch_max=1)
    session = await store.open()
    for seq in range(19):
        await store.say(session, seq, end_of_utterance=True)
    for expected in ({"acme": 20}, {"acme": 19}, {"acme": 18}, {}):
        await BackpressureMonitor(store).step()
        assert await _refused(store) == expected
        await projector.step()


async def test_any_number_of_monitors_count_the_same(store: TimedStore) -> None:
    await store.configure_cell(LIMIT, overwrite=True)
    await _projector(store)
    session = await store.open()
    for seq in range(25):
        await store.say(session, seq, end_of_utterance=True)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(BackpressureMonitor(store).step)
    assert await _refused(store) == {"acme": 26}


async def test_a_tenant_that_is_refused_by_mistake_is_served_again(store: TimedStore) -> None:
    """A change by hand, or a monitor that ended: the next measurement puts it right."""
    await store.set_tenant_lag("acme", 99_999)
    monitor = BackpressureMonitor(store)
    await _projector(store)
    await monitor.step()
    assert await _refused(store) == {}


async def test_an_entry_that_no_function_wrote_is_counted_for_no_tenant(
    store: TimedStore, redis: Client
) -> None:
    await store.open()
    entries: list[dict[Any, Any]] = [{"x": "y"}, {"s": b"\xff"}, {"s": "c9.s1"}]
    for fields in entries:
        await redis.xadd(store.keys.log, fields, id=f"{store.at_ms}-*")
    assert await TenantLag(store).count("core") == {"acme": 1}


@pytest.mark.parametrize("seed", range(4))
async def test_the_count_equals_the_entries_after_the_checkpoint(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """After any steps of producers and projector, also if a slower set is counted for a while."""
    monkeypatch.setattr(tenant_lag, "READ_MAX", 5)
    rng, counted = random.Random(seed), TenantLag(store)
    projector = await _projector(store, batch_max=7)
    await store.join()
    sessions = [await store.open(f"s{n}", tenant=f"t{n % 3}") for n in range(6)]
    spoken: Counter[str] = Counter()
    for _ in range(60):
        for session in rng.choices(sessions, k=rng.randrange(4)):
            await _speak(store, session, spoken)
        if rng.random() < 0.5:
            await projector.step()
        if rng.random() < 0.1:
            counted.clear()
        if rng.random() < 0.1:  # as if another set, which has folded nothing, were the slowest
            assert await counted.count("another") == await _in_log(store, "another")
        assert await counted.count("core") == await _in_log(store, "core")
    while (await projector.step()).state == "folded":
        pass
    assert await counted.count("core") == {}


async def test_a_count_reads_a_bounded_part_of_the_log(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_lag, "READ_MAX", 5)
    monkeypatch.setattr(tenant_lag, "ENTRIES_MAX", 20)
    projector, counted = await _projector(store, batch_max=10), TenantLag(store)
    session = await store.open()
    for seq in range(40):
        await store.say(session, seq, end_of_utterance=True)
    for _ in range(3):
        assert await counted.count("core") == {"acme": 20}
        await projector.step()
    assert await counted.count("core") == {"acme": 11}


async def test_entries_of_a_deleted_session_belong_to_no_tenant(store: TimedStore) -> None:
    await _projector(store)
    session, _ = await store.open("s1"), await store.open("s2")
    await store.transport.command("DEL", store.keys.session("s1"), key=store.keys.session("s1"))
    assert session.session == store.keys.full("s1")
    assert await TenantLag(store).count("core") == {"acme": 1}


# --- helpers --------------------------------------------------------------------------------------


async def _work(es: eventsched.Client, tenant: str) -> None:
    """Three sessions, one after another, that append and finalize; nothing is refused."""
    for _ in range(3):
        async with es.session(tenant, "en", ["es"]) as session:
            await session.append(CHUNK, end_of_utterance=True)
            await session.append(CHUNK)
            await session.finalize()
            session.detach()


async def _speak(store: TimedStore, session: SessionGrant, spoken: Counter[str]) -> None:
    await store.say(session, spoken[session.session], end_of_utterance=True)
    spoken[session.session] += 1
    await store.dispatch()


async def _projector(store: TimedStore, batch_max: int = 64) -> Projector:
    """A projector of `core` that has the lease."""
    views = ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)
    projector = Projector(views, load_core(), batch_max=batch_max)
    await projector.step()
    return projector


async def _in_log(store: TimedStore, projection_set: str) -> dict[str, int]:
    """The entries by tenant after the checkpoint, by reading the whole log."""
    key = store.keys.checkpoint(projection_set)
    checkpoint = await store.transport.command("GET", key, key=key)
    after = parse_id((checkpoint or b"0-0").decode())
    sessions = [
        event.session for event in await store.log() if event.session and parse_id(event.id) > after
    ]
    return dict(Counter(f"t{int(name_of(session)[1:]) % 3}" for session in sessions))


async def _refused(store: Store) -> dict[str, int]:
    stored = await store.read_hash(store.keys.tenant_lag)
    return {tenant: int(entries) for tenant, entries in stored.items()}


async def _is_served(store: Store) -> bool:
    return not await _refused(store)


async def _is_folded(store: Store) -> bool:
    return await ConsumerLag(store).of_set("core") == 0
