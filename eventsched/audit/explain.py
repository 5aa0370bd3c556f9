"""Explains a job: its decisions with their evidence, and the stages of its time.

Owns: the state of each node at a decision, and why it was not chosen; how long each stage took and
what ended it. Everything is computed from events and their fold.
Must not: do I/O. Read next: scheduler_state.py (the fold), service.py (reads events), cli/why.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from eventsched.audit.scheduler_state import (
    Queue,
    Requirement,
    SchedulerState,
    Verdict,
    load_of,
    missing_abilities,
    suspensions_against,
    used_slots,
    verdict,
)
from eventsched.formatting import clock
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import (
    Affinity,
    AttemptEnded,
    ClassSeen,
    Event,
    JobDispatched,
    JobFailed,
    JobQueued,
    OtherClasses,
    Rank,
    ResultMissing,
    ResultRecorded,
    ResultReplaced,
    SessionOpened,
    UtteranceFinalized,
)
from eventsched.schema.ids import ms_between
from projections.node import Node, Suspension

ORDER = ("chosen", "last", "free", "full", "draining", "suspended", "unable", "gone")
NodeVerdict: TypeAlias = Verdict | Literal["chosen", "last"]


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """One node at the moment of a decision."""

    node: str
    verdict: NodeVerdict
    """chosen, free (a candidate), or why the node was excluded."""
    detail: str = ""
    live: int
    """Slots in use."""
    slots: int
    load: int
    """Used slots in thousandths."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One dispatch, or one decision to let the job wait."""

    id: str
    attempt: int
    node: str = ""
    rule: str = ""
    """Empty if the job waits."""
    reason: str = ""
    detail: str = ""
    """Why the job had to wait, if the nodes alone do not explain it."""
    until_ms: int = 0
    """The time that `detail` names in the zone of this process; 0 for none."""
    ahead: int = 0
    """Jobs of the same requirement before it in the queue when it began to wait."""
    affinity: Affinity | None = None
    classes: list[ClassSeen] = []
    other_classes: OtherClasses | None = None
    last: str = ""
    compared: int = 0
    winner: Rank | None = None
    runner_up: Rank | None = None
    cause: str = ""
    context_at: str = ""
    nodes: list[NodeState] = []
    """Empty during a backoff, which no node ends, and if the first entries of the log are gone,
    because the nodes are then unknown. A gateway names the first ones only."""
    nodes_total: int = 0
    is_far: bool = False
    """Whether a gateway has left out the nodes, because too many entries precede the decision."""

    @property
    def backs_off(self) -> bool:
        """Whether the job waits for a time, not for a node."""
        return self.reason == "retry_backoff"


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the job."""

    name: str
    from_ms: int
    ms: int
    waited_for: str = ""
    """What ended the stage, or what an open stage waits for."""
    is_open: bool = False
    """The stage has not ended: `ms` counts to the last known event."""
    cause: str = ""
    """Entry that caused the end of an attempt, such as `log/1700000000000-0` of its NodeLost; empty
    of other stages, and if there is none."""


class JobExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """One job with its stages and decisions."""

    job: str
    session: str
    utterance: int
    target: str
    outcome: str = ""
    """result, no_speech, failed or missing; empty while the job is open."""
    code: str = ""
    attempts: int = 0
    stages: list[Stage] = []
    decisions: list[Decision] = []
    is_complete: bool = True
    """False if the history lacks the event that finalized the utterance: the stages begin with the
    first event of the job."""


# --- decisions ------------------------------------------------------------------------------


def is_decision(event: Event) -> bool:
    """Whether the event is a dispatch, or the start of a wait."""
    data = event.data
    return isinstance(data, JobDispatched | JobQueued)


def decision(state: SchedulerState | None, event: Event) -> Decision:
    """Explain one decision, with all nodes as they were before it if `state` is known."""
    data = event.data
    assert isinstance(data, JobDispatched | JobQueued)
    if isinstance(data, JobDispatched):
        result = Decision(
            id=event.id, attempt=data.attempt, node=event.node, rule=data.rule,
            affinity=data.affinity, classes=data.classes, other_classes=data.other_classes,
            last=data.last, compared=data.compared, winner=data.winner, runner_up=data.runner_up,
            cause=event.cause, context_at=data.context_at,
        )  # fmt: skip
    else:
        result = Decision(
            id=event.id, attempt=data.attempt, reason=data.reason, detail=_times_of_wait(data),
            until_ms=data.not_before_ms or data.avoid_until_ms, last=data.last, cause=event.cause,
        )  # fmt: skip
    if state is None or (isinstance(data, JobQueued) and data.not_before_ms):
        return result
    return _add_node_states(result, state, event, data)


def _times_of_wait(data: JobQueued) -> str:
    """Until when the job backs off, or avoids its last node."""
    if data.not_before_ms:
        return f"backs off until {clock(data.not_before_ms)}"
    if data.avoid_until_ms:
        return f"avoids {data.last} until {clock(data.avoid_until_ms)}, another node is able"
    return ""


def _add_node_states(
    result: Decision, state: SchedulerState, event: Event, data: JobDispatched | JobQueued
) -> Decision:
    """Return the decision with the state of each node.

    If the job waits, also why, and how many jobs are ahead of it.
    """
    job = state.job(event.job)
    requirement, last = Requirement.of(data), job.attempts[-1].node if job and job.attempts else ""
    since_ms = job.created_ms if job else event.ms
    nodes = [
        _node_state(node, requirement, chosen=event.node, last=last)
        for node in state.nodes.values()
        if node.status != "gone" or node.gone_ms >= since_ms or _is_named(node, data, last)
    ]
    nodes.sort(key=lambda each: (ORDER.index(each.verdict), each.load, each.node))
    if isinstance(data, JobDispatched):
        return replace(result, nodes=nodes, nodes_total=len(nodes))
    place = data.priority, data.tag, data.member
    detail = result.detail or _why_it_waits(state, requirement, nodes)
    return replace(
        result, nodes=nodes, nodes_total=len(nodes), last=last, detail=detail,
        ahead=state.waiting.ahead_of(requirement, place),
    )  # fmt: skip


def _why_it_waits(
    state: SchedulerState, requirement: Requirement, nodes: Sequence[NodeState]
) -> str:
    """Rule 18, fair waiting: jobs that already wait go first, even if a slot is free."""
    if state.waiting.head(Queue(requirement)) is not None:
        return "other jobs of the same requirement already wait"
    if any(node.verdict == "last" for node in nodes):
        return "the slot that it has just released goes to a waiting job"
    return ""


def _is_named(node: Node, data: JobDispatched | JobQueued, last: str) -> bool:
    """Whether the decision names the node; only then is a node shown that left long before."""
    affinity = data.affinity.node if isinstance(data, JobDispatched) and data.affinity else ""
    return node.node in (affinity, last)


def _node_state(node: Node, requirement: Requirement, *, chosen: str, last: str) -> NodeState:
    node_verdict: NodeVerdict = verdict(node, requirement)
    if node.node == chosen:
        node_verdict = "chosen"
    elif node_verdict == "free" and node.node == last:
        node_verdict = "last"
    return NodeState(
        node=node.node, verdict=node_verdict,
        detail=_detail(node, requirement, node_verdict), live=used_slots(node),
        slots=node.slots, load=load_of(node),
    )  # fmt: skip


def _detail(node: Node, requirement: Requirement, node_verdict: NodeVerdict) -> str:
    match node_verdict:
        case "unable":
            return "no " + ", ".join(missing_abilities(node, requirement))
        case "suspended":
            return ", ".join(map(_suspension, suspensions_against(node, requirement)))
        case "gone":
            return node.reason
        case "last":
            return "the previous attempt ran there"
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
    """Explain the job from its session's events.

    Args:
        key: The job.
        session_events: All events of its session, in order.
        decisions: The explained decisions of the job.
        until_ms: Time of the last known event, up to which an open stage counts.
    """
    job = [event for event in session_events if event.job == key]
    utterance, target = int(key.split(":")[2]), key.split(":")[4]
    finalized = next(
        (
            event
            for event in session_events
            if isinstance(event.data, UtteranceFinalized) and event.data.utterance == utterance
        ),
        None,
    )
    opened_ms = next((e.ms for e in session_events if isinstance(e.data, SessionOpened)), 0)
    speech = _speech(finalized, opened_ms) if finalized else []
    end = next(filter(None, (delivery_of(event.data) for event in job)), None)
    return JobExplanation(
        job=key,
        session=job[0].session,
        utterance=utterance,
        target=target,
        outcome=end.outcome if end else "",
        code=end.code if end else "",
        attempts=sum(isinstance(event.data, JobDispatched) for event in job),
        stages=[*speech, *_stages(finalized, job, session_events, until_ms)],
        is_complete=finalized is not None,
        decisions=list(decisions),
    )


def _speech(finalized: Event, opened_ms: int) -> list[Stage]:
    data = finalized.data
    assert isinstance(data, UtteranceFinalized)
    first_ms = ms_between(data.first, opened_ms, finalized.ms)
    last_ms = ms_between(data.last, first_ms, finalized.ms)
    amount = f"{data.count} chunk{'s' * (data.count != 1)}, {data.bytes:,} B"
    return [
        Stage(name="speech", from_ms=first_ms, ms=last_ms - first_ms, waited_for=amount),
        Stage(
            name="finalize", from_ms=last_ms, ms=finalized.ms - last_ms,
            waited_for=f"by {data.reason}",
        ),
    ]  # fmt: skip


def _stages(
    finalized: Event | None, job: Sequence[Event], session_events: Sequence[Event], until_ms: int
) -> list[Stage]:
    """The stages from the finalize to the delivery, one after the other."""
    stages: list[Stage] = []
    at, name = (finalized, "dispatch") if finalized else (job[0], "")
    for event in job:
        next_name = _stage_after(event)
        if next_name is None:
            continue
        if name:
            stages.append(
                Stage(
                    name=name, from_ms=at.ms, ms=event.ms - at.ms,
                    waited_for=_ended_by(at, event, session_events),
                    cause=event.cause if isinstance(event.data, AttemptEnded) else "",
                )
            )  # fmt: skip
        at, name = event, next_name
        delivery = delivery_of(event.data)
        if name and delivery is not None:
            waited_for = _in_order(event, event, delivery, session_events)
            stages.append(Stage(name=name, from_ms=at.ms, ms=0, waited_for=waited_for))
            name = ""
    if name:
        stages.append(
            Stage(
                name=name, from_ms=at.ms, ms=max(0, until_ms - at.ms), is_open=True,
                waited_for=_waits_for(at),
            )
        )  # fmt: skip
    return stages


def _stage_after(event: Event) -> str | None:
    """Return the stage that the event begins: empty at the end, None if it begins none."""
    match event.data:
        case JobQueued(reason="retry_backoff"):
            return "backoff"
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
        case data:
            return None if delivery_of(data) is None else ""


def _ended_by(begin: Event, event: Event, session_events: Sequence[Event]) -> str:
    """Say what ended the stage."""
    node = event.node
    match begin.data, event.data:
        case JobQueued() as queued, JobQueued() | JobDispatched():
            return _wait_ended_by(queued, event)
        case _, JobQueued(reason=reason):
            return f"queued, {reason}"
        case _, JobDispatched(rule=rule):
            return f"to {node} by {rule}"
        case _, AttemptEnded(reason=reason, code=code, error=error):
            return ", ".join(filter(None, [f"on {node}: {reason}", code, error]))
        case _, ResultRecorded(status=status, code=code):
            return f"on {node}: {status}" + (f", {code}" if code else "")
        case _, ResultReplaced(status=status, code=code):
            return f"on {node}: {status}" + (f", {code}" if code else "")
        case _, JobFailed(code=code):
            return f"failed: {code}"
        case _, ResultMissing(reason=reason):
            return f"missing: {reason}"
        case _, data:
            delivery = delivery_of(data)
            return _in_order(begin, event, delivery, session_events) if delivery else ""


def _wait_ended_by(queued: JobQueued, event: Event) -> str:
    """Say what ended a backoff, or the wait for a slot."""
    match event.data:
        case JobDispatched(rule=rule) if queued.not_before_ms:
            return f"over, to {event.node} by {rule}"
        case JobDispatched():
            return f"{queued.reason}, until {event.node} had a slot" + _by(event)
        case JobQueued(reason=reason) if queued.not_before_ms:
            return f"over, queued: {reason}" + _avoiding(event)
        case JobQueued() if queued.avoid_until_ms:
            return "no other node had a slot, any node from now on"
        case JobQueued(reason=reason):
            return f"queued, {reason}"
        case _:
            return ""


def _avoiding(event: Event) -> str:
    """The node that the queued job avoids."""
    assert isinstance(event.data, JobQueued)
    return f", avoids {event.data.last}" if event.data.avoid_until_ms else ""


def _by(event: Event) -> str:
    return f" (freed by {event.cause})" if event.cause else ""


def _in_order(
    ready: Event, event: Event, delivery: Delivery, session_events: Sequence[Event]
) -> str:
    """Rule 25, ordered delivery: the number, and the previous one if the outcome waited for it."""
    number = f"#{delivery.delivery_no} in order"
    if ready.ms == event.ms:
        return number
    place = delivery.target, delivery.delivery_no - 1
    for previous in filter(None, (delivery_of(each.data) for each in session_events)):
        if (previous.target, previous.delivery_no) == place:
            return (
                f"{number}, after #{previous.delivery_no}"
                f" (u{previous.utterance}: {previous.outcome})"
            )
    return number


def _waits_for(at: Event) -> str:
    """Say what the open stage that `at` began waits for."""
    match at.data:
        case JobQueued(reason="retry_backoff", not_before_ms=until_ms):
            return f"backs off until {clock(until_ms)}"
        case JobQueued(reason=reason):
            return f"{reason}: still waiting" + _avoiding(at)
        case JobDispatched():
            return f"still on {at.node}"
        case AttemptEnded():
            return "not dispatched again yet"
        case UtteranceFinalized():
            return "not dispatched yet"
        case _:
            return "waits for an earlier number"
