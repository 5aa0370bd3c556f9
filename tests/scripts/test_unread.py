"""Results that wait to be read, by tenant: counted, bounded, and freed after the session's close
(rules 6, two-step close; 33, limits).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from eventsched.errors import Backpressure
from eventsched.history.problems import problems_of
from eventsched.history.status import TenantOutbox, read_status
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection
from eventsched.store.node_commands import NodeGrant
from eventsched.store.session_commands import Chunk, Receipt, SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned
from tests.scripts.test_delivery import deliver, numbers, outbox_of
from tests.verify.test_repair import repairer_of

SPEECH = bytes(100_000)
SOUND: dict[str, Any] = {"body": b"", "audio": SPEECH, "audio_sha256": sha256(SPEECH).hexdigest()}
RESULT = 256 + len(SPEECH)
"""What each result counts."""
BOUND = {"tenant_outbox_bytes_max": 250_000}


async def unread(store: TimedStore) -> dict[str, int]:
    stored = await store.read_hash(store.keys.tenant_outbox)
    return {tenant: int(count) for tenant, count in stored.items()}


async def answer_utterance(
    store: TimedStore, node: NodeGrant, session: SessionGrant, seq: int
) -> None:
    """One utterance of the session, and its result with 100,000 B of speech."""
    await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    message = (await assigned(store, node))[-1]
    await store.answer(node, message, **SOUND)


async def unread_session(store: TimedStore, count: int) -> tuple[NodeGrant, SessionGrant]:
    """A session of `acme` whose listener has read none of its results."""
    node, session = await store.join(slots=8), await store.open()
    for seq in range(count):
        await answer_utterance(store, node, session, seq)
    return node, session


async def entry_ids_of(store: TimedStore, name: str) -> list[str]:
    entries = await store.read_range(store.keys.outbox(name), "-", "+", 10_000)
    return [entry_id for entry_id, _ in entries]


async def entry_ids(store: TimedStore, session: SessionGrant) -> list[str]:
    return await entry_ids_of(store, session.session.partition(".")[2])


async def test_rule_33_a_tenant_with_too_many_unread_results_is_refused_alone(
    store: TimedStore,
) -> None:
    await store.configure_cell(BOUND, overwrite=True)
    node, session = await unread_session(store, 2)
    assert await unread(store) == {"acme": 2 * RESULT}
    await answer_utterance(store, node, session, 2)
    for attempt in (store.open("more"), store.say(session, 3)):
        with pytest.raises(Backpressure) as refused:
            await attempt
        assert refused.value.fields == {
            "retry_after_ms": "1000", "cause": "tenant_outbox", "tenant": "acme",
            "seen": str(3 * RESULT), "limit": str(BOUND["tenant_outbox_bytes_max"]),
        }  # fmt: skip
    other = await store.open("other", tenant="other")
    await answer_utterance(store, node, other, 0)
    assert await unread(store) == {"acme": 3 * RESULT, "other": RESULT}


async def test_rule_33_results_in_flight_of_a_tenant_far_beyond_its_limit_are_bounded(
    store: TimedStore,
) -> None:
    """Beyond twice the limit results have no speech, and the oldest ones make room."""
    node, session = await store.join(slots=64), await store.open()
    other = await store.open("other", tenant="other")
    for seq in range(20):
        for each in (session, other):
            await store.say(each, seq, end_of_utterance=True)
    await store.dispatch()
    for message in await assigned(store, node):
        if message["session"] == other.session:
            await store.answer(node, message, **SOUND)
    await store.configure_cell(BOUND, overwrite=True)
    for message in await assigned(store, node):
        if message["session"] == session.session:
            await store.answer(node, message, **SOUND)
    stored = await store.out(session)
    assert await numbers(store, session) == list(range(21 - len(stored), 21))
    assert {entry.get("omitted", "") for entry in stored} == {"", "audio"}
    assert all((entry.get("omitted") == "audio") == (entry["a"] == b"") for entry in stored)
    assert await numbers(store, other) == list(range(1, 21))
    counts = await unread(store)
    assert 500_000 - RESULT <= counts["acme"] < 500_000 + RESULT
    assert counts["other"] == 20 * RESULT


async def flooded_room(store: TimedStore) -> tuple[NodeGrant, list[dict[str, Any]]]:
    """A node with the jobs of 40 utterances, which 31 sessions of `acme` listen to, and a speaker.

    Before them the tenant has twice its limit of unread results.
    """
    node, session = await store.join(slots=128), await store.open("first")
    for number in range(31):
        await store.open(
            f"l{number}", targets=[], room=store.keys.full("acme/r"), listen_language="es"
        )
    speaker = await store.open("speaker", room=store.keys.full("acme/r"))
    await store.say(session, 0, end_of_utterance=True)
    for seq in range(40):
        await store.say(speaker, seq, end_of_utterance=True)
    await store.dispatch()
    first, *messages = await assigned(store, node)
    await store.configure_cell({"tenant_outbox_bytes_max": 50_000}, overwrite=True)
    await store.answer(node, first, **SOUND)
    assert await unread(store) == {"acme": RESULT}
    return node, messages


def text_of(size: int) -> bytes:
    """A text that is encoded in so many bytes."""
    overhead = len(codec.encode_text(Text(text="x" * size))) - size
    return codec.encode_text(Text(text="x" * (size - overhead)))


@pytest.mark.parametrize(
    ("size", "omitted"), [(300, "audio"), (3_840, "audio"), (3_841, "text"), (65_536, "text")]
)
async def test_rule_33_a_tenant_far_beyond_its_limit_adds_4_kib_an_outbox_to_it(
    store: TimedStore, size: int, omitted: str
) -> None:
    """However many rooms receive speech: the number of outboxes has no limit, but their bytes."""
    node, messages = await flooded_room(store)
    for message in messages:
        await store.answer(node, message, **SOUND | {"body": text_of(size)})
    for number in range(31):
        entries = await store.out(await store.resume(store.keys.full(f"l{number}"), "new"))
        assert sum(256 + len(entry["b"]) + len(entry["a"]) for entry in entries) <= 4_096
        assert {(entry["omitted"], bool(entry["b"])) for entry in entries} == {
            (omitted, omitted == "audio")
        }
    (count,) = (await unread(store)).values()
    assert count <= RESULT + 32 * 4_096


@pytest.mark.parametrize("by", ["append", "keepalive"])
async def test_rule_33_a_tenant_that_reads_is_served_again(store: TimedStore, by: str) -> None:
    """What the listener has read is freed before the tenant of the chunk is checked."""
    await store.configure_cell(BOUND, overwrite=True)
    _, session = await unread_session(store, 3)
    position = (await entry_ids(store, session))[1]
    chunk = Chunk(
        session=session.session, epoch=1, seq=3, ms=100, payload=bytes(3_200), confirmed=position
    )
    if by == "keepalive":
        assert await store.keep_alive([(session.session, 1, position)]) == [None]
        chunk = Chunk(session=session.session, epoch=1, seq=3, ms=100, payload=bytes(3_200))
    (receipt,) = await store.append_audio([chunk])
    assert isinstance(receipt, Receipt)
    assert await unread(store) == {"acme": RESULT}
    position = (await entry_ids(store, session))[-1]
    await store.keep_alive([(session.session, 1, position)])
    assert await unread(store) == {}


async def test_rule_33_entries_beyond_the_1000_of_an_outbox_are_not_counted(
    store: TimedStore,
) -> None:
    await outbox_of(store, 1_280, 1_000)
    (count,) = (await unread(store)).values()
    assert abs(count - 1_256_000) <= 16 * 1024


async def test_rule_33_small_results_are_counted_in_steps(store: TimedStore) -> None:
    node, session = await outbox_of(store, 1, 8_000)
    assert await unread(store) == {}
    await deliver(store, node, session, first=1, count=1, size=7_871)
    assert await unread(store) == {}
    await deliver(store, node, session, first=2, count=1, size=384)
    assert await unread(store) == {"acme": 16_383 + 256 + 384}


async def test_rule_33_outcomes_without_a_text_count(store: TimedStore) -> None:
    """Each takes some 200 bytes of the server, and a tenant can have any number of sessions."""
    await store.configure_cell({"tenant_outbox_bytes_max": 64 * 256}, overwrite=True)
    node, session = await store.join(slots=256), await store.open()
    for seq in range(64):
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
        message = (await assigned(store, node))[-1]
        assert await unread(store) == {}
        await store.answer(node, message, status="no_speech", code="ASR_EMPTY", body=b"")
    assert await unread(store) == {"acme": 64 * 256}
    with pytest.raises(Backpressure) as refused:
        await store.say(session, 64)
    assert refused.value.fields["cause"] == "tenant_outbox"


async def test_rule_26_partial_results_are_not_counted(store: TimedStore) -> None:
    """They displace each other, so their bytes are bounded by session."""
    node, session = await store.join(), await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    (message,) = await assigned(store, node)
    partials: list[dict[str, Any]] = []
    for size in [65_536, 16_000, *(32_768 // kept - 256 for kept in range(3, 33)), 0, 0]:
        await store.send_partials(node.node, node.epoch, [(message["j"], 1, bytes(size))])
        partials = await store.partials(session)
        assert sum(256 + len(partial["b"]) for partial in partials) <= 164 * 1_024
    assert await unread(store) == {}
    assert len(partials) == 32


async def test_rule_26_a_tenant_at_its_limit_gets_no_partial_results(store: TimedStore) -> None:
    """They may be lost, and would take memory that no limit counts."""
    await store.configure_cell(BOUND, overwrite=True)
    node, session = await store.join(slots=8), await store.open()
    for seq in range(4):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    *messages, last = await assigned(store, node)
    for message in messages:
        assert await store.send_partials(node.node, node.epoch, [(last["j"], 1, b"x")]) == [None]
        await store.answer(node, message, **SOUND)
    assert await store.send_partials(node.node, node.epoch, [(last["j"], 1, b"late")]) == [None]
    assert [partial["b"] for partial in await store.partials(session)] == [b"x"] * 3


async def test_rule_6_the_outbox_of_a_closed_session_is_freed(store: TimedStore) -> None:
    """After `outbox_retention_ms` only the end of the session is left; its records stay."""
    _, session = await unread_session(store, 3)
    await store.close_session(session.session, 1)
    closed_ms = store.at_ms
    store.tick(299_999)
    await store.timers()
    assert await unread(store) == {"acme": 3 * RESULT}
    store.tick(1)
    await store.timers()
    assert await unread(store) == {}
    (end,) = await store.out(session)
    assert (end["t"], end["state"]) == ("state", "closed")
    assert "SessionRetired" not in await store.types()
    store.tick(closed_ms + 3_600_000 - store.at_ms - 1)
    await store.timers()
    assert "SessionRetired" not in await store.types()
    store.tick(1)
    await store.timers()
    assert "SessionRetired" in await store.types()
    assert await entry_ids(store, session) == []


async def test_a_session_that_is_retired_before_its_outbox_is_freed_leaves_no_count(
    store: TimedStore,
) -> None:
    await store.configure_cell({"session_retention_ms": 1_000}, overwrite=True)
    _, session = await unread_session(store, 1)
    await store.close_session(session.session, 1)
    store.tick(1_000)
    await store.timers()
    assert "SessionRetired" in await store.types()
    assert await unread(store) == {}


async def test_a_session_that_a_repair_deletes_leaves_no_count(
    store: TimedStore, redis: Client
) -> None:
    """Otherwise its tenant would be refused for ever. The log has no session `s7`."""
    await unread_session(store, 1)
    await redis.execute_command("COPY", store.keys.session("s1"), store.keys.session("s7"))
    await redis.execute_command("COPY", store.keys.outbox("s1"), store.keys.outbox("s7"))
    await redis.execute_command("HINCRBY", store.keys.tenant_outbox, "acme", RESULT)
    await repairer_of(store).apply("a key by hand", "test")
    await store.timers()
    assert await entry_ids_of(store, "s7") == []
    assert await unread(store) == {"acme": RESULT}


async def test_status_names_the_tenant_that_is_refused(store: TimedStore, redis: Client) -> None:
    await store.configure_cell(BOUND, overwrite=True)
    await unread_session(store, 3)
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    status = await read_status(connection)
    (cell,) = status.cells
    assert cell.outboxes == [TenantOutbox(tenant="acme", unread_bytes=3 * RESULT, is_refused=True)]
    assert any("tenant acme is refused" in line for line in problems_of(status))
