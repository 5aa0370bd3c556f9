"""Rule 10, job identity: an open session keeps the records of few ended jobs, and an old call on a
deleted job is harmless.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.errors import Backpressure
from eventsched.schema import codec
from eventsched.schema.events import JobsRetired, SessionRetired, Text
from eventsched.schema.keys import job_key
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import Chunk, SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.calls import contents
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import assigned, logged, reply
from tests.scripts.test_dispatch import put_entry

TARGETS = ["es", "fr"]
HOUR_MS = 3_600_000
BODY = codec.encode_text(Text(source_text="hi", text="hola"))


async def start(store: TimedStore, targets: list[str]) -> tuple[NodeGrant, SessionGrant]:
    node = await store.join(slots=256, targets=TARGETS)
    return node, await store.open(targets=targets)


async def speak(store: TimedStore, session: SessionGrant, seq: int) -> None:
    """One utterance, dispatched."""
    await store.say(session, seq, ms=20, end_of_utterance=True)
    await store.dispatch()


async def answer_all(store: TimedStore, node: NodeGrant) -> None:
    """A result for each live attempt of the node."""
    key = store.keys.leases("n1", node.epoch)
    jobs = await store.transport.command("ZRANGE", key, 0, -1, key=key)
    results = [NodeResult(job=job.decode(), attempt=1, status="ok", body=BODY) for job in jobs]
    for at in range(0, len(results), 16):
        refused = await store.record_results(node.node, node.epoch, results[at : at + 16])
        assert refused == [None] * len(refused)
    await store.timers()  # one call delivers 16 outcomes that were held


async def records(store: TimedStore, redis: Client) -> set[tuple[int, str]]:
    """The jobs that have a record, as (utterance, target)."""
    prefix = f"{store.keys.prefix}job:".encode()
    parts = [key.decode().split(":") for key in await contents(redis, store) if prefix in key]
    return {(int(each[5]), each[7]) for each in parts}


async def retired(store: TimedStore) -> list[tuple[int, int]]:
    """The utterances of each JobsRetired, as (first, last)."""
    events = [event.data for event in await store.log("JobsRetired")]
    return [(data.first, data.last) for data in events if isinstance(data, JobsRetired)]


async def test_rule_10_an_open_session_keeps_the_records_of_its_newest_utterances(
    store: TimedStore, redis: Client
) -> None:
    node, session = await start(store, TARGETS)
    for seq in range(100):
        await speak(store, session, seq)
        await answer_all(store, node)
        assert len(await records(store, redis)) <= 32 * len(TARGETS)
    assert await retired(store) == [(0, 15), (16, 31), (32, 47), (48, 63), (64, 79)]
    kept = {(utterance, target) for utterance in range(80, 100) for target in TARGETS}
    assert await records(store, redis) == kept
    await check(store)


async def test_rule_10_utterances_without_a_target_are_retired_before_the_first_listener(
    store: TimedStore, redis: Client
) -> None:
    """Otherwise the end of the session would name each of them in each of its languages."""
    room = store.keys.full("acme/r1")
    node = await store.join(slots=256, targets=TARGETS)
    speaker = await store.open("speaker", targets=[], room=room)
    for seq in range(100):
        await store.say(speaker, seq, ms=20, end_of_utterance=True)
    assert (await retired(store))[-1] == (64, 79)
    await check(store)
    await store.open("listener", targets=[], room=room, listen_language="es")
    for seq in range(100, 150):
        await speak(store, speaker, seq)
        await answer_all(store, node)
    assert await records(store, redis) == {(utterance, "es") for utterance in range(128, 150)}
    await store.close_session(speaker.session, 1)
    store.tick(2 * HOUR_MS)
    await store.timers()
    (ended,) = [e.data for e in await store.log("SessionRetired") if e.session == speaker.session]
    assert isinstance(ended, SessionRetired)
    assert (ended.first, ended.utterances, ended.targets) == (128, 150, ["es"])
    await check(store)


async def test_rule_33_a_session_has_at_most_1024_utterances_since_its_oldest_open_one(
    store: TimedStore,
) -> None:
    """A listener leaves while its first job waits: later utterances have no target."""
    room = store.keys.full("acme/r1")
    speaker = await store.open("speaker", targets=[], room=room)
    listener = await store.open("listener", targets=[], room=room, listen_language="es")
    await store.say(speaker, 0, ms=20, end_of_utterance=True)
    await store.close_session(listener.session, 1)
    for seq in range(1, 1_024):
        await store.say(speaker, seq, ms=20, end_of_utterance=True)
    chunk = Chunk(session=speaker.session, epoch=1, seq=1_024, ms=20, payload=b"\x01" * 640)
    (refused,) = await store.append_audio([chunk])
    assert isinstance(refused, Backpressure)
    assert refused.fields["cause"] == "session_outcomes"


async def test_rule_10_a_session_of_64_targets_keeps_the_records_of_16_to_18_utterances(
    store: TimedStore, redis: Client
) -> None:
    """Its listeners have had 64 languages; 128 records are deleted at once."""
    node, session = await start(store, ["es"])
    others = [f"a:x{chr(97 + no // 26)}{chr(97 + no % 26)}" for no in range(63)]
    await redis.hset(store.keys.session("s1"), mapping=dict.fromkeys(others, 0))
    for seq in range(40):
        await speak(store, session, seq)
        await answer_all(store, node)
    spans = await retired(store)
    assert spans == [(first, first + 1) for first in range(0, 24, 2)]
    assert {utterance for utterance, _ in await records(store, redis)} == set(range(24, 40))
    await redis.hdel(store.keys.session("s1"), *others)


async def test_rule_10_records_stay_since_the_oldest_utterance_with_an_open_outcome(
    store: TimedStore, redis: Client
) -> None:
    node, session = await start(store, ["es"])
    await speak(store, session, 0)
    await answer_all(store, node)
    for seq in range(1, 60):
        await speak(store, session, seq)
    assert await retired(store) == []
    assert len(await records(store, redis)) == 60
    await answer_all(store, node)
    for seq in range(60, 64):
        await speak(store, session, seq)
        await answer_all(store, node)
    assert await retired(store) == [(0, 15), (16, 31), (32, 47)]
    assert await records(store, redis) == {(utterance, "es") for utterance in range(48, 64)}


async def test_rule_10_a_job_that_has_not_ended_is_not_deleted(
    store: TimedStore, redis: Client
) -> None:
    """A call that failed between the delivery and the end of the job has left it running."""
    node, session = await start(store, ["es"])
    for seq in range(5):
        await speak(store, session, seq)
    key = store.keys.job(job_key("acme", session.session, 4, "es", "none"))
    running: Any = await redis.get(key)
    await answer_all(store, node)
    ended: Any = await redis.get(key)
    await redis.set(key, running)
    for seq in range(5, 40):
        await speak(store, session, seq)
        await answer_all(store, node)
    assert await retired(store) == [(0, 3)]
    await redis.set(key, ended)
    await speak(store, session, 40)
    assert await retired(store) == [(0, 3), (4, 19)]


@pytest.fixture(name="old")
async def an_old_job(store: TimedStore, redis: Client) -> dict[str, Any]:
    """A session whose first job has no record any more; the messages of this job."""
    node, session = await start(store, ["es"])
    await store.say(session, 0, ms=20, end_of_utterance=True)
    ((_, fields),) = await store.read_range(store.keys.dispatch, "-", "+", 1)
    await store.dispatch()
    (message,) = await assigned(store, node)
    await answer_all(store, node)
    for seq in range(1, 40):
        await speak(store, session, seq)
        await answer_all(store, node)
    assert (0, "es") not in await records(store, redis)
    entry = fields[3].decode()
    return {"node": node, "session": session, "job": message["j"], "entry": entry}


async def test_rule_10_a_late_report_on_a_deleted_job_changes_nothing(
    store: TimedStore, redis: Client, old: dict[str, Any]
) -> None:
    before = await contents(redis, store)
    for status in ("ok", "no_speech", "failed"):
        code = await reply(store, old["node"], old["job"], status=status, code="X")
        assert code == "JOB_UNKNOWN"
    node = old["node"]
    (partial,) = await store.send_partials(node.node, node.epoch, [(old["job"], 1, BODY)])
    assert partial is not None
    assert partial.code == "JOB_UNKNOWN"
    assert await contents(redis, store) == before


async def test_rule_1_a_repeated_finalize_of_an_old_utterance_has_no_effect(
    store: TimedStore, redis: Client, old: dict[str, Any]
) -> None:
    session, before = old["session"], await contents(redis, store)
    for utterance in (0, 15, 39):
        receipt = await store.finalize_utterance(session.session, session.epoch, utterance)
        assert receipt.status == "duplicate"
    after = await contents(redis, store)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed == {store.keys.counters.encode()}
    counters = await store.read_hash(store.keys.counters)
    assert counters["duplicate_finalizes"] == "3"


async def test_rule_10_a_repeated_dispatch_entry_creates_no_deleted_job_again(
    store: TimedStore, redis: Client, old: dict[str, Any]
) -> None:
    dispatched, kept = await logged(store, "JobDispatched"), await records(store, redis)
    await put_entry(store, old["entry"])
    assert await store.dispatch() == 0
    assert await logged(store, "JobDispatched") == dispatched
    assert await records(store, redis) == kept
    assert (await store.read_hash(store.keys.counters))["obsolete"] == "1"
    await check(store)


async def test_rule_10_the_retirement_of_the_session_deletes_the_other_records(
    store: TimedStore, redis: Client, old: dict[str, Any]
) -> None:
    session = old["session"]
    await store.close_session(session.session, session.epoch)
    store.tick(HOUR_MS)
    await store.timers()
    (event,) = await logged(store, "SessionRetired")
    assert (event.data.first, event.data.utterances) == (16, 40)
    assert await records(store, redis) == set()
