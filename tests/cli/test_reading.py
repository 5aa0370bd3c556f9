"""Reading: the same history and state before, while and after the log is folded into views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest

from eventsched.errors import InvalidMessage, NotFound
from eventsched.history.position import parse_position
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.record_json import named
from eventsched.history.records_by_id import list_records
from eventsched.history.source import HistorySource
from eventsched.projection.fold import FailedEvent
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema.events import FIELDS, Event
from eventsched.schema.settings import Settings
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import finish_one, speak


async def reader_of(store: TimedStore, redis: Client) -> Reader:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    return Reader(HistorySource(connection))


async def fold(store: TimedStore) -> None:
    """Everything that is in the log so far."""
    core = load_core()
    views = ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)
    projector = Projector(views, core)
    while (await projector.step()).state == "folded":
        pass
    await projector.release()


async def types(reader: Reader, session: str) -> list[str]:
    found = reader.history(EventFilter(session=session))
    return [one.type async for one in found if isinstance(one, Event)]


async def spoken(store: TimedStore, name: str) -> str:
    session = await store.open(name)
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    return session.session


async def test_history_is_whole_however_far_the_views_are(store: TimedStore, redis: Client) -> None:
    reader = await reader_of(store, redis)
    node = await store.join()
    first, _ = await spoken(store, "s1"), await spoken(store, "s2")
    before = await types(reader, first)
    assert before == ["SessionOpened", "UtteranceFinalized", "JobDispatched"]
    await fold(store)
    assert await types(reader, first) == before
    for message in await store.inbox(node):
        await store.answer(node, message)
    assert await types(reader, first) == [*before, "ResultRecorded"]


async def test_what_cannot_be_read_is_shown_as_such_in_its_place(
    store: TimedStore, redis: Any
) -> None:
    """A later program's events: told before and after they were passed by, never left out."""
    reader = await reader_of(store, redis)
    session = await spoken(store, "s1")
    later = {"t": "MoonRisen", "v": "2", "s": session, "d": "{}"}
    await redis.xadd(store.keys.log, dict.fromkeys(FIELDS, "") | later, f"{store.at_ms}-*")
    await store.open("s2")

    async def event_texts() -> list[str]:
        return [
            one.type if isinstance(one, Event) else one.reason
            async for one in reader.history(EventFilter(session=session))
        ]

    before = await event_texts()
    assert before == [
        "SessionOpened", "UtteranceFinalized", "JobQueued", "unknown type MoonRisen",
    ]  # fmt: skip
    await fold(store)
    assert await event_texts() == before
    assert (await reader.state("session", session)).view.utterance == 1


async def test_state_is_the_same_folded_from_the_index_and_live(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    await store.join()
    session = await spoken(store, "s1")
    job = f"acme:{session}:0:translation:es:none"
    wanted = [("session", session), ("group", session), ("job", job)]
    trailing = [await reader.state(*one) for one in wanted]
    assert not any(one.is_live for one in trailing)
    await fold(store)
    live = [await reader.state(*one) for one in wanted]
    assert all(one.is_live for one in live)
    assert [one.view for one in live] == [one.view for one in trailing]
    assert [one.at for one in live] == [one.at for one in trailing]


async def test_state_is_folded_where_the_live_records_are_of_another_version(
    store: TimedStore, redis: Client
) -> None:
    """As between an upgrade and its rebuild: they may have another form."""
    reader = await reader_of(store, redis)
    session = await spoken(store, "s1")
    await fold(store)
    live = await reader.state("session", session)
    await redis.set(store.keys.active_revision("session"), "1.1")
    earlier = msgspec.msgpack.encode({"session": session})
    key = store.keys.view("session", "1.1", "s1")
    await redis.hset(key, mapping={"at": live.at, "v": earlier})
    found = await reader.state("session", session)
    assert not found.is_live
    assert (found.view, found.at) == (live.view, live.at)


async def test_rule_34_a_group_is_found_by_its_id_while_it_is_active_and_later(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    node = await store.join()
    session = await store.open()

    async def speak(seq: int) -> None:
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
        (message,) = [one for one in await store.inbox(node) if one["t"] == "assign"][seq:]
        await store.answer(node, message)
        await fold(store)

    async def group(n: int) -> tuple[bool, list[int]]:
        found = await reader.state("group", f"{session.session}/es/{n}")
        return found.is_live, [one.utterance for one in found.view.parts]

    await speak(0)
    assert await group(0) == (True, [0])
    store.tick(2_001)
    await speak(1)
    assert [await group(0), await group(1)] == [(False, [0]), (True, [1])]
    await store.close_session(session.session, session.epoch)
    await fold(store)
    assert [await group(0), await group(1)] == [(False, [0]), (False, [1])]
    for part in ("es/2", "fr/0", "es", "es/0/0"):
        with pytest.raises(NotFound):
            await reader.state("group", f"{session.session}/{part}")
    with pytest.raises(NotFound):
        await reader.state("session", f"{session.session}/es/0")


async def test_a_retired_session_is_shown_as_it_was(store: TimedStore, redis: Client) -> None:
    reader = await reader_of(store, redis)
    session = await store.open()
    await store.close_session(session.session, session.epoch)
    store.tick(7_200_000)
    await store.timers()
    await fold(store)
    assert (await types(reader, session.session))[-1] == "SessionRetired"
    found = await reader.state("session", session.session)
    assert (found.is_live, found.view.status) == (False, "closed")


async def test_what_is_not_there_is_not_found(store: TimedStore, redis: Client) -> None:
    reader = await reader_of(store, redis)
    nobody = store.keys.full("nobody")
    for kind in ("session", "group", "node"):
        with pytest.raises(NotFound):
            await reader.state(kind, nobody)
    with pytest.raises(NotFound):
        await reader.state("job", f"acme:{nobody}:0:translation:es:none")
    with pytest.raises(NotFound):
        await types(reader, nobody)
    with pytest.raises(InvalidMessage):
        await reader.state("mood", nobody)
    with pytest.raises(InvalidMessage):
        await reader.state("session", "elsewhere9.nobody")


async def event_texts(reader: Reader, **wanted: Any) -> list[str]:
    """Type and utterance of each event that is found."""
    return [
        f"{one.type} u{getattr(one.data, 'utterance', '')}".removesuffix(" u")
        async for one in reader.history(EventFilter(**wanted))
        if isinstance(one, Event)
    ]


async def test_history_of_a_job_has_its_utterance_and_no_other(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    node = await store.join()
    session = await speak(store, "s1", count=2, targets=["es"])
    await store.dispatch()
    await finish_one(store, node)
    key = f"acme:{session.session}:0:translation:es:none"
    expected = ["UtteranceFinalized u0", "JobDispatched u0", "ResultRecorded u0"]
    assert await event_texts(reader, job=key) == expected
    assert (
        await event_texts(reader, job=await reader.job_key(f"{session.session}:0:es")) == expected
    )
    with pytest.raises(NotFound, match="no job"):
        await event_texts(reader, job=f"acme:{session.session}:9:translation:es:none")


async def test_history_of_a_node_and_of_everything_by_type_tenant_and_range(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    node = await store.join("n1", slots=4)
    await store.join("n2", targets=["fr"])
    await speak(store, "s1")
    store.tick(1_000)
    await speak(store, "s2", tenant="tiny", targets=["fr"])
    await store.dispatch()
    assert await event_texts(reader, node=node.node) == ["NodeRegistered", "JobDispatched u0"]
    assert len(await event_texts(reader)) == len(await store.log())
    assert await event_texts(reader, tenant="tiny") == [
        "SessionOpened", "UtteranceFinalized u0", "JobDispatched u0",
    ]  # fmt: skip
    assert await event_texts(reader, types=frozenset({"SessionOpened"}), tenant="acme") == [
        "SessionOpened"
    ]
    late = parse_position(f"{store.at_ms}-0", "since")
    assert await event_texts(reader, since=late, types=frozenset({"SessionOpened"})) == [
        "SessionOpened"
    ]
    assert await event_texts(reader, until=late, types=frozenset({"JobDispatched"})) == []
    assert await event_texts(reader, since=late, tenant="acme") == ["JobDispatched u0"]


async def test_an_empty_range_of_something_that_exists_is_empty_not_unknown(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    node = await store.join()
    session = await speak(store, "s1")
    early = parse_position("1-0", "until")
    assert await event_texts(reader, session=session.session, until=early) == []
    assert await event_texts(reader, node=node.node, until=early) == []
    with pytest.raises(NotFound, match="no session"):
        await event_texts(reader, session=store.keys.full("nobody"), until=early)


async def test_following_tells_what_comes_and_nothing_twice(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    await store.join()
    session = await speak(store, "s1")
    wanted = EventFilter(session=session.session)
    ends = await reader.ends(wanted)
    seen = [one.id async for one in reader.history(wanted, ends)]
    await store.dispatch()
    await speak(store, "another")
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:

            def tell(one: Event | FailedEvent) -> None:
                seen.append(one.id)
                if isinstance(one, Event) and one.type == "SessionClosing":
                    tasks.cancel_scope.cancel()

            tasks.start_soon(reader.follow, wanted, ends, tell)
            await store.close_session(session.session, session.epoch)
    expected = [one.id for one in await store.log() if one.session == session.session]
    assert seen == expected[: len(seen)]
    assert len(seen) == 4


async def test_cells_are_told_in_one_order_of_time(redis: Client, cells: Callable[[], str]) -> None:
    stores: dict[str, TimedStore] = {}
    for _ in range(2):
        store = TimedStore(RedisTransport(redis, redis), cells())
        settings = msgspec.to_builtins(Settings())
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        stores[store.cell] = store
    first, second = stores.values()
    for at, one in enumerate([first, second] * 3):
        one.tick(10 * (at + 1))
        await one.open(f"s{at}")
    facts = await check_server(redis)
    connection = Connection("", facts, first.transport, stores)  # type: ignore[arg-type]
    found = [one async for one in Reader(HistorySource(connection)).history(EventFilter())]
    times = [one.ms for one in found if isinstance(one, Event)]
    assert times == sorted(times)
    assert len(times) == 6


async def test_records_of_all_cells_are_listed_cell_by_cell(
    redis: Client, cells: Callable[[], str]
) -> None:
    stores: dict[str, TimedStore] = {}
    for _ in range(2):
        store = TimedStore(RedisTransport(redis, redis), cells())
        settings = msgspec.to_builtins(Settings())
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        stores[store.cell] = store
        for name in ("s1", "s2"):
            await store.open(name)
        await fold(store)
    facts = await check_server(redis)
    transport = next(iter(stores.values())).transport
    connection = Connection("", facts, transport, stores)  # type: ignore[arg-type]
    source = HistorySource(connection)
    expected = [f"{cell}.{name}" for cell in source.cells for name in ("s1", "s2")]
    assert [each.id for each in (await list_records(source, "session")).items] == expected
    page = await list_records(source, "session", limit=3)
    seen = [each.id for each in page.items]
    while page.next:
        assert page.next == seen[-1]
        page = await list_records(source, "session", after=page.next, limit=3)
        seen += [each.id for each in page.items]
    assert seen == expected


class Inner(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    count: int = 0
    words: tuple[str, ...] = ()
    by: dict[str, int] = {}


class Outer(msgspec.Struct, frozen=True):
    one: Inner | None
    many: tuple[Inner, ...]
    by: dict[str, Inner] = {}


class BareInner(Inner, frozen=True, omit_defaults=True, array_like=True):
    """The same, stored without names."""


@pytest.mark.parametrize("inner", [
    {"name": "a"}, {"name": "", "count": 7}, {"name": "a", "words": ("x", "y"), "by": {"z": 1}},
])  # fmt: skip
def test_records_that_are_stored_without_names_are_shown_with_them(inner: dict[str, Any]) -> None:
    def record_of(kind: type[Inner]) -> Outer:
        return Outer(None, (kind(**inner), kind("b")), {"k": kind(**inner)})

    assert msgspec.json.encode(named(record_of(BareInner))) == msgspec.json.encode(record_of(Inner))
