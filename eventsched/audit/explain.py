"""Why a job went the way it went: its decisions with what they rested on, and its stages.

Owns: what a decision saw of each node and why nodes were passed over; how long each stage took and
what it waited for. Everything from events and their fold.
Never does: I/O. Read next: scheduler_state.py (the fold), service.py (which reads it), cli/why.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from eventsched.audit.scheduler_state import (
    Requirement,
    SchedulerState,
    Verdict,
    lacking,
    live_of,
    load_of,
    suspensions_against,
    verdict,
)
from eventsched.schema.events import (
    Affinity,
    AttemptEnded,
    ClassSeen,
    Event,
    JobDispatched,
    JobFailed,
    JobQueued,
    Rank,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultReplaced,
    UtteranceFinalized,
)
from projections.node import Node, Suspension

ORDER = ("chosen", "last", "free", "full", "draining", "suspended", "unable", "gone")
Seen: TypeAlias = Verdict | Literal["chosen", "last"]


class NodeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One node at the moment of a decision."""

    node: str
    verdict: Seen
    """chosen, free (could have been), or why it was excluded."""
    detail: str = ""
    live: int
    slots: int
    load: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One dispatch, or one time that the job began to wait."""

    id: str
    attempt: int
    node: str = ""
    rule: str = ""
    """Empty: it waits."""
    reason: str = ""
    detail: str = ""
    """Why it had to wait, where nodes alone do not tell."""
    ahead: int = 0
    """Jobs of the same requirement that went before it when it began to wait."""
    affinity: Affinity | None = None
    classes: list[ClassSeen] = []
    last: str = ""
    compared: int = 0
    winner: Rank | None = None
    runner_up: Rank | None = None
    cause: str = ""
    context_at: str = ""
    nodes: list[NodeSeen] = []
    """Empty where the beginning of history is gone, and with it what nodes were."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of the job's time."""

    name: str
    from_ms: int
    ms: int
    waited_for: str = ""
    """What ended it, or what it waited for."""
    is_open: bool = False
    """Not over yet: `ms` is up to the last event that is known."""


class JobExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """One job."""

    job: str
    session: str
    utterance: int
    target: str
    outcome: str = ""
    """result, no_speech, failed or missing; empty while it is under way."""
    code: str = ""
    attempts: int = 0
    stages: list[Stage] = []
    decisions: list[Decision] = []


# --- decisions ------------------------------------------------------------------------------


def is_decision(event: Event) -> bool:
    data = event.data
    return isinstance(data, JobDispatched | JobQueued)


def decision(standing: SchedulerState | None, event: Event) -> Decision:
    """What was decided, with all nodes as they were before it; none: that is not known any more."""
    data = event.data
    assert isinstance(data, JobDispatched | JobQueued)
    if isinstance(data, JobDispatched):
        found = Decision(
            id=event.id, attempt=data.attempt, node=event.node, rule=data.rule,
            affinity=data.affinity, classes=data.classes, last=data.last, compared=data.compared,
            winner=data.winner, runner_up=data.runner_up, cause=event.cause,
            context_at=data.context_at,
        )  # fmt: skip
    else:
        found = Decision(id=event.id, attempt=data.attempt, reason=data.reason, cause=event.cause)
    return _with_nodes(found, standing, event, data) if standing else found


def _with_nodes(
    found: Decision, standing: SchedulerState, event: Event, data: JobDispatched | JobQueued
) -> Decision:
    job = standing.job(event.job)
    requirement, last = Requirement.of(data), job.attempts[-1].node if job and job.attempts else ""
    since_ms = job.created_ms if job else event.ms
    nodes = [
        _seen(node, requirement, chosen=event.node, last=last)
        for node in standing.nodes.values()
        if node.status != "gone" or node.gone_ms >= since_ms or _is_named(node, data, last)
    ]
    nodes.sort(key=lambda one: (ORDER.index(one.verdict), one.load, one.node))
    if isinstance(data, JobDispatched):
        return replace(found, nodes=nodes)
    place = data.priority, data.tag, data.member
    return replace(
        found, nodes=nodes, last=last, detail=_why_it_waits(standing, requirement, nodes),
        ahead=standing.waiting.ahead_of(requirement, place),
    )  # fmt: skip


def _why_it_waits(
    standing: SchedulerState, requirement: Requirement, nodes: Sequence[NodeSeen]
) -> str:
    """Rule 18: order counts before free slots do."""
    if standing.waiting.head(requirement) is not None:
        return "jobs of the same requirement wait already: it joins them"
    if any(one.verdict == "last" for one in nodes):
        return "the slot that it has just given back goes to those who wait for it"
    return ""


def _is_named(node: Node, data: JobDispatched | JobQueued, last: str) -> bool:
    """A node that went long ago is of interest only if the decision looked at it."""
    affinity = data.affinity.node if isinstance(data, JobDispatched) and data.affinity else ""
    return node.node in (affinity, last)


def _seen(node: Node, requirement: Requirement, *, chosen: str, last: str) -> NodeSeen:
    found: Seen = verdict(node, requirement)
    if node.node == chosen:
        found = "chosen"
    elif found == "free" and node.node == last:
        found = "last"
    return NodeSeen(
        node=node.node, verdict=found, detail=_detail(node, requirement, found), live=live_of(node),
        slots=node.slots, load=load_of(node),
    )  # fmt: skip


def _detail(node: Node, requirement: Requirement, found: Seen) -> str:
    match found:
        case "unable":
            return "no " + ", ".join(lacking(node, requirement))
        case "suspended":
            return ", ".join(map(_suspension, suspensions_against(node, requirement)))
        case "gone":
            return node.reason
        case "last":
            return "the attempt before was there"
        case _:
            return ""


def _suspension(suspension: Suspension) -> str:
    """Scope, subject and reason, such as `feature tts: MODEL_NOT_AVAILABLE`."""
    scope = suspension.scope.replace("_", " ")
    return f"{f'{scope} {suspension.subject}'.rstrip()}: {suspension.reason}"


# --- stages ---------------------------------------------------------------------------------


def explain(
    key: str, session_events: Sequence[Event], decisions: Sequence[Decision], until_ms: int
) -> JobExplanation:
    """The whole job, from its session's events. `until_ms`: what is known goes so far."""
    job = [event for event in session_events if event.job == key]
    utterance, target = int(key.split(":")[2]), key.split(":")[4]
    finalized = next(
        event
        for event in session_events
        if isinstance(event.data, UtteranceFinalized) and event.data.utterance == utterance
    )
    end = next((e for e in job if isinstance(e.data, ResultDelivered | ResultMissing)), None)
    outcome, code = _outcome(end)
    return JobExplanation(
        job=key,
        session=job[0].session,
        utterance=utterance,
        target=target,
        outcome=outcome,
        code=code,
        attempts=sum(isinstance(event.data, JobDispatched) for event in job),
        stages=[*_speech(finalized), *_stages(finalized, job, session_events, until_ms)],
        decisions=list(decisions),
    )


def _outcome(end: Event | None) -> tuple[str, str]:
    if end is None:
        return "", ""
    data = end.data
    return (data.outcome, data.code) if isinstance(data, ResultDelivered) else ("missing", "")


def _speech(finalized: Event) -> list[Stage]:
    data = finalized.data
    assert isinstance(data, UtteranceFinalized)
    first_ms, last_ms = _ms(data.first), _ms(data.last)
    said = f"{data.count} chunk{'s' * (data.count != 1)}, {data.bytes:,} B"
    return [
        Stage(name="speech", from_ms=first_ms, ms=last_ms - first_ms, waited_for=said),
        Stage(
            name="finalize", from_ms=last_ms, ms=finalized.ms - last_ms,
            waited_for=f"by {data.reason}",
        ),
    ]  # fmt: skip


def _stages(
    finalized: Event, job: Sequence[Event], session_events: Sequence[Event], until_ms: int
) -> list[Stage]:
    """From the end of the speech to the outcome at its listeners: stretch after stretch."""
    stages: list[Stage] = []
    at, name = finalized, "dispatch"
    for event in job:
        following = _following(event)
        if following is None:
            continue
        stages.append(
            Stage(
                name=name, from_ms=at.ms, ms=event.ms - at.ms,
                waited_for=_ended_by(at, event, session_events),
            )
        )  # fmt: skip
        at, name = event, following
    if name:
        stages.append(
            Stage(
                name=name, from_ms=at.ms, ms=max(0, until_ms - at.ms), is_open=True,
                waited_for=_waits_for(at),
            )
        )  # fmt: skip
    return stages


def _following(event: Event) -> str | None:
    """The stage that an event begins; empty at the end, none where it begins none."""
    match event.data:
        case JobQueued():
            return "wait for a slot"
        case JobDispatched(attempt=attempt):
            return f"attempt {attempt}"
        case AttemptEnded(reason="cancelled"):
            return None
        case AttemptEnded():
            return "next attempt"
        case JobFailed() | ResultReplaced():
            return "delivery"
        case ResultRecorded():
            return "delivery"
        case ResultDelivered() | ResultMissing():
            return ""
        case _:
            return None


def _ended_by(begin: Event, event: Event, session_events: Sequence[Event]) -> str:
    """What was waited for, in words."""
    node = event.node
    match begin.data, event.data:
        case _, JobQueued(reason=reason):
            return f"{reason}: it queues"
        case JobQueued(reason=reason), JobDispatched():
            return f"{reason}, until {node} had a slot" + _by(event)
        case _, JobDispatched(rule=rule):
            return f"to {node} by {rule}"
        case _, AttemptEnded(reason=reason, code=code):
            return f"on {node}: {reason}" + (f", {code}" if code else "")
        case _, ResultRecorded(status=status, code=code):
            return f"on {node}: {status}" + (f", {code}" if code else "")
        case _, JobFailed(code=code):
            return f"{code}: given up"
        case _, ResultMissing(reason=reason):
            return f"given up: {reason}"
        case _, ResultDelivered(delivery_no=number):
            return f"#{number} in order" + _behind(begin, event, session_events)
        case _:
            return ""


def _by(event: Event) -> str:
    return f" (freed by {event.cause})" if event.cause else ""


def _behind(ready: Event, delivered: Event, session_events: Sequence[Event]) -> str:
    """Rule 25: the number in front of it that came last, if any kept it waiting."""
    if ready.ms == delivered.ms:
        return ""
    assert isinstance(delivered.data, ResultDelivered)
    target, number = delivered.data.target, delivered.data.delivery_no
    before = [
        event
        for event in session_events
        if isinstance(event.data, ResultDelivered | ResultMissing)
        and (event.data.target, event.data.delivery_no) == (target, number - 1)
    ]
    if not before:
        return ""
    kind = "missing" if isinstance(before[0].data, ResultMissing) else before[0].data.outcome  # type: ignore[union-attr]
    return f", behind #{number - 1} (u{before[0].data.utterance}: {kind})"  # type: ignore[union-attr]


def _waits_for(at: Event) -> str:
    match at.data:
        case JobQueued(reason=reason):
            return f"{reason}: still waiting"
        case JobDispatched():
            return f"still on {at.node}"
        case AttemptEnded():
            return "not dispatched again yet"
        case UtteranceFinalized():
            return "not dispatched yet"
        case _:
            return "still behind a gap"


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
