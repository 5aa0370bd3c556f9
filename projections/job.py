"""The job: whether it waits, runs or has ended, and each of its attempts.

Owns: rules 10 (job identity), 18 (fair waiting) and 20 to 23 (dispatching again, fencing, result
contents, one result per job) as a fold: status, attempt, node, epoch, place in the queue, outcome.
Must not: do I/O, read a clock, decide anything. Read next: node.py.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from eventsched.projection.protocol import Step, handled
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    JobFailed,
    JobPromoted,
    JobQueued,
    JobsRetired,
    Outcome,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    SessionRetired,
)
from eventsched.schema.keys import job_key

RETIRED_UTTERANCES_MAX = 16
"""Utterances of one JobsRetired, as the scripts bound them."""
RETIRED_AT_END_MAX = 2_048
"""Utterances of one SessionRetired: the scripts retire jobs while the session is open, so that its
end finds those of at most 1,024 open outcomes and of some 32 utterances before them."""
RETIRED_TARGETS_MAX = 64
"""Languages of either event."""
Status: TypeAlias = Literal["queued", "backoff", "running", "released", "ended"]
"""`backoff`: a timer ends the wait before the next attempt (rule 20, dispatching again).
`released`: an attempt has ended, and the same script call dispatches, queues or ends the job."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One attempt on one node; a job has at most four (rule 20, dispatching again)."""

    attempt: int
    node: str
    epoch: int
    dispatched_ms: int
    deadline_ms: int
    rule: str = ""
    ended_ms: int = 0
    """0 while the attempt is live."""
    end: str = ""
    """How the attempt ended: ok, no_speech, or the reason of AttemptEnded."""
    code: str = ""


class Job(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One job, folded from the log."""

    job: str
    session: str
    utterance: int
    target: str
    delivery_no: int
    source: str
    features: tuple[str, ...]
    created_ms: int
    status: Status
    attempt: int
    """The running attempt or, of a waiting job, the next one."""
    node: str = ""
    epoch: int = 0
    dispatched_ms: int = 0
    deadline_ms: int = 0
    """While running: when the lease of the dispatch ends. While queued: when the wait ends."""
    not_before_ms: int = 0
    """When the backoff ends, or 0."""
    avoid_until_ms: int = 0
    """While queued or backing off: until when the job avoids the node of its last attempt, or 0."""
    reason: str = ""
    """Why the job waits (rule 15, two reasons to wait), or `retry_backoff`."""
    priority: int = -1
    tag: int = 0
    """Finish tag of its tenant; with `priority` and `member`, the place in the queue."""
    member: str = ""
    outcome: Outcome | Literal[""] = ""
    code: str = ""
    ended_ms: int = 0
    refused: int = 0
    """How many calls of attempts were refused."""
    attempts: tuple[Attempt, ...] = ()

    @property
    def avoided(self) -> str:
        """Full id of the node that a waiting job avoids: that of its last attempt; or empty."""
        return self.attempts[-1].node if self.avoid_until_ms and self.attempts else ""


def _queued(view: Job | None, event: Event, data: JobQueued) -> Job:
    if view is None:
        view = _created(event, data)
    return replace(
        view,
        status="backoff" if data.not_before_ms else "queued",
        attempt=data.attempt,
        node="",
        epoch=0,
        dispatched_ms=0,
        deadline_ms=data.deadline_ms,
        not_before_ms=data.not_before_ms,
        avoid_until_ms=data.avoid_until_ms,
        reason=data.reason,
        priority=data.priority,
        tag=data.tag,
        member=data.member,
    )


def _promoted(view: Job, _: Event, data: JobPromoted) -> Job:
    return replace(view, priority=data.priority)


def _created(event: Event, data: JobQueued | JobDispatched) -> Job:
    return Job(
        job=event.job,
        session=event.session,
        utterance=data.utterance,
        target=data.target,
        delivery_no=data.delivery_no,
        source=data.source,
        features=tuple(data.features),
        created_ms=event.ms,
        status="queued",
        attempt=data.attempt,
    )


def _dispatched(view: Job | None, event: Event, data: JobDispatched) -> Job:
    if view is None:
        view = _created(event, data)
    start = Attempt(data.attempt, event.node, data.epoch, event.ms, data.deadline_ms, data.rule)
    return replace(
        view,
        status="running",
        attempt=data.attempt,
        node=event.node,
        epoch=data.epoch,
        dispatched_ms=event.ms,
        deadline_ms=data.deadline_ms,
        not_before_ms=0,
        avoid_until_ms=0,
        reason="",
        attempts=(*view.attempts, start),
    )


def _attempt_ended(view: Job, event: Event, data: AttemptEnded) -> Job:
    """End the attempt. A cancelled attempt ends after its job; otherwise the job is released."""
    attempts = _end_attempt(view, event, data.attempt, data.reason, data.code)
    if view.status == "ended":
        return replace(view, attempts=attempts)
    return replace(view, status="released", node="", epoch=0, dispatched_ms=0, attempts=attempts)


def _end_attempt(view: Job, event: Event, attempt: int, end: str, code: str) -> tuple[Attempt, ...]:
    return tuple(
        [
            replace(each, ended_ms=event.ms, end=end, code=code)
            if each.attempt == attempt and not each.ended_ms
            else each
            for each in view.attempts
        ]
    )


def _recorded(view: Job, event: Event, data: ResultRecorded | ResultReplaced) -> Job:
    return replace(
        view,
        status="ended",
        outcome="no_speech" if data.status == "no_speech" else "result",
        code=data.code,
        ended_ms=event.ms,
        attempts=_end_attempt(view, event, data.attempt, data.status, data.code),
    )


def _failed(view: Job, event: Event, data: JobFailed) -> Job:
    view = replace(view, not_before_ms=0, avoid_until_ms=0)
    return replace(view, status="ended", outcome="failed", code=data.code, ended_ms=event.ms)


def _missing(view: Job, event: Event, _: ResultMissing) -> Job:
    """End the job; if an attempt is live, its AttemptEnded follows."""
    if view.status == "ended":
        return view
    view = replace(view, not_before_ms=0, avoid_until_ms=0)
    return replace(view, status="ended", outcome="missing", ended_ms=event.ms)


def _refused(view: Job, _: Event, __: ResultRefused) -> Job:
    return replace(view, refused=view.refused + 1)


def _retired(_: Job, __: Event, ___: JobsRetired | SessionRetired) -> None:
    """Drop the record: the job ended long ago, or its session is retired."""


STEPS: dict[type, Step] = {
    JobQueued: _queued,
    JobPromoted: _promoted,
    JobDispatched: _dispatched,
    AttemptEnded: _attempt_ended,
    ResultRecorded: _recorded,
    ResultReplaced: _recorded,
    ResultRefused: _refused,
    JobFailed: _failed,
    ResultMissing: _missing,
    JobsRetired: _retired,
    SessionRetired: _retired,
}
_RETIRING = (JobsRetired, SessionRetired)
_CREATING = (JobQueued, JobDispatched)


def retired_jobs(session: str, data: JobsRetired | SessionRetired) -> tuple[str, ...]:
    """Return the keys of the jobs whose records the event drops.

    A forged event may name any number of utterances and languages: only as many as a script names
    count.
    """
    if isinstance(data, SessionRetired):
        end, at_most = data.utterances, RETIRED_AT_END_MAX
    else:
        end, at_most = data.last + 1, RETIRED_UTTERANCES_MAX
    return tuple(
        job_key(data.tenant, session, utterance, target, data.features_hash)
        for utterance in range(data.first, min(end, data.first + at_most))
        for target in data.targets[:RETIRED_TARGETS_MAX]
    )


class Jobs:
    """One record per job, by its key."""

    name = "job"
    version = 3
    view: Any = Job
    handles = handled(STEPS)

    def initial(self) -> None:
        return None

    def route(self, event: Event) -> tuple[str, ...]:
        data = event.data
        if isinstance(data, _RETIRING):
            return retired_jobs(event.session, data)
        return (event.job,) if event.job else ()

    def apply(self, view: Job | None, event: Event) -> Job | None:
        step = STEPS.get(type(event.data))
        if step is None or (view is None and type(event.data) not in _CREATING):
            return view
        after: Job | None = step(view, event, event.data)
        return after
