"""The preconditions of every event: I1 to I5, I8 and I9, as far as the log alone shows them.

Owns: one check per event type, against the records just before the event.
Must not: do I/O, fold. Read next: verify.py (runs these over the log), state_diff.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobQueued,
    JobsRetired,
    NodeRegistered,
    NodeRetired,
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
    Target,
    UtteranceFinalized,
)
from eventsched.schema.keys import name_of
from projections.job import RETIRED_AT_END_MAX, Job, retired_jobs
from projections.node import Node
from projections.session import Session, outcome_key, playback_key

NAMES = {
    "I1": "a session's chunk numbers have no hole or repeat",
    "I2": "one dispatch per (job, attempt), one effective end per job",
    "I3": "only the current (node, epoch, attempt) takes effect",
    "I4": "order within a session",
    "I5": "a node's leases are its live attempts, never more than its slots",
    "I6": "rebuilt equals live view",
    "I7": "authoritative state equals the fold of the log",
    "I8": "every finalized (utterance, target) has an end, or something that will end it",
    "I9": "delivery is gapless and ordered",
    "I10": "nothing is trimmed that is still needed",
    "I11": "the lag of a consumer group is the number of entries after its position",
}


class Violation(msgspec.Struct, frozen=True):
    """One violated invariant: which, where, and what was observed."""

    invariant: str
    where: str
    what: str


class Records(msgspec.Struct):
    """The records before the event that is checked, by entity."""

    sessions: Mapping[str, Session]
    jobs: Mapping[str, Job]
    nodes: Mapping[str, Node]
    retired_epoch: int = 0
    """The highest epoch of a node whose record was deleted."""

    def session(self, event: Event) -> Session | None:
        return self.sessions.get(name_of(event.session))

    def job(self, event: Event) -> Job | None:
        return self.jobs.get(event.job)

    def node(self, event: Event) -> Node | None:
        return self.nodes.get(name_of(event.node))


Findings: TypeAlias = Iterator[tuple[str, str]]
"""(invariant, what was observed)."""


def violations_of(event: Event, records: Records) -> list[Violation]:
    """Return the invariants that the event violates, given the records before it."""
    check = CHECKS.get(type(event.data))
    if check is None:
        return []
    where = _where(event)
    return [Violation(name, where, what) for name, what in check(event, event.data, records)]


def _where(event: Event) -> str:
    return f"log/{event.id} {event.type} {event.job or event.session or event.node}"


def _find_session(event: Event, records: Records) -> tuple[Session | None, str]:
    session = records.session(event)
    return session, "" if session else "no such session"


def _opened(event: Event, _: SessionOpened, records: Records) -> Findings:
    if records.session(event):
        yield "I4", "the session was already open"


def _resumed(event: Event, data: SessionResumed, records: Records) -> Findings:
    session, absent = _find_session(event, records)
    if session is None:
        yield "I4", absent
    elif data.epoch != session.epoch + 1:
        yield "I4", f"epoch {data.epoch} after {session.epoch}"


def _finalized(event: Event, data: UtteranceFinalized, records: Records) -> Findings:
    session, absent = _find_session(event, records)
    if session is None:
        yield "I4", absent
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
        yield "I1", f"starts with chunk {data.first_seq} instead of {session.next_seq}"
    for target in data.targets:
        expected = session.allocated.get(target.target, 0)
        if target.delivery_no != expected:
            yield "I9", _wrong_number(target, expected)
        for recipient in target.to:
            if not _is_member(records.sessions.get(name_of(recipient)), session):
                yield "I7", f"recipient {recipient} is no member of the speaker's room"


def _is_member(recipient: Session | None, speaker: Session) -> bool:
    """Whether the recipient is in the room and of the tenant of the speaker (rule 12, audience)."""
    return (
        recipient is not None
        and recipient.in_room
        and recipient.room == speaker.room
        and recipient.tenant == speaker.tenant
    )


def _wrong_number(target: Target, expected: int) -> str:
    return f"{target.target} got number {target.delivery_no} instead of {expected}"


class Hole(msgspec.Struct):
    """Delivery numbers of a session and target that no utterance has: `first` up to before `end`.

    The utterance after them violates I9, unless each of them is delivered as missing for the reason
    `no_outcome`, or a repair accepts the violation.
    """

    session: str
    target: str
    first: int
    end: int
    violation: Violation

    def explain(self, event: Event) -> bool:
        """Whether the event delivers the last number of the hole. It takes them in order."""
        data = event.data
        if not isinstance(data, ResultMissing) or data.reason != "no_outcome":
            return False
        if (event.session, data.target, data.delivery_no) == (
            self.session,
            self.target,
            self.first,
        ):
            self.first += 1
        return self.first == self.end


def holes_of(event: Event, records: Records) -> list[Hole]:
    """The delivery numbers that the event skips, given the records before it."""
    session, data = records.session(event), event.data
    if session is None or not isinstance(data, UtteranceFinalized):
        return []
    holes = []
    for target in data.targets:
        expected = session.allocated.get(target.target, 0)
        if target.delivery_no > expected:
            violation = Violation("I9", _where(event), _wrong_number(target, expected))
            place = (event.session, target.target, expected, target.delivery_no)
            holes.append(Hole(*place, violation))
    return holes


def _closing(event: Event, _: SessionClosing, records: Records) -> Findings:
    session, absent = _find_session(event, records)
    if session is None or session.status != "open":
        yield "I4", absent or f"the session was {session.status}"  # type: ignore[union-attr]


def _closed(event: Event, _: SessionClosed, records: Records) -> Findings:
    session, absent = _find_session(event, records)
    if session is None or session.status != "closing":
        yield "I4", absent or f"the session was {session.status}"  # type: ignore[union-attr]
    elif session.open_outcomes:
        yield "I8", f"closed with open outcomes {sorted(session.open_outcomes)[:3]}"


def _jobs_retired(event: Event, data: JobsRetired, records: Records) -> Findings:
    """A job whose record is deleted has ended, and its outcome is delivered."""
    session, absent = _find_session(event, records)
    if session is None:
        yield "I4", absent
        return
    if data.first > session.retired_to:
        yield "I4", f"jobs from u{data.first} retired, those from u{session.retired_to} are next"
    for key, outcome in session.open_outcomes.items():
        if data.first <= outcome.utterance <= data.last:
            yield "I8", f"jobs of u{outcome.utterance} retired, its outcome {key} is open"
    for key in retired_jobs(event.session, data):
        job = records.jobs.get(key)
        if job is not None and job.status != "ended":
            yield "I2", f"{key} retired while {job.status}"


def _retired(event: Event, data: SessionRetired, records: Records) -> Findings:
    session, absent = _find_session(event, records)
    if session is None or session.status != "closed":
        yield "I4", absent or f"the session was {session.status}"  # type: ignore[union-attr]
    if data.targets and data.utterances - data.first > RETIRED_AT_END_MAX:
        yield "I4", f"jobs of {data.utterances - data.first} utterances retired at once"


def _erased(event: Event, data: SessionErased, records: Records) -> Findings:
    """A retired session has no record to compare with."""
    session = records.session(event)
    if session is not None and session.status != "closed":
        yield "I4", f"erased while it was {session.status}"
    elif session is not None and session.key != data.key:
        yield "I4", f"key {data.key} is destroyed, the session's is {session.key or 'none'}"


def _playback_started(event: Event, data: PlaybackStarted, records: Records) -> Findings:
    session = records.session(event)
    if session is None or playback_key(data) in session.playbacks:
        yield "I4", f"{playback_key(data)} is already open, or there is no such session"


def _playback_ended(event: Event, data: PlaybackEnded, records: Records) -> Findings:
    session = records.session(event)
    if session is None or playback_key(data) not in session.playbacks:
        yield "I4", f"{playback_key(data)} was not open"


def _check_outcome_is_open(
    event: Event,
    data: JobQueued | JobPromoted | JobDispatched | ResultRecorded | ResultReplaced | JobFailed,
    records: Records,
) -> Findings:
    """Rule 25, ordered delivery: a job changes only while its outcome is open."""
    session = records.session(event)
    key = outcome_key(data.target, data.delivery_no)
    if session is None or key not in session.open_outcomes:
        yield "I8", f"outcome {key} is not open"


def _queued(event: Event, data: JobQueued, records: Records) -> Findings:
    yield from _check_outcome_is_open(event, data, records)
    job = records.job(event)
    allowed = ("released",) if data.not_before_ms else ("released", "queued", "backoff")
    if job is not None and job.status not in allowed:
        yield "I2", f"queued while {job.status}"


def _promoted(event: Event, data: JobPromoted, records: Records) -> Findings:
    """Rule 18, fair waiting: only a waiting job is promoted, and only to a higher priority."""
    yield from _check_outcome_is_open(event, data, records)
    job = records.job(event)
    if job is None or job.status != "queued":
        yield "I2", f"promoted while {job.status}" if job else "there is no such job"
    elif data.priority >= job.priority:
        yield "I2", f"promoted from priority {job.priority} to {data.priority}"


def _dispatched(event: Event, data: JobDispatched, records: Records) -> Findings:
    yield from _check_outcome_is_open(event, data, records)
    job, node = records.job(event), records.node(event)
    if job is not None:
        if any(attempt.attempt == data.attempt for attempt in job.attempts):
            yield "I2", f"attempt {data.attempt} was dispatched before"
        if job.status not in ("queued", "backoff", "released"):
            yield "I2", f"dispatched while {job.status}"
    last = job.attempts[-1].attempt if job and job.attempts else 0
    if data.attempt != last + 1:
        yield "I2", f"attempt {data.attempt} after {last}"
    if node is None or node.status != "alive" or node.epoch != data.epoch:
        yield "I3", f"dispatched to {event.node} epoch {data.epoch}, which was not alive"
        return
    used = sum(attempt.epoch == node.epoch for attempt in node.live.values())
    if used >= node.slots:
        yield "I5", f"{event.node} used {used} of {node.slots} slots"


def _check_token(event: Event, data: ResultRecorded | AttemptEnded, records: Records) -> Findings:
    """The token (node, epoch, attempt) must be that of the job's live attempt."""
    job = records.job(event)
    live = [attempt for attempt in job.attempts if not attempt.ended_ms] if job else []
    token = (event.node, data.epoch, data.attempt)
    if token not in [(attempt.node, attempt.epoch, attempt.attempt) for attempt in live]:
        yield "I3", f"by {event.node} epoch {data.epoch} attempt {data.attempt}, which is not live"


def _attempt_ended(event: Event, data: AttemptEnded, records: Records) -> Findings:
    yield from _check_token(event, data, records)
    job = records.job(event)
    if job is not None and (job.status == "ended") != (data.reason == "cancelled"):
        yield "I2", f"attempt ended as {data.reason} while the job was {job.status}"


def _recorded(event: Event, data: ResultRecorded, records: Records) -> Findings:
    """Rule 25, ordered delivery: the event delivers the result if its number is next."""
    yield from _check_token(event, data, records)
    yield from _check_outcome_is_open(event, data, records)
    yield from _check_not_ended(event, records)
    session = records.session(event)
    if session is None:
        return
    yield from _check_delivery(event, session)
    is_next = data.delivery_no == session.delivered.get(data.target, 0)
    if is_next and data.delivered is None:
        yield "I9", f"{data.target} number {data.delivery_no} was next and is not delivered"


def _check_not_ended(event: Event, records: Records) -> Findings:
    job = records.job(event)
    if job is None or job.status == "ended":
        yield "I2", f"had already ended as {job.outcome}" if job else "no such job"


def _replaced(event: Event, data: ResultReplaced, records: Records) -> Findings:
    """Rule 23, one result per job: only an undelivered no-speech result is replaced, by a complete
    one with the same token."""
    yield from _check_outcome_is_open(event, data, records)
    job = records.job(event)
    if job is None or job.outcome != "no_speech" or data.status != "ok":
        yield "I2", "only a no-speech result may be replaced, by a complete one"
    elif (job.node, job.epoch, job.attempt) != (event.node, data.epoch, data.attempt):
        yield "I3", f"replaced by {event.node} epoch {data.epoch} attempt {data.attempt}"


def _failed(event: Event, data: JobFailed, records: Records) -> Findings:
    yield from _check_outcome_is_open(event, data, records)
    yield from _check_not_ended(event, records)


def _delivered(event: Event, data: ResultDelivered | ResultMissing, records: Records) -> Findings:
    session, absent = _find_session(event, records)
    if session is None:
        yield "I9", absent
        return
    yield from _check_delivery(event, session)
    pending = session.open_outcomes.get(outcome_key(data.target, data.delivery_no))
    if pending is None:
        return
    if isinstance(data, ResultDelivered) and pending.outcome != data.outcome:
        yield "I2", f"delivered as {data.outcome}, ended as {pending.outcome or 'nothing yet'}"
    if isinstance(data, ResultMissing) and pending.outcome:
        yield "I2", f"missing although it had ended as {pending.outcome}"


def _check_delivery(event: Event, session: Session) -> Findings:
    """Rule 25, ordered delivery: the next number of the target, to the recipients of its outcome.

    A number that no utterance has needs no open outcome.
    """
    delivery = delivery_of(event.data)
    if delivery is None:
        return
    target, number = delivery.target, delivery.delivery_no
    expected = session.delivered.get(target, 0)
    if number != expected:
        yield "I9", f"{target} number {number} delivered instead of {expected}"
    pending = session.open_outcomes.get(outcome_key(target, number))
    if pending is None:
        if delivery.utterance >= 0 or expected >= session.allocated.get(target, 0):
            yield "I9", f"{target} number {number} was not open"
        return
    recipients = pending.recipients or (event.session,)
    if tuple(delivery.to) != recipients:
        yield "I7", f"delivered to {', '.join(delivery.to)} instead of {', '.join(recipients)}"
    if pending.utterance != delivery.utterance:
        yield "I9", f"number {number} is of {pending.utterance}, not {delivery.utterance}"


def _node_registered(event: Event, data: NodeRegistered, records: Records) -> Findings:
    """Epochs of a name rise, also if its record was deleted between two registrations."""
    node = records.node(event)
    last = node.epoch if node is not None else records.retired_epoch
    if data.epoch <= last:
        yield "I3", f"registered under epoch {data.epoch}, which is not above {last}"


def _node_retired(event: Event, data: NodeRetired, records: Records) -> Findings:
    node = records.node(event)
    if node is None or node.status != "gone" or node.epoch != data.epoch:
        yield "I3", f"epoch {data.epoch} retired, which was not gone"


CHECKS: dict[type, Callable[[Event, Any, Records], Findings]] = {
    SessionOpened: _opened,
    SessionResumed: _resumed,
    UtteranceFinalized: _finalized,
    SessionClosing: _closing,
    SessionClosed: _closed,
    JobsRetired: _jobs_retired,
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
    NodeRegistered: _node_registered,
    NodeRetired: _node_retired,
}
