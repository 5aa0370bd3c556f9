"""`Client.events`: the log as a consumer of a consumer group, and as a follower."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import eventsched
from eventsched.client import log_reading
from eventsched.client.client import Client
from eventsched.client.log_reading import CellConsumer
from eventsched.errors import InvalidMessage, NotFound
from eventsched.projection.fold import FailedEvent
from eventsched.schema import codec
from eventsched.schema.events import Event
from eventsched.server.testing import LocalServer
from eventsched.store.operator_commands import Act
from eventsched.store.transport import Entry
from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore
from tests.systems import client_of, until

WITHIN_S = 60
GROUP = "billing"


@asynccontextmanager
async def events_of(
    es: Client, **options: Any
) -> AsyncIterator[AsyncGenerator[Event | FailedEvent]]:
    """An iteration that is closed with the block."""
    with anyio.fail_after(WITHIN_S):
        async with aclosing(es.events(**options)) as events:
            yield events


async def take(events: AsyncIterator[Event | FailedEvent], count: int) -> list[str]:
    """The ids of the next events."""
    return [(await anext(events)).id for _ in range(count)]


async def opened(store: TimedStore, *names: str) -> list[str]:
    """Open sessions; return the ids of the whole log."""
    for name in names:
        await store.open(name)
    return [event.id for event in await store.log()]


async def group_of(store: TimedStore, redis: Any) -> dict[str, Any]:
    (group,) = await redis.xinfo_groups(store.keys.log)
    return {str(name): value for name, value in group.items()}


async def pending(store: TimedStore, redis: Any) -> list[str]:
    listed = await redis.xpending_range(store.keys.log, GROUP, "-", "+", 1_000)
    return [each["message_id"].decode() for each in listed]


# --- a consumer group -----------------------------------------------------------------------------


async def test_events_are_typed_in_order_and_acknowledged_when_the_loop_comes_back(
    store: TimedStore, client: Client, redis: Any
) -> None:
    ids = await opened(store, "s1", "s2", "s3")
    async with events_of(client, group=GROUP, start="0") as events:
        first = await anext(events)
        assert isinstance(first, Event)
        assert (first.cell, first.id, first.type) == (store.cell, ids[0], "SessionOpened")
        assert first.data == (await store.log())[0].data
        assert await pending(store, redis) == ids
        assert await take(events, 1) == ids[1:2]
        assert await pending(store, redis) == ids[1:]
        assert await take(events, 1) == ids[2:]
    assert await pending(store, redis) == ids[2:], "the loop did not come back for another one"


async def test_a_new_group_gets_new_events_by_default_and_an_old_one_continues(
    store: TimedStore, client: Client, redis: Any
) -> None:
    await opened(store, "s1", "s2")
    async with events_of(client, group=GROUP) as events, anyio.create_task_group() as tasks:
        got: list[str] = []

        async def read() -> None:
            got.extend(await take(events, 2))
            tasks.cancel_scope.cancel()

        tasks.start_soon(read)
        while not (await redis.xinfo_groups(store.keys.log)):
            await checkpoint()
        ids = await opened(store, "s3", "s4")
    assert got == ids[2:]
    await redis.xack(store.keys.log, GROUP, *ids)
    ids = await opened(store, "s5")
    async with events_of(client, group=GROUP, start="0") as events:
        assert await take(events, 1) == ids[4:]


async def test_a_group_begins_at_a_position(store: TimedStore, client: Client) -> None:
    ids = await opened(store, "s1", "s2", "s3")
    async with events_of(client, group=GROUP, start=ids[1]) as events:
        assert await take(events, 2) == ids[1:]


async def test_processes_of_a_service_share_the_events(store: TimedStore, client: Client) -> None:
    count = 3 * log_reading.READ_MAX
    ids = await opened(store, *(f"s{number}" for number in range(count)))
    async with (
        client_of(store) as other,
        events_of(client, group=GROUP, start="0") as first,
        events_of(other, group=GROUP, start="0") as second,
    ):
        got = [*await take(first, 1), *await take(second, 1)]
        got += await take(first, 2 * log_reading.READ_MAX - 1)
        got += await take(second, log_reading.READ_MAX - 1)
    assert sorted(got) == sorted(ids), "each event goes to one of them"


async def test_events_of_a_process_that_is_gone_go_to_another_one_after_the_bound(
    store: TimedStore, client: Client, redis: Any
) -> None:
    ids = await opened(store, "s1", "s2", "s3")
    async with events_of(client, group=GROUP, start="0") as events:
        assert await take(events, 2) == ids[:2]
    (gone,) = await redis.xinfo_consumers(store.keys.log, GROUP)
    await redis.xclaim(store.keys.log, GROUP, gone["name"], 0, ids[1:], idle=61_000, justid=True)
    async with client_of(store) as other, events_of(other, group=GROUP) as events:
        assert await take(events, 2) == ids[1:]


async def test_events_of_a_process_that_lives_stay_with_it(
    store: TimedStore, client: Client
) -> None:
    ids = await opened(store, "s1", "s2")
    async with (
        client_of(store) as other,
        events_of(client, group=GROUP, start="0") as first,
        events_of(other, group=GROUP) as second,
    ):
        assert await take(first, 1) == ids[:1]
        ids = await opened(store, "s3")
        assert await take(second, 1) == ids[2:]
        assert await take(first, 1) == ids[1:2]


async def consumer_of(store: TimedStore, name: str = "c1") -> CellConsumer:
    await store.create_group(GROUP, "0-0")
    return CellConsumer(store, GROUP, name, 60_000)


def taken(consumer: CellConsumer) -> list[str]:
    entries: list[Entry] = []
    while (entry := consumer.take()) is not None:
        entries.append(entry)
    return [entry_id for entry_id, _ in entries]


async def test_entries_of_a_read_whose_reply_was_lost_come_first(
    store: TimedStore, redis: Any
) -> None:
    ids = await opened(store, "s1", "s2", "s3")
    consumer = await consumer_of(store)
    await redis.xreadgroup(GROUP, "c1", {store.keys.log: ">"}, count=2)
    assert await consumer.fill()
    assert taken(consumer) == ids[:2]
    for entry_id in ids[:2]:
        await consumer.acknowledge((entry_id, []))
    assert await consumer.fill()
    assert taken(consumer) == ids[2:]


async def test_entries_that_wait_for_long_are_read_again_as_far_as_they_are_still_its_own(
    store: TimedStore, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another consumer may have claimed them."""
    ids = await opened(store, "s1", "s2", "s3", "s4")
    consumer = await consumer_of(store)
    assert await consumer.fill()
    first = consumer.take()
    assert first is not None
    later_s = anyio.current_time() + 30
    monkeypatch.setattr(anyio, "current_time", lambda: later_s)
    await redis.xclaim(store.keys.log, GROUP, "c2", 0, [ids[1]])
    await consumer.acknowledge(first)
    assert taken(consumer) == []
    assert await consumer.fill()
    assert taken(consumer) == ids[2:]


async def test_an_unknown_type_is_passed_through_with_its_fields(
    store: TimedStore, client: Client, redis: Any
) -> None:
    await opened(store, "s1")
    known = codec.encode((await store.log())[0])
    entry_id = (await redis.xadd(store.keys.log, known | {"t": "Novel", "d": "{}"})).decode()
    await redis.xadd(store.keys.log, {"note": "of another program"})
    async with events_of(client, group=GROUP, start="0") as events:
        await anext(events)
        novel, note = await anext(events), await anext(events)
    assert isinstance(novel, FailedEvent)
    assert isinstance(note, FailedEvent)
    assert (novel.cell, novel.id, novel.reason) == (store.cell, entry_id, "unknown type Novel")
    assert (novel.fields["t"], novel.fields["s"]) == (b"Novel", known["s"])
    assert note.fields == {"note": b"of another program"}


async def test_a_dropped_group_ends_the_iteration(store: TimedStore, client: Client) -> None:
    ids = await opened(store, "s1")
    async with events_of(client, group=GROUP, start="0") as events:
        assert await take(events, 1) == ids
        async with anyio.create_task_group() as tasks:
            raised: list[NotFound] = []

            async def read() -> None:
                try:
                    await anext(events)
                except NotFound as error:
                    raised.append(error)

            tasks.start_soon(read)
            act = Act.of("test", "gone")
            assert await store.drop_consumer_group(GROUP, act) == "dropped"
    assert f"cell {store.cell} has no consumer group {GROUP}" in str(raised[0])


async def test_a_group_that_was_dropped_is_not_created_again(
    store: TimedStore, client: Client
) -> None:
    """Also if its consumer has read nothing since, and the log has grown."""
    await opened(store, "s1")
    consumer = await consumer_of(store)
    assert await consumer.fill()
    await consumer.acknowledge(*consumer.take_all())
    assert await store.drop_consumer_group(GROUP, Act.of("test", "gone")) == "dropped"
    await opened(store, "s2")
    assert not await consumer.fill(), "NOGROUP"
    with pytest.raises(NotFound, match="it was dropped"):
        await consumer.fill()


@pytest.mark.parametrize("lost", ["log", "group", "tail"])
async def test_a_group_that_the_server_lost_goes_on(
    store: TimedStore, redis: Any, lost: str
) -> None:
    log = store.keys.log
    await opened(store, "s1")
    saved = await redis.dump(log)
    *_, last = await opened(store, "s2")
    consumer = await consumer_of(store)
    assert await consumer.fill()
    await consumer.acknowledge(*consumer.take_all())
    if lost == "group":
        await redis.xgroup_destroy(log, GROUP)
    else:
        await redis.delete(log)
        assert not await consumer.fill(), "NOGROUP"
        assert not await consumer.fill()
        assert not await redis.exists(log), "the consumer waits for the log"
        if lost == "tail":
            await redis.restore(log, 0, saved)
    store.tick(1)
    await opened(store, "s3")
    new = [event.id for event in await store.log("SessionOpened") if event.session.endswith("s3")]
    assert new > [last]
    with anyio.fail_after(WITHIN_S):
        while not await consumer.fill():
            pass
    assert [entry[0] for entry in consumer.take_all()] == new


@pytest.mark.parametrize("name", ["core", "archive", "dispatch", "", "a b", "x" * 65])
async def test_a_group_of_the_system_or_no_name_is_refused(
    store: TimedStore, redis: Any, tmp_path: Path, name: str
) -> None:
    archived = Archived(store, tmp_path / "archive")
    await archived.talk()
    await archived.project()
    await archived.seal()
    before = await redis.xinfo_groups(archived.store.keys.log)
    async with client_of(archived.store) as es:
        with pytest.raises(InvalidMessage, match="group"):
            await anext(es.events(group=name or "/"))
    assert await redis.xinfo_groups(archived.store.keys.log) == before


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"start": "soon"}, "start"),
        ({"claim_ms": 0}, "claim_ms"),
        ({"claim_ms": 10**9}, "claim_ms"),
    ],
)
async def test_an_argument_that_is_not_acceptable_is_refused(
    client: Client, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidMessage, match=field):
        await anext(client.events(group=GROUP, **options))


async def test_the_events_of_several_cells_are_merged(own_server: LocalServer) -> None:
    got: Counter[tuple[str, str]] = Counter()
    async with (
        eventsched.connect(own_server.url, cells=3) as es,
        events_of(es, group=GROUP, start="0") as events,
        anyio.create_task_group() as tasks,
    ):

        async def read() -> None:
            async for event in events:
                got[event.cell, event.id] += 1

        async def has_all() -> bool:
            logged = [
                (cell, entry_id)
                for cell, store in es.stores.items()
                for entry_id, _ in await store.read_range(store.keys.log, "-", "+", 1_000)
            ]
            return got == Counter(logged)

        tasks.start_soon(read)
        for number in range(6):
            room = f"c{number % 3}.r{number}"
            async with es.session("acme", "en", room=room, listen_language="en") as session:
                await session.close(wait=False)
        await until("every event of every cell came once", has_all)
        assert {cell for cell, _ in got} == {"c0", "c1", "c2"}
        tasks.cancel_scope.cancel()


# --- without a group ------------------------------------------------------------------------------


async def test_a_follower_gets_what_is_appended_from_now_on_and_stores_nothing(
    store: TimedStore, client: Client, redis: Any
) -> None:
    ids = await opened(store, "s1")
    async with events_of(client, start="0") as all_events:
        assert await take(all_events, 1) == ids
        ids = await opened(store, "s2", "s3")
        assert await take(all_events, 2) == ids[1:]
    async with events_of(client) as events, anyio.create_task_group() as tasks:
        got: list[str] = []

        async def read() -> None:
            got.extend(await take(events, 1))
            tasks.cancel_scope.cancel()

        tasks.start_soon(read)
        while not got:
            await store.open(f"later-{store.tick(1)}")
            await checkpoint()
    assert got[0] not in ids
    assert await redis.xinfo_groups(store.keys.log) == []


# --- the consumers that are gone ------------------------------------------------------------------


async def test_a_consumer_that_is_idle_is_removed_unless_it_has_entries(
    store: TimedStore, redis: Any
) -> None:
    await opened(store, "s1")
    await consumer_of(store)
    log = store.keys.log
    for name in ("c1", "c2", "c3"):
        await redis.xgroup_createconsumer(log, GROUP, name)
    await redis.xreadgroup(GROUP, "c3", {log: ">"})
    assert await store.remove_idle_consumers(GROUP, "c1", 3_600_000) == 0
    assert await store.remove_idle_consumers("another", "c1", 0) == 0
    assert await store.remove_idle_consumers(GROUP, "c1", 0) == 1
    names = {each["name"] for each in await redis.xinfo_consumers(log, GROUP)}
    assert names == {b"c1", b"c3"}


async def test_consumers_of_the_system_are_not_removed(store: TimedStore, tmp_path: Path) -> None:
    archived = Archived(store, tmp_path / "archive")
    await archived.talk()
    await archived.project()
    for group in ("core", "archive", "dispatch"):
        with pytest.raises(InvalidMessage, match="another program"):
            await archived.store.remove_idle_consumers(group, "c1", 0)


@pytest.mark.parametrize("idle_ms", [-1, 86_400_001])
async def test_an_idle_time_out_of_bounds_is_refused(store: TimedStore, idle_ms: int) -> None:
    with pytest.raises(InvalidMessage, match="idle_ms"):
        await store.remove_idle_consumers(GROUP, "c1", idle_ms)
