"""How things stand at one entry of the log, as far as choosing a node looks at them.

Owns: classes with their heads and loads, the waiting jobs of each demand in their order, why a
node can or cannot take a demand: all of it from the fold of sessions, jobs and nodes (rules 13-18).
Never does: I/O, and nothing that scripts stored is looked at: so it can be held against them.
Read next: replay.py (decisions computed again), explain.py (decisions told to people).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from eventsched.projection.fold import Folding
from eventsched.schema.events import ClassSeen, Event, JobDispatched, JobQueued, Rank
from eventsched.schema.keys import name_of
from projections.job import Job, Jobs
from projections.node import Node, Nodes
from projections.session import Session, Sessions

Verdict: TypeAlias = Literal["free", "full", "draining", "marked", "unable", "gone"]
_HEADS = 2
"""Of each class only the two least loaded nodes can ever be chosen: the head, and the second."""


class Demand(msgspec.Struct, frozen=True):
    """What a job needs of a node."""

    source: str
    target: str
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: JobDispatched | JobQueued | Job) -> Demand:
        return cls(data.source, data.target, tuple(data.features))


class Class(msgspec.Struct, frozen=True):
    """One capability class: nodes with equal abilities and marks."""

    seen: ClassSeen
    heads: tuple[tuple[int, str], ...]
    """(load, full id) of the least loaded nodes with a free slot, at most two."""
    one: Node
    """Any of its nodes: what they can do is the same."""

    def serves(self, demand: Demand) -> bool:
        """Whether nodes of this class, with their marks, can take the demand."""
        return not lacking(self.one, demand) and not marks_against(self.one, demand)


# --- one node -------------------------------------------------------------------------------


def live_of(node: Node) -> int:
    """Slots that this registration holds: counted from its live attempts (rule 16)."""
    return sum(held.epoch == node.epoch for held in node.live.values())


def load_of(node: Node) -> int:
    return 1_000 * live_of(node) // node.slots


def has_free_slot(node: Node) -> bool:
    return node.status == "alive" and live_of(node) < node.slots


def lacking(node: Node, demand: Demand) -> list[str]:
    """What the node never declared of this demand; empty when it can do it."""
    lacks = [] if demand.source in node.sources else [f"asr {demand.source}"]
    if demand.target not in node.targets:
        lacks.append(f"target {demand.target}")
    return lacks + [f"service {one}" for one in demand.features if one not in node.features]


def marks_against(node: Node, demand: Demand) -> list[str]:
    """Services of the demand whose model the node said it lacks, for now (rule 14)."""
    return [one for one in demand.features if one in node.marks]


def verdict(node: Node, demand: Demand) -> Verdict:
    """Whether the node is a candidate for the demand, and if not, the first reason against it."""
    if node.status == "gone":
        return "gone"
    if node.status == "draining":
        return "draining"
    if lacking(node, demand):
        return "unable"
    if marks_against(node, demand):
        return "marked"
    return "free" if has_free_slot(node) else "full"


# --- all of them ----------------------------------------------------------------------------


class Waiting:
    """Jobs that wait for a slot, by demand, each demand in the order of rule 18."""

    def __init__(self) -> None:
        self._ranks: dict[str, tuple[Demand, tuple[int, int, str]]] = {}
        self._queues: dict[Demand, list[tuple[tuple[int, int, str], str]]] = {}

    def __contains__(self, job: str) -> bool:
        return job in self._ranks

    def put(self, job: Job) -> None:
        """It waits, at this place; also when only its place has changed."""
        demand, place = Demand.of(job), (job.priority, job.tag, job.member)
        if self._ranks.get(job.job) != (demand, place):
            self._ranks[job.job] = demand, place
            heapq.heappush(self._queues.setdefault(demand, []), (place, job.job))

    def drop(self, job: str) -> None:
        self._ranks.pop(job, None)

    def head(self, demand: Demand) -> tuple[str, Rank] | None:
        """The job of this demand that goes next. What has left the queue is dropped on the way."""
        queue = self._queues.get(demand, [])
        while queue:
            place, job = queue[0]
            if self._ranks.get(job) == (demand, place):
                return job, Rank(priority=place[0], tag=place[1], member=place[2])
            heapq.heappop(queue)
        self._queues.pop(demand, None)
        return None

    def demands(self) -> list[Demand]:
        """Those that have a waiting job."""
        return [demand for demand in list(self._queues) if self.head(demand)]

    def ahead_of(self, demand: Demand, place: tuple[int, int, str]) -> int:
        """How many jobs of the demand go before this place."""
        return sum(one == demand and rank < place for one, rank in self._ranks.values())


class Standing:
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
    def at_the_start(cls) -> Standing:
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

    def serving(self, demand: Demand) -> list[Class]:
        """The classes that can take the demand now, in the order in which evidence names them."""
        found = (self._class(one) for one in sorted(self._members) if self._members[one])
        return [one for one in found if one.serves(demand)]

    def is_declared(self, demand: Demand) -> bool:
        """Whether any registered node says that it can do it (rule 15)."""
        return any(
            not lacking(self._class(one).one, demand)
            for one, members in self._members.items()
            if members
        )

    def waiting_for(self, node: Node) -> Iterator[tuple[str, Rank]]:
        """Per demand that the node's class serves and that waits, the job that goes next."""
        seen = self.class_of(node)
        for demand in self.waiting.demands():
            head = self.waiting.head(demand)
            if head and seen.serves(demand):
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
