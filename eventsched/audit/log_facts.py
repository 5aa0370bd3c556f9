"""What the events of the log say of an entity beyond its record, and what is stored of it.

Owns: the traceparent and the playbacks of a session, the utterances of its jobs, the refused
reports of a job, and the operator who drained a node.
Must not: do I/O, compare.
Read next: state_diff.py (which compares it), verify.py (which folds it beside the records).

No read model has a use for these facts, so they are in no record and in no snapshot. An entity
whose first event is before the first folded entry has no facts, and they are not compared.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.schema.events import (
    Event,
    JobsRetired,
    NodeDraining,
    NodeRegistered,
    NodeRetired,
    PlaybackStarted,
    ResultRefused,
    SessionOpened,
    SessionRetired,
    UtteranceFinalized,
)
from eventsched.schema.keys import name_of
from projections.job import Job, retired_jobs
from projections.session import Session


class UtteranceFacts(msgspec.Struct, frozen=True):
    """What UtteranceFinalized says of an utterance, as far as its jobs store it."""

    traceparent: str
    finalized_ms: int
    turn: int
    ms: int
    first: str
    last: str
    count: int
    bytes: int
    padding_ms: int

    @classmethod
    def of(cls, event: Event, data: UtteranceFinalized) -> UtteranceFacts:
        audio = (data.first, data.last, data.count, data.bytes, data.padding_ms)
        return cls(event.traceparent, event.ms, data.turn, data.ms, *audio)


class SessionLogFacts(msgspec.Struct):
    """The facts of one session since it was opened."""

    traceparent: str
    playbacks_started: int = 0
    utterances: dict[int, UtteranceFacts] = {}
    """Those whose jobs may have records."""
    refused: dict[str, str] = {}
    """Job key -> its refused reports, as its record stores them."""

    def fold(self, event: Event) -> None:
        """Add what an event of the session says."""
        data = event.data
        if isinstance(data, UtteranceFinalized):
            self.utterances[data.utterance] = UtteranceFacts.of(event, data)
        elif isinstance(data, PlaybackStarted):
            self.playbacks_started += 1
        elif isinstance(data, ResultRefused):
            refused = self.refused.get(event.job, "")
            self.refused[event.job] = refused + _refused_report(event, data)
        elif isinstance(data, JobsRetired):
            for key in retired_jobs(event.session, data):
                self.refused.pop(key, None)
            for utterance in [each for each in self.utterances if each <= data.last]:
                del self.utterances[utterance]


class LogFacts:
    """The facts of all entities, folded from the log."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionLogFacts] = {}
        """By name in the cell."""
        self.drained_by: dict[str, str] = {}
        """Name of a node -> the operator who drained its registration; empty without one."""

    def fold(self, event: Event) -> None:
        """Add what the event says."""
        data, name = event.data, name_of(event.session)
        if isinstance(data, SessionOpened):
            self.sessions[name] = SessionLogFacts(event.traceparent)
        elif isinstance(data, SessionRetired):
            self.sessions.pop(name, None)
        elif name in self.sessions:
            self.sessions[name].fold(event)
        elif event.node:
            self._fold_node(event)

    def _fold_node(self, event: Event) -> None:
        data, name = event.data, name_of(event.node)
        if isinstance(data, NodeRegistered):
            self.drained_by[name] = ""
        elif isinstance(data, NodeDraining) and data.by:
            self.drained_by[name] = data.by
        elif isinstance(data, NodeRetired):
            self.drained_by.pop(name, None)

    def refused(self, job: Job) -> str | None:
        """The refused reports as the job record stores them; None if they are not known."""
        facts = self.sessions.get(name_of(job.session))
        return facts.refused.get(job.job, "") if facts else None

    def utterance_of(self, job: Job) -> UtteranceFacts | None:
        facts = self.sessions.get(name_of(job.session))
        return facts.utterances.get(job.utterance) if facts else None


def _refused_report(event: Event, data: ResultRefused) -> str:
    """A refused report as lua/include/fencing.lua writes it to the job record."""
    return f"{name_of(event.node)}/{data.epoch}/{data.attempt}/{data.what},"


def job_core(
    job: Job, session: Session | None, utterance: UtteranceFacts | None
) -> dict[str, Any] | None:
    """The core of a job record, in its order; None if the log does not say what it has.

    Of an ended job only the first fields stay, and the code.
    """
    if utterance is None or (session is None and job.status != "ended"):
        return None
    core: dict[str, Any] = {"session": job.session, "utterance": job.utterance}
    core |= {"target": job.target, "delivery_no": job.delivery_no}
    core |= {"finalized": utterance.finalized_ms, "tp": utterance.traceparent}
    if job.status == "ended":
        return core | ({"code": job.code} if job.code else {})
    assert session is not None
    return core | job_details(session, utterance)


def job_details(session: Session, utterance: UtteranceFacts) -> dict[str, Any]:
    """The part of the core that another attempt needs, in the order of the record."""
    fields: dict[str, Any] = {"tenant": session.tenant, "turn": utterance.turn}
    fields |= {"source": session.source, "ms": utterance.ms, "priority": session.priority}
    fields |= {"encoding": session.encoding, "sample_rate": session.sample_rate}
    if session.features:
        fields["features"] = list(session.features)
    if session.key:
        fields["key"] = session.key
    fields |= {"first": utterance.first, "last": utterance.last, "count": utterance.count}
    return fields | {"bytes": utterance.bytes, "padding_ms": utterance.padding_ms}
