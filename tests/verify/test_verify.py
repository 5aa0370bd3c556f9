"""Verify finds no violation on a correct system, and finds each kind of corruption."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

import projections
from eventsched.audit.invariants import NAMES
from eventsched.audit.verify import Report, Verifier
from eventsched.projection.protocol import record_codec
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema.codec import encode
from eventsched.schema.events import (
    AttemptEnded,
    Data,
    Delivered,
    Event,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobsRetired,
    NodeRegistered,
    NodeRetired,
    PlaybackEnded,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    SessionClosed,
    SessionErased,
    SessionResumed,
    SessionRetired,
    StreamTrimmed,
    Target,
    UtteranceFinalized,
)
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.job_record import falsify, job_record

CORE = projections.core


def views_of(store: TimedStore) -> ProjectionStore:
    return ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)


async def verified(store: TimedStore) -> Report:
    return await Verifier(views_of(store), CORE).run()


async def project(store: TimedStore, owner: str | None = None, batch_max: int = 7) -> None:
    """Fold the log. After a failure only the same owner may go on before its lease ends."""
    projector = Projector(views_of(store), CORE, batch_max=batch_max, owner=owner)
    while (await projector.step()).state != "idle":
        pass
    await projector.release()


def names(report: Report) -> set[str]:
    return {violation.invariant for violation in report.violations}


class BusyCell:
    """A cell in the middle of its work: jobs that run, wait and have ended, open outcomes."""

    def __init__(self, store: TimedStore) -> None:
        self.store = store
        self.node: NodeGrant
        self.session: SessionGrant

    async def start(self) -> BusyCell:
        store = self.store
        self.node = await store.join("n1", slots=3)
        self.session = await store.open("s1")
        await self._talk(3)
        messages = await store.inbox(self.node)
        await store.answer(self.node, messages[0])
        await store.answer(self.node, messages[2])  # waits for number 1
        await store.mark_playback(
            self.session.session,
            self.session.epoch,
            origin=self.session.session,
            target="es",
            utterance=0,
            started=True,
        )
        await self._talk(5, first=3)  # more than slots
        await store.say(self.session, 8)  # an open utterance
        await store.say(self.session, 9, end_of_utterance=True)  # finalized, not dispatched yet
        await project(store)
        return self

    async def _talk(self, utterances: int, first: int = 0) -> None:
        for seq in range(first, first + utterances):
            await self.store.say(self.session, seq, end_of_utterance=True)
            self.store.tick(10)
            await self.store.dispatch()

    def key(self, utterance: int) -> str:
        return f"acme:{self.session.session}:{utterance}:translation:es:none"


@pytest.fixture
async def busy(store: TimedStore) -> BusyCell:
    return await BusyCell(store).start()


# --- a correct system ------------------------------------------------------------------------


async def test_leases_of_earlier_registrations_are_found_before_they_are_dispatched_again(
    store: TimedStore,
) -> None:
    """A node with more leases than one call dispatches again registers four times at once."""
    await store.join(slots=20)
    session = await store.open()
    for seq in range(20):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    for number in range(4):
        await store.join(token=f"again-{number}", slots=1, targets=["fr"])
    await project(store)
    assert (await verified(store)).violations == []
    store.tick(1)
    await store.timers()
    await project(store)
    assert (await verified(store)).violations == []


async def test_an_empty_cell_is_clean(store: TimedStore) -> None:
    report = await verified(store)
    assert report.is_clean
    assert report.events == 0


async def test_a_cell_in_the_middle_of_its_work_is_clean(busy: BusyCell) -> None:
    report = await verified(busy.store)
    assert report.violations == []
    assert (report.sessions, report.jobs, report.nodes, report.records) == (1, 8, 1, 12)
    assert report.events == len(await busy.store.log())
    assert report.audio_chunks > 0
    assert report.outbox_entries == 1


async def test_lagging_views_are_compared_at_their_checkpoint(busy: BusyCell) -> None:
    await busy.store.dispatch()
    await busy.store.say(busy.session, 10, end_of_utterance=True)
    report = await verified(busy.store)
    assert report.is_clean
    assert report.checkpoint != report.last_id


async def test_changes_while_verify_runs_are_no_violation(busy: BusyCell) -> None:
    """Jobs are dispatched and folded between any two reads."""
    store = busy.store
    seq = 10

    class Busy(Verifier):
        async def _fold_to(self, upto: str) -> None:
            nonlocal seq
            await super()._fold_to(upto)
            await store.say(busy.session, seq, end_of_utterance=True)
            seq += 1
            await store.dispatch()
            messages = await store.inbox(busy.node)
            assignment = [message for message in messages if message["t"] == "assign"][-1]
            result = NodeResult(
                job=assignment["j"], attempt=assignment["attempt"], status="no_speech"
            )
            await store.record_results(busy.node.node, busy.node.epoch, [result])
            store.tick(500)
            await store.timers()
            await project(store)

    report = await Busy(views_of(store), CORE).run()
    assert report.violations == []
    assert seq > 13


async def test_failures_and_recoveries_are_clean(busy: BusyCell) -> None:
    """A lost node, ends of leases, waits and gaps, a resume, a close, a retirement."""
    store = busy.store
    session = busy.session
    for round_no in range(12):
        store.tick(4_000)
        await store.timers()
        await store.join(f"n{round_no}", features=["tone"])
        await store.dispatch()
        session = await store.resume(session.session, f"again-{round_no}")
        assert (await verified(store)).violations == [], round_no
    await project(store)
    assert (await verified(store)).violations == []
    await store.close_session(session.session, session.epoch)
    assert (await verified(store)).violations == []
    store.tick(31_000)
    await store.timers()
    seen = {"NodeLost", "AttemptEnded", "JobQueued", "JobFailed", "ResultMissing", "SessionClosed"}
    assert seen <= set(await store.types())
    await project(store)
    assert (await verified(store)).violations == []
    store.tick(4_000_000)
    await store.timers()
    assert "SessionRetired" in await store.types()
    assert (await verified(store)).violations == [], "the views are not folded yet"
    await project(store)
    report = await verified(store)
    assert report.violations == []
    assert report.sessions == 0


async def test_rule_10_a_session_that_goes_on_keeps_few_jobs_and_few_views_of_them(
    store: TimedStore,
) -> None:
    node, session, views = await store.join("n1"), await store.open("s1"), views_of(store)
    for seq in range(60):
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
        await store.answer(node, (await store.inbox(node))[-1])
        store.tick(10)
        if seq % 20 == 0:  # some records are dropped before they were ever stored
            await project(store)
    await project(store)
    report = await verified(store)
    assert report.violations == []
    assert report.jobs == 28
    active = await views.active_revision("job")
    stored = [key async for keys in views.scan(f"view:job:{active}") for key in keys]
    key = f"acme:{session.session}:{{}}:translation:es:none"
    assert set(stored) == {key.format(utterance) for utterance in range(32, 60)}


# --- corrupted state --------------------------------------------------------

Corruption = Callable[[BusyCell, Any], Awaitable[Any]]


async def _job_node(busy: BusyCell, redis: Any) -> None:
    await falsify(redis, busy.store, busy.key(1), "epoch", 9)


async def _unknown_lease(busy: BusyCell, redis: Any) -> None:
    await redis.zadd(busy.store.keys.leases("n1", 1), {"acme:c.x:0:translation:es:none": 5})


async def _swapped_lease(busy: BusyCell, redis: Any) -> None:
    """The number of leases stays the same, but one belongs to no attempt."""
    await _leaked_slot(busy, redis)
    await _unknown_lease(busy, redis)


async def _leaked_slot(busy: BusyCell, redis: Any) -> None:
    await redis.zrem(busy.store.keys.leases("n1", 1), busy.key(1))


async def _wrong_load(busy: BusyCell, redis: Any) -> None:
    node = await busy.store.read_hash(busy.store.keys.node("n1"))
    await redis.zadd(busy.store.keys.free(node["class"]), {"n1": 0})


async def _lost_chunk(busy: BusyCell, redis: Any) -> None:
    chunks = await redis.xrange(busy.store.keys.audio("s1"))
    await redis.xdel(busy.store.keys.audio("s1"), chunks[2][0])


async def _trimmed_audio(busy: BusyCell, redis: Any) -> None:
    chunks = await redis.xrange(busy.store.keys.audio("s1"))
    await redis.xtrim(busy.store.keys.audio("s1"), minid=chunks[3][0], approximate=False)


async def _lost_outbox_entry(busy: BusyCell, redis: Any) -> None:
    (message,) = [each for each in await busy.store.inbox(busy.node) if each["j"] == busy.key(1)]
    await busy.store.answer(busy.node, message)
    await project(busy.store)
    entries = await redis.xrange(busy.store.keys.outbox("s1"))
    await redis.xdel(busy.store.keys.outbox("s1"), entries[1][0])


async def _view(busy: BusyCell, redis: Any, name: str, entity: str, **changes: Any) -> None:
    projection = next(each for each in CORE.projections if each.name == name)
    key = busy.store.keys.view(name, f"{projection.version}.1", entity)
    stored = {field.decode(): value for field, value in (await redis.hgetall(key)).items()}
    codec = record_codec(projection)
    changed = msgspec.structs.replace(codec.decode(stored), **changes)
    await redis.hset(key, mapping=codec.encode(changed, None))


async def _forged_view(busy: BusyCell, redis: Any) -> None:
    await _view(busy, redis, "session", "s1", results=99)


async def _forged_context(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.view("group", "2.1", "s1"), "context:es", b"\x90")


async def _lost_view(busy: BusyCell, redis: Any) -> None:
    await redis.delete(busy.store.keys.view("job", "3.1", busy.key(0)))


async def _unknown_view(busy: BusyCell, redis: Any) -> None:
    await redis.copy(
        busy.store.keys.view("node", "4.1", "n1"), busy.store.keys.view("node", "4.1", "n9")
    )


async def _unreadable_view(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.view("node", "4.1", "n1"), "v", b"\xc1")


async def _unlisted_view(busy: BusyCell, redis: Any) -> None:
    assert await redis.zrem(busy.store.keys.view_ids("node", "4.1"), "n1")


async def _listed_without_a_record(busy: BusyCell, redis: Any) -> None:
    await redis.zadd(busy.store.keys.view_ids("node", "4.1"), {"n9": 0})


async def _listed_bytes(busy: BusyCell, redis: Any) -> None:
    await redis.zadd(busy.store.keys.view_ids("node", "4.1"), {b"\xff": 0})


async def _forged_index(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.session("s1"), "utterance", 44)


async def _forged_order(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.session("s1"), "d:es", 2)


async def _uncounted_session(busy: BusyCell, redis: Any) -> None:
    await redis.srem(busy.store.keys.tenant_sessions("acme"), "s1")


async def _forged_queue_count(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.tenant_queued, "acme", 99_999)


async def _unknown_queue_count(busy: BusyCell, redis: Any) -> None:
    await redis.hset(busy.store.keys.tenant_queued, "other", 7)


async def _lost_queue_count(busy: BusyCell, redis: Any) -> None:
    await redis.hdel(busy.store.keys.tenant_queued, "acme")


async def _lost_session(busy: BusyCell, redis: Any) -> None:
    await redis.delete(busy.store.keys.session("s1"))


async def _unknown_session(busy: BusyCell, redis: Any) -> None:
    await redis.copy(busy.store.keys.session("s1"), busy.store.keys.session("s9"))


async def _lost_job(busy: BusyCell, redis: Any) -> None:
    await redis.delete(busy.store.keys.job(busy.key(0)))


async def _lost_place(busy: BusyCell, redis: Any) -> None:
    job = await job_record(busy.store, busy.key(7))
    key = busy.store.keys.waiting(int(job["priority"]), "en:es:")
    assert await redis.zrem(key, job["member"]) == 1


async def _lost_head(busy: BusyCell, redis: Any) -> None:
    assert await redis.hdel(busy.store.keys.requirements, "en:es:") == 1


async def _forged_head(busy: BusyCell, redis: Any) -> None:
    place = f"0:{0:016d}:{0:016d}"
    await redis.hset(busy.store.keys.requirements, "en:es:", place)


async def _lost_head_of_a_class(busy: BusyCell, redis: Any) -> None:
    node = await busy.store.read_hash(busy.store.keys.node("n1"))
    assert await redis.delete(busy.store.keys.requirements_of(node["class"])) == 1


async def _forged_head_of_a_class(busy: BusyCell, redis: Any) -> None:
    node = await busy.store.read_hash(busy.store.keys.node("n1"))
    item = f"0:{0:016d}:{0:016d}:en:es:"
    await redis.zadd(busy.store.keys.requirements_of(node["class"]), {item: 0})


async def _lost_playback(busy: BusyCell, redis: Any) -> None:
    await redis.delete(busy.store.keys.playing("s1"))


async def _lost_out_of_order_outcome(busy: BusyCell, redis: Any) -> None:
    await redis.hdel(busy.store.keys.out_of_order("s1"), "es/2")


async def _lost_outcome(busy: BusyCell, redis: Any) -> None:
    await redis.hdel(busy.store.keys.outcomes("s1"), "es/1")


async def _forged_oldest(busy: BusyCell, redis: Any) -> None:
    key = busy.store.keys.session("s1")
    count, utterance, rest = (await redis.hget(key, "outcomes")).decode().split("|", 2)
    await redis.hset(key, "outcomes", f"{count}|{int(utterance) + 1}|{rest}")


async def _timer(busy: BusyCell, redis: Any, member: str) -> None:
    assert await redis.zrem(busy.store.keys.timers, member) == 1


async def _lost_lease_timer(busy: BusyCell, redis: Any) -> None:
    await _timer(busy, redis, "leases|n1|1")


async def _late_lease_timer(busy: BusyCell, redis: Any) -> None:
    """The timer exists, but is due 1 ms after a lease ends."""
    ends_ms = int((await job_record(busy.store, busy.key(1)))["deadline"])
    await redis.zadd(busy.store.keys.timers, {"leases|n1|1": ends_ms + 1})


async def _forged_deadline(busy: BusyCell, redis: Any) -> None:
    await falsify(redis, busy.store, busy.key(1), "deadline", 10**12)


async def _lost_wait_timer(busy: BusyCell, redis: Any) -> None:
    await _timer(busy, redis, f"wait|{busy.key(7)}")


async def _lost_gap_timer(busy: BusyCell, redis: Any) -> None:
    await _timer(busy, redis, f"gap|{busy.session.session}|es")


async def _lost_close_timer(busy: BusyCell, redis: Any) -> None:
    await busy.store.close_session(busy.session.session, busy.session.epoch)
    await project(busy.store)
    await _timer(busy, redis, f"close|{busy.session.session}")


async def _lost_dispatch_entry(busy: BusyCell, redis: Any) -> None:
    entries = await redis.xrange(busy.store.keys.dispatch)
    assert len(entries) == 1
    await redis.xdel(busy.store.keys.dispatch, entries[0][0])


async def _trimmed_log(busy: BusyCell, redis: Any) -> None:
    log = await busy.store.log()
    await redis.xtrim(busy.store.keys.log, minid=log[3].id, approximate=False)


async def _trimmed_before_it_was_folded(busy: BusyCell, redis: Any) -> None:
    """An event records the trim, but the projector has not folded the entries."""
    await busy.store.say(busy.session, 10, end_of_utterance=True)
    await busy.store.dispatch()
    log = await busy.store.log()
    await redis.xtrim(busy.store.keys.log, minid=log[-1].id, approximate=False)
    count = len(log) - 1
    await append(
        busy, redis, StreamTrimmed(stream="log", before=log[-1].id, count=count, total=count)
    )


async def _deleted_event(busy: BusyCell, redis: Any) -> None:
    log = await busy.store.log()
    await redis.xdel(busy.store.keys.log, log[5].id)


async def _wrong_number_read(busy: BusyCell, redis: Any) -> None:
    log = await busy.store.log()
    await redis.xgroup_setid(busy.store.keys.log, "core", log[-1].id, entries_read=len(log) - 1)


async def _wrong_place(busy: BusyCell, redis: Any) -> None:
    log = await busy.store.log()
    await redis.xgroup_setid(busy.store.keys.log, "core", log[4].id, entries_read=len(log))


async def _unknown_lag(busy: BusyCell, redis: Any) -> None:
    log = await busy.store.log()
    await redis.xgroup_setid(busy.store.keys.log, "core", log[4].id)


async def _read_from_dispatch(busy: BusyCell, redis: Any) -> None:
    assert await redis.xreadgroup("dispatch", "x", {busy.store.keys.dispatch: ">"}, noack=True)


async def _unknown_job_without_parts(busy: BusyCell, redis: Any) -> None:
    await redis.set(busy.store.keys.job("x"), "1")


async def _session_with_bytes_that_are_no_text(busy: BusyCell, redis: Any) -> None:
    await redis.hset(
        busy.store.keys.session("e"), mapping={"status": "open", "tenant": b"\xff\xfe"}
    )


STORED: list[tuple[str, Corruption]] = [
    ("I1", _lost_chunk),
    ("I5", _unknown_lease),
    ("I5", _leaked_slot),
    ("I5", _swapped_lease),
    ("I5", _wrong_load),
    ("I6", _forged_view),
    ("I6", _forged_context),
    ("I6", _lost_view),
    ("I6", _unknown_view),
    ("I6", _unreadable_view),
    ("I6", _unlisted_view),
    ("I6", _listed_without_a_record),
    ("I6", _listed_bytes),
    ("I7", _job_node),
    ("I7", _forged_deadline),
    ("I7", _forged_index),
    ("I7", _forged_order),
    ("I7", _lost_session),
    ("I7", _forged_queue_count),
    ("I7", _unknown_queue_count),
    ("I7", _lost_queue_count),
    ("I7", _uncounted_session),
    ("I7", _unknown_job_without_parts),
    ("I7", _session_with_bytes_that_are_no_text),
    ("I7", _unknown_session),
    ("I7", _lost_job),
    ("I7", _lost_place),
    ("I7", _lost_head),
    ("I7", _forged_head),
    ("I7", _lost_head_of_a_class),
    ("I7", _forged_head_of_a_class),
    ("I7", _lost_playback),
    ("I7", _lost_out_of_order_outcome),
    ("I7", _lost_outcome),
    ("I7", _forged_oldest),
    ("I8", _lost_lease_timer),
    ("I8", _late_lease_timer),
    ("I8", _lost_wait_timer),
    ("I8", _lost_gap_timer),
    ("I8", _lost_close_timer),
    ("I8", _lost_dispatch_entry),
    ("I9", _lost_outbox_entry),
    ("I10", _trimmed_audio),
    ("I10", _trimmed_log),
    ("I10", _trimmed_before_it_was_folded),
    ("I10", _deleted_event),
    ("I11", _wrong_number_read),
    ("I11", _wrong_place),
    ("I11", _unknown_lag),
    ("I11", _read_from_dispatch),
]


@pytest.mark.parametrize(
    ("invariant", "corrupt"), STORED, ids=[f"{i}{c.__name__}" for i, c in STORED]
)
async def test_corrupted_state_is_found(
    busy: BusyCell, redis: Any, invariant: str, corrupt: Corruption
) -> None:
    await corrupt(busy, redis)
    report = await verified(busy.store)
    assert invariant in names(report), report.violations
    assert not report.is_clean


async def test_views_of_another_version_are_reported_once_and_not_compared(
    busy: BusyCell, redis: Any
) -> None:
    await redis.set(busy.store.keys.active_revision("job"), "1.1")
    (violation,) = (await verified(busy.store)).violations
    assert (violation.invariant, violation.where) == ("I6", "active_revision:job")
    assert violation.what.startswith("1.1 has another version")


async def test_a_trimmed_log_is_reported_and_not_compared(busy: BusyCell, redis: Any) -> None:
    log = await busy.store.log()
    await redis.xtrim(busy.store.keys.log, minid=log[3].id, approximate=False)
    await append(busy, redis, StreamTrimmed(stream="log", before=log[3].id, count=3, total=3))
    report = await verified(busy.store)
    assert (report.trimmed_entries, report.violations, report.is_complete) == (3, [], False)


async def test_a_dead_letter_is_counted_and_no_violation(busy: BusyCell, redis: Any) -> None:
    ((entry_id, fields),) = await redis.xrange(busy.store.keys.dispatch)
    queue = busy.store.keys.dispatch
    await redis.xdel(queue, entry_id)
    added = (await redis.xinfo_stream(queue))["entries-added"]
    await redis.xgroup_setid(queue, "dispatch", entry_id, entries_read=added)
    await redis.xadd(
        busy.store.keys.dead_letters, {b"from": b"dispatch", b"id": entry_id, **fields}
    )
    report = await verified(busy.store)
    assert report.violations == []
    assert report.dead_letters == 1


@pytest.mark.parametrize("d", ["", "{", "{}", "c0.s1", "c0.s1 x y", b"\xff 0 y"])
async def test_an_unreadable_dead_letter_hides_no_violation(
    busy: BusyCell, redis: Any, d: str | bytes
) -> None:
    await redis.xadd(
        busy.store.keys.dead_letters, {"from": "dispatch", "id": "1-1", "k": "utterance", "d": d}
    )
    assert (await verified(busy.store)).violations == []
    await _lost_dispatch_entry(busy, redis)
    assert names(await verified(busy.store)) == {"I8", "I11"}


# --- a forged log ---------------------------------------------------------------


async def append(
    busy: BusyCell, redis: Any, data: Data, *, utterance: int = -1, node: str = ""
) -> None:
    """Append a forged event to the log."""
    event = Event(
        id="",
        type=type(data).__name__,
        session=busy.session.session,
        job=busy.key(utterance) if utterance >= 0 else "",
        node=busy.store.keys.full(node) if node else "",
        data=data,  # type: ignore[arg-type]
    )
    await redis.xadd(busy.store.keys.log, encode(event), id=f"{busy.store.at_ms}-*")


def dispatched(utterance: int, attempt: int, epoch: int = 1) -> JobDispatched:
    return JobDispatched(
        utterance=utterance,
        target="es",
        delivery_no=utterance,
        turn=utterance,
        source="en",
        attempt=attempt,
        epoch=epoch,
        audio_ms=100,
        deadline_ms=9_000_000,
        rule="load",
        policy=1,
    )


def recorded(
    utterance: int, attempt: int = 1, epoch: int = 1, to: Sequence[str] = ()
) -> ResultRecorded:
    return ResultRecorded(
        utterance=utterance,
        target="es",
        delivery_no=utterance,
        attempt=attempt,
        epoch=epoch,
        status="ok",
        delivered=Delivered(to=list(to)) if to else None,
    )


def finalized(
    utterance: int, first_seq: int, delivery_no: int, to: Sequence[str] = ()
) -> UtteranceFinalized:
    return UtteranceFinalized(
        utterance=utterance,
        turn=utterance,
        reason="final",
        first="1-1",
        last="1-1",
        first_seq=first_seq,
        count=1,
        bytes=1,
        ms=1,
        targets=[Target(target="es", delivery_no=delivery_no, to=list(to))],
    )


def delivered(no: int, outcome: Any = "result", to: Sequence[str] = ()) -> ResultDelivered:
    return ResultDelivered(utterance=no, target="es", delivery_no=no, outcome=outcome, to=list(to))


def missing(no: int) -> ResultMissing:
    return ResultMissing(utterance=no, target="es", delivery_no=no, reason="gap")


def failed(no: int) -> JobFailed:
    return JobFailed(utterance=no, target="es", delivery_no=no, attempt=1, code="NODE_LOST")


def promoted(no: int, priority: int = 0) -> JobPromoted:
    return JobPromoted(utterance=no, target="es", delivery_no=no, attempt=1, priority=priority)


def ended(no: int, reason: Any = "lease", epoch: int = 1) -> AttemptEnded:
    return AttemptEnded(utterance=no, target="es", attempt=1, epoch=epoch, reason=reason)


def jobs_retired(first: int, last: int) -> JobsRetired:
    return JobsRetired(tenant="acme", features_hash="none", first=first, last=last, targets=["es"])


def registered(epoch: int) -> NodeRegistered:
    return NodeRegistered(epoch=epoch, sources=["en"], targets=["es"], slots=4, cls="k")


NO_END = SessionRetired(tenant="acme", utterances=2**53 - 1, targets=["es"])
# utterances: 0 delivered, 1 running, 2 ready but not next, 3 and 4 running, 5 to 7 waiting,
# 8 not dispatched yet
FORGED: list[tuple[str, str, Data, int, str]] = [
    ("I1", "a chunk in two utterances", finalized(9, 3, 9), -1, ""),
    ("I2", "a repeated attempt", dispatched(1, 1), 1, "n1"),
    ("I2", "a skipped attempt", dispatched(5, 2), 5, "n1"),
    ("I2", "a second end", failed(2), 2, ""),
    ("I2", "an end of a missing job", failed(8), 8, ""),
    ("I2", "a promotion of a running job", promoted(1), 1, ""),
    ("I2", "a promotion to the same priority", promoted(5, priority=1), 5, ""),
    ("I2", "another outcome than its own", delivered(1, "failed"), 1, ""),
    ("I2", "the record of a running job is deleted", jobs_retired(0, 3), -1, ""),
    ("I3", "a result of an older attempt", recorded(1, attempt=7), 1, "n1"),
    ("I3", "a result of an older registration", recorded(1, epoch=7), 1, "n1"),
    ("I3", "a result of another node", recorded(1), 1, "n7"),
    ("I3", "an end of an attempt that is over", ended(0), 0, "n1"),
    ("I3", "a dispatch to a node that is not alive", dispatched(5, 1, epoch=4), 5, "n1"),
    ("I3", "an epoch again", registered(1), -1, "n1"),
    ("I3", "a retired node that was not gone", NodeRetired(epoch=1), -1, "n1"),
    ("I4", "a skipped utterance", finalized(12, 30, 9), -1, ""),
    ("I4", "records of utterances that are not next are deleted", jobs_retired(5, 6), -1, ""),
    ("I4", "records of more jobs than a session has are deleted", NO_END, -1, ""),
    ("I4", "a skipped epoch", SessionResumed(epoch=9), -1, ""),
    ("I4", "closed before closing", SessionClosed(), -1, ""),
    ("I4", "erased while it is open", SessionErased(key="0" * 16), -1, ""),
    (
        "I4",
        "an end of a playback that is not open",
        PlaybackEnded(origin="c.x", target="es", utterance=9),
        -1,
        "",
    ),
    ("I7", "a recipient that is in no room", finalized(9, 30, 9, to=["c0.spy"]), -1, ""),
    ("I5", "more attempts than slots", dispatched(5, 1), 5, "n1"),
    ("I8", "a job without an open outcome", dispatched(0, 2), 0, "n1"),
    ("I8", "the record of a job with an open outcome is deleted", jobs_retired(0, 2), -1, ""),
    ("I9", "a number allocated twice", finalized(9, 30, 3), -1, ""),
    ("I9", "a hole in the allocated numbers", finalized(9, 30, 12), -1, ""),
    ("I9", "a skipped number", delivered(2), 2, ""),
    ("I9", "a number delivered twice", delivered(0), 0, ""),
    ("I7", "an outcome delivered to another session", delivered(1, to=["c0.spy"]), 1, ""),
    ("I9", "a missing number that was not next", missing(3), 3, ""),
    ("I9", "a result that is held although its number is next", recorded(1), 1, "n1"),
    ("I9", "a result delivered before an earlier one", recorded(3, to=["c0.s1"]), 3, "n1"),
    ("I7", "a result delivered to another session", recorded(1, to=["c0.spy"]), 1, "n1"),
]


@pytest.mark.parametrize(
    ("invariant", "what", "data", "utterance", "node"),
    FORGED,
    ids=[f"{row[0]} {row[1]}" for row in FORGED],
)
async def test_a_forged_event_is_found(
    busy: BusyCell, redis: Any, invariant: str, what: str, data: Data, utterance: int, node: str
) -> None:
    await append(busy, redis, data, utterance=utterance, node=node)
    report = await verified(busy.store)
    assert invariant in names(report), report.violations
    assert any(f"log/{report.last_id} " in violation.where for violation in report.violations), what


async def test_a_recipient_of_another_tenant_is_found_while_it_listens_and_afterwards(
    store: TimedStore, redis: Any
) -> None:
    """A session that was added to a room by hand received an utterance."""
    room = store.keys.full("acme/r1")
    await store.join("n1", targets=["es", "fr"])
    speaker = await store.open("s1", room=room, listen_language="en")
    await store.open("s2", room=room, listen_language="es")
    spy = await store.open("spy", tenant="mallory")
    key = store.keys.room("acme/r1")
    await redis.hset(key, spy.session, "fr")
    await store.say(speaker, 0, end_of_utterance=True)
    await project(store)
    found = [each.what for each in (await verified(store)).violations]
    recipient = f"recipient {spy.session} is no member of the speaker's room"
    assert sorted(found) == sorted([recipient, f"{spy.session} is no member by the log"])
    await redis.hdel(key, spy.session)
    assert [each.what for each in (await verified(store)).violations] == [recipient]


async def test_a_hole_is_a_violation_until_its_numbers_are_delivered_as_missing(
    store: TimedStore, redis: Any
) -> None:
    await store.configure_cell({"cache_live_state": 0}, overwrite=True)
    node = await store.join("n1", slots=4)
    session = await store.open("s1")
    await store.say(session, 0, end_of_utterance=True)
    await redis.hset(store.keys.session("s1"), "a:es", 3)  # numbers 1 and 2 are lost
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    await project(store)
    (violation,) = (await verified(store)).violations
    assert violation.what == "es got number 3 instead of 1"
    for message in await store.inbox(node):
        await store.answer(node, message)
    assert names(await verified(store)) == {"I9"}
    await store.close_session(session.session, session.epoch)
    store.tick(30_000)
    await store.timers()
    await project(store)
    assert [delivery_no_of(event) for event in await store.log("ResultMissing")] == [1, 2]
    assert (await verified(store)).violations == []


def delivery_no_of(event: Event) -> int:
    assert isinstance(event.data, ResultMissing)
    return event.data.delivery_no


async def test_an_unknown_event_is_counted_with_its_reason(busy: BusyCell, redis: Any) -> None:
    fields = encode(Event(id="", type="MoonRisen", data=SessionClosed()))
    await redis.xadd(busy.store.keys.log, fields)
    report = await verified(busy.store)
    assert report.violations == []
    assert [entry.partition(" ")[2] for entry in report.failed_entries] == [
        "unknown type MoonRisen"
    ]


def test_every_invariant_is_violated_by_a_test() -> None:
    tested = {invariant for invariant, _ in STORED} | {row[0] for row in FORGED}
    assert tested == set(NAMES)
