"""Nodes: registration, abilities, slots, draining, suspensions (rules 13, node registration; 14,
suspended nodes; 15, two reasons to wait; 16, choosing a node).

Owns: `decide` of registering, heartbeats and draining; which nodes are able, which have a free
slot.
Never does: the consequences for jobs (attempts.py). Read next: queue.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eventsched.errors import Refused
from eventsched.schema.events import (
    ClassSeen,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeResumed,
    NodeRetired,
    NodeSuspended,
    SuspensionScope,
)
from eventsched.schema.keys import LANGUAGE, NAME, name_of
from eventsched.store.node_commands import NodeGrant
from eventsched.store.operator_commands import Act
from projections.node import Node
from tests.model.world import Process, World, invalid

SIDE_MAX, PAIRS_MAX, SERVICES_MAX, SLOTS_MAX = 64, 1_024, 16, 256
LEASE_MS_MIN = 15_000
WHOLE = "*"
"""The word for a suspension for every job."""


def class_id(node: Node, suspended: Sequence[str]) -> str:
    """Nodes of equal signature are one capability class."""
    parts = (node.sources, node.targets, node.features, sorted(suspended))
    text = "|".join(",".join(part) for part in parts)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]


def live(node: Node) -> int:
    """Leases of this registration, counted."""
    return len([1 for held in node.live.values() if held.epoch == node.epoch])


def load(node: Node) -> int:
    return 1_000 * live(node) // node.slots


def has_slot(node: Node) -> bool:
    return node.status == "alive" and live(node) < node.slots


def is_current(w: World, name: str, epoch: int) -> bool:
    node = w.nodes.get(name)
    return node is not None and node.status != "gone" and node.epoch == epoch


def declares(node: Node, source: str, target: str, features: Sequence[str]) -> bool:
    is_pair = source in node.sources and target in node.targets
    return is_pair and set(features) <= set(node.features)


def is_able(node: Node, source: str, target: str, features: Sequence[str]) -> bool:
    subjects = {WHOLE, f"{source}>{target}", *features}
    return declares(node, source, target, features) and not subjects & set(node.suspension_words)


def may_suspend(w: World, name: str, share: int = 0) -> bool:
    """Whether others can serve each requirement that the node can serve now, and, with a share, at
    most one of so many nodes of a language pair, and of those that have all features of the node,
    is then suspended for every job, or one node.
    """
    node = w.nodes[name]
    usable = [each for each in node.features if each not in node.suspension_words]
    others = [each for other, each in w.nodes.items() if other != name and each.status == "alive"]
    is_counted = node.status == "alive" and WHOLE not in node.suspension_words
    for source in node.sources:
        for target in node.targets:
            if f"{source}>{target}" in node.suspension_words:
                continue
            for features in (usable, []):
                able = [each for each in others if is_able(each, source, target, features)]
                out = [each for each in others if _is_out(each, source, target, features)]
                count = len(able) + len(out) + is_counted
                if not able or (share and len(out) >= max(1, count // share)):
                    return False
    return True


def _is_out(node: Node, source: str, target: str, features: Sequence[str]) -> bool:
    """Whether the node is able but for a suspension for every job."""
    words = set(node.suspension_words)
    is_able_else = not words & {f"{source}>{target}", *features}
    return WHOLE in words and is_able_else and declares(node, source, target, features)


@dataclass(frozen=True, slots=True)
class Class:
    """The nodes of one signature that are not gone, by name."""

    id: str
    nodes: dict[str, Node]

    def seen(self, w: World) -> ClassSeen:
        """Rule 17, evidence: the class as a decision sees it."""
        free = sorted((load(node), name) for name, node in self.nodes.items() if has_slot(node))
        draining = len([1 for node in self.nodes.values() if node.status == "draining"])
        return ClassSeen(
            id=self.id,
            head=w.keys.full(free[0][1]) if free else "",
            load=free[0][0] if free else 0,
            free=len(free),
            full=len(self.nodes) - len(free) - draining,
            draining=draining,
        )


def classes(w: World) -> list[Class]:
    members: dict[str, dict[str, Node]] = {}
    for name, node in w.nodes.items():
        if node.status != "gone":
            members.setdefault(node.cls, {})[name] = node
    return [Class(class_, members[class_]) for class_ in sorted(members)]


def serving(
    w: World, source: str, target: str, features: Sequence[str]
) -> tuple[list[Class], bool]:
    """The classes that can serve the requirement now; whether any node declares it (rule 15)."""
    usable, is_declared = [], False
    for class_ in classes(w):
        member = next(iter(class_.nodes.values()))
        is_declared |= declares(member, source, target, features)
        if is_able(member, source, target, features):
            usable.append(class_)
    return usable, is_declared


# --- registrations --------------------------------------------------------------------------


def check_registration(
    w: World,
    name: str,
    token: str,
    sources: Sequence[str],
    targets: Sequence[str],
    features: Sequence[str],
    slots: int,
) -> None:
    fits = {
        "node": bool(NAME.fullmatch(name)),
        "token": bool(NAME.fullmatch(token)),
        "slots": 1 <= slots <= SLOTS_MAX,
        "sources": 1 <= len(sources) <= SIDE_MAX
        and all(LANGUAGE.fullmatch(source) for source in sources),
        "targets": 1 <= len(targets) <= SIDE_MAX
        and all(LANGUAGE.fullmatch(target) and target != "auto" for target in targets)
        and len(sources) * len(targets) <= PAIRS_MAX,
        "features": len(features) <= SERVICES_MAX
        and all(NAME.fullmatch(feature) for feature in features),
    }
    wrong = [field for field, fit in fits.items() if not fit]
    if wrong:
        raise invalid(wrong[0])
    if w.backpressure:
        cause = min(w.backpressure)
        raise Refused("BACKPRESSURE", {"retry_after_ms": "1000", "cause": cause})


def enter(
    w: World,
    name: str,
    token: str,
    sources: Sequence[str],
    targets: Sequence[str],
    features: Sequence[str],
    slots: int,
    version: str,
) -> NodeGrant:
    """The registration exists, with all its slots free. The caller requeues the leases of an older
    one.
    """
    inbox = w.streams.get(w.keys.inbox(name), [])
    inbox_from = inbox[-1].id if inbox else "0-0"
    epoch = 1 + (w.nodes[name].epoch if name in w.nodes else w.retired_epoch)
    lost = w.processes[name].lost if name in w.processes else ""
    w.processes[name] = Process(token, version, inbox_from, w.now, lost=lost)
    shape = Node(
        node=w.keys.full(name),
        epoch=epoch,
        status="alive",
        sources=tuple(sorted(set(sources))),
        targets=tuple(sorted(set(targets))),
        features=tuple(sorted(set(features))),
        slots=slots,
        since_ms=w.now,
    )
    data = NodeRegistered(
        epoch=epoch,
        sources=list(shape.sources),
        targets=list(shape.targets),
        features=list(shape.features),
        slots=slots,
        version=version,
        cls=class_id(shape, ()),
    )
    w.emit(data, node=w.keys.full(name))
    w.set_timer(w.now + w.settings.node_lost_ms, "node", name)
    return NodeGrant(w.keys.full(name), epoch, inbox_from, w.settings.heartbeat_ms)


def stale_registration(w: World, name: str, epoch: int) -> Refused:
    node = w.nodes.get(name)
    if node is not None and node.epoch > epoch:
        return Refused("NODE_SUPERSEDED", {"epoch": str(node.epoch)})
    if node is not None and node.epoch == epoch and w.processes[name].drained_by:
        return Refused("NODE_DRAINED")
    return Refused("NODE_UNKNOWN")


def heartbeat_node(
    w: World, node: str, epoch: int, *, load: int, attempts: Sequence[tuple[str, int]]
) -> list[str]:
    """Rule 13, node registration: renew the registration; the reply names the attempts that it
    lost.
    """
    name = name_of(node)
    if not 0 <= load <= 1_000_000:
        raise invalid("load")
    if not is_current(w, name, epoch):
        raise stale_registration(w, name, epoch)
    w.processes[name].seen_ms, w.processes[name].load = w.now, load
    return [key for key, attempt in attempts if not holds(w, node, epoch, key, attempt)]


def holds(w: World, node: str, epoch: int, key: str, attempt: int) -> bool:
    job = w.jobs.get(key)
    if job is None or job.status != "running":
        return False
    return (job.node, job.epoch, job.attempt) == (node, epoch, attempt)


# --- going, draining, suspensions -----------------------------------------------------------------


def _gone(w: World, name: str) -> None:
    w.drop_timer("node", name)
    w.drop_timer("drain", name)
    w.set_timer(retention_end(w, name), "gone", name)


def retention_end(w: World, name: str) -> int:
    return w.processes[name].seen_ms + w.settings.node_retention_ms


def retire(w: World, name: str) -> None:
    """The record and the inbox are deleted. The epochs of later registrations are higher."""
    node = w.nodes[name]
    w.retired_epoch = max(w.retired_epoch, node.epoch)
    w.emit(NodeRetired(epoch=node.epoch), node=node.node)
    w.processes.pop(name)
    w.unreadable.pop(name, None)
    w.forget_stream(w.keys.inbox(name))


def lose(w: World, name: str, reason: str) -> None:
    """The registration has ended. The caller requeues its leases."""
    node = w.nodes[name]
    why = "silent" if reason == "silent" else "superseded"
    data = NodeLost(epoch=node.epoch, reason=why, leases=live(node))  # type: ignore[arg-type]
    log_id = w.emit(data, node=node.node)
    if data.leases:
        w.processes[name].lost = f"{node.epoch}|{log_id}"
    _gone(w, name)


def loss_of(w: World, name: str, epoch: int) -> str:
    """The entry of the loss of a registration; empty if it is not known."""
    lost = w.processes[name].lost if name in w.processes else ""
    lost_epoch, _, log_id = lost.partition("|")
    return f"log/{log_id}" if lost_epoch == str(epoch) else ""


def begin_drain(w: World, name: str, act: Act | None = None) -> None:
    node = w.nodes[name]
    by, why = (act.by, act.why) if act else ("", "")
    is_first_operator = bool(by) and not w.processes[name].drained_by
    if is_first_operator:
        w.processes[name].drained_by = by
    if node.status == "alive" or is_first_operator:
        w.emit(NodeDraining(epoch=node.epoch, by=by, why=why), node=node.node)


def finish_drain(w: World, name: str) -> None:
    node = w.nodes[name]
    if node.status == "draining" and not live(node):
        w.emit(NodeDrained(epoch=node.epoch), node=node.node)
        _gone(w, name)


def suspend(
    w: World,
    name: str,
    word: str,
    reason: Literal[
        "MODEL_NOT_AVAILABLE", "RESULT_UNREADABLE", "ATTEMPTS_FAILED"
    ] = "MODEL_NOT_AVAILABLE",
    suspend_ms: int = 0,
) -> None:
    """Rule 14, suspended nodes: the node is not chosen for this subject."""
    node = w.nodes[name]
    until_ms = w.now + (suspend_ms or w.settings.suspend_ms)
    data = NodeSuspended(
        epoch=node.epoch,
        scope=_scope_of(word),
        subject="" if word == WHOLE else word,
        reason=reason,
        until_ms=until_ms,
        cls=class_id(node, [*_other_suspended(node, word), word]),
    )
    w.emit(data, node=node.node)
    w.set_timer(until_ms, "suspension", f"{name}|{word}")


def resume(w: World, name: str, word: str) -> None:
    node = w.nodes[name]
    data = NodeResumed(
        epoch=node.epoch,
        scope=_scope_of(word),
        subject="" if word == WHOLE else word,
        reason="expired",
        cls=class_id(node, _other_suspended(node, word)),
    )
    w.emit(data, node=node.node)


def _scope_of(word: str) -> SuspensionScope:
    if word == WHOLE:
        return "node"
    return "language_pair" if ">" in word else "feature"


def _other_suspended(node: Node, word: str) -> list[str]:
    return [other for other in node.suspension_words if other != word]
