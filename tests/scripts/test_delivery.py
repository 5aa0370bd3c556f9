"""Ordered delivery of outcomes, once each, and the outboxes (rules 22 to 26)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from eventsched.errors import LeaseLost
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.job_record import job_record
from tests.scripts.calls import append, events

SHA = "ab" * 32


def text(words: str) -> bytes:
    return codec.encode_text(Text(source_text=words, text=words))


async def assigned(
    store: TimedStore, count: int, **overrides: Any
) -> tuple[NodeGrant, SessionGrant, list[dict[str, Any]]]:
    """A session with this many utterances, each with a running job."""
    node = await store.join(slots=256)
    session = await store.open(**overrides)
    for seq in range(count):
        await append(store, session, seq, ms=20, payload=b"xx", end_of_utterance=True)
    await store.dispatch()
    return node, session, await store.inbox(node)


async def outcomes_in_outbox(store: TimedStore, session: SessionGrant) -> list[tuple[int, str]]:
    """(delivery_no, outcome) in the order of the outbox."""
    out = [entry for entry in await store.out(session) if entry["t"] == "result"]
    return [(entry["delivery_no"], entry["outcome"]) for entry in out]


async def empty(
    store: TimedStore, node: NodeGrant, message: dict[str, Any], code: str = "ASR_EMPTY"
) -> None:
    await store.answer(node, message, status="no_speech", code=code, body=b"")


async def test_rule_22_a_result_is_one_event_with_text_audio_by_name_and_recipients(
    store: TimedStore,
) -> None:
    node, session, (message,) = await assigned(store, 1)
    await store.answer(node, message, body=text("hi"), audio=b"RIFF", audio_sha256=SHA)
    (event,) = await events(store, "ResultRecorded")
    assert (event.data.audio_bytes, event.data.audio_sha256) == (4, SHA)
    assert codec.decode_text(event.body).text == "hi"
    (entry,) = await store.out(session)
    assert (entry["a"], entry["b"]) == (b"RIFF", text("hi"))
    assert (event.data.delivered.to, event.data.delivered.skipped) == ([session.session], [])
    assert entry["log"] == event.id
    assert (await store.types())[-1] == "ResultRecorded"


async def test_rule_25_results_go_out_in_order_whatever_order_they_come_in(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 5)
    for place in (3, 1, 4, 0):
        await store.answer(node, messages[place], body=text(f"{place}"))
    assert [number for number, _ in await outcomes_in_outbox(store, session)] == [0, 1]
    await store.answer(node, messages[2], body=text("2"))
    recorded = await events(store, "ResultRecorded")
    assert [(event.data.delivery_no, bool(event.data.delivered)) for event in recorded] == [
        (3, False), (1, False), (4, False), (0, True), (2, True),
    ]  # fmt: skip
    held = await events(store, "ResultDelivered")
    assert [event.data.delivery_no for event in held] == [1, 3, 4]
    causes = {event.data.delivery_no: f"log/{event.id}" for event in recorded}
    assert [event.cause for event in held] == [causes[1], causes[3], causes[4]]
    assert await outcomes_in_outbox(store, session) == [(number, "result") for number in range(5)]
    bodies = [codec.decode_text(entry["b"]).text for entry in await store.out(session)]
    assert bodies == ["0", "1", "2", "3", "4"]


async def test_rule_25_held_audio_goes_out_with_its_result(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 2)
    await store.answer(node, messages[1], audio=b"later", audio_sha256=SHA)
    await store.answer(node, messages[0])
    assert [entry["a"] for entry in await store.out(session)] == [b"", b"later"]
    assert await store.read_hash(store.keys.out_of_order("s1")) == {}


async def test_rule_25_targets_do_not_wait_for_each_other(store: TimedStore) -> None:
    node = await store.join(targets=["es", "fr"], slots=8)
    session = await store.open(targets=["es", "fr"])
    for seq in range(2):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    for message in await store.inbox(node):
        if (message["target"], message["utterance"]) != ("es", 0):
            await store.answer(node, message)
    out = [(entry["target"], entry["delivery_no"]) for entry in await store.out(session)]
    assert out == [("fr", 0), ("fr", 1)]


async def test_rule_25_a_gap_is_waited_for_from_when_a_later_one_was_ready(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 2)
    store.tick(10_000)
    await store.answer(node, messages[1])
    ready_ms = store.at_ms
    await store.extend_lease(node.node, 1, job=messages[0]["j"], attempt=1, more_ms=100_000)
    store.tick(20_000)
    await store.heartbeat_node(node.node, 1, load=0, attempts=[])
    store.tick(9_999)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == []
    store.tick(1)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(0, "missing"), (1, "result")]
    (missing,) = await events(store, "ResultMissing")
    assert (missing.ms, missing.data.reason) == (ready_ms + 30_000, "gap")
    (ended,) = await events(store, "AttemptEnded")
    assert (ended.data.reason, ended.job) == ("cancelled", messages[0]["j"])
    assert [m["t"] for m in await store.inbox(node)][-1] == "cancel"
    types = await store.types()
    assert types[types.index("ResultMissing") + 1] == "AttemptEnded"


async def test_rule_25_what_comes_after_missing_is_refused_and_on_record(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 2)
    await store.extend_lease(node.node, 1, job=messages[0]["j"], attempt=1, more_ms=100_000)
    await store.answer(node, messages[1])
    store.tick(14_000)
    await store.heartbeat_node(node.node, 1, load=0, attempts=[])
    store.tick(14_000)
    await store.heartbeat_node(node.node, 1, load=0, attempts=[])
    store.tick(2_000)
    await store.timers()
    with pytest.raises(LeaseLost):
        await store.answer(node, messages[0])
    (refusal,) = await events(store, "ResultRefused")
    assert (refusal.job, refusal.data.what) == (messages[0]["j"], "result")
    assert await outcomes_in_outbox(store, session) == [(0, "missing"), (1, "result")]


async def keep(store: TimedStore, node: NodeGrant, messages: list[dict[str, Any]]) -> None:
    """Extend the leases, so that only gaps can end the outcomes."""
    await store.configure_cell({"node_lost_ms": 3_600_000}, overwrite=True)
    for message in messages:
        await store.extend_lease(
            node.node, node.epoch, job=message["j"], attempt=1, more_ms=300_000
        )


async def test_rule_25_each_gap_is_waited_for_by_its_own_later_one(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 5)
    await keep(store, node, messages)
    await store.answer(node, messages[1])
    store.tick(20_000)
    await store.answer(node, messages[4])
    await store.keep_alive([(session.session, 1, "")])
    store.tick(10_000)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(0, "missing"), (1, "result")]
    store.tick(19_999)
    await store.timers()
    assert len(await outcomes_in_outbox(store, session)) == 2
    store.tick(1)
    await store.timers()
    assert (await outcomes_in_outbox(store, session))[2:] == [
        (2, "missing"),
        (3, "missing"),
        (4, "result"),
    ]


async def test_rule_25_an_ending_that_was_held_too_long_skips_all_gaps_before_it(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 4)
    await keep(store, node, messages)
    await store.answer(node, messages[3])
    store.tick(20_000)
    await store.answer(node, messages[1])
    store.tick(10_000)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [
        (0, "missing"), (1, "result"), (2, "missing"), (3, "result"),
    ]  # fmt: skip


async def test_rule_25_a_gap_that_closes_in_time_is_none(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 3)
    await keep(store, node, messages)
    await store.answer(node, messages[1])
    store.tick(29_999)
    await store.answer(node, messages[0])
    store.tick(60_000 - 29_999 - 1)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(0, "result"), (1, "result")]
    assert not await events(store, "ResultMissing")


async def test_rule_25_many_gaps_are_skipped_in_bounded_steps(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 100)
    await keep(store, node, messages)
    await store.answer(node, messages[99])
    await store.keep_alive([(session.session, 1, "")])
    store.tick(30_000)
    await store.fire_timers()
    assert len(await events(store, "ResultMissing")) == 8
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(n, "missing") for n in range(99)] + [
        (99, "result")
    ]


async def test_rule_25_many_that_waited_go_out_in_bounded_steps(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 201)
    for message in messages[1:]:
        await store.answer(node, message)
    await store.answer(node, messages[0])
    assert len(await outcomes_in_outbox(store, session)) == 17
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(number, "result") for number in range(201)]


async def test_rule_25_a_close_in_the_middle_of_such_steps_keeps_the_order(
    store: TimedStore,
) -> None:
    """130 endings are held for the first, another is missing: closing ends all of them in order."""
    node, session, messages = await assigned(store, 140)
    await keep(store, node, messages)
    for message in messages[1:131]:
        await store.answer(node, message)
    await store.close_session(session.session, 1)
    store.tick(29_999)
    await store.answer(node, messages[0])
    store.tick(1)
    await store.timers()
    results = [(number, "result") for number in range(131)]
    assert await outcomes_in_outbox(store, session) == results + [
        (n, "missing") for n in range(131, 140)
    ]
    (closed,) = await events(store, "SessionClosed")
    assert closed.data.missing == 9


async def test_rule_25_racing_results_are_delivered_in_order(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 30)
    await asyncio.gather(*(store.answer(node, message) for message in reversed(messages)))
    await store.timers()  # a call delivers at most 16 held results, and a timer the others
    assert await outcomes_in_outbox(store, session) == [(number, "result") for number in range(30)]


async def test_rule_25_a_result_that_comes_later_does_not_delay_those_that_are_ready(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 30)
    *others, last = messages[1:]
    for message in [*others, messages[0], last]:  # the first delivers 17 of them
        await store.answer(node, message)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(number, "result") for number in range(30)]


async def test_rule_25_a_result_and_its_gap_race_to_one_outcome(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 16)
    await keep(store, node, messages)
    for message in messages[1::2]:
        await store.answer(node, message)
    store.tick(30_000)
    late = (store.answer(node, message) for message in messages[0::2])
    await asyncio.gather(*late, store.fire_timers(), store.fire_timers(), return_exceptions=True)
    await store.timers()
    assert [number for number, _ in await outcomes_in_outbox(store, session)] == list(range(16))


async def test_rule_25_an_outcome_that_ended_makes_no_job(store: TimedStore) -> None:
    """The close wait ends before anybody dispatched: the entry in `work` is obsolete."""
    await store.join()
    session = await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.close_session(session.session, 1)
    store.tick(30_000)
    await store.timers()
    assert await outcomes_in_outbox(store, session) == [(0, "missing")]
    await store.join()
    assert await store.dispatch() == 0
    assert (await store.read_hash(store.keys.counters))["obsolete"] == "1"
    assert not await events(store, "JobDispatched", "JobQueued")


@pytest.mark.parametrize("code", ["NO_SPEECH", "ASR_EMPTY", ""])
async def test_rule_24_no_speech_ends_the_job_and_advances_the_order(
    store: TimedStore, code: str
) -> None:
    node = await store.join(slots=1)
    session = await store.open()
    for seq in range(2):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    (first,) = await store.inbox(node)
    await empty(store, node, first, code)
    (_, second) = await store.inbox(node)  # the freed slot serves the next at once
    await store.answer(node, second)
    assert await outcomes_in_outbox(store, session) == [(0, "no_speech"), (1, "result")]
    delivered = [delivery for _, delivery in await store.deliveries()]
    assert [(delivery.outcome, delivery.code) for delivery in delivered] == [
        ("no_speech", code), ("result", ""),
    ]  # fmt: skip
    (recorded, _) = await events(store, "ResultRecorded")
    assert (recorded.data.status, recorded.data.code) == ("no_speech", code)
    assert (
        await store.transport.command(
            "ZCARD", store.keys.leases("n1", 1), key=store.keys.leases("n1", 1)
        )
        == 0
    )


async def test_rule_24_no_speech_makes_no_group_part(store: TimedStore) -> None:
    node, _, messages = await assigned(store, 2)
    await empty(store, node, messages[0])
    await store.answer(node, messages[1])
    delivered = [(each.utterance, each.outcome) for _, each in await store.deliveries()]
    assert delivered == [(0, "no_speech"), (1, "result")]
    assert [event.body for event, each in await store.deliveries() if not each.utterance] == [b""]


async def test_rule_24_a_repeated_no_speech_is_refused(store: TimedStore) -> None:
    node, session, (message,) = await assigned(store, 1)
    await empty(store, node, message)
    for _ in range(2):
        with pytest.raises(LeaseLost) as refused:
            await empty(store, node, message)
        assert refused.value.code == "DUPLICATE_RESULT"
    assert await outcomes_in_outbox(store, session) == [(0, "no_speech")]
    assert len(await events(store, "ResultRecorded")) == 1


async def test_rule_23_a_complete_result_replaces_an_empty_one_that_waits(
    store: TimedStore,
) -> None:
    node, session, messages = await assigned(store, 2)
    await empty(store, node, messages[1])
    waits_since = store.at_ms
    store.tick(10_000)
    await store.answer(node, messages[1], body=text("late"), audio=b"a", audio_sha256=SHA)
    (replaced,) = await events(store, "ResultReplaced")
    assert (replaced.data.status, replaced.data.audio_bytes) == ("ok", 1)
    ready = store.keys.out_of_order_at("s1", "es")
    score = await store.transport.command("ZSCORE", ready, "1", key=ready)
    assert int(float(score)) == waits_since
    await store.answer(node, messages[0])
    assert await outcomes_in_outbox(store, session) == [(0, "result"), (1, "result")]
    assert (await store.out(session))[1]["b"] == text("late")
    assert (await job_record(store, messages[1]["j"]))["outcome"] == "ok"


async def test_rule_23_only_once_and_only_while_it_waits(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 3)
    await empty(store, node, messages[2])
    await empty(store, node, messages[1])
    await store.answer(node, messages[1])
    await store.answer(node, messages[0])
    assert await outcomes_in_outbox(store, session) == [
        (0, "result"),
        (1, "result"),
        (2, "no_speech"),
    ]
    for message in messages:
        with pytest.raises(LeaseLost) as refused:
            await store.answer(node, message)
        assert refused.value.code == "DUPLICATE_RESULT"
    assert len(await events(store, "ResultReplaced")) == 1


async def test_rule_23_a_waiting_result_is_replaced_by_nothing(
    store: TimedStore, redis: Client
) -> None:
    node, _, messages = await assigned(store, 3)
    await store.answer(node, messages[1], body=text("first"))
    await store.answer(node, messages[2], status="failed", code="BROKEN", body=b"")
    held = await store.read_hash(store.keys.out_of_order("s1"))
    for message in messages[1:]:
        with pytest.raises(LeaseLost):
            await store.answer(node, message, body=text("second"))
    with pytest.raises(LeaseLost):
        await empty(store, node, messages[1])
    assert await store.read_hash(store.keys.out_of_order("s1")) == held
    assert not await events(store, "ResultReplaced")


async def test_rule_23_another_token_replaces_nothing(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 2)
    await empty(store, node, messages[1])
    with pytest.raises(LeaseLost) as refused:
        await store.answer(node, messages[1], attempt=2)
    assert refused.value.code == "ATTEMPT_MISMATCH"
    newer = await store.join(token="newer", slots=256)
    with pytest.raises(LeaseLost) as refused:
        await store.answer(newer, messages[1])
    assert refused.value.code == "NODE_MISMATCH"
    assert not await events(store, "ResultReplaced")
    assert await outcomes_in_outbox(store, session) == []


async def test_rule_25_a_failure_takes_its_place_in_the_order(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 2)
    await store.answer(node, messages[1])
    await store.answer(node, messages[0], status="failed", code="BROKEN", body=b"")
    assert await outcomes_in_outbox(store, session) == [(0, "failed"), (1, "result")]
    (failed, _) = await store.out(session)
    assert failed["code"] == "BROKEN"


async def test_rule_26_partials_are_appended_at_once_and_nowhere_else(
    store: TimedStore, redis: Client
) -> None:
    node, session, messages = await assigned(store, 2)
    log = await store.types()
    audio = await redis.dump(store.keys.audio("s1"))
    partial = (messages[1]["j"], 1, text("so f"))
    assert await store.send_partials(node.node, 1, [partial]) == [None]
    (entry,) = await store.partials(session)
    assert (entry["t"], entry["utterance"], entry["target"], entry["attempt"]) == (
        "partial",
        1,
        "es",
        1,
    )
    assert entry["b"] == text("so f")
    assert await store.out(session) == []
    assert await store.types() == log
    assert await redis.dump(store.keys.audio("s1")) == audio


async def test_rule_26_a_partial_of_an_ended_job_has_no_effect(store: TimedStore) -> None:
    node, session, (message,) = await assigned(store, 1)
    await store.answer(node, message)
    (refused,) = await store.send_partials(node.node, 1, [(message["j"], 1, b"x")])
    assert isinstance(refused, LeaseLost)
    assert [entry["t"] for entry in await store.out(session)] == ["result"]
    assert await store.partials(session) == []


async def test_rule_26_partials_displace_no_result(store: TimedStore) -> None:
    """Neither by their number nor by their bytes; of the partial results the newest 32 stay, and
    of large ones as many as have 32 KiB together.
    """
    node, session, messages = await assigned(store, 3)
    await store.answer(node, messages[0])
    await store.answer(node, messages[1])
    for number in range(64):
        partials = [(messages[2]["j"], 1, bytes([number]) * 768)] * 8
        assert await store.send_partials(node.node, 1, partials) == [None] * 8
    small = await store.partials(session)
    large = [(messages[2]["j"], 1, bytes([number]) * 65_536) for number in range(8)]
    assert await store.send_partials(node.node, 1, large) == [None] * 8
    await store.answer(node, messages[2])
    assert await outcomes_in_outbox(store, session) == [(number, "result") for number in range(3)]
    assert await numbers(store, session) == [1, 2, 3]
    assert [entry["b"][0] for entry in small] == [60] * 8 + [61] * 8 + [62] * 8 + [63] * 8
    assert {entry["i"] for entry in small} == {"2"}
    assert [entry["b"] for entry in await store.partials(session)] == [large[-1][2]]


async def test_rule_26_partials_are_deleted_with_the_outbox_of_a_closed_session(
    store: TimedStore,
) -> None:
    node, session, (message,) = await assigned(store, 1)
    await store.send_partials(node.node, 1, [(message["j"], 1, b"x")])
    await store.answer(node, message)
    await store.close_session(session.session, 1)
    store.tick(299_999)
    await store.timers()
    assert len(await store.partials(session)) == 1
    store.tick(1)
    await store.timers()
    assert await store.partials(session) == []


# --- the listener's stream --------------------------------------------------------------------


async def numbers(store: TimedStore, session: SessionGrant) -> list[int]:
    return [int(entry["i"].partition(":")[0]) for entry in await store.out(session)]


async def deliver(
    store: TimedStore, node: NodeGrant, session: SessionGrant, *, first: int, count: int, size: int
) -> None:
    """Results of `size` bytes each for `count` utterances, from the number `first` on."""
    for start in range(first, first + count, 8):
        batch = range(start, min(start + 8, first + count))
        for seq in batch:
            await append(store, session, seq, ms=20, payload=b"xx", end_of_utterance=True)
        await store.dispatch()
        assignments = [each for each in await store.inbox(node) if each["t"] == "assign"]
        results = [
            NodeResult(
                job=each["j"], attempt=1, status="ok", audio=bytes(size), audio_sha256=SHA
            )
            for each in assignments[-len(batch) :]
        ]  # fmt: skip
        assert await store.record_results(node.node, 1, results) == [None] * len(batch)
        store.tick(1)


async def outbox_of(store: TimedStore, count: int, size: int = 1) -> tuple[NodeGrant, SessionGrant]:
    """A session with so many results of `size` bytes each in its outbox."""
    node, session = await store.join(slots=256), await store.open()
    await deliver(store, node, session, first=0, count=count, size=size)
    return node, session


async def outbox_ids(store: TimedStore) -> list[str]:
    return [
        entry_id
        for entry_id, _ in await store.read_range(store.keys.outbox("s1"), "-", "+", 10_000)
    ]


async def test_a_listener_sees_numbers_without_a_hole(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 3)
    await store.send_partials(node.node, 1, [(messages[2]["j"], 1, b"x")])
    for message in reversed(messages):
        await store.answer(node, message)
    await store.close_session(session.session, 1)
    assert await numbers(store, session) == [1, 2, 3, 4, 5]


async def test_a_stream_keeps_the_last_thousand_entries(store: TimedStore) -> None:
    _, session = await outbox_of(store, 1_088)
    assert await numbers(store, session) == list(range(89, 1_089))


async def test_a_confirmed_entry_stays_as_a_bookmark_and_what_is_before_it_goes(
    store: TimedStore,
) -> None:
    _, session = await outbox_of(store, 5)
    ids = await outbox_ids(store)
    await store.keep_alive([(session.session, 1, ids[2])])
    assert await numbers(store, session) == [3, 4, 5]
    await append(store, session, 5, confirmed=ids[3])
    assert await numbers(store, session) == [4, 5]
    await store.keep_alive([(session.session, 1, ids[0])])
    assert await numbers(store, session) == [4, 5]


async def test_a_confirmation_that_comes_late_does_not_take_the_bookmark_back(
    store: TimedStore,
) -> None:
    _, session = await outbox_of(store, 3)
    ids = await outbox_ids(store)
    await store.keep_alive([(session.session, 1, ids[1])])
    await append(store, session, 3, confirmed=ids[0])  # repeated after its reply was lost
    resumed = await store.resume(session.session, "again")
    assert resumed.out_id == ids[1]
    assert await numbers(store, session) == [2, 3]


RESULT_BYTES = 65_536 - 256
"""Bytes of a result, so that 256 of them are 16 MiB: each counts 256 more."""


async def test_a_stream_holds_sixteen_mebibytes_and_not_more(store: TimedStore) -> None:
    node, session = await outbox_of(store, 256, RESULT_BYTES)
    assert await numbers(store, session) == list(range(1, 257))
    await deliver(store, node, session, first=256, count=8, size=RESULT_BYTES)
    assert await numbers(store, session) == list(range(9, 265))


async def test_what_is_within_sixteen_mebibytes_stays_for_a_reader_that_confirms(
    store: TimedStore,
) -> None:
    """Bytes of confirmed entries no longer count."""
    node, session = await outbox_of(store, 200, RESULT_BYTES)
    await store.keep_alive([(session.session, 1, (await outbox_ids(store))[-8])])
    await deliver(store, node, session, first=200, count=248, size=RESULT_BYTES)
    assert await numbers(store, session) == list(range(193, 449))
    await deliver(store, node, session, first=448, count=200, size=RESULT_BYTES)
    assert await numbers(store, session) == list(range(393, 649))


async def test_exactly_sixteen_mebibytes_behind_what_was_confirmed_stay(store: TimedStore) -> None:
    node, session = await outbox_of(store, 256, RESULT_BYTES)
    await store.keep_alive([(session.session, 1, (await outbox_ids(store))[1])])
    await deliver(store, node, session, first=256, count=1, size=RESULT_BYTES)
    assert await numbers(store, session) == list(range(2, 258))


async def test_an_out_entry_names_its_event(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 2)
    for message in messages:
        await store.answer(node, message)
    await store.close_session(session.session, 1)
    named = [entry["log"] for entry in await store.out(session)]
    kinds = ("ResultRecorded", "SessionClosing", "SessionClosed")
    assert named == [event.id for event in await events(store, *kinds)]


async def test_results_of_one_call_are_delivered_together_in_order(store: TimedStore) -> None:
    node, session, messages = await assigned(store, 16)
    results = [NodeResult(job=m["j"], attempt=1, status="ok", body=b"") for m in reversed(messages)]
    assert await store.record_results(node.node, 1, results) == [None] * 16
    assert await outcomes_in_outbox(store, session) == [(number, "result") for number in range(16)]
    chunks = await store.read_range(store.keys.audio("s1"), "-", "+", 10)
    assert [msgspec.json.decode(fields[15])["seq"] for _, fields in chunks] == []
