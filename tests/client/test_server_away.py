"""The server goes away and comes back: sessions and nodes go on by themselves."""

import anyio
import anyio.to_thread

import eventsched
from eventsched.server.testing import LocalServer
from tests.outcomes import next_result
from tests.systems import SECOND, serving, system


async def test_a_restarted_server_finds_everybody_still_there(own_server: LocalServer) -> None:
    own_server.call("CONFIG", "SET", "appendfsync", "always")  # what was acknowledged is kept
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=2)

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=f"{len(await job.audio())} {job.attempt}")

    async with (
        system(own_server.url, "c0") as es,
        serving(es, node),
        es.session("acme", "en", ["es"]) as session,
    ):
        await session.append(SECOND, end_of_utterance=True)
        results = session.results()
        first = await next_result(results)
        await anyio.to_thread.run_sync(own_server.kill)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, own_server.start)
            await session.append(SECOND, end_of_utterance=True)
        with anyio.fail_after(30):
            second = await next_result(results)
    assert (first.utterance, second.utterance) == (0, 1)
    assert second.text == first.text == "40960 1"
