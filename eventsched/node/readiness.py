"""Waiting for nodes to register.

Owns: the check that commands repeat until all nodes that they started are registered.
Must not: start nodes (subprocesses.py).
Read next: registration.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventsched.schema.keys import cell_of, name_of
from eventsched.store.cell import Store


async def missing_node(stores: Mapping[str, Store], nodes: Sequence[str]) -> str:
    """The first of these nodes (full ids) that is not registered; empty if all are."""
    for node in nodes:
        store = stores[cell_of(node)]
        record = await store.read_hash(store.keys.node(name_of(node)))
        if record.get("status") != "alive":
            return node
    return ""
