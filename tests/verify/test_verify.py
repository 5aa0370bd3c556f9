"""Verify finds nothing on a sound system, and finds each invariant broken by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
    Event,
    JobDispatched,
    JobFailed,
    JobPromoted,
    PlaybackEnded,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    SessionClosed,
    SessionErased,
    SessionResumed,
    StreamTrimmed,
    Target,
    UtteranceFinalized,
)
from eventsched.store.cell import NodeGrant, NodeResult, SessionGrant
from tests.fixtures_store import TimedStore
from tests.job_record import falsify, job_record

CORE = projections.core


def views_of(store: TimedStore) -> ProjectionStore:
    return ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)


async def verified(store: TimedStore) -> Report:
    return await Verifier(views_of(store), CORE).run()


async def project(store: TimedStore) -> None:
    one = Projector(views_of(store), CORE, batch_max=7)
    while (await one.step()).state != "idle":
        pass
    await one.release()


def names(report: Report) -> set[str]:
    return {one.invariant for one in report.violations}


class Told:
    """A system in the midst of work: something of everything, nothing of it finished."""

    def __init__(self, store: TimedStore) -> None:
        self.store = store
        self.node: NodeGrant
        self.session: SessionGrant

    async def revision(self) -> Told:
        store = self.store
        self.node = await store.join("n1", slots=3)
        self.session = await store.open("s1")
        await self._talk(3)
        messages = await store.inbox(self.node)
        await store.answer(self.node, messages[0])
        await store.answer(self.node, messages[2])  # waits behind a gap
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
async def told(store: TimedStore) -> Told:
    return await Told(store).revision()


# --- a sound system ------------------------------------------------------------------------


async def test_an_empty_cell_is_clean(store: TimedStore) -> None:
    report = await verified(store)
    assert report.is_clean
    assert report.events == 0


async def test_a_system_in_the_midst_of_work_is_clean(told: Told) -> None:
    report = await verified(told.store)
    assert report.violations == []
    assert (report.sessions, report.jobs, report.nodes, report.records) == (1, 8, 1, 11)
    assert report.events == len(await told.store.log())
    assert report.chunks > 0
    assert report.heard == 1


async def test_views_that_are_behind_are_compared_where_they_are(told: Told) -> None:
    await told.store.dispatch()
    await told.store.say(told.session, 10, end_of_utterance=True)
    report = await verified(told.store)
    assert report.is_clean
    assert report.checkpoint != report.last_id


async def test_what_happens_while_verify_runs_is_no_violation(told: Told) -> None:
    """Work goes on between any two readings, folded by a live projector."""
    store = told.store
    seq = 10

    class Busy(Verifier):
        async def _fold_to(self, upto: str) -> None:
            nonlocal seq
            await super()._fold_to(upto)
            await store.say(told.session, seq, end_of_utterance=True)
            seq += 1
            await store.dispatch()
            given = [one for one in await store.inbox(told.node) if one["t"] == "assign"][-1]
            result = NodeResult(job=given["j"], attempt=given["attempt"], status="no_speech")
            await store.record_results(told.node.node, told.node.epoch, [result])
            store.tick(500)
            await store.timers()
            await project(store)

    report = await Busy(views_of(store), CORE).run()
    assert report.violations == []
    assert seq > 13


async def test_failures_and_their_mending_are_clean(told: Told) -> None:
    """A lost node, ends of leases, waits and gaps, a resume, a close, a retirement."""
    store = told.store
    session = told.session
    for round_no in range(12):
        store.tick(4_000)
        await store.timers()
        await store.join(f"n{round_no}", features=["tone"])
        await store.dispatch()
        session = await store.resume_session(session.session, f"again-{round_no}")
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
    assert (await verified(store)).violations == [], "views not folded yet"
    await project(store)
    report = await verified(store)
    assert report.violations == []
    assert report.sessions == 0


# --- broken by hand: what is stored --------------------------------------------------------

Corruption = Callable[[Told, Any], Awaitable[Any]]


async def _job_node(t: Told, redis: Any) -> None:
    await falsify(redis, t.store, t.key(1), "epoch", 9)


async def _strange_lease(t: Told, redis: Any) -> None:
    await redis.zadd(t.store.keys.leases("n1", 1), {"acme:c.x:0:translation:es:none": 5})


async def _swapped_lease(t: Told, redis: Any) -> None:
    """As many leases as before, and one of them nobody's."""
    await _leaked_slot(t, redis)
    await _strange_lease(t, redis)


async def _leaked_slot(t: Told, redis: Any) -> None:
    await redis.zrem(t.store.keys.leases("n1", 1), t.key(1))


async def _wrong_load(t: Told, redis: Any) -> None:
    node = await t.store.read_hash(t.store.keys.node("n1"))
    await redis.zadd(t.store.keys.free(node["class"]), {"n1": 0})


async def _lost_chunk(t: Told, redis: Any) -> None:
    chunks = await redis.xrange(t.store.keys.audio("s1"))
    await redis.xdel(t.store.keys.audio("s1"), chunks[2][0])


async def _trimmed_audio(t: Told, redis: Any) -> None:
    chunks = await redis.xrange(t.store.keys.audio("s1"))
    await redis.xtrim(t.store.keys.audio("s1"), minid=chunks[3][0], approximate=False)


async def _lost_out(t: Told, redis: Any) -> None:
    (message,) = [one for one in await t.store.inbox(t.node) if one["j"] == t.key(1)]
    await t.store.answer(t.node, message)
    await project(t.store)
    heard = await redis.xrange(t.store.keys.outbox("s1"))
    await redis.xdel(t.store.keys.outbox("s1"), heard[1][0])


async def _view(t: Told, redis: Any, name: str, entity: str, **changes: Any) -> None:
    part = next(one for one in CORE.projections if one.name == name)
    key = t.store.keys.view(name, f"{part.version}.1", entity)
    stored = {field.decode(): value for field, value in (await redis.hgetall(key)).items()}
    form = record_codec(part)
    changed = msgspec.structs.replace(form.decode(stored), **changes)
    await redis.hset(key, mapping=form.encode(changed, None))


async def _forged_view(t: Told, redis: Any) -> None:
    await _view(t, redis, "session", "s1", results=99)


async def _forged_context(t: Told, redis: Any) -> None:
    await redis.hset(t.store.keys.view("group", "2.1", "s1"), "context:es", b"\x90")


async def _lost_view(t: Told, redis: Any) -> None:
    await redis.delete(t.store.keys.view("job", "2.1", t.key(0)))


async def _strange_view(t: Told, redis: Any) -> None:
    await redis.copy(t.store.keys.view("node", "3.1", "n1"), t.store.keys.view("node", "3.1", "n9"))


async def _unreadable_view(t: Told, redis: Any) -> None:
    await redis.hset(t.store.keys.view("node", "3.1", "n1"), "v", b"\xc1")


async def _forged_index(t: Told, redis: Any) -> None:
    await redis.hset(t.store.keys.session("s1"), "utterance", 44)


async def _forged_order(t: Told, redis: Any) -> None:
    await redis.hset(t.store.keys.session("s1"), "d:es", 2)


async def _lost_session(t: Told, redis: Any) -> None:
    await redis.delete(t.store.keys.session("s1"))


async def _strange_session(t: Told, redis: Any) -> None:
    await redis.copy(t.store.keys.session("s1"), t.store.keys.session("s9"))


async def _lost_job(t: Told, redis: Any) -> None:
    await redis.delete(t.store.keys.job(t.key(0)))


async def _lost_place(t: Told, redis: Any) -> None:
    job = await job_record(t.store, t.key(7))
    key = t.store.keys.waiting(int(job["priority"]), "en:es:")
    assert await redis.zrem(key, job["member"]) == 1


async def _lost_playback(t: Told, redis: Any) -> None:
    await redis.delete(t.store.keys.playing("s1"))


async def _lost_held(t: Told, redis: Any) -> None:
    await redis.hdel(t.store.keys.out_of_order("s1"), "es/2")


async def _lost_outcome(t: Told, redis: Any) -> None:
    await redis.hdel(t.store.keys.outcomes("s1"), "es/1")


async def _timer(t: Told, redis: Any, member: str) -> None:
    assert await redis.zrem(t.store.keys.timers, member) == 1


async def _lost_lease_timer(t: Told, redis: Any) -> None:
    await _timer(t, redis, "leases|n1|1")


async def _late_lease_timer(t: Told, redis: Any) -> None:
    """It is there, and due 1 ms after a lease has ended."""
    ends_ms = int((await job_record(t.store, t.key(1)))["deadline"])
    await redis.zadd(t.store.keys.timers, {"leases|n1|1": ends_ms + 1})


async def _forged_deadline(t: Told, redis: Any) -> None:
    await falsify(redis, t.store, t.key(1), "deadline", 10**12)


async def _lost_wait_timer(t: Told, redis: Any) -> None:
    await _timer(t, redis, f"wait|{t.key(7)}")


async def _lost_gap_timer(t: Told, redis: Any) -> None:
    await _timer(t, redis, f"gap|{t.session.session}|es")


async def _lost_close_timer(t: Told, redis: Any) -> None:
    await t.store.close_session(t.session.session, t.session.epoch)
    await project(t.store)
    await _timer(t, redis, f"close|{t.session.session}")


async def _lost_work(t: Told, redis: Any) -> None:
    work = await redis.xrange(t.store.keys.dispatch)
    assert len(work) == 1
    await redis.xdel(t.store.keys.dispatch, work[0][0])


async def _trimmed_log(t: Told, redis: Any) -> None:
    log = await t.store.log()
    await redis.xtrim(t.store.keys.log, minid=log[3].id, approximate=False)


async def _trimmed_before_it_was_folded(t: Told, redis: Any) -> None:
    """An event says that it is gone, but the projector has not had it."""
    await t.store.say(t.session, 10, end_of_utterance=True)
    await t.store.dispatch()
    log = await t.store.log()
    await redis.xtrim(t.store.keys.log, minid=log[-1].id, approximate=False)
    gone = len(log) - 1
    await append(t, redis, StreamTrimmed(stream="log", before=log[-1].id, count=gone, total=gone))


async def _deleted_event(t: Told, redis: Any) -> None:
    log = await t.store.log()
    await redis.xdel(t.store.keys.log, log[5].id)


STORED: list[tuple[str, Corruption]] = [
    ("I1", _lost_chunk),
    ("I5", _strange_lease),
    ("I5", _leaked_slot),
    ("I5", _swapped_lease),
    ("I5", _wrong_load),
    ("I6", _forged_view),
    ("I6", _forged_context),
    ("I6", _lost_view),
    ("I6", _strange_view),
    ("I6", _unreadable_view),
    ("I7", _job_node),
    ("I7", _forged_deadline),
    ("I7", _forged_index),
    ("I7", _forged_order),
    ("I7", _lost_session),
    ("I7", _strange_session),
    ("I7", _lost_job),
    ("I7", _lost_place),
    ("I7", _lost_playback),
    ("I7", _lost_held),
    ("I7", _lost_outcome),
    ("I8", _lost_lease_timer),
    ("I8", _late_lease_timer),
    ("I8", _lost_wait_timer),
    ("I8", _lost_gap_timer),
    ("I8", _lost_close_timer),
    ("I8", _lost_work),
    ("I9", _lost_out),
    ("I10", _trimmed_audio),
    ("I10", _trimmed_log),
    ("I10", _trimmed_before_it_was_folded),
    ("I10", _deleted_event),
]


@pytest.mark.parametrize(
    ("invariant", "corrupt"), STORED, ids=[f"{i}{c.__name__}" for i, c in STORED]
)
async def test_what_is_stored_broken_by_hand_is_found(
    told: Told, redis: Any, invariant: str, corrupt: Corruption
) -> None:
    await corrupt(told, redis)
    report = await verified(told.store)
    assert invariant in names(report), report.violations
    assert not report.is_clean


async def test_views_of_another_version_are_told_once_and_not_compared(
    told: Told, redis: Any
) -> None:
    await redis.set(told.store.keys.active_revision("job"), "1.1")
    (found,) = (await verified(told.store)).violations
    assert (found.invariant, found.where) == ("I6", "active_revision:job")
    assert found.what.startswith("1.1 was made by another version")


async def test_a_log_trimmed_with_an_event_is_told_and_not_folded(told: Told, redis: Any) -> None:
    log = await told.store.log()
    await redis.xtrim(told.store.keys.log, minid=log[3].id, approximate=False)
    await append(told, redis, StreamTrimmed(stream="log", before=log[3].id, count=3, total=3))
    report = await verified(told.store)
    assert (report.gone, report.violations, report.is_folded) == (3, [], False)


async def test_work_that_was_parked_is_counted_and_no_violation(told: Told, redis: Any) -> None:
    ((entry_id, fields),) = await redis.xrange(told.store.keys.dispatch)
    await redis.xdel(told.store.keys.dispatch, entry_id)
    await redis.xadd(
        told.store.keys.dead_letters, {b"from": b"dispatch", b"id": entry_id, **fields}
    )
    report = await verified(told.store)
    assert report.violations == []
    assert report.dead == 1


@pytest.mark.parametrize("d", ["", "{", "{}", "c0.s1", "c0.s1 x y", b"\xff 0 y"])
async def test_what_was_parked_and_nobody_can_read_hides_nothing(
    told: Told, redis: Any, d: str | bytes
) -> None:
    await redis.xadd(
        told.store.keys.dead_letters, {"from": "dispatch", "id": "1-1", "k": "utterance", "d": d}
    )
    assert (await verified(told.store)).violations == []
    await _lost_work(told, redis)
    assert names(await verified(told.store)) == {"I8"}


# --- broken by hand: the log ---------------------------------------------------------------


async def append(
    told: Told, redis: Any, data: Data, *, utterance: int = -1, node: str = ""
) -> None:
    """Forge an event at the log's end."""
    event = Event(
        id="",
        type=type(data).__name__,
        session=told.session.session,
        job=told.key(utterance) if utterance >= 0 else "",
        node=told.store.keys.full(node) if node else "",
        data=data,  # type: ignore[arg-type]
    )
    await redis.xadd(told.store.keys.log, encode(event))


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


def recorded(utterance: int, attempt: int = 1, epoch: int = 1) -> ResultRecorded:
    return ResultRecorded(
        utterance=utterance,
        target="es",
        delivery_no=utterance,
        attempt=attempt,
        epoch=epoch,
        status="ok",
    )


def finalized(utterance: int, first_seq: int, delivery_no: int) -> UtteranceFinalized:
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
        targets=[Target(target="es", delivery_no=delivery_no)],
    )


def delivered(no: int, outcome: Any = "result") -> ResultDelivered:
    return ResultDelivered(utterance=no, target="es", delivery_no=no, outcome=outcome)


def missing(no: int) -> ResultMissing:
    return ResultMissing(utterance=no, target="es", delivery_no=no, reason="gap")


def failed(no: int) -> JobFailed:
    return JobFailed(utterance=no, target="es", delivery_no=no, attempt=1, code="NODE_LOST")


def promoted(no: int, priority: int = 0) -> JobPromoted:
    return JobPromoted(utterance=no, target="es", delivery_no=no, attempt=1, priority=priority)


def ended(no: int, reason: Any = "lease", epoch: int = 1) -> AttemptEnded:
    return AttemptEnded(utterance=no, target="es", attempt=1, epoch=epoch, reason=reason)


# utterances: 0 delivered, 1 running, 2 held behind it, 3 and 4 running, 5 to 7 waiting, 8 in work
FORGED: list[tuple[str, str, Data, int, str]] = [
    ("I1", "a chunk in two utterances", finalized(9, 3, 9), -1, ""),
    ("I2", "an attempt twice", dispatched(1, 1), 1, "n1"),
    ("I2", "an attempt left out", dispatched(5, 2), 5, "n1"),
    ("I2", "a second end", failed(2), 2, ""),
    ("I2", "an end of no job", failed(8), 8, ""),
    ("I2", "a promotion of a running job", promoted(1), 1, ""),
    ("I2", "a promotion to the same priority", promoted(5, priority=1), 5, ""),
    ("I2", "another end than its own", delivered(1, "failed"), 1, ""),
    ("I3", "a result of an older attempt", recorded(1, attempt=7), 1, "n1"),
    ("I3", "a result of an older registration", recorded(1, epoch=7), 1, "n1"),
    ("I3", "a result of another node", recorded(1), 1, "n7"),
    ("I3", "an end of an attempt that is over", ended(0), 0, "n1"),
    ("I3", "a dispatch to a node that does not serve", dispatched(5, 1, epoch=4), 5, "n1"),
    ("I4", "an utterance left out", finalized(12, 30, 9), -1, ""),
    ("I4", "an epoch left out", SessionResumed(epoch=9), -1, ""),
    ("I4", "closed before closing", SessionClosed(), -1, ""),
    ("I4", "erased while it is open", SessionErased(key="0" * 16), -1, ""),
    (
        "I4",
        "an end of nothing that plays",
        PlaybackEnded(origin="c.x", target="es", utterance=9),
        -1,
        "",
    ),
    ("I5", "more attempts than slots", dispatched(5, 1), 5, "n1"),
    ("I8", "a job without an open outcome", dispatched(0, 2), 0, "n1"),
    ("I9", "a number allocated twice", finalized(9, 30, 3), -1, ""),
    ("I9", "a number left out", delivered(2), 2, ""),
    ("I9", "a number delivered twice", delivered(0), 0, ""),
    ("I9", "a number given up that was not next", missing(3), 3, ""),
]


@pytest.mark.parametrize(
    ("invariant", "what", "data", "utterance", "node"),
    FORGED,
    ids=[f"{one[0]} {one[1]}" for one in FORGED],
)
async def test_a_forged_event_is_found(
    told: Told, redis: Any, invariant: str, what: str, data: Data, utterance: int, node: str
) -> None:
    await append(told, redis, data, utterance=utterance, node=node)
    report = await verified(told.store)
    assert invariant in names(report), report.violations
    assert any(f"log/{report.last_id} " in one.where for one in report.violations), what


async def test_an_unknown_event_is_counted_with_its_reason(told: Told, redis: Any) -> None:
    fields = encode(Event(id="", type="MoonRisen", data=SessionClosed()))
    await redis.xadd(told.store.keys.log, fields)
    report = await verified(told.store)
    assert report.violations == []
    assert [one.partition(" ")[2] for one in report.unfolded] == ["unknown type MoonRisen"]


def test_every_invariant_is_broken_by_some_test() -> None:
    broken = {invariant for invariant, _ in STORED} | {one[0] for one in FORGED}
    assert broken == set(NAMES)
