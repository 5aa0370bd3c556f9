"""The recipients of an utterance: the speaker alone, or the other members of a room (rule 12,
audience).
"""

from __future__ import annotations

import asyncio

import pytest

from eventsched.errors import InvalidMessage
from eventsched.store.client import Client
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.calls import contents, events


async def recipients_of(store: TimedStore) -> list[dict[str, list[str]]]:
    """Target -> recipients (names) of each finalized utterance."""
    return [
        {
            target.target: [who.partition(".")[2] for who in target.to]
            for target in event.data.targets
        }
        for event in await events(store, "UtteranceFinalized")
    ]


async def enter(
    store: TimedStore, name: str, listen_language: str, room: str = "r1", tenant: str = "acme"
) -> SessionGrant:
    return await store.open(
        name,
        tenant=tenant,
        room=store.keys.full(f"{tenant}/{room}"),
        listen_language=listen_language,
        targets=["it"],
    )


async def test_rule_12_alone_there_is_one_job_per_target_for_the_speaker(
    store: TimedStore,
) -> None:
    node = await store.join(targets=["es", "fr", "it"], slots=8)
    session = await store.open(targets=["fr", "es"])
    await store.say(session, 0, end_of_utterance=True)
    assert await recipients_of(store) == [{"es": [], "fr": []}]
    assert await store.dispatch() == 2
    for message in await store.inbox(node):
        await store.answer(node, message)
    numbers = {entry["target"]: entry["delivery_no"] for entry in await store.out(session)}
    assert numbers == {"es": 0, "fr": 0}


async def test_rule_12_in_a_room_there_is_one_job_per_language_that_others_hear(
    store: TimedStore,
) -> None:
    node = await store.join(targets=["es", "fr", "it"], slots=8)
    speaker = await enter(store, "speaker", "it")
    listeners = [await enter(store, name, to) for name, to in (("b", "es"), ("a", "es"))]
    other = await enter(store, "c", "fr")
    mute = await enter(store, "deaf", "")
    await store.say(speaker, 0, end_of_utterance=True)
    assert await recipients_of(store) == [{"es": ["a", "b"], "fr": ["c"]}]
    assert await store.dispatch() == 2
    for message in await store.inbox(node):
        await store.answer(node, message)
    for session in listeners:
        (entry,) = await store.out(session)
        assert (entry["session"], entry["target"]) == (speaker.session, "es")
    assert [entry["target"] for entry in await store.out(other)] == ["fr"]
    assert await store.out(speaker) == []
    assert await store.out(mute) == []


async def test_rule_12_without_another_listener_the_rule_for_one_speaker_applies(
    store: TimedStore,
) -> None:
    speaker = await enter(store, "speaker", "fr")
    await enter(store, "deaf", "")
    await store.say(speaker, 0, end_of_utterance=True)
    assert await recipients_of(store) == [{"it": []}]


async def test_rule_12_members_are_read_when_the_utterance_is_finalized(store: TimedStore) -> None:
    speaker = await enter(store, "speaker", "it")
    await store.say(speaker, 0)
    await enter(store, "late", "es")
    await store.say(speaker, 1, end_of_utterance=True)
    later = await enter(store, "later", "es")
    await store.say(speaker, 2, end_of_utterance=True)
    await store.close_session(later.session, 1)
    await store.say(speaker, 3, end_of_utterance=True)
    assert await recipients_of(store) == [
        {"es": ["late"]},
        {"es": ["late", "later"]},
        {"es": ["late"]},
    ]
    numbers = [e.data.targets[0].delivery_no for e in await events(store, "UtteranceFinalized")]
    assert numbers == [0, 1, 2]


async def test_rule_12_rooms_do_not_hear_each_other(store: TimedStore) -> None:
    speaker = await enter(store, "speaker", "it")
    await enter(store, "elsewhere", "es", room="r2")
    await store.say(speaker, 0, end_of_utterance=True)
    assert await recipients_of(store) == [{"it": []}]


async def test_rule_12_a_room_is_named_within_its_tenant(store: TimedStore) -> None:
    """One name at two tenants is two rooms: their members hear nothing of each other."""
    node = await store.join(targets=["es", "it"], slots=8)
    ann, ben = await enter(store, "ann", "es"), await enter(store, "ben", "it")
    mallory = await enter(store, "mallory", "es", tenant="globex")
    for session in (ann, ben, mallory):
        await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    for message in await store.inbox(node):
        await store.answer(node, message)
    senders = {name: {entry["session"] for entry in await store.out(session)}
             for name, session in (("ann", ann), ("ben", ben), ("mallory", mallory))}  # fmt: skip
    full = store.keys.full
    assert senders == {"ann": {full("ben")}, "ben": {full("ann")}, "mallory": {full("mallory")}}
    rooms = {event.session: event.data.room for event in await events(store, "RoomJoined")}
    assert set(rooms.values()) == {full("acme/r1"), full("globex/r1")}
    await store.close_session(mallory.session, 1)
    assert set(await store.read_hash(store.keys.room("acme/r1"))) == {full("ann"), full("ben")}
    assert await store.read_hash(store.keys.room("globex/r1")) == {}


@pytest.mark.parametrize(
    "room", ["globex/r1", "acme/../globex/r1", "acme/r1/globex", "/r1", "acme/", "r1", "acme.r1",
             "acme/r1/", "acme//r1", "acme/r 1", "acme%/r1"],
)  # fmt: skip
async def test_rule_34_a_session_cannot_enter_the_room_of_another_tenant(
    store: TimedStore, redis: Client, room: str
) -> None:
    await enter(store, "ann", "es", tenant="globex")
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage) as refused:
        await store.open("mallory", tenant="acme", room=store.keys.full(room), listen_language="es")
    assert refused.value.fields["field"] == "room"
    assert await contents(redis, store) == before


async def test_rule_34_a_room_may_have_the_longest_name_there_is(store: TimedStore) -> None:
    longest = "r-_9" * 16
    await enter(store, "one", "es", room=longest)
    assert await store.read_hash(store.keys.room(f"acme/{longest}")) == {
        store.keys.full("one"): "es"
    }
    with pytest.raises(InvalidMessage):
        await enter(store, "two", "es", room=f"{longest}s")


async def test_rule_12_a_closing_member_leaves_and_still_speaks_its_last_words(
    store: TimedStore,
) -> None:
    speaker, _ = await enter(store, "speaker", "it"), await enter(store, "b", "es")
    await store.say(speaker, 0)
    await store.close_session(speaker.session, 1)
    assert await recipients_of(store) == [{"es": ["b"]}]
    assert await store.types() == [
        "SessionOpened", "RoomJoined", "SessionOpened", "RoomJoined", "SessionClosing",
        "UtteranceFinalized", "RoomLeft",
    ]  # fmt: skip
    assert list(await store.read_hash(store.keys.room("acme/r1"))) == [store.keys.full("b")]


async def test_rule_12_the_thirty_third_member_is_refused_until_one_leaves(
    store: TimedStore, redis: Client
) -> None:
    members = [await enter(store, f"m{i}", "es") for i in range(32)]
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage) as refused:
        await enter(store, "m32", "es")
    assert refused.value.fields == {"field": "room", "limit": "32 members"}
    assert await contents(redis, store) == before
    assert await enter(store, "m5", "es") == members[5]
    await store.close_session(members[0].session, 1)
    await enter(store, "m32", "es")


async def test_rule_12_racing_for_the_last_place_one_gets_it(store: TimedStore) -> None:
    for i in range(31):
        await enter(store, f"m{i}", "es")
    calls = (enter(store, f"late{i}", "es") for i in range(10))
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(reply, SessionGrant) for reply in replies) == 1
    assert len(await store.read_hash(store.keys.room("acme/r1"))) == 32


async def test_rule_12_a_full_room_makes_one_job_per_language(store: TimedStore) -> None:
    languages = [f"{a}{b}" for a in "ab" for b in "abcdefghijklmnop"][:31]
    speaker = await enter(store, "speaker", "it")
    for number, language in enumerate(languages):
        await enter(store, f"m{number}", language)
    await store.say(speaker, 0, end_of_utterance=True)
    assert await recipients_of(store) == [
        {language: [f"m{i}"] for i, language in enumerate(languages)}
    ]
    assert await store.dispatch() == 31


async def test_a_racing_leaver_has_no_recipients_or_those_that_were_members(
    store: TimedStore,
) -> None:
    speaker = await enter(store, "speaker", "it")
    for number in range(8):
        member = await enter(store, f"m{number}", "es")
        await asyncio.gather(
            store.say(speaker, number, end_of_utterance=True),
            store.close_session(member.session, 1),
        )
    for targets in await recipients_of(store):
        assert targets in ({"it": []}, *({"es": [f"m{i}"]} for i in range(8)))


async def test_rule_25_a_recipient_that_has_closed_is_named_as_skipped(store: TimedStore) -> None:
    node = await store.join(targets=["es"])
    speaker = await enter(store, "speaker", "it")
    gone, stays = await enter(store, "gone", "es"), await enter(store, "stays", "es")
    await store.say(speaker, 0, end_of_utterance=True)
    await store.close_session(gone.session, 1)
    await store.dispatch()
    (message,) = await store.inbox(node)
    await store.answer(node, message)
    ((_, delivery),) = await store.deliveries()
    assert delivery.to == [gone.session, stays.session]
    assert delivery.skipped == [gone.session]
    assert [entry["t"] for entry in await store.out(gone)] == ["state", "state"]
    assert len(await store.out(stays)) == 1


async def test_rule_25_a_recipient_that_still_closes_hears_it(store: TimedStore) -> None:
    node = await store.join(targets=["es"])
    speaker, member = await enter(store, "speaker", "it"), await enter(store, "m", "es")
    await store.say(speaker, 0, end_of_utterance=True)
    await store.say(member, 0, end_of_utterance=True)
    await store.close_session(member.session, 1)
    await store.dispatch()
    (message,) = [
        message for message in await store.inbox(node) if message["session"] == speaker.session
    ]
    await store.answer(node, message)
    assert [entry["t"] for entry in await store.out(member)] == ["state", "result"]


async def test_a_speaker_without_targets_opens_no_outcome_until_a_member_listens(
    store: TimedStore,
) -> None:
    room = store.keys.full("acme/r1")
    speaker = await store.open("speaker", room=room, targets=[])
    await store.say(speaker, 0, end_of_utterance=True)
    await enter(store, "b", "es")
    await store.say(speaker, 1, end_of_utterance=True)
    assert await recipients_of(store) == [{}, {"es": ["b"]}]
    assert await store.dispatch() == 1
    chunks = await store.read_range(store.keys.audio("speaker"), "-", "+", 10)
    assert len(chunks) == 1


async def test_rule_33_a_session_has_at_most_64_targets_in_its_life(store: TimedStore) -> None:
    """Members come and go with new languages: the 65th is not a target of the speaker."""
    languages = [first + second for first in "abcde" for second in "abcdefghijklmn"]
    speaker = await enter(store, "speaker", "")
    for round_no in range(3):
        batch = languages[22 * round_no : 22 * (round_no + 1)]
        members = [await enter(store, f"{name}{round_no}", name) for name in batch]
        await store.say(speaker, round_no, end_of_utterance=True)
        for member in members:
            await store.close_session(member.session, member.epoch)
    targets = [sorted(each) for each in await recipients_of(store)]
    assert targets == [languages[:22], languages[22:44], languages[44:64]]
    await enter(store, "again", languages[0])
    await enter(store, "late", languages[69])
    await store.say(speaker, 3, end_of_utterance=True)
    assert (await recipients_of(store))[-1] == {languages[0]: ["again"]}
