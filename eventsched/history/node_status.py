"""The capability classes of a cell and their nodes, for `eventsched status`.

Owns: the reads for classes and nodes, with one round trip for many of them; how often many viewers
read them.
Must not: write, decide.
Read next: status.py, schema/keys.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest
from typing import Any

import msgspec
from msgspec.structs import replace

from eventsched.store.cell import Store
from eventsched.store.replies import fields_of

NUMBERS = ("epoch", "slots", "load", "seen")
NEEDED_FIELDS = (*NUMBERS, "status", "class", "sources", "targets", "features", "suspended")
"""A node without one of these is damaged; lua/include/nodes.lua refuses its calls."""
NODE_FIELDS = (*NEEDED_FIELDS, "version", "drained_by")
DIGITS_MAX = 15
HELD_MAX = 10
"""Jobs of a draining node that are named."""
VALID_MS_PER_NODE = 1
"""How long a reading of a cell is valid for each of its nodes: one node costs the server some 4 us,
so the readings of any number of nodes cost it less than half a percent of its time."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The current registration of a node."""

    node: str
    status: str
    slots: int
    leases: int
    """Number of slots in use."""
    reported_load: int
    heartbeat_age_ms: int
    """Time since the last heartbeat, or since the registration."""
    version: str
    drained_by: str = ""
    """The operator who drains the node; empty if it drains by itself or serves."""
    drain_ends_ms: int = 0
    """When the jobs of a draining node go to other nodes."""
    held: list[str] = []
    """Job keys that a draining node still holds, at most ten."""
    damaged: list[str] = []
    """Fields that the record lacks, or that have no number: heartbeats and results of the node are
    refused, and it gets no job, until `eventsched repair` has mended the record."""


class ClassStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A capability class and its nodes."""

    id: str
    sources: list[str]
    targets: list[str]
    features: list[str]
    suspended: list[str]
    """Subjects for which the nodes are suspended: features, language pairs as `<source>><target>`,
    and `*`, which means every job."""
    nodes_total: int
    slots: int
    """Of all its nodes."""
    leases: int
    """Slots in use of all its nodes."""
    nodes: list[NodeStatus]

    def with_nodes(self, count_max: int) -> ClassStatus:
        """Return the class with so many nodes: those that drain or are lost, then the busiest."""
        return replace(self, nodes=nlargest(count_max, self.nodes, key=_urgency))


def _urgency(node: NodeStatus) -> tuple[bool, float]:
    return node.status != "alive" or bool(node.damaged), node.leases / max(1, node.slots)


class RecentClasses:
    """The classes of cells for viewers who ask again and again: the more nodes, the older."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, list[ClassStatus]]] = {}
        """Cell -> when they were read, and the classes."""

    async def read(self, store: Store, now_ms: int) -> tuple[int, list[ClassStatus]]:
        """Return when the classes of a cell were read, and the classes.

        They are at most VALID_MS_PER_NODE old for each class and node.
        """
        last = self._last  # `forget` during this read discards what it finds
        read_ms, classes = last.get(store.cell, (0, []))
        members = sum(1 + each.nodes_total for each in classes)
        if abs(now_ms - read_ms) >= members * VALID_MS_PER_NODE:
            read_ms, classes = now_ms, await read_classes(store, now_ms)
            last[store.cell] = read_ms, classes
        return read_ms, classes

    def forget(self) -> None:
        """Let the next read be new: an operator who changes a node sees the change at once."""
        self._last = {}


async def read_classes(store: Store, now_ms: int) -> list[ClassStatus]:
    """Return the capability classes of a cell and their nodes, in the order of ids and names."""
    keys = store.keys
    (reply,) = await store.read_many([("SMEMBERS", keys.classes)])
    ids = _names(reply)
    hashes = await store.read_many([("HGETALL", keys.node_class(id_)) for id_ in ids])
    replies = await store.read_many([("SMEMBERS", keys.members(id_)) for id_ in ids])
    members = [_names(reply) for reply in replies]
    nodes = await _read_nodes(store, now_ms, [name for names in members for name in names])
    return [
        _class(id_, fields_of(fields), [nodes[name] for name in names])
        for id_, fields, names in zip(ids, hashes, members, strict=True)
    ]


async def _read_nodes(store: Store, now_ms: int, names: Sequence[str]) -> dict[str, NodeStatus]:
    """Return the status of each node, by its name."""
    keys = store.keys
    replies = await store.read_many([("HMGET", keys.node(name), *NODE_FIELDS) for name in names])
    registrations = [dict(zip(NODE_FIELDS, map(_text, reply), strict=True)) for reply in replies]
    damaged = [
        [field for field, value in zip(NEEDED_FIELDS, reply, strict=False) if value is None]
        if any(value is not None for value in reply)
        else []
        for reply in replies
    ]
    epochs = {
        name: _number(registration, "epoch")
        for name, registration in zip(names, registrations, strict=True)
    }
    leases = await store.read_many(
        [("ZCARD", keys.leases(name, epochs[name] or 0)) for name in names]
    )
    nodes = {
        name: _node(keys.full(name), registration, lacking, count, now_ms)
        for name, registration, lacking, count in zip(
            names, registrations, damaged, leases, strict=True
        )
    }
    draining = [name for name, node in nodes.items() if node.status == "draining"]
    ends = await store.read_many([("ZSCORE", keys.timers, f"drain|{name}") for name in draining])
    held = await store.read_many(
        [("ZRANGE", keys.leases(name, epochs[name] or 0), 0, HELD_MAX - 1) for name in draining]
    )
    for name, end_ms, jobs in zip(draining, ends, held, strict=True):
        nodes[name] = replace(
            nodes[name],
            drain_ends_ms=int(float(end_ms or 0)),
            held=[job.decode(errors="replace") for job in jobs],
        )
    return nodes


def _node(
    full: str, registration: Mapping[str, str], lacking: Sequence[str], leases: int, now_ms: int
) -> NodeStatus:
    numbers = {name: _number(registration, name) for name in NUMBERS}
    wrong = [name for name, number in numbers.items() if number is None and name not in lacking]
    return NodeStatus(
        node=full,
        status=registration["status"] or "gone",
        slots=numbers["slots"] or 0,
        leases=leases,
        reported_load=numbers["load"] or 0,
        heartbeat_age_ms=max(0, now_ms - (numbers["seen"] or 0)),
        version=registration["version"],
        drained_by=registration["drained_by"],
        damaged=sorted([*lacking, *(wrong if any(registration.values()) else ())]),
    )


def _number(registration: Mapping[str, str], name: str) -> int | None:
    """The number in a field; None if it has none that is stored."""
    text = registration[name]
    return int(text) if text.isdecimal() and len(text) <= DIGITS_MAX else None


def _class(class_id: str, fields: Mapping[bytes, bytes], nodes: list[NodeStatus]) -> ClassStatus:
    def words(name: bytes) -> list[str]:
        return [word for word in _text(fields.get(name)).split(",") if word]

    return ClassStatus(
        id=class_id,
        sources=words(b"sources"),
        targets=words(b"targets"),
        features=words(b"features"),
        suspended=words(b"suspended"),
        nodes_total=len(nodes),
        slots=sum(node.slots for node in nodes),
        leases=sum(node.leases for node in nodes),
        nodes=nodes,
    )


def _names(reply: Any) -> list[str]:
    return sorted(member.decode() for member in reply)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
