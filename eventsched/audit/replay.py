"""Replay: compute every decision of the log again, and report those that differ.

Owns: rules 15 to 18 and 20 (two reasons to wait, choosing a node, evidence, fair waiting,
dispatching again) as pure functions. Each decision is checked against two bases: the evidence in
its event, and the scheduler's state by the fold of all events before it.
Must not: do I/O, share code with the script that decides (lua/include/assign.lua).
Read next: scheduler_state.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventsched.audit.scheduler_state import (
    NAMED_MAX,
    CapabilityClass,
    Queue,
    Requirement,
    SchedulerState,
    class_order,
    evidence_of,
    has_free_slot,
    verdict,
)
from eventsched.schema.events import (
    POLICY_VERSION,
    Affinity,
    ClassSeen,
    Event,
    JobDispatched,
    JobPromoted,
    JobQueued,
    OtherClasses,
    Rank,
)
from projections.job import Job

DIFFERENCES_MAX = 1_000
"""Differences reported in full; further ones are only counted."""
Basis: TypeAlias = Literal["evidence", "fold"]


class ComputedDecision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision and its evidence, computed again. Without a node, the job waits."""

    node: str = ""
    rule: str = ""
    reason: str = ""
    affinity: Affinity | None = None
    classes: list[ClassSeen] = []
    other_classes: OtherClasses | None = None
    last: str = ""
    compared: int = 0
    winner: Rank | None = None
    runner_up: Rank | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a recorded decision that differs from the computed one."""

    id: str
    job: str
    attempt: int
    basis: Basis
    field: str
    recorded: Any
    recomputed: Any

    def __str__(self) -> str:
        where = f"log/{self.id} {self.job} attempt {self.attempt}"
        return (
            f"{where}: {self.field} is {self.recorded!r}, by the {self.basis} {self.recomputed!r}"
        )


# --- one decision ---------------------------------------------------------------------------


def choose(
    state: SchedulerState,
    job: Job | None,
    requirement: Requirement,
    session: str,
    turn: int,
    ms: int,
) -> ComputedDecision:
    """Rules 16 (choosing a node) and 20 (dispatching again): the affinity node, else the least
    loaded; the node of the previous attempt only if no other node can take the job.

    Args:
        ms: The time of the decision.
    """
    serving = state.serving(requirement)
    last = job.attempts[-1].node if job and job.attempts else ""
    affinity, rule = _affinity(state, requirement, session, turn, last)
    node = affinity.node if affinity and not affinity.why else _least_loaded(serving, last)
    if affinity is None or affinity.why:
        rule = "last" if node and node == last else "load"
    computed = ComputedDecision(
        affinity=affinity, last=last, reason=wait_reason(state, requirement)
    )
    if not node or _must_yield(state, job, node) or _is_avoided(state, job, requirement, node, ms):
        return computed
    chosen = state.node(node)
    assert chosen is not None
    named, others = evidence_of([each.evidence for each in serving], chosen.cls)
    return msgspec.structs.replace(
        computed, node=node, rule=rule, classes=named, other_classes=others
    )


def wait_reason(state: SchedulerState, requirement: Requirement) -> str:
    """Return why a job waits (rule 15, two reasons to wait).

    NO_AVAILABLE_NODE if a registered node can serve the requirement, otherwise
    NO_POOL_FOR_LANG_PAIR.
    """
    return "NO_AVAILABLE_NODE" if state.is_declared(requirement) else "NO_POOL_FOR_LANG_PAIR"


def _affinity(
    state: SchedulerState, requirement: Requirement, session: str, turn: int, last: str
) -> tuple[Affinity | None, str]:
    view = state.session(session)
    if view is None or not view.node:
        return None, ""
    node = state.node(view.node)
    why: str = verdict(node, requirement) if node else "gone"
    if why == "free":
        why = "last" if view.node == last else ""
    return Affinity(node=view.node, why=why), "turn" if view.node_turn == turn else "session"


def _least_loaded(serving: Sequence[CapabilityClass], last: str) -> str:
    """The node with the smallest (load, id), compared by bytes; `last` only if it is the only."""
    heads = sorted((load, name.encode(), name) for each in serving for load, name in each.heads)
    others = [name for *_, name in heads if name != last]
    return others[0] if others else (heads[0][2] if heads else "")


def _must_yield(state: SchedulerState, job: Job | None, node: str) -> bool:
    """Whether the slot that the job has just released goes to a job that waits for it."""
    if job is None or not job.attempts or job.attempts[-1].node != node:
        return False
    if job.status == "backoff":
        return False  # the slot was released before the backoff
    freed = state.node(node)
    if freed is None or freed.epoch != job.attempts[-1].epoch:
        return False
    return next(state.waiting_for(freed), None) is not None


def _is_avoided(
    state: SchedulerState, job: Job | None, requirement: Requirement, node: str, ms: int
) -> bool:
    """Whether the job, after its backoff, waits for another node than that of its last attempt."""
    if job is None or job.status != "backoff" or job.avoided != node:
        return False
    able = sum(each.evidence.free + each.evidence.full for each in state.serving(requirement))
    return ms < job.avoid_until_ms and able > 1


def choose_job(state: SchedulerState, full_id: str) -> ComputedDecision:
    """Rule 18, fair waiting: the first in order of the waiting jobs that the node can take."""
    node = state.node(full_id)
    if node is None or not has_free_slot(node):
        return ComputedDecision()
    heads = sorted((_order(rank), rank) for _, rank in state.waiting_for(node))
    return ComputedDecision(
        node=full_id if heads else "",
        rule="fill",
        classes=[state.class_of(node).evidence],
        compared=len(state.queues_of(node)) if heads else 0,
        winner=heads[0][1] if heads else None,
        runner_up=heads[1][1] if len(heads) > 1 else None,
    )


def _order(rank: Rank) -> tuple[int, int, str]:
    return rank.priority, rank.tag, rank.member


# --- comparison with the recorded decision --------------------------------------------------


def check_evidence(event: Event, data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    """Yield where the decision contradicts its own evidence: (field, recorded, by the evidence)."""
    if data.policy != POLICY_VERSION:
        yield "policy", data.policy, POLICY_VERSION
        return
    if data.rule == "fill":
        yield from _check_fill_evidence(event, data)
        return
    yield from _check_classes(data)
    has_affinity = data.affinity is not None and not data.affinity.why
    if has_affinity != (data.rule in ("turn", "session")):
        yield "rule", data.rule, "affinity" if has_affinity else "load or last"
    elif has_affinity and data.affinity is not None and data.affinity.node != event.node:
        yield "node", event.node, data.affinity.node
    elif not has_affinity:
        yield from _check_load_evidence(event, data)


def _check_classes(data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, recorded, expected) if the named classes cannot be the first ones.

    At most eight are named, those after the first in order and each with a free node. Classes that
    are not named have free nodes only if eight are named.
    """
    further = data.classes[1:]
    if len(data.classes) > NAMED_MAX or any(not each.head for each in data.classes):
        yield "classes", len(data.classes), f"at most {NAMED_MAX}, with free nodes"
    elif further != sorted(further, key=class_order):
        yield "classes", [each.head for each in further], "in the order of their heads"
    if data.other_classes and data.other_classes.free and len(data.classes) < NAMED_MAX:
        yield "other_classes", data.other_classes.free, "no free nodes"


def _check_load_evidence(event: Event, data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, recorded, expected) if the node or the rule contradicts the evidence.

    The node must be the least loaded one in the evidence, and `rule` must say why it was chosen. It
    is the head of the first class that is named. Heads that are not named are not less loaded than
    the last one that is. The job's last node is chosen only if no other node is free. If the last
    node heads a class with a second free node, the evidence does not show that node, so a node that
    heads no class is accepted if this class is the first.
    """
    heads = sorted((*class_order(seen), seen.head) for seen in data.classes if seen.head)
    others = [name for *_, name in heads if name != data.last]
    has_second = any(seen.head == data.last and seen.free > 1 for seen in data.classes if seen.head)
    first = data.classes[0].head if data.classes else ""
    expected = event.node if any(event.node == name for *_, name in heads) else data.last
    if (event.node == data.last) != (data.rule == "last"):
        yield "rule", data.rule, "last" if event.node == data.last else "load"
    elif data.rule == "last" and (others or has_second):
        yield "node", event.node, others[0] if others else "the second of its class"
    elif event.node in others and event.node != others[0]:
        yield "node", event.node, others[0]
    elif event.node not in others and data.rule == "load" and not has_second:
        yield "node", event.node, others[0] if others else ""
    elif first != expected:
        yield "classes", first, expected


def _check_fill_evidence(event: Event, data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    if data.winner is None:
        yield "winner", None, "the job"
        return
    if data.winner.member.partition(":")[2] != event.job:
        yield "winner", data.winner.member, event.job
    if data.runner_up is not None and _order(data.runner_up) < _order(data.winner):
        yield "winner", _order(data.winner), _order(data.runner_up)
    if data.compared < (1 if data.runner_up is None else 2):
        yield "compared", data.compared, "at least the winner and the runner-up"


def check_against_state(
    state: SchedulerState, event: Event, data: JobDispatched
) -> Iterator[tuple[str, Any, Any]]:
    """Yield where the decision differs from the state before it: (field, recorded, computed)."""
    if event.job in state.waiting:
        computed = choose_job(state, event.node)
    else:
        job = state.job(event.job)
        computed = choose(state, job, Requirement.of(data), event.session, data.turn, event.ms)
    recorded = {"node": event.node} | {name: getattr(data, name) for name in _COMPARED}
    for name, value in recorded.items():
        if value != getattr(computed, name):
            yield name, msgspec.to_builtins(value), msgspec.to_builtins(getattr(computed, name))


_COMPARED = (
    "rule", "affinity", "classes", "other_classes", "last", "compared", "winner", "runner_up",
)  # fmt: skip


def check_queued(
    state: SchedulerState, event: Event, data: JobQueued
) -> Iterator[tuple[str, Any, Any]]:
    """Rules 15 (two reasons to wait), 18 (fair waiting) and 20 (dispatching again): whether, and
    why, the job must wait.
    """
    requirement, job = Requirement.of(data), state.job(event.job)
    if data.reason == "retry_backoff":
        yield from _check_backoff(job, event, data)
        return
    if data.reason != (expected := wait_reason(state, requirement)):
        yield "reason", data.reason, expected
    if job is not None and job.status == "queued" and job.avoid_until_ms:
        return  # the job has avoided a node until now, and waits for any node from now on
    avoided = Queue(requirement, data.last)
    if state.waiting.head(Queue(requirement)) or state.waiting.head(avoided):
        return  # jobs of its queue already wait, so the job must wait as well
    computed = choose(state, job, requirement, event.session, -1, event.ms)
    if computed.node:
        yield "node", "", computed.node


def _check_backoff(
    job: Job | None, event: Event, data: JobQueued
) -> Iterator[tuple[str, Any, Any]]:
    """A job backs off only after an attempt that its node reported as failed."""
    ended = job.attempts[-1] if job and job.attempts else None
    if ended is None or ended.end != "failed":
        yield "reason", data.reason, "its last attempt has not failed"
    elif data.last != ended.node:
        yield "last", data.last, ended.node
    if data.not_before_ms <= event.ms:
        yield "not_before_ms", data.not_before_ms, "later than the event"


def check_promotion(
    standing: SchedulerState, event: Event, data: JobPromoted
) -> Iterator[tuple[str, Any, Any]]:
    """Rule 18, fair waiting: only a waiting job is promoted, to the highest priority."""
    if event.job not in standing.waiting:
        yield "priority", data.priority, "it does not wait"
    elif data.priority != 0:
        yield "priority", data.priority, 0


# --- a range of the log ---------------------------------------------------------------------


class ReplayReport(msgspec.Struct, kw_only=True):
    """The computed decisions of a range of the log, and those that differ."""

    events: int = 0
    first: str = ""
    last: str = ""
    dispatches: int = 0
    queued: int = 0
    by_rule: Counter[str] = msgspec.field(default_factory=Counter)
    differences: list[Difference] = []
    differences_total: int = 0

    @property
    def agrees(self) -> bool:
        return not self.differences_total


class Replay:
    """Checks the decisions of a log whose events are added in order."""

    def __init__(self, state: SchedulerState) -> None:
        self.report = ReplayReport()
        self._state = state

    def add(self, event: Event) -> None:
        """Check the event's decision, if it is one, against the state before it; then fold it."""
        self._check(event)
        self._state.add(event)

    def _check(self, event: Event) -> None:
        report, data = self.report, event.data
        report.events += 1
        report.first, report.last = report.first or event.id, event.id
        if isinstance(data, JobDispatched):
            report.dispatches += 1
            report.by_rule[data.rule] += 1
            self._report(event, data.attempt, "evidence", check_evidence(event, data))
            self._report(event, data.attempt, "fold", check_against_state(self._state, event, data))
        elif isinstance(data, JobQueued):
            report.queued += 1
            self._report(event, data.attempt, "fold", check_queued(self._state, event, data))
        elif isinstance(data, JobPromoted):
            self._report(event, data.attempt, "fold", check_promotion(self._state, event, data))

    def _report(
        self, event: Event, attempt: int, basis: Basis, findings: Iterator[tuple[str, Any, Any]]
    ) -> None:
        for name, recorded, recomputed in findings:
            self.report.differences_total += 1
            if len(self.report.differences) < DIFFERENCES_MAX:
                difference = Difference(
                    id=event.id, job=event.job, attempt=attempt, basis=basis, field=name,
                    recorded=recorded, recomputed=recomputed,
                )  # fmt: skip
                self.report.differences.append(difference)
