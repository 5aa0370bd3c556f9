"""append_audio and finalize_utterances: the limits of an utterance (rules 1 to 4, 7 and 33)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest

from eventsched.errors import InvalidMessage, Refused, SeqGap, SessionClosedError
from eventsched.store.client import Client
from eventsched.store.session_commands import Finalize, Receipt
from tests.fixtures_store import START_MS, TimedStore
from tests.scripts.calls import (
    append,
    call,
    chunk,
    code_of,
    contents,
    events,
    finalized,
    refused,
    word_of,
)
from tests.session_buffer import buffer_of
from tests.verify.test_verify import project, verified

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OTHER_TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def chunks_of(store: TimedStore, name: str = "s1") -> list[tuple[int, int]]:
    """(seq, utterance) of the stored chunks."""
    chunks = await store.read_range(store.keys.audio(name), "-", "+", 10_000)
    data = [msgspec.json.decode(fields[15]) for _, fields in chunks]
    return [(d["seq"], d["utterance"]) for d in data]


async def test_rule_1_a_finalize_of_another_index_is_a_counted_duplicate(
    store: TimedStore, redis: Client
) -> None:
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.say(session, 1)
    before = await contents(redis, store)
    for index in (0, 2, 7):
        reply = await store.finalize_utterance(session.session, session.epoch, index)
        assert reply == Receipt("duplicate", 1, ())
    after = await contents(redis, store)
    counters = store.keys.counters.encode()
    assert after.pop(counters) != before.pop(counters, b"")
    assert after == before
    assert (await store.read_hash(store.keys.counters))["duplicate_finalizes"] == "3"


async def test_rule_1_racing_finalizes_have_one_effect(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    calls = (store.finalize_utterance(session.session, 1, 0) for _ in range(20))
    replies = await asyncio.gather(*calls)
    assert sorted(reply.status for reply in replies) == ["duplicate"] * 19 + ["ok"]
    assert await finalized(store) == [(0, 0, "final", 280)]
    assert await store.dispatch() == 1


async def test_rule_1_a_finalize_that_lost_against_the_end_is_no_error(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    await store.close_session(session.session, 1)
    reply = await store.finalize_utterance(session.session, 1, 0)
    assert (reply.status, reply.utterance) == ("duplicate", 1)
    with pytest.raises(SessionClosedError):
        await store.finalize_utterance(session.session, 1, 1)


async def test_rule_1_finalizes_of_one_call_are_each_answered_for_itself(
    store: TimedStore,
) -> None:
    for name in ("s1", "s2", "s3"):
        await store.say(await store.open(name), 0)
    await store.close_session(store.keys.full("s3"), 1)
    finalizes = [("s1", 1, 0), ("s1", 1, 0), ("s2", 2, 0), ("s1", 1, 1), ("s3", 1, 0), ("s3", 1, 1),
             ("s4", 1, 0), ("s2", 1, 0)]  # fmt: skip
    replies = await store.finalize_utterances([
        Finalize(session=store.keys.full(name), epoch=epoch, utterance=number)
        for name, epoch, number in finalizes
    ])  # fmt: skip
    assert [reply.code if isinstance(reply, Refused) else reply.status for reply in replies] == [
        "ok", "duplicate", "INVALID_MESSAGE", "duplicate", "duplicate", "SESSION_CLOSED",
        "SESSION_UNKNOWN", "ok",
    ]  # fmt: skip
    ended = await events(store, "UtteranceFinalized")
    assert [store.keys.full(name) for name in ("s3", "s1", "s2")] == [
        event.session for event in ended
    ]
    for name in ("s1", "s2"):
        fields = await store.read_hash(store.keys.session(name))
        assert (fields["utterance"], fields["turn"], buffer_of(fields)["count"]) == ("1", "1", "0")


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("x", 0), "epoch"),
        (("", 0), "epoch"),
        ((2, 0), "epoch"),
        ((1, "x"), "utterance"),
        ((1, ""), "utterance"),
        ((1, -1), "utterance"),
        ((1, 0), "finalizes"),
        ((1, 0, "", *("s1", 1, 0, "") * 64), "finalizes"),
        ((1, 0, TRACE[:-1]), "tp"),
        ((1, 0, TRACE.upper()), "tp"),
    ],
)
async def test_finalize_refuses_what_is_malformed(
    store: TimedStore, redis: Client, args: tuple[int | str, ...], field: str
) -> None:
    session = await store.open()
    await store.say(session, 0)
    before = await contents(redis, store)
    if len(args) == 2 and field != "finalizes":
        args = (*args, "")
    code = await code_of(store, "finalize_utterances", "s1", *args)
    assert re.match(rf"INVALID_MESSAGE (field=)?{field}\b", code), code
    assert await contents(redis, store) == before


async def test_rule_2_a_pause_is_found_when_the_next_chunk_comes(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(2_999)
    assert (await store.say(session, 1)).finalized == ()
    store.tick(3_000)
    assert (await store.say(session, 2)) == Receipt("ok", 1, (0,))
    assert await finalized(store) == [(0, 0, "pause", 220)]
    assert await chunks_of(store) == [(0, 0), (1, 0), (2, 1)]


async def test_rule_2_a_timer_finds_the_pause_when_no_chunk_comes(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(2_000)
    await store.say(session, 1)
    store.tick(2_999)
    await store.timers()
    assert not await finalized(store)
    store.tick(1)
    await store.timers()
    assert await finalized(store) == [(0, 0, "pause", 220)]
    (event,) = await events(store, "UtteranceFinalized")
    assert event.ms == START_MS + 5_000
    store.tick(30_000)
    await store.timers()
    assert len(await finalized(store)) == 1


async def test_rule_2_one_call_may_finalize_two_utterances(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(3_000)
    assert (await store.say(session, 1, end_of_utterance=True)) == Receipt("ok", 2, (0, 1))
    assert await finalized(store) == [(0, 0, "pause", 220), (1, 1, "final", 280)]
    first, second = await events(store, "UtteranceFinalized")
    assert (first.data.last, first.data.count) == (first.data.first, 1)
    assert (second.data.last, second.data.first_seq) == (second.data.first, 1)


async def test_rule_2_max_duration_cuts_at_the_limit_and_the_turn_goes_on(
    store: TimedStore,
) -> None:
    session = await store.open()
    for seq in range(9):
        assert (await store.say(session, seq, ms=1_000)).finalized == ()
    assert (await store.say(session, 9, ms=999)).finalized == ()
    assert (await store.say(session, 10, ms=20)).finalized == (0,)
    await store.say(session, 11, end_of_utterance=True)
    await store.say(session, 12, end_of_utterance=True)
    assert await finalized(store) == [
        (0, 0, "max_duration", 220), (1, 0, "final", 280), (2, 1, "final", 280),
    ]  # fmt: skip
    (cut, *_) = await events(store, "UtteranceFinalized")
    assert (cut.data.ms, cut.data.count, cut.data.bytes) == (10_019, 11, 10_019 * 32)


async def test_rule_2_exactly_the_longest_is_cut(store: TimedStore) -> None:
    session = await store.open()
    replies = [await store.say(session, seq, ms=1_000) for seq in range(10)]
    assert [reply.finalized for reply in replies] == [()] * 9 + [(0,)]


async def test_rule_2_max_bytes_guards_beyond_the_limit_only(store: TimedStore) -> None:
    session = await store.open()
    for seq in range(8):
        reply = await append(store, session, seq, ms=20, payload=b"x" * 64_000)
        assert reply.finalized == ()
    assert (await append(store, session, 8, ms=20, payload=b"x")).finalized == (0,)
    (cut,) = await events(store, "UtteranceFinalized")
    assert (cut.data.reason, cut.data.padding_ms, cut.data.bytes) == ("max_bytes", 0, 512_001)


async def test_rule_2_of_several_reasons_the_last_in_the_table_names_it(store: TimedStore) -> None:
    await store.configure_cell({"audio_bytes_max": 5_000}, overwrite=True)
    session = await store.open()
    long_chunk: dict[str, Any] = {"ms": 1_000, "payload": b"x" * 100}
    for seq in range(9):
        await append(store, session, seq, **long_chunk)
    await append(store, session, 9, end_of_utterance=True, **long_chunk)
    for seq in range(10, 19):
        await append(store, session, seq, **long_chunk)
    await append(store, session, 19, end_of_utterance=True, ms=1_000, payload=b"x" * 5_000)
    assert [reason for _, _, reason, _ in await finalized(store)] == ["final", "max_bytes"]


async def test_rule_3_an_empty_utterance_never_finalizes(store: TimedStore) -> None:
    session = await store.open()
    assert await append(store, session, 0, ms=0, end_of_utterance=True, payload=b"") == Receipt(
        "ok", 0, ()
    )
    assert (await store.finalize_utterance(session.session, 1, 0)).status == "duplicate"
    store.tick(10_000)
    await store.timers()
    await store.close_session(session.session, 1)
    assert await store.types() == ["SessionOpened", "SessionClosing", "SessionClosed"]


async def test_rule_3_empty_last_chunks_without_an_utterance_are_not_stored(
    store: TimedStore,
) -> None:
    """No limit counts them, and nothing would trim them. Their numbers are taken."""
    await store.join()
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    for seq in range(1, 100):
        reply = await append(store, session, seq, ms=0, end_of_utterance=True, payload=b"")
        assert reply == Receipt("ok", 1, ())
    await store.say(session, 100)
    reply = await append(store, session, 101, ms=0, end_of_utterance=True, payload=b"")
    assert reply == Receipt("ok", 2, (1,))
    reply = await append(store, session, 50, ms=0, end_of_utterance=True, payload=b"")
    assert reply == Receipt("duplicate", 2, ())
    assert await chunks_of(store) == [(0, 0), (100, 1), (101, 1)]
    await project(store)
    assert (await verified(store)).violations == []


async def test_rule_3_an_empty_last_chunk_ends_what_is_buffered(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    reply = await append(store, session, 1, ms=0, end_of_utterance=True, payload=b"")
    assert reply == Receipt("ok", 1, (0,))
    (event,) = await events(store, "UtteranceFinalized")
    assert (event.data.count, event.data.bytes, event.data.ms) == (2, 3_200, 100)
    chunks = await store.read_range(store.keys.audio("s1"), event.data.first, event.data.last, 10)
    assert len(chunks) == event.data.count


async def test_rule_3_an_empty_last_chunk_after_a_pause_belongs_to_nothing(
    store: TimedStore,
) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(3_000)
    reply = await append(store, session, 1, ms=0, end_of_utterance=True, payload=b"")
    assert reply == Receipt("ok", 1, (0,))
    store.tick(5_000)
    await store.say(session, 2)
    await store.say(session, 3, end_of_utterance=True)
    _, second = await events(store, "UtteranceFinalized")
    assert (second.data.reason, second.data.first_seq, second.data.count) == ("final", 2, 2)


async def test_rule_4_silence_is_measured_per_utterance(store: TimedStore) -> None:
    """The first chunk after a long silence begins an utterance with the chunks that follow."""
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    seq = 1
    for _ in range(3):
        store.tick(50_000)
        for _ in range(3):
            assert (await store.say(session, seq)).finalized == ()
            seq += 1
            store.tick(100)
        store.tick(2_900)
        await store.timers()
    assert await counts(store) == [1, 3, 3, 3]


async def counts(store: TimedStore) -> list[int]:
    return [event.data.count for event in await events(store, "UtteranceFinalized")]


async def test_rule_4_a_finalize_resets_the_pause_timer(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(2_000)
    await store.finalize_utterance(session.session, 1, 0)
    await store.say(session, 1)
    store.tick(2_999)
    await store.timers()
    assert await counts(store) == [1]
    store.tick(1)
    await store.timers()
    assert await counts(store) == [1, 1]


async def test_rule_7_a_chunk_sent_again_has_no_effect(store: TimedStore, redis: Client) -> None:
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.say(session, 1)
    before = await contents(redis, store)
    store.tick(10_000)
    for seq in (0, 1):
        assert await store.say(session, seq, end_of_utterance=True) == Receipt("duplicate", 1, ())
    assert await contents(redis, store) == before


async def test_rule_7_racing_senders_of_one_chunk_store_it_once(store: TimedStore) -> None:
    session = await store.open()
    for seq in range(5):
        calls = (store.say(session, seq, end_of_utterance=seq == 4) for _ in range(10))
        replies = await asyncio.gather(*calls)
        assert sorted(reply.status for reply in replies) == ["duplicate"] * 9 + ["ok"]
    assert await counts(store) == [5]


async def test_rule_7_a_gap_names_the_expected_chunk(store: TimedStore, redis: Client) -> None:
    session = await store.open()
    await store.say(session, 0)
    before = await contents(redis, store)
    with pytest.raises(SeqGap) as refusal:
        await store.say(session, 2)
    assert refusal.value.expected == 1
    assert await contents(redis, store) == before
    assert (await store.say(session, 1)).status == "ok"


async def test_rule_7_within_a_batch_each_chunk_counts_before_the_next(store: TimedStore) -> None:
    first, second = await store.open("s1"), await store.open("s2")
    big = b"x" * 65_537
    replies = await store.append_audio(
        [
            chunk(first, 0), chunk(second, 0, end_of_utterance=True), chunk(first, 1),
            chunk(first, 1), chunk(first, 3),
            chunk(first, 2, payload=big), chunk(first, 2, end_of_utterance=True), chunk(second, 2),
            chunk(first, 3),
        ]
    )  # fmt: skip
    statuses = [word_of(reply) for reply in replies]
    assert statuses == [
        "ok", "ok", "ok", "duplicate", "SEQ_GAP", "CHUNK_TOO_LARGE", "ok", "SEQ_GAP", "ok",
    ]  # fmt: skip
    assert [(e.session, e.data.count) for e in await events(store, "UtteranceFinalized")] == [
        (second.session, 1), (first.session, 3),
    ]  # fmt: skip
    assert await chunks_of(store) == [(0, 0), (1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"payload": b"x" * 65_537}, "CHUNK_TOO_LARGE limit=65536 B"),
        ({"ms": 19}, "INVALID_MESSAGE ms: 20 to 1000 ms"),
        ({"ms": 1_001}, "INVALID_MESSAGE ms: 20 to 1000 ms"),
        ({"ms": 1_001, "end_of_utterance": True}, "INVALID_MESSAGE ms: 20 to 1000 ms"),
        ({"ms": -1}, "INVALID_MESSAGE ms: 20 to 1000 ms"),
        ({"payload": b""}, "INVALID_MESSAGE payload: only a final chunk may be empty"),
        ({"seq": -1}, "INVALID_MESSAGE seq: a whole number"),
        ({"epoch": -1}, "INVALID_MESSAGE epoch: a whole number"),
        (
            {"traceparent": TRACE[:-1]},
            "INVALID_MESSAGE end_of_utterance: 0, 1 or a W3C traceparent",
        ),
        ({"confirmed": "soon"}, "INVALID_MESSAGE confirmed: an entry id or empty"),
        ({"confirmed": "9" * 25 + "-0"}, "INVALID_MESSAGE confirmed: an entry id or empty"),
    ],
)
async def test_append_refuses_what_is_malformed(
    store: TimedStore, redis: Client, overrides: dict[str, Any], message: str
) -> None:
    session = await store.open()
    await store.say(session, 0)
    before = await contents(redis, store)
    assert await refused(store, chunk(session, **{"seq": 1} | overrides)) == message
    assert await contents(redis, store) == before


async def test_rule_33_the_largest_and_shortest_chunks_are_taken(store: TimedStore) -> None:
    session = await store.open()
    assert (await append(store, session, 0, ms=20, payload=b"x" * 65_536)).status == "ok"
    assert (await append(store, session, 1, ms=1_000)).status == "ok"
    assert (
        await append(store, session, 2, ms=1, payload=b"xx", end_of_utterance=True)
    ).finalized == (0,)


async def test_a_batch_is_bounded_and_whole(store: TimedStore, redis: Client) -> None:
    session = await store.open()
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage):
        await store.append_audio([chunk(session, seq) for seq in range(33)])
    with pytest.raises(InvalidMessage):
        await call(store, "append_audio", "s1", 1, 0, 100, 0, b"aa")
    assert await contents(redis, store) == before
    replies = await store.append_audio(
        [chunk(session, seq, ms=20, payload=b"xx", end_of_utterance=seq == 31) for seq in range(32)]
    )
    assert len(replies) == 32
    assert await call(store, "append_audio") == []


async def test_a_chunk_after_close_is_refused(store: TimedStore, redis: Client) -> None:
    session = await store.open()
    await store.say(session, 0)
    await store.close_session(session.session, 1)
    before = await contents(redis, store)
    with pytest.raises(SessionClosedError):
        await store.say(session, 1)
    assert await contents(redis, store) == before


async def test_racing_append_and_close_lose_no_chunk_that_was_taken(store: TimedStore) -> None:
    for number in range(8):
        session = await store.open(f"s{number}")
        replies, _ = await asyncio.gather(
            store.append_audio([chunk(session, 0)]), store.close_session(session.session, 1)
        )
        ends = [event.session for event in await events(store, "UtteranceFinalized")]
        assert ends.count(session.session) == isinstance(replies[0], Receipt)


async def test_audio_is_kept_while_its_outcome_is_open(store: TimedStore) -> None:
    node, session = await store.join(), await store.open()
    for seq in range(3):
        await store.say(session, seq, end_of_utterance=True)
        store.tick(10)
    await store.say(session, 3)
    await store.dispatch()
    messages = await store.inbox(node)
    await store.answer(node, messages[1])
    assert [seq for seq, _ in await chunks_of(store)] == [0, 1, 2, 3]
    await store.answer(node, messages[0])
    await store.say(session, 4, end_of_utterance=True)
    assert [seq for seq, _ in await chunks_of(store)] == [2, 3, 4]


async def test_audio_without_an_open_outcome_is_trimmed(store: TimedStore) -> None:
    node, session = await store.join(), await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    (message,) = await store.inbox(node)
    await store.say(session, 1)
    await store.answer(node, message)
    assert [seq for seq, _ in await chunks_of(store)] == [1]


async def test_finalized_names_its_chunks_and_its_turn_for_dispatch(store: TimedStore) -> None:
    node, session = await store.join(), await store.open(traceparent=TRACE)
    await store.say(session, 0)
    store.tick(5)
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    (event,) = await events(store, "UtteranceFinalized")
    (message,) = await store.inbox(node)
    chunks = await store.read_range(store.keys.audio("s1"), event.data.first, event.data.last, 10)
    assert [chunk_id for chunk_id, _ in chunks] == [event.data.first, event.data.last]
    for field in ("first", "last", "count", "bytes", "ms", "padding_ms", "turn", "utterance"):
        assert message[field] == getattr(event.data, field), field
    assert (event.traceparent, message["tp"]) == (TRACE, TRACE)
    assert event.cause == f"audio:{session.session}/{event.data.last}"


async def test_an_utterance_has_the_traceparent_of_its_end_else_that_of_its_session(
    store: TimedStore,
) -> None:
    node, session = await store.join(slots=4), await store.open(traceparent=TRACE)
    await append(store, session, 0, end_of_utterance=True, traceparent=OTHER_TRACE)
    await store.say(session, 1)
    await store.finalize_utterance(session.session, 1, 1, traceparent=OTHER_TRACE)
    await store.say(session, 2)
    await store.finalize_utterance(session.session, 1, 2)
    await store.say(session, 3, end_of_utterance=True)
    await store.dispatch()
    wanted = [OTHER_TRACE, OTHER_TRACE, TRACE, TRACE]
    messages = await store.inbox(node)
    assert [message["tp"] for message in messages] == wanted
    for message in reversed(messages):  # the last result waits, and is delivered by another event
        await store.answer(node, message)
    for kind in ("UtteranceFinalized", "JobDispatched", "ResultRecorded", "ResultDelivered"):
        found = {event.data.utterance: event.traceparent for event in await events(store, kind)}
        assert found == {number: wanted[number] for number in found}, kind


async def test_a_traceparent_ends_its_utterance_and_not_the_one_before_a_pause(
    store: TimedStore,
) -> None:
    session = await store.open(traceparent=TRACE)
    await store.say(session, 0)
    store.tick(3_000)
    receipt = await append(store, session, 1, traceparent=OTHER_TRACE)
    assert receipt.finalized == (0, 1)
    found = [event.traceparent for event in await events(store, "UtteranceFinalized")]
    assert found == [TRACE, OTHER_TRACE]


async def test_a_missing_outcome_has_the_traceparent_of_its_job(store: TimedStore) -> None:
    node, session = await store.join(), await store.open(traceparent=TRACE)
    await append(store, session, 0, end_of_utterance=True, traceparent=OTHER_TRACE)
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    await store.answer(node, (await store.inbox(node))[1])
    store.tick(30_000)
    await store.timers()
    (missing,) = await events(store, "ResultMissing")
    assert (missing.data.utterance, missing.traceparent) == (0, OTHER_TRACE)
