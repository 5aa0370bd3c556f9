"""Rule 19: heartbeats keep a node alive from outside its handlers' thread.

In real time, with every role running. A node is lost after two and a half seconds of silence:
long for a busy machine to be late, short beside a handler that holds its loop for four.
"""

import contextlib
import time

import anyio
import anyio.to_thread

import eventsched
from tests.server_kinds import Server
from tests.systems import SECOND, system

QUICK = {"heartbeat_ms": 100, "node_lost_ms": 2_500}
BUSY_S = 4


async def log_types(es: eventsched.Client, cell: str) -> list[str]:
    store = es.stores[cell]
    entries = await store.read_range(store.keys.log, "-", "+", 1_000)
    return [fields[1].decode() for _, fields in entries]


async def test_a_handler_that_blocks_its_event_loop_does_not_make_its_node_lost(
    server: Server, cell: str
) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        time.sleep(BUSY_S)  # noqa: ASYNC251 - exactly this must do no harm
        return eventsched.Result(text=f"attempt {job.attempt}")

    async def serve() -> None:
        async with system(server.url, cell, roles=()) as es:
            with contextlib.suppress(eventsched.NodeSuperseded):
                await node.run(es)

    async with system(server.url, cell, settings=QUICK) as es, anyio.create_task_group() as tasks:
        # A node has an event loop of its own, as its process would: nothing else hangs with it.
        tasks.start_soon(anyio.to_thread.run_sync, anyio.run, serve)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            result = await anext(session.results())
        types = await log_types(es, cell)
        # Its loop is beyond reach from here: a newer registration ends it.
        await es.stores[cell].register_node(
            node=es.stores[cell].keys.full("gpu-1"), token="newer", sources=["en"], targets=["es"],
            features=[], slots=1, version="",
        )  # fmt: skip
    assert result.text == "attempt 1"
    assert "NodeLost" not in types
