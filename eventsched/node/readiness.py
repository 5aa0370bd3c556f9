"""Which of some nodes have not registered yet.

Owns: the question, for commands that start nodes and wait for them.
Never does: starting them (subprocesses.py). Read next: registration.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventsched.schema.keys import cell_of, name_of
from eventsched.store.cell import Store


async def missing_node(stores: Mapping[str, Store], nodes: Sequence[str]) -> str:
    """The first of these nodes, each `<cell>.<name>`, that is not alive; empty if all are."""
    for node in nodes:
        store = stores[cell_of(node)]
        record = await store.read_hash(store.keys.node(name_of(node)))
        if record.get("status") != "alive":
            return node
    return ""
