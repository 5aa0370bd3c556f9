"""A log as real work leaves it: sessions opened, jobs dispatched, results delivered.

Owns: working off jobs in this process, role by role, without waiting.
Never does: anything that is measured. Read next: load.py.
"""

from __future__ import annotations

from benchmarks.micro.load import finalize_utterances, open_sessions, register_nodes
from eventsched.roles.dispatcher import Dispatcher
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import fields_of

EACH = 20
NODES = 8
TOLD_MAX = 16
BODY = codec.encode_text(
    Text(source_text="good morning everyone", text="buenos días a todos", language="en")
)


async def worked_log(store: Store, jobs: int) -> None:
    """At least so many jobs have been dispatched and delivered."""
    nodes = await register_nodes(store, NODES)
    sessions = await open_sessions(store, -(-jobs // EACH))
    dispatcher, told = Dispatcher(store), dict.fromkeys((one.node for one in nodes), "-")
    for number in range(EACH):
        await finalize_utterances(store, sessions, [number])
        while (await dispatcher.step()).left:
            await _tell_all(store, nodes, told)
        await _tell_all(store, nodes, told)


async def _tell_all(store: Store, nodes: list[NodeGrant], told: dict[str, str]) -> None:
    """Each node gives the results of what is new in its inbox."""
    for node in nodes:
        inbox = store.keys.inbox(name_of(node.node))
        while entries := await store.read_range(inbox, told[node.node], "+", TOLD_MAX):
            told[node.node] = f"({entries[-1][0]}"
            named = [fields_of(flat) for _, flat in entries]
            results = [
                NodeResult(job=one[b"j"].decode(), attempt=1, status="ok", body=BODY)
                for one in named
            ]
            await store.record_results(node.node, node.epoch, results)
