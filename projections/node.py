"""The node: its registration, its abilities, and the attempts that hold its slots.

Owns: rules 13 (node registration), 14 (suspended nodes) and 16 (choosing a node) as a fold: status,
epoch, capability class, live attempts.
Must not: do I/O, read a clock, decide anything. Read next: __init__.py (the set `core`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from eventsched.projection.protocol import Step, handled
from eventsched.schema.events import (
    AttemptEnded,
    Event,
    JobDispatched,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeResumed,
    NodeRetired,
    NodeSuspended,
    ResultRecorded,
    SuspensionScope,
)
from eventsched.schema.keys import name_of

Status: TypeAlias = Literal["alive", "draining", "gone"]


class LiveAttempt(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """An attempt that holds a slot of the registration to which it was dispatched."""

    attempt: int
    epoch: int
    since_ms: int
    deadline_ms: int


class Suspension(msgspec.Struct, frozen=True, order=True, omit_defaults=True, array_like=True):
    """The node is not chosen for the subject until then (rule 14, suspended nodes)."""

    scope: SuspensionScope
    subject: str
    """The feature, or `<source>><target>`; empty for the whole node."""
    until_ms: int
    reason: str

    @property
    def word(self) -> str:
        """The suspension as the scripts store it: the subject, or `*` for the whole node."""
        return "*" if self.scope == "node" else self.subject


class Node(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One node, folded from the log."""

    node: str
    epoch: int
    status: Status
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    slots: int
    since_ms: int
    """When this registration began."""
    features: tuple[str, ...] = ()
    version: str = ""
    cls: str = ""
    suspensions: tuple[Suspension, ...] = ()
    """At most one for each (scope, subject), in that order."""
    reason: str = ""
    """Why the node is gone: drained, silent or superseded."""
    gone_ms: int = 0
    live: dict[str, LiveAttempt] = {}
    """Job key -> its live attempt, also of an earlier registration until the attempt ends."""
    dispatches: int = 0
    results: int = 0
    ended: int = 0
    """Attempts that ended without a result."""

    def suspended(self, scope: SuspensionScope) -> list[str]:
        """The subjects of this scope for which the node is suspended, in their order."""
        return [one.subject for one in self.suspensions if one.scope == scope]

    @property
    def suspension_words(self) -> list[str]:
        """The suspensions as the scripts store them, in their order: `*` precedes the others."""
        return sorted(each.word for each in self.suspensions)


def _registered(view: Node | None, event: Event, data: NodeRegistered) -> Node:
    """Rule 13, node registration: a new registration starts with all slots free."""
    return Node(
        node=event.node,
        epoch=data.epoch,
        status="alive",
        sources=tuple(data.sources),
        targets=tuple(data.targets),
        slots=data.slots,
        since_ms=event.ms,
        features=tuple(data.features),
        version=data.version,
        cls=data.cls,
        live=view.live if view else {},
        dispatches=view.dispatches if view else 0,
        results=view.results if view else 0,
        ended=view.ended if view else 0,
    )


def _draining(view: Node, _: Event, __: NodeDraining) -> Node:
    return replace(view, status="draining")


def _drained(view: Node, event: Event, _: NodeDrained) -> Node:
    return replace(view, status="gone", reason="drained", gone_ms=event.ms, suspensions=())


def _lost(view: Node, event: Event, data: NodeLost) -> Node:
    return replace(view, status="gone", reason=data.reason, gone_ms=event.ms, suspensions=())


def _retired(_: Node, __: Event, ___: NodeRetired) -> None:
    """Rule 13, node registration: the record of a node that does not return is deleted."""


def _suspended(view: Node, _: Event, data: NodeSuspended) -> Node:
    """Rule 14, suspended nodes: a suspension moves the node to the class of its new signature."""
    suspension = Suspension(data.scope, data.subject, data.until_ms, data.reason)
    suspensions = tuple(sorted([*_others(view, data), suspension]))
    return replace(view, suspensions=suspensions, cls=data.cls)


def _resumed(view: Node, _: Event, data: NodeResumed) -> Node:
    return replace(view, suspensions=tuple(_others(view, data)), cls=data.cls)


def _others(view: Node, data: NodeSuspended | NodeResumed) -> list[Suspension]:
    """The suspensions of every other (scope, subject)."""
    ended = (data.scope, data.subject)
    return [each for each in view.suspensions if (each.scope, each.subject) != ended]


def _dispatched(view: Node, event: Event, data: JobDispatched) -> Node:
    attempt = LiveAttempt(data.attempt, data.epoch, event.ms, data.deadline_ms)
    return replace(view, live={**view.live, event.job: attempt}, dispatches=view.dispatches + 1)


def _recorded(view: Node, event: Event, data: ResultRecorded) -> Node:
    return replace(view, live=_without(view, event.job, data), results=view.results + 1)


def _attempt_ended(view: Node, event: Event, data: AttemptEnded) -> Node:
    return replace(view, live=_without(view, event.job, data), ended=view.ended + 1)


def _without(view: Node, job: str, data: ResultRecorded | AttemptEnded) -> dict[str, LiveAttempt]:
    """Return `view.live` without the attempt, if it is this attempt of this registration."""
    attempt = view.live.get(job)
    if attempt is None or (attempt.attempt, attempt.epoch) != (data.attempt, data.epoch):
        return view.live
    live = view.live.copy()
    del live[job]
    return live


STEPS: dict[type, Step] = {
    NodeRegistered: _registered,
    NodeDraining: _draining,
    NodeDrained: _drained,
    NodeLost: _lost,
    NodeRetired: _retired,
    NodeSuspended: _suspended,
    NodeResumed: _resumed,
    JobDispatched: _dispatched,
    ResultRecorded: _recorded,
    AttemptEnded: _attempt_ended,
}


class Nodes:
    """One record per node, by its name in the cell."""

    name = "node"
    version = 4
    view: Any = Node
    handles = handled(STEPS)

    def initial(self) -> None:
        return None

    def route(self, event: Event) -> tuple[str, ...]:
        return (name_of(event.node),) if event.node else ()

    def apply(self, view: Node | None, event: Event) -> Node | None:
        step = STEPS.get(type(event.data))
        if step is None or (view is None and step is not _registered):
            return view
        after: Node | None = step(view, event, event.data)
        return after
