"""A log with opened sessions, dispatched jobs and delivered results, written by the real scripts.

Owns: processing jobs in this process, role by role, without waiting.
Never does: measure. Read next: load.py.
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
RESULTS_MAX = 16
BODY = codec.encode_text(
    Text(source_text="good morning everyone", text="buenos días a todos", language="en")
)


async def worked_log(store: Store, jobs: int) -> None:
    """Dispatch and deliver at least this number of jobs."""
    nodes = await register_nodes(store, NODES)
    sessions = await open_sessions(store, -(-jobs // EACH))
    dispatcher, positions = Dispatcher(store), dict.fromkeys((node.node for node in nodes), "-")
    for number in range(EACH):
        await finalize_utterances(store, sessions, [number])
        while (await dispatcher.step()).left:
            await record_all(store, nodes, positions)
        await record_all(store, nodes, positions)


async def record_all(store: Store, nodes: list[NodeGrant], positions: dict[str, str]) -> None:
    """Record a result for each new assignment in the nodes' inboxes."""
    for node in nodes:
        inbox = store.keys.inbox(name_of(node.node))
        while entries := await store.read_range(inbox, positions[node.node], "+", RESULTS_MAX):
            positions[node.node] = f"({entries[-1][0]}"
            assignments = [fields_of(flat) for _, flat in entries]
            results = [
                NodeResult(job=fields[b"j"].decode(), attempt=1, status="ok", body=BODY)
                for fields in assignments
            ]
            await store.record_results(node.node, node.epoch, results)
