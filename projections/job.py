"""The job: whether it waits, runs or has ended, and each of its attempts.

Owns: rules 10, 18 and 20-23 as a fold: status, attempt, node, epoch, its place while it waits,
how it ended. Never does: I/O, clocks, decisions. Read next: node.py.
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
    Outcome,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    SessionRetired,
)
from eventsched.schema.keys import job_key

Status: TypeAlias = Literal["queued", "running", "released", "ended"]
"""`released` is between the end of an attempt and what the same step does next."""


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One try on one node; at most four of them (rule 20)."""

    attempt: int
    node: str
    epoch: int
    dispatched_ms: int
    deadline_ms: int
    rule: str = ""
    ended_ms: int = 0
    """0 while it is live."""
    end: str = ""
    """How it ended: ok, no_speech, or the reason of AttemptEnded."""
    code: str = ""


class Job(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One job as the log tells it."""

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
    """The running attempt, or the one that the next slot will start."""
    node: str = ""
    epoch: int = 0
    dispatched_ms: int = 0
    deadline_ms: int = 0
    """End of the lease as dispatched while running, of the wait while queued."""
    reason: str = ""
    """Why it waits (rule 15)."""
    priority: int = -1
    tag: int = 0
    member: str = ""
    outcome: Outcome | Literal[""] = ""
    code: str = ""
    ended_ms: int = 0
    refused: int = 0
    attempts: tuple[Attempt, ...] = ()


def _queued(view: Job | None, event: Event, data: JobQueued) -> Job:
    if view is None:
        view = _created(event, data)
    return replace(
        view,
        status="queued",
        attempt=data.attempt,
        node="",
        epoch=0,
        dispatched_ms=0,
        deadline_ms=data.deadline_ms,
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
        reason="",
        attempts=(*view.attempts, start),
    )


def _attempt_ended(view: Job, event: Event, data: AttemptEnded) -> Job:
    """Cancelled attempts end after their job did; every other end leaves the job to go on."""
    attempts = _ended(view, event, data.attempt, data.reason, data.code)
    if view.status == "ended":
        return replace(view, attempts=attempts)
    return replace(view, status="released", node="", epoch=0, dispatched_ms=0, attempts=attempts)


def _ended(view: Job, event: Event, attempt: int, end: str, code: str) -> tuple[Attempt, ...]:
    return tuple(
        [
            replace(one, ended_ms=event.ms, end=end, code=code)
            if one.attempt == attempt and not one.ended_ms
            else one
            for one in view.attempts
        ]
    )


def _recorded(view: Job, event: Event, data: ResultRecorded) -> Job:
    return replace(
        view,
        status="ended",
        outcome="no_speech" if data.status == "no_speech" else "result",
        code=data.code,
        ended_ms=event.ms,
        attempts=_ended(view, event, data.attempt, data.status, data.code),
    )


def _failed(view: Job, event: Event, data: JobFailed) -> Job:
    return replace(view, status="ended", outcome="failed", code=data.code, ended_ms=event.ms)


def _missing(view: Job, event: Event, _: ResultMissing) -> Job:
    """A job whose outcome ended is ended; a live attempt's end follows."""
    if view.status == "ended":
        return view
    return replace(view, status="ended", outcome="missing", ended_ms=event.ms)


def _refused(view: Job, _: Event, __: ResultRefused) -> Job:
    return replace(view, refused=view.refused + 1)


def _retired(_: Job, __: Event, ___: SessionRetired) -> None:
    """The job's record goes with its session's."""


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
    SessionRetired: _retired,
}
_CREATING = (JobQueued, JobDispatched)


def _jobs_of(session: str, data: SessionRetired) -> tuple[str, ...]:
    return tuple(
        job_key(data.tenant, session, utterance, target, data.features_hash)
        for utterance in range(data.utterances)
        for target in data.targets
    )


class Jobs:
    """One record per job, by its key."""

    name = "job"
    version = 2
    view: Any = Job
    handles = handled(STEPS)

    def initial(self) -> None:
        return None

    def route(self, event: Event) -> tuple[str, ...]:
        if isinstance(event.data, SessionRetired):
            return _jobs_of(event.session, event.data)
        return (event.job,) if event.job else ()

    def apply(self, view: Job | None, event: Event) -> Job | None:
        step = STEPS.get(type(event.data))
        if step is None or (view is None and type(event.data) not in _CREATING):
            return view
        after: Job | None = step(view, event, event.data)
        return after
