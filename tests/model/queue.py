"""Waiting for a slot, and dispatch: rules 15 to 20.

Owns: the order of waiting jobs, the choice of a node with its evidence, dispatch and fill.
Never does: how an attempt ends (attempts.py). Read next: attempts.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Literal

import msgspec

from eventsched.schema.events import (
    Affinity,
    ClassSeen,
    JobDispatched,
    JobPromoted,
    JobQueued,
    OtherClasses,
    Rank,
    Rule,
)
from eventsched.schema.keys import name_of
from tests.model import nodes
from tests.model.world import Core, World

POLICY = 1
FILLED_MAX = 8
CHARGE_MIN_MS = 1_000
"""A tenant is charged for so much audio at least, for each job."""
NAMED_MAX = 8
Why = Literal["NO_POOL_FOR_LANG_PAIR", "NO_AVAILABLE_NODE"]
Order = tuple[int, int, str]
"""Priority, tag, member: the smallest goes first."""


def priority_of(w: World, key: str) -> int:
    job = w.jobs.get(key)
    return job.priority if job is not None and job.priority >= 0 else w.cores[key].priority


def waiting(w: World, requirement: str) -> list[tuple[Order, str]]:
    """The waiting jobs of this requirement, in order."""
    jobs = [(key, job) for key, job in w.queued() if w.cores[key].requirement == requirement]
    return sorted(((job.priority, job.tag, job.member), key) for key, job in jobs)


def place_of(w: World, requirement: str) -> str:
    """The place of the first waiting job of this requirement, as text that sorts like the jobs."""
    (priority, tag, member), _ = waiting(w, requirement)[0]
    return f"{priority}:{tag:016d}:{member[:16]}"


def reason(is_declared: bool) -> Why:
    return "NO_AVAILABLE_NODE" if is_declared else "NO_POOL_FOR_LANG_PAIR"


def why_waiting(w: World, core: Core) -> Why:
    return reason(nodes.serving(w, core.source, core.target, core.features)[1])


def add(w: World, key: str, attempt: int, why: Why, cause: str) -> None:
    """Rule 18, fair waiting: the tenant is charged once; a later attempt keeps its tag."""
    core, job = w.cores[key], w.jobs.get(key)
    if job is not None and job.member:
        tag, member = job.tag, job.member
    else:
        tag = max(w.start_tag(), w.finish.get(core.tenant, 0))
        w.has_new_tags = True
        w.finish[core.tenant] = tag + max(core.ms, CHARGE_MIN_MS)
        w.entries += 1
        member = f"{w.entries:016d}:{key}"
    priority = priority_of(w, key)
    deadline_ms = w.now + w.settings.queue_timeout_ms
    w.set_timer(deadline_ms, "wait", key)
    if priority > 0:
        w.set_timer(w.now + w.settings.queue_timeout_ms // 2, "age", key)
    data = JobQueued(
        utterance=core.utterance,
        target=core.target,
        delivery_no=core.delivery_no,
        source=core.source,
        features=core.features,
        attempt=attempt,
        reason=why,
        priority=priority,
        tag=tag,
        member=member,
        deadline_ms=deadline_ms,
    )
    w.emit(data, session=core.session, job=key, cause=cause)


def age(w: World, key: str) -> None:
    """The job has waited for half of its time: it is promoted to the first priority."""
    job, core = w.jobs[key], w.cores[key]
    data = JobPromoted(
        utterance=core.utterance,
        target=core.target,
        delivery_no=core.delivery_no,
        attempt=job.attempt,
        priority=0,
    )
    w.emit(data, session=job.session, job=key)


def leave(w: World, key: str) -> None:
    """The job no longer waits: its timers are cancelled."""
    w.drop_timer("wait", key)
    w.drop_timer("age", key)


# --- the choice -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """A node and the evidence for it, or the reason to wait."""

    node: str = ""
    rule: Rule = "load"
    why: Why = "NO_AVAILABLE_NODE"
    affinity: Affinity | None = None
    last: str = ""
    classes: list[ClassSeen] = field(default_factory=list)
    others: OtherClasses | None = None
    compared: int = 0
    winner: Rank | None = None
    runner_up: Rank | None = None


def _passed_over(w: World, name: str, core: Core, last: str) -> str:
    """Why the last node of the session is not chosen; empty if it is."""
    node = w.nodes.get(name)
    if node is None or node.status == "gone":
        return "gone"
    if node.status == "draining":
        return "draining"
    requirement = (core.source, core.target, core.features)
    if not nodes.is_able(node, *requirement):
        return "suspended" if nodes.declares(node, *requirement) else "unable"
    if not nodes.has_slot(node):
        return "full"
    return "last" if name == last else ""


def least_loaded(w: World, core: Core, last: str) -> str:
    """Smallest load, then smallest name; the last node only if there is no other."""
    requirement = (core.source, core.target, core.features)
    free = [
        (name == last, nodes.load(node), name)
        for name, node in w.nodes.items()
        if nodes.has_slot(node) and nodes.is_able(node, *requirement)
    ]
    return min(free)[2] if free else ""


def choose(w: World, key: str, last: str) -> Choice:
    core = w.cores[key]
    usable, is_declared = nodes.serving(w, core.source, core.target, core.features)
    session = w.sessions[name_of(core.session)]
    told_last = w.keys.full(last) if last else ""
    affinity = None
    if session.node:
        why = _passed_over(w, name_of(session.node), core, last)
        affinity = Affinity(node=session.node, why=why)
        if not why:
            rule: Rule = "turn" if session.node_turn == core.turn else "session"
            node = name_of(session.node)
            classes, others = evidence(w, usable, node)
            return Choice(node, rule, "NO_AVAILABLE_NODE", affinity, told_last, classes, others)
    node = least_loaded(w, core, last)
    rule = "last" if node and node == last else "load"
    classes, others = evidence(w, usable, node) if node else ([], None)
    return Choice(node, rule, reason(is_declared), affinity, told_last, classes, others)


def evidence(
    w: World, usable: list[nodes.Class], node: str
) -> tuple[list[ClassSeen], OtherClasses | None]:
    """Rule 17, evidence: the class of the node first, then those with the least loaded heads."""
    seen = sorted(
        ((node not in each.nodes, each.seen(w)) for each in usable),
        key=lambda item: (item[0], not item[1].head, item[1].load, item[1].head),
    )
    named = [each for is_other, each in seen[:NAMED_MAX] if each.head or not is_other]
    rest = [each for _, each in seen[len(named) :]]
    if not rest:
        return named, None
    counts = [sum(getattr(each, name) for each in rest) for name in ("free", "full", "draining")]
    return named, OtherClasses(
        classes=len(rest), free=counts[0], full=counts[1], draining=counts[2]
    )


def lease_ms(w: World, audio_ms: int) -> int:
    """Rule 19: clamp(ceil(base_s + audio_s * factor), 15, 60) seconds."""
    base, factor = w.settings.lease_base_ms, w.settings.lease_factor_thousandths
    seconds = ceil((base * 1_000 + audio_ms * factor) / 1_000_000)
    return min(max(seconds * 1_000, nodes.LEASE_MS_MIN), 60_000)


def give(w: World, key: str, attempt: int, choice: Choice, cause: str) -> None:
    """The node holds a slot for this attempt and gets the assignment in its inbox."""
    core, node = w.cores[key], w.nodes[choice.node]
    at, by_target = w.contexts.get(name_of(core.session), ("", {}))
    context = by_target.get(f"context:{core.target}")
    context_at = at if context is not None else ""
    deadline_ms = w.now + lease_ms(w, core.ms)
    if not nodes.live(node):
        w.set_timer_sooner(w.now + nodes.LEASE_MS_MIN, "leases", f"{choice.node}|{node.epoch}")
    w.deadlines[key] = deadline_ms
    data = JobDispatched(
        utterance=core.utterance,
        target=core.target,
        delivery_no=core.delivery_no,
        turn=core.turn,
        source=core.source,
        features=core.features,
        attempt=attempt,
        epoch=node.epoch,
        audio_ms=core.ms,
        deadline_ms=deadline_ms,
        rule=choice.rule,
        policy=POLICY,
        affinity=choice.affinity,
        classes=choice.classes,
        other_classes=choice.others,
        last=choice.last,
        compared=choice.compared,
        winner=choice.winner,
        runner_up=choice.runner_up,
        context_at=context_at,
    )
    log_id = w.emit(data, session=core.session, job=key, node=node.node, cause=cause)
    assignment = msgspec.to_builtins(core) | {
        "attempt": attempt,
        "epoch": node.epoch,
        "deadline_ms": deadline_ms,
        "context_at": context_at,
    }
    w.append(
        w.keys.inbox(choice.node),
        t="assign",
        j=key,
        c=f"log/{log_id}",
        d=assignment,
        b=context or b"",
    )


# --- placing and filling --------------------------------------------------------------------


def requirements_of(w: World, node: str) -> list[str]:
    """The waiting requirements that the class of this node serves."""
    able = set()
    for key, _ in w.queued():
        core = w.cores[key]
        if nodes.is_able(w.nodes[node], core.source, core.target, core.features):
            able.add(core.requirement)
    return sorted(able)


def fill(w: World, name: str, cause: str) -> int:
    """The free slots of a node go to the best waiting jobs, at most 8 in a step; how many do."""
    filled = 0
    while filled < FILLED_MAX and nodes.has_slot(w.nodes[name]):
        heads = sorted(waiting(w, requirement)[0] for requirement in requirements_of(w, name))
        if not heads:
            return filled
        order, key = heads[0]
        ranks = [Rank(priority=head[0], tag=head[1], member=head[2]) for head, _ in heads[:2]]
        _serve(w, key, order)
        (class_,) = (class_ for class_ in nodes.classes(w) if name in class_.nodes)
        choice = Choice(
            name,
            "fill",
            classes=[class_.seen(w)],
            compared=len(heads),
            winner=ranks[0],
            runner_up=ranks[1] if len(ranks) > 1 else None,
        )
        give(w, key, w.jobs[key].attempt, choice, cause)
        filled += 1
    if nodes.has_slot(w.nodes[name]) and requirements_of(w, name):
        w.append(w.keys.dispatch, k="fill", d=name)
    return filled


def _serve(w: World, key: str, order: Order) -> None:
    """Virtual time advances to the tag of the job."""
    leave(w, key)
    w.virtual = max(w.virtual, order[1])
    w.has_new_tags = True


def place(w: World, key: str, attempt: int, cause: str, *, last: str = "", freed: str = "") -> str:
    """Queue the job if jobs of its requirement wait, else dispatch it to the chosen node.

    `freed` is the node whose slot the job has just released: other jobs that wait for it go first.
    Returns why the job waits; empty if it was dispatched.
    """
    core = w.cores[key]
    if waiting(w, core.requirement):
        why = why_waiting(w, core)
        add(w, key, attempt, why, cause)
        node = least_loaded(w, core, "")
        if node:
            fill(w, node, cause)
        return "" if node else why
    choice = choose(w, key, last)
    is_awaited = bool(freed) and choice.node == freed and bool(requirements_of(w, freed))
    if choice.node and not is_awaited:
        give(w, key, attempt, choice, cause)
        return ""
    add(w, key, attempt, choice.why, cause)
    return choice.why
