"""start_playback and end_playback: while synthesised speech plays to a speaker, a pause does not
end an utterance (rule 5).
"""

from __future__ import annotations

import asyncio

import pytest

from eventsched.errors import Backpressure, InvalidMessage, SessionClosedError
from eventsched.store.client import Client
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.calls import call, code_of, contents, events


async def mark(
    store: TimedStore, session: SessionGrant, utterance: int = 0, *, started: bool
) -> str:
    origin = store.keys.full("origin")
    return await store.mark_playback(
        session.session, session.epoch, origin=origin, target="es", utterance=utterance,
        started=started,
    )  # fmt: skip


async def opened(store: TimedStore, utterances: int = 1) -> SessionGrant:
    """A session in a room with the session `origin`, which has finalized so many utterances."""
    room = store.keys.full("acme/r1")
    session = await store.open(room=room, listen_language="es")
    origin = await store.open("origin", room=room, targets=[])
    for seq in range(utterances):
        await store.say(origin, seq, end_of_utterance=True)
    return session


async def cuts(store: TimedStore) -> list[tuple[int, int, str, int]]:
    """(utterance, turn, reason, padding) of each finalized utterance of the session."""
    return [
        (event.data.utterance, event.data.turn, event.data.reason, event.data.padding_ms)
        for event in await events(store, "UtteranceFinalized")
        if event.session == store.keys.full("s1")
    ]


async def ends(store: TimedStore) -> list[tuple[int, int, str]]:
    return [
        (event.ms, event.data.utterance, event.data.reason)
        for event in await events(store, "PlaybackEnded")
    ]


async def test_rule_5_no_pause_cuts_while_sound_plays(store: TimedStore) -> None:
    session = await opened(store)
    await store.say(session, 0)
    await mark(store, session, started=True)
    store.tick(10_000)
    await store.timers()
    assert (await store.say(session, 1)).finalized == ()
    assert await cuts(store) == []


async def test_rule_5_after_the_end_a_past_pause_cuts(store: TimedStore) -> None:
    session = await opened(store)
    await store.say(session, 0)
    await mark(store, session, started=True)
    store.tick(10_000)
    await store.timers()
    await mark(store, session, started=False)
    await store.timers()
    assert await cuts(store) == [(0, 0, "pause", 220)]


async def test_rule_5_after_the_end_a_pause_is_measured_from_the_last_chunk(
    store: TimedStore,
) -> None:
    session = await opened(store)
    await store.say(session, 0)
    await mark(store, session, started=True)
    store.tick(4_000)
    await store.timers()
    await store.say(session, 1)
    store.tick(1_000)
    await mark(store, session, started=False)
    store.tick(1_999)
    await store.timers()
    assert await cuts(store) == []
    store.tick(1)
    await store.timers()
    assert await cuts(store) == [(0, 0, "pause", 220)]


async def test_rule_5_a_chunk_after_the_end_finds_the_pause(store: TimedStore) -> None:
    session = await opened(store)
    await store.say(session, 0)
    await mark(store, session, started=True)
    store.tick(5_000)
    await mark(store, session, started=False)
    assert (await store.say(session, 1)).finalized == (0,)


async def test_rule_5_other_reasons_cut_all_the_same(store: TimedStore) -> None:
    session = await opened(store)
    await mark(store, session, started=True)
    assert (await store.say(session, 0, end_of_utterance=True)).finalized == (0,)
    await store.say(session, 1)
    assert (await store.finalize_utterance(session.session, 1, 1)).status == "ok"
    replies = [await store.say(session, seq, ms=1_000) for seq in range(2, 12)]
    assert replies[-1].finalized == (2,)


async def test_rule_5_every_open_playback_has_to_end(store: TimedStore) -> None:
    session = await opened(store, 2)
    await store.say(session, 0)
    await mark(store, session, 0, started=True)
    await mark(store, session, 1, started=True)
    store.tick(4_000)
    await store.timers()
    await mark(store, session, 0, started=False)
    await store.timers()
    assert await cuts(store) == []
    await mark(store, session, 1, started=False)
    await store.timers()
    assert await cuts(store) == [(0, 0, "pause", 220)]


async def test_rule_5_a_deadline_ends_a_playback_without_an_end(store: TimedStore) -> None:
    session = await opened(store)
    begun = store.at_ms
    await mark(store, session, started=True)
    (event,) = await events(store, "PlaybackStarted")
    assert event.data.until_ms == begun + 30_000
    store.tick(5_000)
    await store.say(session, 0)
    store.tick(24_999)
    await store.timers()
    assert await ends(store) == []
    store.tick(1)
    await store.timers()
    assert await ends(store) == [(begun + 30_000, 0, "deadline")]
    assert await cuts(store) == [(0, 0, "pause", 220)]


async def test_rule_5_the_deadline_of_an_ended_playback_does_nothing(store: TimedStore) -> None:
    session = await opened(store)
    await mark(store, session, started=True)
    store.tick(20_000)
    await mark(store, session, started=False)
    store.tick(5_000)
    await mark(store, session, started=True)
    store.tick(5_000)
    await store.timers()
    assert [reason for _, _, reason in await ends(store)] == ["ended"]
    store.tick(25_000)
    await store.timers()
    assert [reason for _, _, reason in await ends(store)] == ["ended", "deadline"]


async def test_an_ended_playback_of_a_silent_session_leaves_no_timer(store: TimedStore) -> None:
    session = await opened(store)
    for started in (True, False):
        await mark(store, session, started=started)
    idle = [store.keys.full("origin"), session.session]
    timers = await store.transport.command(
        "ZRANGE", store.keys.timers, 0, -1, key=store.keys.timers
    )
    assert {timer for timer in timers if not timer.startswith(b"pause|")} == {
        f"idle|{full}".encode() for full in idle
    }
    assert f"pause|{session.session}".encode() not in timers


async def test_rule_5_only_at_the_session_that_listens(store: TimedStore) -> None:
    session = await opened(store)
    other = await store.open("other", room=store.keys.full("acme/r1"), targets=[])
    await store.say(session, 0)
    await store.say(other, 0)
    await mark(store, session, started=True)
    store.tick(3_000)
    await store.timers()
    (_, cut) = await events(store, "UtteranceFinalized")
    assert cut.session == other.session


async def test_a_repeated_playback_mark_is_a_duplicate(store: TimedStore, redis: Client) -> None:
    session = await opened(store)
    assert await mark(store, session, started=False) == "duplicate"
    assert await mark(store, session, started=True) == "ok"
    before = await contents(redis, store)
    store.tick(10_000)
    assert await mark(store, session, started=True) == "duplicate"
    assert await contents(redis, store) == before
    assert await mark(store, session, started=False) == "ok"
    assert await mark(store, session, started=False) == "duplicate"


async def test_racing_marks_have_one_effect(store: TimedStore) -> None:
    session = await opened(store)
    before = len(await store.types())
    for started in (True, False):
        calls = (mark(store, session, started=started) for _ in range(10))
        replies = await asyncio.gather(*calls)
        assert sorted(replies) == ["duplicate"] * 9 + ["ok"]
    assert (await store.types())[before:] == ["PlaybackStarted", "PlaybackEnded"]


async def test_sixty_four_playbacks_are_open_at_most(store: TimedStore, redis: Client) -> None:
    session = await opened(store, 65)
    for utterance in range(64):
        await mark(store, session, utterance, started=True)
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage):
        await mark(store, session, 64, started=True)
    assert await contents(redis, store) == before
    await mark(store, session, 0, started=False)
    assert await mark(store, session, 64, started=True) == "ok"


@pytest.mark.parametrize("script", ["start_playback", "end_playback"])
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "x"), (0, 2), (1, "other.s1"), (1, "s1"), (1, ""), (1, "a/b"), (2, "auto"),
        (2, "e/s"), (2, "es|"), (2, ""), (3, "x"), (3, -1),
    ],
)  # fmt: skip
async def test_a_mark_refuses_what_is_malformed(
    store: TimedStore, redis: Client, script: str, place: int, value: str | int
) -> None:
    await store.say(await store.open(), 0, end_of_utterance=True)
    args: list[str | int] = [1, store.keys.full("s1"), "es", 0]
    if script == "end_playback":
        await call(store, "start_playback", "s1", *args)
    args[place] = value
    field = ("epoch", "origin", "target", "utterance")[place]
    before = await contents(redis, store)
    refusal = await code_of(store, script, "s1", *args)
    assert refusal.startswith(f"INVALID_MESSAGE {field}:")
    assert await contents(redis, store) == before
    assert await call(store, script, "s1", 1, store.keys.full("s1"), "es", 0) == b"ok"


async def test_a_closing_session_takes_no_mark_and_its_playbacks_end_with_it(
    store: TimedStore,
) -> None:
    session = await opened(store, 2)
    await mark(store, session, 0, started=True)
    await mark(store, session, 1, started=True)
    await store.say(session, 0)
    await store.close_session(session.session, 1)
    with pytest.raises(SessionClosedError):
        await mark(store, session, started=False)
    store.tick(30_000)
    await store.timers()
    types = await store.types()
    assert types[-1] == "SessionClosed"
    assert types.count("PlaybackEnded") == 2
    store.tick(600_000)
    await store.timers()
    assert (await store.types()).count("PlaybackEnded") == 2


async def test_playbacks_of_a_session_that_owes_nothing_end_as_closed(store: TimedStore) -> None:
    session = await opened(store, 8)
    await mark(store, session, 7, started=True)
    await store.close_session(session.session, 1)
    assert await ends(store) == [(store.at_ms, 7, "closed")]
    assert (await store.types())[-2:] == ["PlaybackEnded", "SessionClosed"]


# --- how many --------------------------------------------------------------------------------


async def play(store: TimedStore, session: SessionGrant, count: int) -> None:
    for _ in range(count):
        assert await mark(store, session, started=True) == "ok"
        assert await mark(store, session, started=False) == "ok"


async def test_rule_5_a_session_starts_each_result_once_and_128_more_times(
    store: TimedStore, redis: Client
) -> None:
    node, session = await store.join(slots=8), await opened(store, 2)
    await play(store, session, 128)
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage):
        await mark(store, session, started=True)
    assert await contents(redis, store) == before
    await store.dispatch()
    for message in await store.inbox(node):  # two results more
        await store.answer(node, message)
    await play(store, session, 2)
    with pytest.raises(InvalidMessage):
        await mark(store, session, started=True)
    assert await mark(store, session, started=False) == "duplicate"


async def test_rule_5_backpressure_refuses_a_start_and_no_end(
    store: TimedStore, redis: Client
) -> None:
    session = await opened(store, 2)
    await mark(store, session, 0, started=True)
    await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
    before = await contents(redis, store)
    with pytest.raises(Backpressure):
        await mark(store, session, 1, started=True)
    assert await mark(store, session, 0, started=True) == "duplicate"
    assert await contents(redis, store) == before
    assert await mark(store, session, 0, started=False) == "ok"
    await store.set_backpressure("memory", is_active=False, seen=0, limit=1)
    assert await mark(store, session, 1, started=True) == "ok"


async def test_rule_18_a_tenant_with_too_many_waiting_jobs_starts_no_playback(
    store: TimedStore,
) -> None:
    session = await opened(store, 2)
    await store.configure_cell({"tenant_queue_max": 1}, overwrite=True)
    with pytest.raises(Backpressure):
        await mark(store, session, started=True)


# --- whose results ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenant", "room", "target", "utterance"),
    [
        ("acme", "r1", "fr", 0),  # a language that no utterance was finalized with
        ("acme", "r1", "es", 1),  # an utterance that is not finalized
        ("acme", "r2", "es", 0),  # another room
        ("acme", "", "es", 0),  # no room
        ("evil", "", "es", 0),
        ("evil", "r1", "es", 0),  # another tenant
    ],
)
async def test_rule_5_a_result_that_the_session_cannot_have_received_is_not_marked(
    store: TimedStore, redis: Client, tenant: str, room: str, target: str, utterance: int
) -> None:
    await opened(store)
    full = store.keys.full(f"{tenant}/{room}") if room else ""
    other = await store.open("other", tenant=tenant, room=full, targets=["fr"])
    before = await contents(redis, store)
    args: list[str | int] = [store.keys.full("origin"), target, utterance]
    refusal = await code_of(store, "start_playback", "other", other.epoch, *args)
    assert refusal.startswith("INVALID_MESSAGE playback:")
    assert await call(store, "end_playback", "other", other.epoch, *args) == b"duplicate"
    assert await contents(redis, store) == before


async def test_rule_5_a_session_marks_its_own_result(store: TimedStore) -> None:
    session = await store.open(targets=["es", "fr"])
    await store.say(session, 0, end_of_utterance=True)
    args: list[str | int] = [session.session, "fr", 0]
    assert await call(store, "start_playback", "s1", 1, *args) == b"ok"
    refusal = await code_of(store, "start_playback", "s1", 1, session.session, "it", 0)
    assert refusal.startswith("INVALID_MESSAGE playback:")


async def test_rule_5_a_mark_of_a_speaker_that_is_gone_is_harmless(
    store: TimedStore, redis: Client
) -> None:
    """The speaker has closed: its results may play. It has been retired: the mark does nothing."""
    session = await opened(store)
    origin = store.keys.full("origin")
    await store.close_session(origin, 1)
    assert await mark(store, session, started=True) == "ok"
    store.tick(30_000)
    await store.timers()
    for _ in range(121):
        await store.keep_alive([(session.session, session.epoch, "")])
        store.tick(30_000)
        await store.timers()
    assert "SessionRetired" in await store.types()
    before = await contents(redis, store)
    assert await mark(store, session, started=True) == "duplicate"
    assert await mark(store, session, started=False) == "duplicate"
    assert await contents(redis, store) == before
