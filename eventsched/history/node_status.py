"""The capability classes of a cell and their nodes, for `eventsched status`.

Owns: the reads for classes and nodes, with one round trip for many of them.
Must not: write, decide.
Read next: status.py, schema/keys.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from eventsched.store.cell import Store
from eventsched.store.replies import fields_of, stored_number

NODE_FIELDS = ("status", "epoch", "slots", "load", "seen", "version")


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


class ClassStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A capability class and its nodes."""

    id: str
    sources: list[str]
    targets: list[str]
    features: list[str]
    suspended: list[str]
    """Features for which the nodes are suspended; `*` means every job."""
    nodes: list[NodeStatus]


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
    registrations = await store.read_many(
        [("HMGET", keys.node(name), *NODE_FIELDS) for name in names]
    )
    leases = await store.read_many(
        [
            ("ZCARD", keys.leases(name, stored_number(epoch or b"0", keys.node(name))))
            for name, (_, epoch, *_) in zip(names, registrations, strict=True)
        ]
    )
    return {
        name: _node(keys.full(name), keys.node(name), registration, count, now_ms)
        for name, registration, count in zip(names, registrations, leases, strict=True)
    }


def _node(
    full: str, key: str, registration: Sequence[bytes | None], leases: int, now_ms: int
) -> NodeStatus:
    status, _, *numbers, version = registration
    slots, load, seen = (stored_number(number or b"0", key) for number in numbers)
    return NodeStatus(
        node=full,
        status=_text(status) or "gone",
        slots=slots,
        leases=leases,
        reported_load=load,
        heartbeat_age_ms=max(0, now_ms - seen),
        version=_text(version),
    )


def _class(class_id: str, fields: Mapping[bytes, bytes], nodes: list[NodeStatus]) -> ClassStatus:
    def words(name: bytes) -> list[str]:
        return [word for word in _text(fields.get(name)).split(",") if word]

    return ClassStatus(
        id=class_id,
        sources=words(b"sources"),
        targets=words(b"targets"),
        features=words(b"features"),
        suspended=words(b"suspended"),
        nodes=nodes,
    )


def _names(reply: Any) -> list[str]:
    return sorted(member.decode() for member in reply)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
