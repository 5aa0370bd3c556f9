"""Rules 21 to 24 and 26: which reports of a job count, once, and with which contents."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import pytest_asyncio

from eventsched.client.outbox_entry import ErrorData, parse, parse_error
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import assigned, last, logged, refusal, reply, speak
from tests.server_kinds import Server


@pytest_asyncio.fixture
async def others(store: TimedStore, server: Server) -> AsyncIterator[list[Store]]:
    """Eight more stores of the same cell, each with a connection of its own."""
    clients = [await open_client(server.url) for _ in range(8)]
    yield [
        Store(RedisTransport(client, client), store.cell, now_ms=lambda: store.at_ms)
        for client in clients
    ]
    for client in clients:
        await client.aclose()


def text(word: str) -> bytes:
    """The body of a result with this translation."""
    return codec.encode_text(Text(text=word))


async def running(store: TimedStore, **overrides: Any) -> tuple[NodeGrant, str]:
    """A node that runs one job."""
    node = await store.join(**overrides)
    await speak(store, "s1")
    await store.dispatch()
    return node, (await assigned(store, node))[0]["j"]


async def refusals_of_token(
    store: TimedStore, node: NodeGrant, job: str, attempt: int, epoch: int | None = None
) -> set[str]:
    """Result, partial and extension with this token: the codes of their refusals."""
    epoch = node.epoch if epoch is None else epoch
    result = NodeResult(job=job, attempt=attempt, status="ok", body=b"stale")
    replies = await store.record_results(node.node, epoch, [result])
    replies += await store.send_partials(node.node, epoch, [(job, attempt, b"stale")])
    codes = {reply.code for reply in replies if reply is not None}
    assert len(replies) == 2
    assert None not in replies
    extended = await refusal(
        store.extend_lease(node.node, epoch, job=job, attempt=attempt, more_ms=1_000)
    )
    return codes | {extended.code}


async def test_rule_21_a_stale_token_is_refused_recorded_and_has_no_effect(
    store: TimedStore,
) -> None:
    node, job = await running(store, slots=2)
    other = await store.join("n2")
    for who, attempt, epoch, code in (
        (other, 1, 1, "NODE_MISMATCH"),
        (node, 1, 2, "NODE_MISMATCH"),
        (node, 1, 0, "NODE_MISMATCH"),
        (node, 2, 1, "ATTEMPT_MISMATCH"),
    ):
        before = len(await logged(store))
        assert await refusals_of_token(store, who, job, attempt, epoch) == {code}
        refused = (await logged(store))[before:]
        assert [e.type for e in refused] == ["ResultRefused"] * 3
        assert [e.data.what for e in refused] == ["result", "partial", "extend"]
        assert {(e.data.code, e.data.attempt, e.data.epoch) for e in refused} == {
            (code, attempt, epoch)
        }
        assert {e.node for e in refused} == {who.node}
    session = await store.resume(store.keys.full("s1"), "new")
    assert await store.out(session) == []
    await check(store)
    assert await reply(store, node, job) == "ok"


async def test_rule_21_a_refused_report_is_recorded_once_for_each_token_and_kind(
    store: TimedStore,
) -> None:
    """A handler may send partial results of an ended attempt in a loop."""
    node, job = await running(store, slots=2)
    await reply(store, node, job)
    for _ in range(3):
        assert await refusals_of_token(store, node, job, 1) == {"DUPLICATE_RESULT"}
    refused = await logged(store, "ResultRefused")
    assert [e.data.what for e in refused] == ["result", "partial", "extend"]
    for attempt in range(2, 20):
        (late,) = await store.send_partials(node.node, node.epoch, [(job, attempt, b"x")])
        assert late is not None
        assert late.code == "ATTEMPT_MISMATCH"
    assert len(await logged(store, "ResultRefused")) == 16
    await check(store)


async def test_rule_21_refused_partials_are_not_recorded_under_backpressure(
    store: TimedStore,
) -> None:
    """A function that may pass maxmemory adds nothing to the log that a node can repeat."""
    node, job = await running(store)
    await store.set_backpressure("memory", is_active=True, seen=90, limit=80)
    (late,) = await store.send_partials(node.node, node.epoch, [(job, 2, b"x")])
    assert late is not None
    assert late.code == "ATTEMPT_MISMATCH"
    assert not await logged(store, "ResultRefused")
    await store.set_backpressure("memory", is_active=False, seen=70, limit=80)
    await store.send_partials(node.node, node.epoch, [(job, 2, b"x")])
    assert len(await logged(store, "ResultRefused")) == 1
    await check(store)


async def test_rule_21_an_unknown_job_is_refused_and_not_recorded(store: TimedStore) -> None:
    node, _ = await running(store)
    before = await store.types()
    assert await refusals_of_token(store, node, "acme:none:0:translation:es:none", 1) == {
        "JOB_UNKNOWN"
    }
    assert await refusals_of_token(store, node, "", 1) == {"JOB_UNKNOWN"}
    assert await store.types() == before


async def test_rule_21_the_older_attempt_on_the_same_node_is_stale(store: TimedStore) -> None:
    node, job = await running(store, slots=1)
    failure: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
    assert await reply(store, node, job, 1, retry_in_ms=0, **failure) == "ok"
    assert await refusals_of_token(store, node, job, 1) == {"ATTEMPT_MISMATCH"}
    assert await reply(store, node, job, 2) == "ok"
    await check(store)


async def test_rule_21_while_the_job_waits_again_its_old_token_has_lost_the_lease(
    store: TimedStore,
) -> None:
    node, job = await running(store, slots=1)
    await speak(store, "s2")
    await store.dispatch()
    failure: dict[str, Any] = {"status": "failed", "code": "BROKEN", "retryable": True}
    assert await reply(store, node, job, 1, **failure) == "ok"
    assert await refusals_of_token(store, node, job, 1) == {"LEASE_LOST"}
    assert await refusals_of_token(store, node, job, 2) == {"LEASE_LOST"}
    await check(store)


async def test_rule_21_a_lost_node_holds_nothing_even_before_its_job_is_dispatched_again(
    store: TimedStore,
) -> None:
    """More than 16 leases: the 17th is still on the books of a registration that is over."""
    node = await store.join("n1", slots=17)
    await speak(store, "s1", count=17)
    await store.dispatch()
    store.tick(15_000)
    await store.fire_timers()
    dispatched = sorted(e.job for e in await logged(store, "JobDispatched"))
    ended = {e.job for e in await logged(store, "AttemptEnded")}
    held = [job for job in dispatched if job not in ended]
    assert len(held) == 1
    assert await refusals_of_token(store, node, held[0], 1) == {"LEASE_LOST"}
    await store.timers()
    await check(store)


async def test_rule_23_a_job_ends_once(store: TimedStore) -> None:
    node, job = await running(store)
    assert await reply(store, node, job, body=text("first")) == "ok"
    assert await reply(store, node, job, body=text("first")) == "DUPLICATE_RESULT"
    assert await reply(store, node, job, status="no_speech") == "DUPLICATE_RESULT"
    assert await reply(store, node, job, status="failed", code="X") == "DUPLICATE_RESULT"
    assert await reply(store, node, job, 2) == "ATTEMPT_MISMATCH"
    assert [event.body for event, _ in await store.deliveries()] == [text("first")]
    refused = await logged(store, "ResultRefused")
    assert [(e.data.code, e.data.attempt) for e in refused] == [
        ("DUPLICATE_RESULT", 1), ("ATTEMPT_MISMATCH", 2),
    ]  # fmt: skip
    await check(store)


async def test_rule_23_the_same_result_twice_in_one_call_ends_the_job_once(
    store: TimedStore,
) -> None:
    node, job = await running(store)
    result = NodeResult(job=job, attempt=1, status="ok")
    first, second = await store.record_results(node.node, node.epoch, [result, result])
    assert first is None
    assert second is not None
    assert second.code == "DUPLICATE_RESULT"
    await check(store)


async def test_rule_23_many_at_once_say_the_same_and_one_counts(
    store: TimedStore, others: list[Store]
) -> None:
    node, job = await running(store)
    codes: list[str] = []

    async def send(other: Store, status: Any, code: str) -> None:
        result = NodeResult(job=job, attempt=1, status=status, code=code)
        (refused,) = await other.record_results(node.node, node.epoch, [result])
        codes.append(refused.code if refused else "ok")

    async with anyio.create_task_group() as group:
        for i, other in enumerate(others):
            group.start_soon(send, other, *[("ok", ""), ("no_speech", ""), ("failed", "X")][i % 3])
    assert sorted(codes) == ["DUPLICATE_RESULT"] * 7 + ["ok"]
    assert len(await store.deliveries()) == 1
    await check(store)


async def test_rule_23_a_complete_result_replaces_an_empty_one_that_waits_behind_a_gap(
    store: TimedStore,
) -> None:
    node = await store.join()
    session = await speak(store, "s1", count=2)
    await store.dispatch()
    first, second = [message["j"] for message in await assigned(store, node)]
    assert await reply(store, node, second, status="no_speech", code="ASR_EMPTY") == "ok"
    assert await reply(store, node, second, status="no_speech") == "DUPLICATE_RESULT"
    assert await reply(store, node, second, 2) == "ATTEMPT_MISMATCH"
    assert await reply(store, node, second, status="failed", code="X") == "DUPLICATE_RESULT"
    assert await reply(store, node, second, body=text("late")) == "ok"
    assert (await store.types())[-1] == "ResultReplaced"
    await check(store)
    assert await reply(store, node, second, body=text("later")) == "DUPLICATE_RESULT"
    assert await reply(store, node, first, body=text("one")) == "ok"
    outcomes = [(m["utterance"], m["outcome"], m["b"]) for m in await store.out(session)]
    assert outcomes == [(0, "result", text("one")), (1, "result", text("late"))]
    assert await reply(store, node, second, body=text("latest")) == "DUPLICATE_RESULT"
    await check(store)


async def test_rule_23_an_empty_result_that_was_delivered_is_not_replaced(
    store: TimedStore,
) -> None:
    node, job = await running(store)
    assert await reply(store, node, job, status="no_speech") == "ok"
    assert await reply(store, node, job, body=text("late")) == "DUPLICATE_RESULT"
    await check(store)


async def test_rule_24_no_text_ends_the_job_and_frees_the_slot(store: TimedStore) -> None:
    node = await store.join(slots=1)
    session = await speak(store, "s1", count=2)
    await store.dispatch()
    (first,) = await assigned(store, node)
    assert await reply(store, node, first["j"], status="no_speech", code="NO_SPEECH") == "ok"
    assert (await store.types())[-2:] == ["ResultRecorded", "JobDispatched"]
    ((_, delivered),) = await store.deliveries()
    assert (delivered.outcome, delivered.code) == ("no_speech", "NO_SPEECH")
    second = (await assigned(store, node))[-1]
    assert await reply(store, node, second["j"]) == "ok"
    assert [m["outcome"] for m in await store.out(session)] == ["no_speech", "result"]
    await check(store)


AUDIO = b"\x01" * 512_000


async def test_rule_22_audio_is_in_the_output_and_named_in_the_log(store: TimedStore) -> None:
    node, job = await running(store)
    sha = hashlib.sha256(AUDIO).hexdigest()
    assert await reply(store, node, job, audio=AUDIO, audio_sha256=sha, body=text("t")) == "ok"
    recorded = (await logged(store, "ResultRecorded"))[0]
    assert recorded.data.audio_bytes == 512_000
    assert recorded.data.audio_sha256 == sha
    session = await store.resume(store.keys.full("s1"), "new")
    (entry,) = await store.out(session)
    assert entry["a"] == AUDIO


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "attempt 0": ({"attempt": 0}, "attempt"),
    "another status": ({"status": "great"}, "status"),
    "a failure without a code": ({"status": "failed"}, "code"),
    "a long code": ({"status": "failed", "code": "X" * 65}, "code"),
    "neither retryable nor final": ({"retryable": 2}, "retryable"),
    "a long feature": ({"status": "failed", "code": "X", "feature": "a" * 65}, "feature"),
    "no name of a feature": ({"status": "failed", "code": "X", "feature": "a b"}, "feature"),
    "a long type of an error": (
        {"status": "failed", "code": "X", "error_type": "x" * 257},
        "error_type",
    ),
    "a long message of an error": (
        {"status": "failed", "code": "X", "error_message": "x" * 801},
        "error_message",
    ),
    "a place that is no text": (
        {"status": "failed", "code": "X", "error_place": b"\xff"},
        "error_place",
    ),
    "too much text": ({"body": text("x" * 65_536)}, "body"),
    "too much audio": ({"audio": AUDIO + b"\x01", "audio_sha256": "0" * 64}, "audio"),
    "audio without its hash": ({"audio": b"\x01"}, "audio_sha256"),
    "audio with half a hash": ({"audio": b"\x01", "audio_sha256": "0" * 32}, "audio_sha256"),
    "a hash of nothing": ({"audio_sha256": "0" * 64}, "audio_sha256"),
    "audio without text": (
        {"status": "no_speech", "audio": b"\x01", "audio_sha256": "0" * 64},
        "audio",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_rule_22_a_malformed_result_is_refused_and_the_others_count(
    store: TimedStore, case: str
) -> None:
    node = await store.join()
    await speak(store, "s1", count=2)
    await store.dispatch()
    first, second = [message["j"] for message in await assigned(store, node)]
    fields, field = MALFORMED[case]
    defaults: dict[str, Any] = {"job": first, "attempt": 1, "status": "ok"}
    good = NodeResult(job=second, attempt=1, status="ok")
    replies = await store.record_results(
        node.node, node.epoch, [NodeResult(**defaults | fields), good]
    )
    assert replies[0] is not None
    assert replies[0].code == "INVALID_MESSAGE"
    assert replies[0].fields["field"] == field
    assert replies[1] is None
    assert len(await logged(store, "ResultRecorded")) == 1
    await check(store)


async def test_malformed_calls_are_refused_as_a_whole(store: TimedStore) -> None:
    _, job = await running(store)
    before = await store.types()
    run = store.transport.run
    for script, args, field in (
        ("record_results", ["n1", "x"], "epoch"),
        ("record_results", ["n1", 1, job, 1, "ok"], "results"),
        ("record_results", ["n1", 1, *[job, 1, "ok", "", 0, *[""] * 8] * 65], "results"),
        ("send_partials", ["n1", "x"], "epoch"),
        ("send_partials", ["n1", 1, job, 1], "partials"),
        ("send_partials", ["n1", 1, *[job, 1, ""] * 65], "partials"),
    ):
        refused = await refusal(run(script, store.keys.declared, [store.at_ms, *args]))
        assert (refused.code, refused.fields["field"]) == ("INVALID_MESSAGE", field)
    assert await store.types() == before


async def test_the_largest_calls_are_taken(store: TimedStore) -> None:
    """16 results, 32 partials, 256 attempts in a heartbeat."""
    node, job = await running(store)
    partials = await store.send_partials(node.node, node.epoch, [(job, 1, b"x")] * 32)
    assert partials == [None] * 32
    held = [(job, 1)] * 256
    assert await store.heartbeat_node(node.node, node.epoch, load=0, attempts=held) == []
    result = NodeResult(job=job, attempt=1, status="ok")
    replies = await store.record_results(node.node, node.epoch, [result] * 16)
    assert [reply and reply.code for reply in replies] == [None] + ["DUPLICATE_RESULT"] * 15
    await check(store)


async def test_rule_26_a_partial_is_appended_for_its_recipients_alone(
    store: TimedStore,
) -> None:
    node, job = await running(store)
    before = await store.types()
    assert await store.send_partials(node.node, node.epoch, [(job, 1, b"he")] * 2) == [None, None]
    assert await store.types() == before
    session = await store.resume(store.keys.full("s1"), "new")
    entries = await store.partials(session)
    assert [(m["t"], m["target"], m["attempt"], m["b"]) for m in entries] == [
        ("partial", "es", 1, b"he")
    ] * 2
    replies = await store.send_partials(
        node.node, node.epoch, [(job, 0, b""), (job, 1, b"x" * 65_537), (job, 1, b"ok")]
    )
    assert [reply and reply.fields["field"] for reply in replies] == ["attempt", "body", None]
    await reply(store, node, job)
    (late,) = await store.send_partials(node.node, node.epoch, [(job, 1, b"late")])
    assert late is not None
    assert late.code == "DUPLICATE_RESULT"
    assert len(await store.partials(session)) == 3
    assert [m["t"] for m in await store.out(session)] == ["result"]
    await check(store)


async def test_rule_25_a_live_attempt_whose_outcome_ended_is_cancelled_and_its_slot_serves(
    store: TimedStore,
) -> None:
    node = await store.join(slots=1)
    session = await speak(store, "s1")
    await speak(store, "s2")
    await store.configure_cell(
        {"queue_timeout_ms": 60_000, "lease_base_ms": 60_000}, overwrite=True
    )
    await store.dispatch()
    job = (await assigned(store, node))[0]["j"]
    await store.close_session(session.session, session.epoch)
    for _ in range(3):
        store.tick(10_000)
        await store.heartbeat_node(node.node, 1, load=0, attempts=[])
        await store.timers()
    assert [t for t in await store.types() if t not in ("SessionClosed", "RoomLeft")][-3:] == [
        "ResultMissing",
        "AttemptEnded",
        "JobDispatched",
    ]
    assert (await last(store, "AttemptEnded")).reason == "cancelled"
    assert await refusals_of_token(store, node, job, 1) == {"LEASE_LOST"}
    await check(store)


ERROR: dict[str, Any] = {
    "error_type": "ValueError",
    "error_message": "out of memory",
    "error_place": "a.py:12",
}


@pytest.mark.parametrize("retryable", [True, False])
@pytest.mark.parametrize("error_messages", [1, 0])
async def test_the_end_of_an_attempt_has_why_its_handler_failed(
    store: TimedStore, retryable: bool, error_messages: int
) -> None:
    await store.configure_cell({"error_messages": error_messages}, overwrite=True)
    node, job = await running(store)
    answer = await reply(
        store, node, job, status="failed", code="HANDLER_ERROR", retryable=retryable, **ERROR
    )
    assert answer == "ok"
    (event,) = await logged(store, "AttemptEnded")
    message = ERROR["error_message"] if error_messages else ""
    assert (event.data.error_type, event.data.error_message) == ("ValueError", message)
    assert event.data.error_place == "a.py:12"
    expected = "ValueError: out of memory at a.py:12" if message else "ValueError at a.py:12"
    assert event.data.error == expected
    await check(store)


@pytest.mark.parametrize("error_messages", [1, 0])
async def test_the_listeners_receive_why_the_last_attempt_failed(
    store: TimedStore, error_messages: int
) -> None:
    await store.configure_cell({"error_messages": error_messages}, overwrite=True)
    node, job = await running(store)
    report: dict[str, Any] = {"status": "failed", "code": "HANDLER_ERROR"}
    assert await reply(store, node, job, **report, **ERROR) == "ok"
    entries = await store.read_range(store.keys.outbox("s1"), "-", "+", 10)
    (failed,) = [entry for entry in map(parse, entries) if entry.kind == "result"]
    left_out = {} if error_messages else {"error_message": ""}
    assert parse_error(failed.body) == ErrorData(**ERROR | left_out)
    (delivered,) = await logged(store, "ResultDelivered")
    assert delivered.body == b"", "the log has it once, in AttemptEnded"
    await check(store)


async def test_the_next_attempt_does_not_inherit_why_the_last_one_failed(
    store: TimedStore,
) -> None:
    node, job = await running(store)
    report: dict[str, Any] = {"status": "failed", "code": "HANDLER_ERROR", "retryable": True}
    await reply(store, node, job, retry_in_ms=0, **report, **ERROR)
    again: dict[str, Any] = {"attempt": 2, "status": "failed", "code": "NO_MODEL"}
    assert await reply(store, node, job, **again) == "ok"
    first, second = await logged(store, "AttemptEnded")
    assert (first.data.error_type, second.data.error_type) == ("ValueError", "")
