"""How things stand at one entry of the log, as far as choosing a node looks at them.

Owns: classes with their heads and loads, the waiting jobs of each requirement in their order, why a
node can or cannot take a requirement: all computed from the fold of sessions, jobs and nodes
(rules 13-18).
Never does: I/O, and nothing that scripts stored is looked at: so it can be held against them.
Read next: replay.py (decisions computed again), explain.py (decisions told to people).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.projection.fold import Folding
from eventsched.schema.events import (
    ClassSeen,
    Event,
    JobDispatched,
    JobQueued,
    Rank,
    SuspensionScope,
)
from eventsched.schema.keys import name_of
from projections.job import Job, Jobs
from projections.node import Node, Nodes, Suspension
from projections.session import Session, Sessions

Verdict: TypeAlias = Literal["free", "full", "draining", "suspended", "unable", "gone"]
_HEADS = 2
"""Of each class only the two least loaded nodes can ever be chosen: the head, and the second."""


class Requirement(msgspec.Struct, frozen=True):
    """What a job needs of a node."""

    source: str
    target: str
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: JobDispatched | JobQueued | Job) -> Requirement:
        return cls(data.source, data.target, tuple(data.features))


class Class(msgspec.Struct, frozen=True):
    """One capability class: nodes with equal abilities and suspensions."""

    seen: ClassSeen
    heads: tuple[tuple[int, str], ...]
    """(load, full id) of the least loaded nodes with a free slot, at most two."""
    one: Node
    """Any of its nodes: what they can do is the same."""

    def serves(self, requirement: Requirement) -> bool:
        """Whether nodes of this class, with their suspensions, can take the requirement."""
        return not lacking(self.one, requirement) and not suspensions_against(self.one, requirement)


# --- one node -------------------------------------------------------------------------------


def live_of(node: Node) -> int:
    """Slots that this registration holds: counted from its live attempts (rule 16)."""
    return sum(held.epoch == node.epoch for held in node.live.values())


def load_of(node: Node) -> int:
    return 1_000 * live_of(node) // node.slots


def has_free_slot(node: Node) -> bool:
    return node.status == "alive" and live_of(node) < node.slots


def lacking(node: Node, requirement: Requirement) -> list[str]:
    """What the node never declared of this requirement; empty when it can do it."""
    lacks = [] if requirement.source in node.sources else [f"asr {requirement.source}"]
    if requirement.target not in node.targets:
        lacks.append(f"target {requirement.target}")
    return lacks + [f"service {one}" for one in requirement.features if one not in node.features]


def suspensions_against(node: Node, requirement: Requirement) -> list[Suspension]:
    """The suspensions that exclude the node from the requirement (rule 14, missing model)."""
    if not node.suspensions:
        return []
    subjects: dict[SuspensionScope, tuple[str, ...]] = {
        "node": ("",),
        "feature": requirement.features,
        "language_pair": (f"{requirement.source}>{requirement.target}",),
    }
    return [one for one in node.suspensions if one.subject in subjects[one.scope]]


def verdict(node: Node, requirement: Requirement) -> Verdict:
    """Whether the node is a candidate for the requirement; if not, the first reason."""
    if node.status == "gone":
        return "gone"
    if node.status == "draining":
        return "draining"
    if lacking(node, requirement):
        return "unable"
    if suspensions_against(node, requirement):
        return "suspended"
    return "free" if has_free_slot(node) else "full"


# --- all of them ----------------------------------------------------------------------------


class Waiting:
    """Jobs that wait for a slot, by requirement, each requirement in the order of rule 18."""

    def __init__(self) -> None:
        self._ranks: dict[str, tuple[Requirement, tuple[int, int, str]]] = {}
        self._queues: dict[Requirement, list[tuple[tuple[int, int, str], str]]] = {}

    def __contains__(self, job: str) -> bool:
        return job in self._ranks

    def put(self, job: Job) -> None:
        """It waits, at this place; also when only its place has changed."""
        requirement, place = Requirement.of(job), (job.priority, job.tag, job.member)
        if self._ranks.get(job.job) != (requirement, place):
            self._ranks[job.job] = requirement, place
            heapq.heappush(self._queues.setdefault(requirement, []), (place, job.job))

    def drop(self, job: str) -> None:
        self._ranks.pop(job, None)

    def head(self, requirement: Requirement) -> tuple[str, Rank] | None:
        """The next job of this requirement. Jobs that have left the queue are removed."""
        queue = self._queues.get(requirement, [])
        while queue:
            place, job = queue[0]
            if self._ranks.get(job) == (requirement, place):
                return job, Rank(priority=place[0], tag=place[1], member=place[2])
            heapq.heappop(queue)
        self._queues.pop(requirement, None)
        return None

    def requirements(self) -> list[Requirement]:
        """Those that have a waiting job."""
        return [requirement for requirement in list(self._queues) if self.head(requirement)]

    def ahead_of(self, requirement: Requirement, place: tuple[int, int, str]) -> int:
        """How many jobs of the requirement go before this place."""
        return sum(one == requirement and rank < place for one, rank in self._ranks.values())


class SchedulerState:
    """The fold of the log so far; `add` takes it one event further."""

    def __init__(self, folding: Folding) -> None:
        parts = {part.projection.name: part.views for part in folding.parts}
        self._folding = folding
        self.nodes: Mapping[str, Node] = parts["node"]
        self._sessions: Mapping[str, Session] = parts["session"]
        self._jobs: Mapping[str, Job] = parts["job"]
        self.waiting = Waiting()
        self._class_of: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._classes: dict[str, Class] = {}
        for name in self.nodes:
            self._place(name)
        for key in self._jobs:
            self._queue(key)

    @classmethod
    def at_the_start(cls) -> SchedulerState:
        return cls(Folding((Sessions(), Jobs(), Nodes()), ("", "", ""), complete=True))

    def add(self, event: Event) -> None:
        """What the event made true holds from now on."""
        self._folding.fold(event, whole=False)
        if event.node:
            self._place(name_of(event.node))
        if event.job:
            self._queue(event.job)

    def _place(self, name: str) -> None:
        """The node is in the class that its last event says; that class is looked at anew."""
        node = self.nodes.get(name)
        before = self._class_of.pop(name, "")
        if before:
            self._members[before].discard(name)
            self._classes.pop(before, None)
        if node is not None and node.status != "gone":
            self._class_of[name] = node.cls
            self._members.setdefault(node.cls, set()).add(name)
            self._classes.pop(node.cls, None)

    def _queue(self, key: str) -> None:
        job = self._jobs.get(key)
        if job is not None and job.status == "queued":
            self.waiting.put(job)
        else:
            self.waiting.drop(key)

    # --- what a choice looks at -------------------------------------------------------------

    def node(self, full_id: str) -> Node | None:
        return self.nodes.get(name_of(full_id))

    def job(self, key: str) -> Job | None:
        return self._jobs.get(key)

    def session(self, full_id: str) -> Session | None:
        return self._sessions.get(name_of(full_id))

    def class_of(self, node: Node) -> Class:
        return self._class(node.cls)

    def serving(self, requirement: Requirement) -> list[Class]:
        """The classes that can take the requirement now, in the order of the evidence."""
        found = (self._class(one) for one in sorted(self._members) if self._members[one])
        return [one for one in found if one.serves(requirement)]

    def is_declared(self, requirement: Requirement) -> bool:
        """Whether any registered node says that it can do it (rule 15)."""
        return any(
            not lacking(self._class(one).one, requirement)
            for one, members in self._members.items()
            if members
        )

    def waiting_for(self, node: Node) -> Iterator[tuple[str, Rank]]:
        """Per requirement that the node's class serves and that waits, the job that goes next."""
        seen = self.class_of(node)
        for requirement in self.waiting.requirements():
            head = self.waiting.head(requirement)
            if head and seen.serves(requirement):
                yield head

    def _class(self, class_id: str) -> Class:
        if class_id not in self._classes:
            members = [self.nodes[name] for name in self._members[class_id]]
            self._classes[class_id] = _seen(class_id, members)
        return self._classes[class_id]


def _seen(class_id: str, members: Sequence[Node]) -> Class:
    free = sorted((load_of(node), node.node) for node in members if has_free_slot(node))
    draining = sum(node.status == "draining" for node in members)
    seen = ClassSeen(
        id=class_id,
        head=free[0][1] if free else "",
        load=free[0][0] if free else 0,
        free=len(free),
        full=len(members) - len(free) - draining,
        draining=draining,
    )
    return Class(seen, tuple(free[:_HEADS]), members[0])
