"""Rule 19: heartbeats keep a node alive from outside its handlers' thread.

In real time, with every role running. A node is lost after two and a half seconds of silence:
long for a busy machine to be late, short beside a handler that holds its loop for four.
"""

import asyncio
import contextlib
import sys
import threading
import time

import anyio
import anyio.to_thread
import pytest

import eventsched
from eventsched.node.heartbeat import LoopGone, LoopWatch
from tests.outcomes import next_result
from tests.server_kinds import Server
from tests.systems import SECOND, system, until

QUICK = {"heartbeat_ms": 100, "node_lost_ms": 2_500}
BUSY_S = 4


async def log_types(es: eventsched.Client, cell: str) -> list[str]:
    store = es.stores[cell]
    entries = await store.read_range(store.keys.log, "-", "+", 1_000)
    return [fields[1].decode() for _, fields in entries]


async def logged(es: eventsched.Client, cell: str, kind: str) -> bool:
    return kind in await log_types(es, cell)


async def test_a_handler_that_blocks_its_event_loop_does_not_make_its_node_lost(
    server: Server, cell: str
) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        time.sleep(BUSY_S)  # noqa: ASYNC251 # sleeps: exactly this must do no harm
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
            result = await next_result(session.results())
        types = await log_types(es, cell)
        # Its loop is beyond reach from here: a newer registration ends it.
        await es.stores[cell].register_node(
            node=es.stores[cell].keys.full("gpu-1"), token="newer", sources=["en"], targets=["es"],
            features=[], slots=1, version="",
        )  # fmt: skip
    assert result.text == "attempt 1"
    assert "NodeLost" not in types


async def test_a_node_whose_event_loop_stands_still_is_lost_and_comes_back(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats would have it given jobs that nobody answers."""
    monkeypatch.setattr("eventsched.node.heartbeat.LOOP_SILENT_S", 0.5)
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    held = threading.Event()

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        held.wait(60)
        return eventsched.Result(text="at last")

    async def serve() -> None:
        async with system(server.url, cell, roles=()) as es:
            await node.run(es)

    async with system(server.url, cell, settings=QUICK) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, anyio.run, serve)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            await until("lost", lambda: logged(es, cell, "NodeLost"))
            held.set()
            assert (await next_result(session.results())).text == "at last"
        types = await log_types(es, cell)
        node.drain()
    assert types.count("NodeRegistered") == 2


async def test_a_node_whose_event_loop_is_gone_is_lost(server: Server, cell: str) -> None:
    """What a callback raises ends the loop, and with it all that served; the process goes on."""
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        asyncio.get_running_loop().call_soon(sys.exit)
        await anyio.sleep_forever()
        raise AssertionError

    async def serve() -> None:
        async with system(server.url, cell, roles=()) as es:
            await node.run(es)

    def serve_without_cleanup() -> None:
        loop = asyncio.new_event_loop()
        node_task = loop.create_task(serve())
        with contextlib.suppress(SystemExit):
            loop.run_forever()
        assert not node_task.done()
        ended.set()
        closed.wait(60)
        tasks_left = asyncio.all_tasks(loop)
        for task in tasks_left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks_left))
        loop.close()

    ended, closed = threading.Event(), threading.Event()
    async with system(server.url, cell, settings=QUICK) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, serve_without_cleanup)
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            await until("the loop has ended", ended.is_set)
            await until("lost", lambda: logged(es, cell, "NodeLost"))
            closed.set()


def test_the_watch_of_a_loop_ends_when_the_loop_is_closed() -> None:
    loop = asyncio.new_event_loop()
    watch = LoopWatch(loop, "c0.gpu-1")
    assert not watch.is_turning()  # it does not run
    loop.run_until_complete(asyncio.to_thread(watch.is_turning))
    assert loop.run_until_complete(asyncio.to_thread(watch.is_turning))
    loop.close()
    with pytest.raises(LoopGone):
        watch.is_turning()
