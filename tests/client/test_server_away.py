"""The server goes away and comes back: sessions and nodes go on by themselves."""

import anyio
import anyio.to_thread
import pytest

import eventsched
from eventsched.schema.codec import decode
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


async def test_the_results_of_a_session_that_could_not_be_closed_go_on_after_its_block(
    own_server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last audio is sent, the session is closed, and its last outcome is received."""
    monkeypatch.setattr("eventsched.store.retry.PAUSE_S_MIN", 0.001)
    own_server.call("CONFIG", "SET", "appendfsync", "always")
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=2)

    @node.job
    async def handler(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=f"{len(await job.audio())}")

    async with system(own_server.url, "c0") as es, serving(es, node):
        async with es.session("acme", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            results = session.results()
            first = await next_result(results)
            await anyio.to_thread.run_sync(own_server.kill)
            with pytest.raises(eventsched.ServerUnavailable):
                await session.append(SECOND)
        await anyio.to_thread.run_sync(own_server.start)
        with anyio.fail_after(60):
            rest = [outcome async for outcome in results]
        store = es.stores["c0"]
        log = await store.read_range(store.keys.log, "-", "+", 100)
    assert first.utterance == 0
    assert [outcome.utterance for outcome in rest if isinstance(outcome, eventsched.Result)] == [1]
    assert decode(*log[-1]).type == "SessionClosed"
