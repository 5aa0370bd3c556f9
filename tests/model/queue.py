"""Waiting for a slot, and dispatch: rules 15 to 20.

Owns: the order of waiting jobs, the choice of a node with its evidence, dispatch and fill.
Never does: how an attempt ends (attempts.py). Read next: attempts.py.
"""

from __future__ import annotations

import hashlib
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
BACKOFF_MS_MAX = 10_000
Why = Literal["NO_POOL_FOR_LANG_PAIR", "NO_AVAILABLE_NODE"]
Order = tuple[int, int, str]
"""Priority, tag, member: the smallest goes first."""


def priority_of(w: World, key: str) -> int:
    job = w.jobs.get(key)
    return job.priority if job is not None and job.priority >= 0 else w.cores[key].priority


def queue_of(w: World, key: str) -> str:
    """The queue in which a job waits: its requirement, and the node that it avoids."""
    job = w.jobs[key]
    name = w.cores[key].requirement
    return avoiding(name, name_of(job.attempts[-1].node)) if job.avoid_until_ms else name


def avoiding(requirement: str, node: str) -> str:
    return f"{requirement}|{node}"


def waiting(w: World, queue: str) -> list[tuple[Order, str]]:
    """The waiting jobs of this queue, in order."""
    jobs = [(key, job) for key, job in w.queued() if queue_of(w, key) == queue]
    return sorted(((job.priority, job.tag, job.member), key) for key, job in jobs)


def place_of(w: World, queue: str) -> str:
    """The place of the first waiting job of this queue, as text that sorts like the jobs."""
    (priority, tag, member), _ = waiting(w, queue)[0]
    return f"{priority}:{tag:016d}:{member[:16]}"


def reason(is_declared: bool) -> Why:
    return "NO_AVAILABLE_NODE" if is_declared else "NO_POOL_FOR_LANG_PAIR"


def why_waiting(w: World, core: Core) -> Why:
    return reason(nodes.serving(w, core.source, core.target, core.features)[1])


def add(w: World, key: str, attempt: int, why: Why, cause: str, avoid_until_ms: int = 0) -> None:
    """The job waits for a slot."""
    deadline_ms = w.now + w.settings.queue_timeout_ms
    w.set_timer(deadline_ms, "wait", key)
    if priority_of(w, key) > 0:
        w.set_timer(w.now + w.settings.queue_timeout_ms // 2, "age", key)
    if avoid_until_ms:
        w.set_timer(avoid_until_ms, "avoid", key)
    _emit_queued(w, key, attempt, why, cause, deadline_ms, avoid_until_ms=avoid_until_ms)


def back_off(w: World, key: str, attempt: int, asked_ms: int | None) -> bool:
    """Rule 20, dispatching again: the job waits before its next attempt, unless for 0 ms."""
    delay_ms = asked_ms
    if delay_ms is None:
        delay_ms = min(w.settings.retry_backoff_ms * 4 ** (attempt - 2), BACKOFF_MS_MAX)
    digest = hashlib.sha1(f"{key}|{attempt}".encode(), usedforsecurity=False).hexdigest()
    delay_ms += delay_ms * int(digest[:4], 16) // (4 * 65_536)
    if not delay_ms:
        return False
    not_before_ms = w.now + delay_ms
    w.set_timer(not_before_ms, "backoff", key)
    _emit_queued(
        w, key, attempt, "retry_backoff", "", not_before_ms + w.settings.queue_timeout_ms,
        not_before_ms=not_before_ms, avoid_until_ms=not_before_ms + w.settings.retry_avoid_ms,
    )  # fmt: skip
    return True


def end_backoff(w: World, key: str) -> None:
    job = w.jobs[key]
    last, until_ms = name_of(job.attempts[-1].node), job.avoid_until_ms
    place(w, key, job.attempt, "", last=last, avoid_until_ms=until_ms if w.now < until_ms else 0)


def end_avoidance(w: World, key: str) -> None:
    """Any node of its requirement takes the job from now on."""
    job = w.jobs[key]
    node = name_of(job.attempts[-1].node)
    _emit_queued(w, key, job.attempt, why_waiting(w, w.cores[key]), "", job.deadline_ms)
    if node in w.nodes:
        fill(w, node, "")


def _emit_queued(
    w: World,
    key: str,
    attempt: int,
    why: Why | Literal["retry_backoff"],
    cause: str,
    deadline_ms: int,
    *,
    not_before_ms: int = 0,
    avoid_until_ms: int = 0,
) -> None:
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
    data = JobQueued(
        utterance=core.utterance,
        target=core.target,
        delivery_no=core.delivery_no,
        source=core.source,
        features=core.features,
        attempt=attempt,
        reason=why,
        priority=priority_of(w, key),
        tag=tag,
        member=member,
        deadline_ms=deadline_ms,
        not_before_ms=not_before_ms,
        last=job.attempts[-1].node if job is not None and avoid_until_ms else "",
        avoid_until_ms=avoid_until_ms,
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
    w.drop_timer("avoid", key)


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
    queued_ms = w.jobs[key].deadline_ms - w.settings.queue_timeout_ms if choice.compared else 0
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
        age_ms=w.now - core.finalized if choice.compared else 0,
        waited_ms=w.now - queued_ms if choice.compared else 0,
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


def has_other(w: World, core: Core, name: str) -> bool:
    """Whether this node and another one are able to take the job, with a free slot or full."""
    able = [
        each
        for each, node in w.nodes.items()
        if node.status == "alive" and nodes.is_able(node, core.source, core.target, core.features)
    ]
    return name in able and len(able) > 1


def queues_of(w: World, node: str) -> list[str]:
    """The queues with waiting jobs that the class of this node serves."""
    able = set()
    for key, _ in w.queued():
        core = w.cores[key]
        if nodes.is_able(w.nodes[node], core.source, core.target, core.features):
            able.add(queue_of(w, key))
    return sorted(able)


def open_to(w: World, node: str) -> list[str]:
    """The queues of its class whose jobs this node can take: they do not avoid it."""
    return [each for each in queues_of(w, node) if each.partition("|")[2] != node]


def fill(w: World, name: str, cause: str) -> int:
    """The free slots of a node go to the best waiting jobs, at most 8 in a step; how many do."""
    filled = 0
    while filled < FILLED_MAX and nodes.has_slot(w.nodes[name]):
        compared = len(queues_of(w, name))
        heads = sorted(waiting(w, queue)[0] for queue in open_to(w, name))
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
            compared=compared,
            winner=ranks[0],
            runner_up=ranks[1] if len(ranks) > 1 else None,
        )
        give(w, key, w.jobs[key].attempt, choice, cause)
        filled += 1
    if nodes.has_slot(w.nodes[name]) and open_to(w, name):
        w.append(w.keys.dispatch, k="fill", d=name)
    return filled


def _serve(w: World, key: str, order: Order) -> None:
    """Virtual time advances to the tag of the job."""
    leave(w, key)
    if order[1] > w.virtual:
        w.virtual, w.has_new_tags = order[1], True


def place(
    w: World,
    key: str,
    attempt: int,
    cause: str,
    *,
    last: str = "",
    freed: str = "",
    avoid_until_ms: int = 0,
) -> str:
    """Queue the job if jobs of its requirement wait, else dispatch it to the chosen node.

    `freed` is the node whose slot the job has just released: other jobs that wait for it go first.
    The node of the last attempt is avoided until a time, if another node is able. Returns why the
    job waits; empty if it was dispatched.
    """
    core = w.cores[key]
    if avoid_until_ms and not has_other(w, core, last):
        avoid_until_ms = 0
    is_behind = avoid_until_ms and waiting(w, avoiding(core.requirement, last))
    if waiting(w, core.requirement) or is_behind:
        why = why_waiting(w, core)
        add(w, key, attempt, why, cause, avoid_until_ms)
        node = least_loaded(w, core, last if avoid_until_ms else "")
        if node:
            fill(w, node, cause)
        return "" if node else why
    choice = choose(w, key, last)
    is_awaited = bool(freed) and choice.node == freed and bool(open_to(w, freed))
    is_avoided = bool(avoid_until_ms) and choice.node == last
    if choice.node and not is_awaited and not is_avoided:
        give(w, key, attempt, choice, cause)
        return ""
    add(w, key, attempt, choice.why, cause, avoid_until_ms)
    return choice.why
