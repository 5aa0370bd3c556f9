"""Decisions computed again: does the log bear out every choice that it records?

Owns: rules 15-18 and 20 as pure functions; two looks at each decision: at the evidence that the
event itself carries, and at how things stood by the fold of everything before it.
Never does: I/O. It shares no code with the script that decides (lua/include/assign.lua).
Read next: scheduler_state.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from eventsched.audit.scheduler_state import (
    Class,
    Requirement,
    SchedulerState,
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
    Rank,
)
from projections.job import Job

LOOKED_MAX = 64
"""A fill looks at so many requirements; which, of more, the log does not say."""
FILLED_MAX = 8
TOLD_MAX = 1_000
"""Differences kept with their text; beyond, they are counted."""
ArchiveState: TypeAlias = Literal["evidence", "fold"]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision comes to, and all that it rests on. Without a node: the job waits."""

    node: str = ""
    rule: str = ""
    reason: str = ""
    affinity: Affinity | None = None
    classes: list[ClassSeen] = []
    last: str = ""
    compared: int = 0
    winner: Rank | None = None
    runner_up: Rank | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that does not follow."""

    id: str
    job: str
    attempt: int
    look: ArchiveState
    field: str
    recorded: Any
    recomputed: Any

    def __str__(self) -> str:
        where = f"log/{self.id} {self.job} attempt {self.attempt}"
        return f"{where}: {self.field} is {self.recorded!r}, by the {self.look} {self.recomputed!r}"


# --- one decision ---------------------------------------------------------------------------


def choose(
    standing: SchedulerState, job: Job | None, requirement: Requirement, session: str, turn: int
) -> Choice:
    """Rules 16 and 20: affinity, else the least loaded; the node of the attempt before only if
    there is no other.
    """
    serving = standing.serving(requirement)
    last = job.attempts[-1].node if job and job.attempts else ""
    affinity, rule = _affinity(standing, requirement, session, turn, last)
    node = affinity.node if affinity and not affinity.why else _least_loaded(serving, last)
    if affinity is None or affinity.why:
        rule = "last" if node and node == last else "load"
    told = Choice(
        affinity=affinity,
        classes=[one.seen for one in serving],
        last=last,
        reason=reason(standing, requirement),
    )
    if not node or _gives_way(standing, job, node):
        return told
    return msgspec.structs.replace(told, node=node, rule=rule)


def reason(standing: SchedulerState, requirement: Requirement) -> str:
    """Rule 15: the two reasons to wait."""
    return "NO_AVAILABLE_NODE" if standing.is_declared(requirement) else "NO_POOL_FOR_LANG_PAIR"


def _affinity(
    standing: SchedulerState, requirement: Requirement, session: str, turn: int, last: str
) -> tuple[Affinity | None, str]:
    view = standing.session(session)
    if view is None or not view.node:
        return None, ""
    node = standing.node(view.node)
    why: str = verdict(node, requirement) if node else "gone"
    if why == "free":
        why = "last" if view.node == last else ""
    return Affinity(node=view.node, why=why), "turn" if view.node_turn == turn else "session"


def _least_loaded(serving: Sequence[Class], last: str) -> str:
    """The smallest (load, id); ids of a cell compare as their names do, by bytes."""
    heads = sorted((load, name.encode(), name) for one in serving for load, name in one.heads)
    others = [name for *_, name in heads if name != last]
    return others[0] if others else (heads[0][2] if heads else "")


def _gives_way(standing: SchedulerState, job: Job | None, node: str) -> bool:
    """The slot that the job has just given back goes to others that wait for it, if any do."""
    if job is None or not job.attempts or job.attempts[-1].node != node:
        return False
    freed = standing.node(node)
    if freed is None or freed.epoch != job.attempts[-1].epoch:
        return False
    return next(standing.waiting_for(freed), None) is not None


def fill(standing: SchedulerState, full_id: str) -> Choice:
    """Rule 18: of the requirements that a freed slot's class serves, the first in the order."""
    node = standing.node(full_id)
    if node is None or not has_free_slot(node):
        return Choice()
    heads = sorted((_order(rank), rank) for _, rank in standing.waiting_for(node))
    return Choice(
        node=full_id if heads else "",
        rule="fill",
        classes=[standing.class_of(node).seen],
        compared=len(heads),
        winner=heads[0][1] if heads else None,
        runner_up=heads[1][1] if len(heads) > 1 else None,
    )


def _order(rank: Rank) -> tuple[int, int, str]:
    return rank.priority, rank.tag, rank.member


# --- what is recorded beside it -------------------------------------------------------------


def check_evidence(event: Event, data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    """Where the event contradicts itself: (field, recorded, what its own evidence says)."""
    if data.policy != POLICY_VERSION:
        yield "policy", data.policy, POLICY_VERSION
        return
    if data.rule == "fill":
        yield from _fill_by_evidence(event, data)
        return
    taken = data.affinity is not None and not data.affinity.why
    if taken != (data.rule in ("turn", "session")):
        yield "rule", data.rule, "affinity" if taken else "load or last"
    elif taken and data.affinity is not None and data.affinity.node != event.node:
        yield "node", event.node, data.affinity.node
    elif not taken:
        yield from _load_by_evidence(event, data)


def _load_by_evidence(event: Event, data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    """Of a class whose head is the last node the second counts, which evidence does not name."""
    heads = sorted((one.load, one.head.encode(), one.head) for one in data.classes if one.head)
    others = [name for *_, name in heads if name != data.last]
    has_second = any(one.head == data.last and one.free > 1 for one in data.classes if one.head)
    if (event.node == data.last) != (data.rule == "last"):
        yield "rule", data.rule, "last" if event.node == data.last else "load"
    elif data.rule == "last" and (others or has_second):
        yield "node", event.node, others[0] if others else "the second of its class"
    elif event.node in others and event.node != others[0]:
        yield "node", event.node, others[0]
    elif event.node not in others and data.rule == "load" and not has_second:
        yield "node", event.node, others[0] if others else ""


def _fill_by_evidence(event: Event, data: JobDispatched) -> Iterator[tuple[str, Any, Any]]:
    if data.winner is None:
        yield "winner", None, "the job"
        return
    if data.winner.member.partition(":")[2] != event.job:
        yield "winner", data.winner.member, event.job
    if data.runner_up is not None and _order(data.runner_up) < _order(data.winner):
        yield "winner", _order(data.winner), _order(data.runner_up)
    if (data.runner_up is None) != (data.compared == 1):
        yield "compared", data.compared, 1 if data.runner_up is None else "two or more"


def check_against_state(
    standing: SchedulerState, event: Event, data: JobDispatched
) -> Iterator[tuple[str, Any, Any]]:
    """Where the event says otherwise than how things stood: (field, recorded, recomputed)."""
    if event.job in standing.waiting:
        told = fill(standing, event.node)
        if told.compared > LOOKED_MAX - FILLED_MAX:  # which 64 were looked at is not in the log
            yield from _one_of_many(standing, event, data)
            return
    else:
        job = standing.job(event.job)
        told = choose(standing, job, Requirement.of(data), event.session, data.turn)
    recorded = {"node": event.node} | {name: getattr(data, name) for name in _COMPARED}
    for name, value in recorded.items():
        if value != getattr(told, name):
            yield name, msgspec.to_builtins(value), msgspec.to_builtins(getattr(told, name))


_COMPARED = ("rule", "affinity", "classes", "last", "compared", "winner", "runner_up")


def _one_of_many(
    standing: SchedulerState, event: Event, data: JobDispatched
) -> Iterator[tuple[str, Any, Any]]:
    """Winner and runner-up are each the next of some requirement that the node serves."""
    node = standing.node(event.node)
    heads = [rank for _, rank in standing.waiting_for(node)] if node else []
    for name in ("winner", "runner_up"):
        rank = getattr(data, name)
        if rank is not None and rank not in heads:
            yield name, msgspec.to_builtins(rank), "the next of a waiting requirement"
    if data.compared > LOOKED_MAX:
        yield "compared", data.compared, LOOKED_MAX


def queued_by_fold(
    standing: SchedulerState, event: Event, data: JobQueued
) -> Iterator[tuple[str, Any, Any]]:
    """Rules 15 and 18: whether the job had to wait, and for which reason."""
    requirement = Requirement.of(data)
    if data.reason != (expected := reason(standing, requirement)):
        yield "reason", data.reason, expected
    if standing.waiting.head(requirement):
        return  # others of its requirement wait: it joins them, then the same step fills
    choice = choose(standing, standing.job(event.job), requirement, event.session, -1)
    if choice.node:
        yield "node", "", choice.node


def check_promotion(
    standing: SchedulerState, event: Event, data: JobPromoted
) -> Iterator[tuple[str, Any, Any]]:
    """Rule 18, fair waiting: only a waiting job is promoted, to the highest priority."""
    if event.job not in standing.waiting:
        yield "priority", data.priority, "it does not wait"
    elif data.priority != 0:
        yield "priority", data.priority, 0


# --- a range of the log ---------------------------------------------------------------------


class Replayed(msgspec.Struct, kw_only=True):
    """What computing decisions again showed."""

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
    """Takes the log's events in order, judging each before it is folded."""

    def __init__(self, standing: SchedulerState) -> None:
        self.report = Replayed()
        self._standing = standing

    def take(self, event: Event) -> None:
        self._judge(event)
        self._standing.add(event)

    def _judge(self, event: Event) -> None:
        report, data = self.report, event.data
        report.events += 1
        report.first, report.last = report.first or event.id, event.id
        if isinstance(data, JobDispatched):
            report.dispatches += 1
            report.by_rule[data.rule] += 1
            self._tell(event, data.attempt, "evidence", check_evidence(event, data))
            self._tell(
                event, data.attempt, "fold", check_against_state(self._standing, event, data)
            )
        elif isinstance(data, JobQueued):
            report.queued += 1
            self._tell(event, data.attempt, "fold", queued_by_fold(self._standing, event, data))
        elif isinstance(data, JobPromoted):
            self._tell(event, data.attempt, "fold", check_promotion(self._standing, event, data))

    def _tell(
        self, event: Event, attempt: int, look: ArchiveState, found: Iterator[tuple[str, Any, Any]]
    ) -> None:
        for name, recorded, recomputed in found:
            self.report.differences_total += 1
            if len(self.report.differences) < TOLD_MAX:
                difference = Difference(
                    id=event.id, job=event.job, attempt=attempt, look=look, field=name,
                    recorded=recorded, recomputed=recomputed,
                )  # fmt: skip
                self.report.differences.append(difference)
