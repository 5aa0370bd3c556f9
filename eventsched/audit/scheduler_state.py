"""The scheduler's state at one entry of the log: everything that the choice of a node depends on.

Owns: capability classes with their heads and loads, the waiting jobs of each requirement in order,
and whether a node can take a requirement. All of it is computed from the fold of sessions, jobs and
nodes (rules 13 to 18, node registration to fair waiting).
Must not: do I/O, use state that scripts stored. So it is an independent check of the scripts.
Read next: replay.py (computes decisions again), explain.py (explains decisions).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from eventsched.projection.fold import Folding
from eventsched.schema.events import (
    ClassSeen,
    Event,
    JobDispatched,
    JobQueued,
    OtherClasses,
    Rank,
    SuspensionScope,
)
from eventsched.schema.keys import name_of
from projections.job import Job, Jobs
from projections.node import Node, Nodes, Suspension
from projections.session import Session, Sessions

Verdict: TypeAlias = Literal["free", "full", "draining", "suspended", "unable", "gone"]
_HEADS = 2
"""Only the two least loaded nodes of a class can be chosen: the head, or the second."""
NAMED_MAX = 8
"""Classes that the evidence names."""


class Requirement(msgspec.Struct, frozen=True):
    """What a job requires of a node."""

    source: str
    target: str
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: JobDispatched | JobQueued | Job) -> Requirement:
        return cls(data.source, data.target, tuple(data.features))


class CapabilityClass(msgspec.Struct, frozen=True):
    """Nodes with equal abilities and suspensions."""

    evidence: ClassSeen
    """The class as a decision records it."""
    heads: tuple[tuple[int, str], ...]
    """(load, full id) of the least loaded nodes with a free slot, at most two."""
    member: Node
    """Any node of the class; all have the same abilities."""

    def serves(self, requirement: Requirement) -> bool:
        """Whether nodes of this class, with their suspensions, can take the requirement."""
        if missing_abilities(self.member, requirement):
            return False
        return not suspensions_against(self.member, requirement)


# --- one node -------------------------------------------------------------------------------


def used_slots(node: Node) -> int:
    """Slots in use: the live attempts of this registration (rule 16, choosing a node)."""
    return sum(attempt.epoch == node.epoch for attempt in node.live.values())


def load_of(node: Node) -> int:
    """Used slots in thousandths."""
    return 1_000 * used_slots(node) // node.slots


def has_free_slot(node: Node) -> bool:
    return node.status == "alive" and used_slots(node) < node.slots


def missing_abilities(node: Node, requirement: Requirement) -> list[str]:
    """The parts of the requirement that the node did not declare; empty if it declared all."""
    missing = [] if requirement.source in node.sources else [f"source {requirement.source}"]
    if requirement.target not in node.targets:
        missing.append(f"target {requirement.target}")
    features = [feature for feature in requirement.features if feature not in node.features]
    return missing + [f"feature {feature}" for feature in features]


def suspensions_against(node: Node, requirement: Requirement) -> list[Suspension]:
    """The suspensions that exclude the node from the requirement (rule 14, suspended nodes)."""
    if not node.suspensions:
        return []
    subjects: dict[SuspensionScope, tuple[str, ...]] = {
        "node": ("",),
        "feature": requirement.features,
        "language_pair": (f"{requirement.source}>{requirement.target}",),
    }
    return [each for each in node.suspensions if each.subject in subjects[each.scope]]


def verdict(node: Node, requirement: Requirement) -> Verdict:
    """`free` if the node is a candidate for the requirement, else the first reason against it."""
    if node.status == "gone":
        return "gone"
    if node.status == "draining":
        return "draining"
    if missing_abilities(node, requirement):
        return "unable"
    if suspensions_against(node, requirement):
        return "suspended"
    return "free" if has_free_slot(node) else "full"


# --- all nodes and jobs ---------------------------------------------------------------------


class Queue(NamedTuple):
    """Jobs that wait in one order: those of a requirement, by the node that they avoid."""

    requirement: Requirement
    avoided: str = ""
    """Full id of the node of their last attempts (rule 20, dispatching again), or empty."""


class WaitQueue:
    """Jobs that wait for a slot, by queue, in the order of rule 18, fair waiting."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Queue, tuple[int, int, str]]] = {}
        self._queues: dict[Queue, list[tuple[tuple[int, int, str], str]]] = {}

    def __contains__(self, job: str) -> bool:
        return job in self._places

    def put(self, job: Job) -> None:
        """Add the job at its place, or move it there."""
        queue = Queue(Requirement.of(job), job.avoided)
        place = job.priority, job.tag, job.member
        if self._places.get(job.job) != (queue, place):
            self._places[job.job] = queue, place
            heapq.heappush(self._queues.setdefault(queue, []), (place, job.job))

    def remove(self, job: str) -> None:
        self._places.pop(job, None)

    def head(self, queue: Queue) -> tuple[str, Rank] | None:
        """Return the next job of this queue, or None."""
        jobs = self._queues.get(queue, [])
        while jobs:
            place, job = jobs[0]
            if self._places.get(job) == (queue, place):
                return job, Rank(priority=place[0], tag=place[1], member=place[2])
            heapq.heappop(jobs)
        self._queues.pop(queue, None)
        return None

    def queues(self) -> list[Queue]:
        """Queues with a waiting job."""
        return [queue for queue in list(self._queues) if self.head(queue)]

    def ahead_of(self, requirement: Requirement, place: tuple[int, int, str]) -> int:
        """Count the jobs of the requirement before this place."""
        return sum(
            queue.requirement == requirement and other < place
            for queue, other in self._places.values()
        )


class SchedulerState:
    """Folds the log event by event and answers what a decision depends on."""

    def __init__(self, folding: Folding) -> None:
        parts = {part.projection.name: part.views for part in folding.parts}
        self._folding = folding
        self.nodes: Mapping[str, Node] = parts["node"]
        self._sessions: Mapping[str, Session] = parts["session"]
        self._jobs: Mapping[str, Job] = parts["job"]
        self.waiting = WaitQueue()
        self._class_of: dict[str, str] = {}
        self._members: dict[str, set[str]] = {}
        self._classes: dict[str, CapabilityClass] = {}
        for name in self.nodes:
            self._update_class(name)
        for key in self._jobs:
            self._update_queue(key)

    @classmethod
    def empty(cls) -> SchedulerState:
        """The state before the first event."""
        return cls(Folding((Sessions(), Jobs(), Nodes()), ("", "", ""), complete=True))

    def add(self, event: Event) -> None:
        """Fold the event."""
        self._folding.fold(event, atomic=False)
        if event.node:
            self._update_class(name_of(event.node))
        if event.job:
            self._update_queue(event.job)

    def _update_class(self, name: str) -> None:
        """Move the node to the class of its record; drop both classes from the cache."""
        node = self.nodes.get(name)
        before = self._class_of.pop(name, "")
        if before:
            self._members[before].discard(name)
            self._classes.pop(before, None)
        if node is not None and node.status != "gone":
            self._class_of[name] = node.cls
            self._members.setdefault(node.cls, set()).add(name)
            self._classes.pop(node.cls, None)

    def _update_queue(self, key: str) -> None:
        """Put the job into the queue if its record waits, else remove it."""
        job = self._jobs.get(key)
        if job is not None and job.status == "queued":
            self.waiting.put(job)
        else:
            self.waiting.remove(key)

    # --- inputs of a decision ---------------------------------------------------------------

    def node(self, full_id: str) -> Node | None:
        return self.nodes.get(name_of(full_id))

    def job(self, key: str) -> Job | None:
        return self._jobs.get(key)

    def session(self, full_id: str) -> Session | None:
        return self._sessions.get(name_of(full_id))

    def class_of(self, node: Node) -> CapabilityClass:
        return self._class(node.cls)

    def serving(self, requirement: Requirement) -> list[CapabilityClass]:
        """The classes that can take the requirement now, by id."""
        classes = (self._class(id_) for id_ in sorted(self._members) if self._members[id_])
        return [each for each in classes if each.serves(requirement)]

    def is_declared(self, requirement: Requirement) -> bool:
        """Whether a registered node declared the requirement (rule 15, two reasons to wait)."""
        return any(
            not missing_abilities(self._class(id_).member, requirement)
            for id_, members in self._members.items()
            if members
        )

    def queues_of(self, node: Node) -> list[Queue]:
        """The queues with waiting jobs that the node's class serves."""
        capability_class = self.class_of(node)
        return [each for each in self.waiting.queues() if capability_class.serves(each.requirement)]

    def waiting_for(self, node: Node) -> Iterator[tuple[str, Rank]]:
        """The next job of every queue that the node can take: none that avoids the node."""
        for queue in self.queues_of(node):
            head = self.waiting.head(queue)
            if head and queue.avoided != node.node:
                yield head

    def _class(self, class_id: str) -> CapabilityClass:
        if class_id not in self._classes:
            members = [self.nodes[name] for name in self._members[class_id]]
            self._classes[class_id] = _capability_class(class_id, members)
        return self._classes[class_id]


def class_order(seen: ClassSeen) -> tuple[int, bytes]:
    """The order of the classes with a free node: by the head's load, then by its id."""
    return seen.load, seen.head.encode()


def evidence_of(
    serving: Sequence[ClassSeen], chosen: str
) -> tuple[list[ClassSeen], OtherClasses | None]:
    """The evidence for a choice among these classes (rule 17, evidence).

    Args:
        serving: All classes that can take the requirement.
        chosen: The id of the class of the chosen node.

    Returns:
        The class of the chosen node with at most seven further classes that have a free node, in
        order; the numbers of the other classes, None if there are none.
    """
    heads = sorted((each for each in serving if each.head and each.id != chosen), key=class_order)
    named = [each for each in serving if each.id == chosen] + heads[: NAMED_MAX - 1]
    if len(named) == len(serving):
        return named, None
    ids = {each.id for each in named}
    others = [each for each in serving if each.id not in ids]
    return named, OtherClasses(
        classes=len(others),
        free=sum(each.free for each in others),
        full=sum(each.full for each in others),
        draining=sum(each.draining for each in others),
    )


def _capability_class(class_id: str, members: Sequence[Node]) -> CapabilityClass:
    free = sorted((load_of(node), node.node) for node in members if has_free_slot(node))
    draining = sum(node.status == "draining" for node in members)
    evidence = ClassSeen(
        id=class_id,
        head=free[0][1] if free else "",
        load=free[0][0] if free else 0,
        free=len(free),
        full=len(members) - len(free) - draining,
        draining=draining,
    )
    return CapabilityClass(evidence, tuple(free[:_HEADS]), members[0])
