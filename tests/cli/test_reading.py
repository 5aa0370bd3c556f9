"""Reading: the same history and state before, while and after the log is folded into views."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.connection import Connection
from eventsched.errors import InvalidMessage, NotFound
from eventsched.events import FIELDS, Event
from eventsched.past import Past
from eventsched.projection import load_sets
from eventsched.projector import Projector
from eventsched.reading import Reader, Wanted
from eventsched.server.check import Client, check_server
from eventsched.views import Views
from tests.fixtures_store import TimedStore


async def reader_of(store: TimedStore, redis: Client) -> Reader:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    return Reader(Past(connection))


async def fold(store: TimedStore) -> None:
    """Everything that is in the log so far."""
    (core,) = load_sets()
    views = Views(store.transport, store.cell, now_ms=lambda: store.at_ms)
    projector = Projector(views, core)
    while (await projector.step()).state == "folded":
        pass
    await projector.release()


async def types(reader: Reader, session: str) -> list[str]:
    found = reader.history(Wanted(session=session))
    return [one.type async for one in found if isinstance(one, Event)]


async def spoken(store: TimedStore, name: str) -> str:
    session = await store.open(name)
    await store.say(session, 0, final=True)
    await store.dispatch()
    return session.session


async def test_history_is_whole_however_far_the_views_are(
    store: TimedStore, redis: Client
) -> None:
    reader = await reader_of(store, redis)
    node = await store.join()
    first, _ = await spoken(store, "s1"), await spoken(store, "s2")
    before = await types(reader, first)
    assert before == ["SessionOpened", "UtteranceFinalized", "JobDispatched"]
    await fold(store)
    assert await types(reader, first) == before
    for message in await store.inbox(node):
        await store.answer(node, message)
    assert await types(reader, first) == [*before, "ResultRecorded", "ResultDelivered"]


async def test_what_cannot_be_read_is_shown_as_such_in_its_place(
    store: TimedStore, redis: Any
) -> None:
    """A later program's events: told before and after they were passed by, never left out."""
    reader = await reader_of(store, redis)
    session = await spoken(store, "s1")
    later = {"t": "MoonRisen", "v": "2", "s": session, "d": "{}"}
    await redis.xadd(store.keys.log, dict.fromkeys(FIELDS, "") | later, f"{store.at_ms}-*")
    await store.open("s2")

    async def told() -> list[str]:
        return [
            one.type if isinstance(one, Event) else one.reason
            async for one in reader.history(Wanted(session=session))
        ]

    before = await told()
    assert before == [
        "SessionOpened", "UtteranceFinalized", "JobQueued", "unknown type MoonRisen",
    ]  # fmt: skip
    await fold(store)
    assert await told() == before
    assert (await reader.state("session", session)).view.utterance == 1


async def test_state_is_the_same_folded_from_the_trail_and_live(
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
