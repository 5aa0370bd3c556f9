"""What one call may finalize and dispatch, and how many outcomes a session may have open (rule 33,
limits).
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eventsched.errors import Backpressure, InvalidMessage, Refused
from eventsched.store.session_commands import Chunk, Finalize, Postponed, Receipt, SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.calls import chunk, events, word_of
from tests.scripts.jobs_of import speak

LANGUAGES = [first + second for first in "abcd" for second in "abcdefgh"]
SEVEN = LANGUAGES[:7]


def final(session: SessionGrant, seq: int) -> Chunk:
    return chunk(session, seq, ms=20, payload=b"xx", end_of_utterance=True)


def words(replies: Sequence[Receipt | Postponed | Refused]) -> list[str]:
    return [word_of(reply) for reply in replies]


async def room_of_32(store: TimedStore) -> SessionGrant:
    """A session that 31 others listen to, each in a language of its own."""
    room = store.keys.full("acme/full")
    members = [
        await store.open(name, targets=[], room=room, listen_language=name) for name in LANGUAGES
    ]
    return members[0]


async def open_count(store: TimedStore, name: str) -> int:
    key = store.keys.outcomes(name)
    return int(await store.transport.command("HLEN", key, key=key))


# --- one call -------------------------------------------------------------------------------


async def test_rule_33_a_call_finalizes_8_utterances_and_another_call_the_rest(
    store: TimedStore,
) -> None:
    session, other = await store.open("s1"), await store.open("s2")
    chunks = [final(session, seq) for seq in range(10)]
    replies = await store.append_audio([*chunks, chunk(other, 0), final(other, 1)])
    assert words(replies) == ["ok"] * 8 + ["later 8"] * 2 + ["ok", "later 1"]
    assert words(await store.append_audio([*chunks[8:], final(other, 1)])) == ["ok"] * 3
    assert await open_count(store, "s1") == 10


async def test_rule_33_a_postponed_chunk_changes_nothing(store: TimedStore) -> None:
    session = await store.open("s1")
    chunks = [final(session, seq) for seq in range(9)]
    *_, last = await store.append_audio(
        [*chunks[:8], chunk(session, 8, end_of_utterance=True, confirmed="5-0")]
    )
    assert last == Postponed(8)
    key = store.keys.audio("s1")
    assert int(await store.transport.command("XLEN", key, key=key)) == 8
    assert (await store.read_hash(store.keys.session("s1"))).get("confirmed") is None


async def test_rule_33_a_call_opens_64_outcomes(store: TimedStore) -> None:
    speaker = await room_of_32(store)
    replies = await store.append_audio([final(speaker, seq) for seq in range(4)])
    assert words(replies) == ["ok"] * 2 + ["later 2"] * 2
    assert await open_count(store, LANGUAGES[0]) == 62


async def test_rule_33_a_chunk_after_a_pause_counts_two_finalizes(store: TimedStore) -> None:
    first, second = await store.open("s1"), await store.open("s2")
    await store.append_audio([chunk(second, 0)])
    store.tick(3_000)
    chunks = [*(final(first, seq) for seq in range(7)), final(second, 1)]
    assert words(await store.append_audio(chunks)) == ["ok"] * 7 + ["later 1"]
    assert words(await store.append_audio(chunks[7:])) == ["ok"]
    assert len(await events(store, "UtteranceFinalized")) == 9


async def test_rule_33_a_dispatching_call_ends_after_16_jobs(store: TimedStore) -> None:
    speaker = await room_of_32(store)
    for seq in range(3):
        await store.append_audio([final(speaker, seq)])
    replies = [await store.dispatch_jobs() for _ in range(3)]
    assert [(reply.jobs, reply.left) for reply in replies] == [(31, 2), (31, 1), (31, 0)]


async def test_rule_33_many_due_pauses_are_finalized_in_bounded_calls(store: TimedStore) -> None:
    for number in range(12):
        await store.append_audio([chunk(await store.open(f"s{number}"), 0)])
    store.tick(3_000)
    fired = [(await store.fire_timers()).fired for _ in range(2)]
    assert fired == [8, 4]
    assert len(await events(store, "UtteranceFinalized")) == 12


# --- a tenant -------------------------------------------------------------------------------


async def test_rule_18_outcomes_that_are_not_dispatched_count_at_once(store: TimedStore) -> None:
    await store.configure_cell({"tenant_queue_max": 3}, overwrite=True)
    session = await speak(store, "s1", count=2)
    assert words(await store.append_audio([final(session, seq) for seq in (2, 3)])) == [
        "ok", "BACKPRESSURE",
    ]  # fmt: skip
    key = store.keys.tenant_undispatched
    assert await store.read_hash(key) == {"acme": "3"}
    await store.join(slots=4)
    await store.dispatch()
    assert await store.read_hash(key) == {}
    assert words(await store.append_audio([final(session, 3)])) == ["ok"]


async def test_rule_18_a_lost_dispatch_entry_does_not_count_for_ever(store: TimedStore) -> None:
    session = await speak(store, "s1")
    key = store.keys.dispatch
    await store.transport.command("XTRIM", key, "MAXLEN", 0, key=key)
    await store.say(session, 1, end_of_utterance=True)
    assert await store.read_hash(store.keys.tenant_undispatched) == {"acme": "2"}
    await store.dispatch()
    assert await store.read_hash(store.keys.tenant_undispatched) == {}


# --- a session ------------------------------------------------------------------------------


async def fill(store: TimedStore, session: SessionGrant) -> int:
    """Finalize utterances of seven targets until 1,022 outcomes are open. Returns their number."""
    await store.configure_cell({"tenant_queue_max": 1_000_000}, overwrite=True)
    for seq in range(146):
        await store.append_audio([final(session, seq)])
    return 146


async def test_rule_33_a_session_has_at_most_1024_open_outcomes_by_appends(
    store: TimedStore,
) -> None:
    session = await store.open("s1", targets=SEVEN)
    seq = await fill(store, session)
    (refused,) = await store.append_audio([final(session, seq)])
    assert isinstance(refused, Backpressure)
    assert refused.fields["cause"] == "session_outcomes"
    assert refused.retry_after_ms == 1_000
    assert words(await store.append_audio([chunk(session, seq)])) == ["ok"]
    store.tick(3_000)
    await store.fire_timers()  # a pause finalizes beyond the limit
    assert await open_count(store, "s1") == 1_029
    (refused,) = await store.append_audio([chunk(session, seq + 1)])
    assert isinstance(refused, Backpressure)
    other = await store.open("s2")
    assert words(await store.append_audio([final(other, 0)])) == ["ok"]


async def test_rule_33_an_append_may_open_exactly_1024_outcomes(store: TimedStore) -> None:
    await store.configure_cell({"tenant_queue_max": 1_000_000}, overwrite=True)
    session = await store.open("s1", targets=[*SEVEN, "zu"])
    for seq in range(128):
        assert words(await store.append_audio([final(session, seq)])) == ["ok"]
    assert await open_count(store, "s1") == 1_024
    assert words(await store.append_audio([final(session, 128)])) == ["BACKPRESSURE"]


async def test_rule_33_a_close_finalizes_beyond_1024_open_outcomes(store: TimedStore) -> None:
    session = await store.open("s1", targets=SEVEN)
    seq = await fill(store, session)
    await store.append_audio([chunk(session, seq)])
    await store.close_session(session.session, 1)
    assert await open_count(store, "s1") == 1_029
    store.tick(30_000)
    await store.timers()
    (closed,) = await events(store, "SessionClosed")
    assert closed.data.missing == 1_029


async def test_rule_25_the_record_names_the_oldest_utterance_with_an_open_outcome(
    store: TimedStore,
) -> None:
    """Two targets whose results come in different orders; the audio stays from the oldest on."""
    node = await store.join(slots=16, targets=["es", "fr"])
    session = await speak(store, "s1", targets=["es", "fr"], count=3)
    await store.dispatch()
    firsts = [event.data.first for event in await events(store, "UtteranceFinalized")]
    messages = {
        (message["target"], message["utterance"]): message for message in await store.inbox(node)
    }
    seen: list[str] = []

    async def answer(target: str, utterance: int) -> None:
        await store.answer(node, messages[target, utterance])
        record = (await store.read_hash(store.keys.session("s1")))["outcomes"]
        seen.append(record)

    for target, utterance in [("es", 0), ("es", 1), ("fr", 0), ("fr", 1), ("es", 2), ("fr", 2)]:
        await answer(target, utterance)
    assert seen == [
        f"5|0|1|{firsts[0]}", f"4|0|1|{firsts[0]}", f"3|1|1|{firsts[1]}", f"2|2|2|{firsts[2]}",
        f"1|2|1|{firsts[2]}", "",
    ]  # fmt: skip
    assert await store.read_range(store.keys.audio("s1"), "-", "+", 10) == []
    await store.say(session, 3)


async def test_rule_33_at_most_8_finalize_requests_a_call(store: TimedStore) -> None:
    session = await store.open("s1")
    requests = [Finalize(session=session.session, epoch=1, utterance=number) for number in range(9)]
    assert len(await store.finalize_utterances(requests[:8])) == 8
    with pytest.raises(InvalidMessage):
        await store.finalize_utterances(requests)
