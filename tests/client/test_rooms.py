"""Rooms as clients use them: named within their tenant (rules 12, audience; 34, names)."""

from __future__ import annotations

import pytest

import eventsched
from eventsched.client.client import Client
from eventsched.client.results import encode_result
from eventsched.history.event_text import describe
from eventsched.schema import keys
from eventsched.store.client import Client as RedisClient
from projections.session import Sessions
from tests.fixtures_store import TimedStore
from tests.outcomes import next_result
from tests.systems import SECOND, client_of

CHUNK = SECOND[:3_200]
ROOM = "board-meeting"


async def answer_all(store: TimedStore) -> None:
    """A node answers each job with the id of its session."""
    node = await store.join(slots=8)
    await store.dispatch()
    for message in await store.inbox(node):
        result = eventsched.Result(text=f"words of {message['j'].split(':')[1]}")
        await store.answer(node, message, body=encode_result(result, None, 0, "es")[0])


async def test_rule_12_two_tenants_with_one_room_name_hear_nothing_of_each_other(
    client: Client, store: TimedStore, redis: RedisClient
) -> None:
    async with (
        client_of(store) as other,
        client.session("acme", "en", room=ROOM, listen_language="es") as ann,
        client.session("acme", "en", room=ROOM, listen_language="es") as ben,
        other.session("globex", "en", room=ROOM, listen_language="es") as gil,
        other.session("globex", "en", room=ROOM, listen_language="es") as hal,
    ):
        for session in (ann, ben, gil, hal):
            session.detach()
            await session.append(CHUNK, end_of_utterance=True)
        await answer_all(store)
        for listener, speaker in ((ann, ben), (ben, ann), (gil, hal), (hal, gil)):
            result = await next_result(listener.results())
            assert (result.session, result.text) == (speaker.id, f"words of {speaker.id}")
            outbox = await redis.xlen(store.keys.outbox(keys.name_of(listener.id)))
            assert outbox == 1, "nothing else was sent"


async def test_history_and_state_show_the_room_with_its_tenant(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", room=ROOM, listen_language="es") as session:
        session.detach()
    room, projection, view = f"{store.cell}.acme/{ROOM}", Sessions(), None
    for event in await store.log("SessionOpened", "RoomJoined"):
        assert room in describe(event)
        for _ in projection.route(event):
            view = projection.apply(view, event)
    assert view is not None
    assert (view.room, view.tenant, view.in_room) == (room, "acme", True)


@pytest.mark.parametrize("room", ["acme/r", "globex/r", "c0.globex/r", "r/", "/r", "a.b.c"])
async def test_rule_34_no_name_reaches_the_room_of_another_tenant(
    client: Client, store: TimedStore, room: str
) -> None:
    room = room.replace("c0", store.cell)
    with pytest.raises(eventsched.InvalidMessage) as refused:
        async with client.session("acme", "en", room=room, listen_language="es"):
            pytest.fail("entered")
    assert refused.value.fields["field"] == "room"
    assert await store.types() == []


def test_rule_34_the_id_of_a_room_names_cell_tenant_and_name() -> None:
    cells = [f"c{number}" for number in range(16)]
    assert keys.room_id("acme", "c3.lobby", cells) == "c3.acme/lobby"
    bare = keys.room_id("acme", "lobby", cells)
    assert bare == f"{keys.pick_cell('acme/lobby', cells)}.acme/lobby"
    homes = {keys.cell_of(keys.room_id(f"tenant{n}", "lobby", cells)) for n in range(200)}
    assert homes == set(cells), "one name of many tenants uses all cells"
