"""What every event must find true: I1-I4 and I9 as far as the log alone tells.

Owns: one check per event type, against the records as they were just before the event.
Never does: I/O, folding. Read next: verify.py (runs these over the log), state_diff.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobQueued,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultReplaced,
    SessionClosed,
    SessionClosing,
    SessionErased,
    SessionOpened,
    SessionResumed,
    SessionRetired,
    UtteranceFinalized,
)
from eventsched.schema.keys import name_of
from projections.job import Job
from projections.node import Node
from projections.session import Session, owed_key, playing_key

NAMES = {
    "I1": "a session's chunk numbers have no hole or repeat",
    "I2": "one dispatch per (job, attempt), one effective end per job",
    "I3": "only the current (node, epoch, attempt) took effect",
    "I4": "order within a session",
    "I5": "a node's leases are its live attempts, never more than its slots",
    "I6": "rebuilt equals live view",
    "I7": "decided state equals the fold of the log",
    "I8": "every finalized (utterance, target) has an end, or something that will end it",
    "I9": "delivery is gapless and ordered",
    "I10": "nothing was trimmed that somebody still needed",
}


class Violation(msgspec.Struct, frozen=True):
    """One broken promise: which, where, and what was seen."""

    invariant: str
    where: str
    what: str


class Before(msgspec.Struct, frozen=True):
    """The records as they were before the events that are checked, by entity."""

    sessions: Mapping[str, Session]
    jobs: Mapping[str, Job]
    nodes: Mapping[str, Node]

    def session(self, event: Event) -> Session | None:
        return self.sessions.get(name_of(event.session))

    def job(self, event: Event) -> Job | None:
        return self.jobs.get(event.job)

    def node(self, event: Event) -> Node | None:
        return self.nodes.get(name_of(event.node))


Broken: TypeAlias = Iterator[tuple[str, str]]
"""(invariant, what was seen)."""


def broken_by(event: Event, before: Before) -> list[Violation]:
    """What the event breaks."""
    check = CHECKS.get(type(event.data))
    if check is None:
        return []
    where = f"log/{event.id} {event.type} {event.job or event.session or event.node}"
    return [Violation(name, where, what) for name, what in check(event, event.data, before)]


def _of_session(event: Event, before: Before) -> tuple[Session | None, str]:
    session = before.session(event)
    return session, "" if session else "there is no such session"


def _opened(event: Event, _: SessionOpened, before: Before) -> Broken:
    if before.session(event):
        yield "I4", "the session was open already"


def _resumed(event: Event, data: SessionResumed, before: Before) -> Broken:
    session, none = _of_session(event, before)
    if session is None:
        yield "I4", none
    elif data.epoch != session.epoch + 1:
        yield "I4", f"epoch {data.epoch} after {session.epoch}"


def _finalized(event: Event, data: UtteranceFinalized, before: Before) -> Broken:
    session, none = _of_session(event, before)
    if session is None:
        yield "I4", none
        return
    if data.utterance != session.utterance or data.turn != session.turn:
        yield (
            "I4",
            (
                f"utterance {data.utterance} of turn {data.turn}"
                f" instead of {session.utterance} of {session.turn}"
            ),
        )
    if session.status == "closed" or (session.status == "closing" and data.reason != "close"):
        yield "I4", f"finalized for {data.reason} when the session was {session.status}"
    if data.first_seq < session.next_seq:
        yield "I1", f"chunk {data.first_seq} again; {session.next_seq} was next"
    for one in data.targets:
        following = session.allocated.get(one.target, 0)
        if one.delivery_no != following:
            yield "I9", f"{one.target} got number {one.delivery_no} instead of {following}"


def _closing(event: Event, _: SessionClosing, before: Before) -> Broken:
    session, none = _of_session(event, before)
    if session is None or session.status != "open":
        yield "I4", none or f"the session was {session.status}"  # type: ignore[union-attr]


def _closed(event: Event, _: SessionClosed, before: Before) -> Broken:
    session, none = _of_session(event, before)
    if session is None or session.status != "closing":
        yield "I4", none or f"the session was {session.status}"  # type: ignore[union-attr]
    elif session.owed:
        yield "I8", f"closed while it owed {sorted(session.owed)[:3]}"


def _retired(event: Event, _: SessionRetired, before: Before) -> Broken:
    session, none = _of_session(event, before)
    if session is None or session.status != "closed":
        yield "I4", none or f"the session was {session.status}"  # type: ignore[union-attr]


def _erased(event: Event, data: SessionErased, before: Before) -> Broken:
    """One that is retired has no record any more to compare with."""
    session = before.session(event)
    if session is not None and session.status != "closed":
        yield "I4", f"erased while it was {session.status}"
    elif session is not None and session.key != data.key:
        yield "I4", f"key {data.key} is destroyed, the session's is {session.key or 'none'}"


def _playback_started(event: Event, data: PlaybackStarted, before: Before) -> Broken:
    session = before.session(event)
    if session is None or playing_key(data) in session.playing:
        yield "I4", f"{playing_key(data)} plays already, or there is no such session"


def _playback_ended(event: Event, data: PlaybackEnded, before: Before) -> Broken:
    session = before.session(event)
    if session is None or playing_key(data) not in session.playing:
        yield "I4", f"{playing_key(data)} was not playing"


def _needs_open(
    event: Event,
    data: JobQueued | JobPromoted | JobDispatched | ResultRecorded | JobFailed,
    before: Before,
) -> Broken:
    """Rule 25: jobs live only while their outcome is open."""
    session = before.session(event)
    key = owed_key(data.target, data.delivery_no)
    if session is None or key not in session.owed:
        yield "I8", f"outcome {key} is not open"


def _queued(event: Event, data: JobQueued, before: Before) -> Broken:
    yield from _needs_open(event, data, before)
    job = before.job(event)
    if job is not None and job.status not in ("released", "queued"):
        yield "I2", f"queued while {job.status}"


def _promoted(event: Event, data: JobPromoted, before: Before) -> Broken:
    """Rule 18: only a waiting job moves up, and only to a higher priority."""
    yield from _needs_open(event, data, before)
    job = before.job(event)
    if job is None or job.status != "queued":
        yield "I2", f"promoted while {job.status}" if job else "there is no such job"
    elif data.priority >= job.priority:
        yield "I2", f"promoted from priority {job.priority} to {data.priority}"


def _dispatched(event: Event, data: JobDispatched, before: Before) -> Broken:
    yield from _needs_open(event, data, before)
    job, node = before.job(event), before.node(event)
    if job is not None:
        if any(one.attempt == data.attempt for one in job.attempts):
            yield "I2", f"attempt {data.attempt} was dispatched before"
        if job.status not in ("queued", "released"):
            yield "I2", f"dispatched while {job.status}"
    last = job.attempts[-1].attempt if job and job.attempts else 0
    if data.attempt != last + 1:
        yield "I2", f"attempt {data.attempt} after {last}"
    if node is None or node.status != "alive" or node.epoch != data.epoch:
        yield "I3", f"given to {event.node} epoch {data.epoch}, which did not serve"
        return
    held = [one for one in node.live.values() if one.epoch == node.epoch]
    if len(held) >= node.slots:
        yield "I5", f"{event.node} held {len(held)} of {node.slots} slots"


def _holds(event: Event, data: ResultRecorded | AttemptEnded, before: Before) -> Broken:
    """The token (node, epoch, attempt) is that of the job's live attempt."""
    job = before.job(event)
    live = [one for one in job.attempts if not one.ended_ms] if job else []
    token = (event.node, data.epoch, data.attempt)
    if not any((one.node, one.epoch, one.attempt) == token for one in live):
        yield "I3", f"by {event.node} epoch {data.epoch} attempt {data.attempt}, which is not live"


def _attempt_ended(event: Event, data: AttemptEnded, before: Before) -> Broken:
    yield from _holds(event, data, before)
    job = before.job(event)
    if job is not None and (job.status == "ended") != (data.reason == "cancelled"):
        yield "I2", f"attempt ended as {data.reason} while the job was {job.status}"


def _recorded(event: Event, data: ResultRecorded, before: Before) -> Broken:
    yield from _holds(event, data, before)
    yield from _needs_open(event, data, before)
    yield from _first_end(event, before)


def _first_end(event: Event, before: Before) -> Broken:
    job = before.job(event)
    if job is None or job.status == "ended":
        yield "I2", f"ended before as {job.outcome}" if job else "there is no such job"


def _replaced(event: Event, data: ResultReplaced, before: Before) -> Broken:
    """Rule 23: an empty result that still waits gives way to a complete one, same token."""
    yield from _needs_open(event, data, before)
    job = before.job(event)
    if job is None or job.outcome != "no_speech" or data.status != "ok":
        yield "I2", "only an empty result gives way, to a complete one"
    elif (job.node, job.epoch, job.attempt) != (event.node, data.epoch, data.attempt):
        yield "I3", f"replaced by {event.node} epoch {data.epoch} attempt {data.attempt}"


def _failed(event: Event, data: JobFailed, before: Before) -> Broken:
    yield from _needs_open(event, data, before)
    yield from _first_end(event, before)


def _delivered(event: Event, data: ResultDelivered | ResultMissing, before: Before) -> Broken:
    session, none = _of_session(event, before)
    if session is None:
        yield "I9", none
        return
    following = session.delivered.get(data.target, 0)
    if data.delivery_no != following:
        yield "I9", f"{data.target} number {data.delivery_no} went out when {following} was next"
    owed = session.owed.get(owed_key(data.target, data.delivery_no))
    if owed is None:
        yield "I9", f"{data.target} number {data.delivery_no} was not owed"
        return
    if owed.utterance != data.utterance:
        yield "I9", f"number {data.delivery_no} is of {owed.utterance}, not {data.utterance}"
    if isinstance(data, ResultDelivered) and owed.ready != data.outcome:
        yield "I2", f"delivered as {data.outcome}, ended as {owed.ready or 'nothing yet'}"
    if isinstance(data, ResultMissing) and owed.ready:
        yield "I2", f"given up although it had ended as {owed.ready}"


CHECKS: dict[type, Callable[[Event, Any, Before], Broken]] = {
    SessionOpened: _opened,
    SessionResumed: _resumed,
    UtteranceFinalized: _finalized,
    SessionClosing: _closing,
    SessionClosed: _closed,
    SessionRetired: _retired,
    SessionErased: _erased,
    PlaybackStarted: _playback_started,
    PlaybackEnded: _playback_ended,
    JobQueued: _queued,
    JobPromoted: _promoted,
    JobDispatched: _dispatched,
    AttemptEnded: _attempt_ended,
    ResultRecorded: _recorded,
    ResultReplaced: _replaced,
    JobFailed: _failed,
    ResultDelivered: _delivered,
    ResultMissing: _delivered,
}
