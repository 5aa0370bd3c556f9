"""The life of a node: hooks, calls from processes, batches, its own time limit, and `serve`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

import eventsched
from eventsched.client.client import Client
from eventsched.schema.events import AttemptEnded, JobFailed
from tests.client import life_handlers
from tests.client.test_node import node_of, recorded, say
from tests.client.test_session import opened
from tests.fixtures_store import TimedStore
from tests.outcomes import next_of, next_result
from tests.server_kinds import Server
from tests.systems import SECOND, WITHIN_S, client_of, is_registered, serving


async def answer(job: eventsched.Job) -> eventsched.Result:
    return eventsched.Result(text="hola")


# --- hooks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
async def test_startup_runs_once_before_registering_and_shutdown_after_the_last_job(
    client: Client, store: TimedStore, is_async: bool
) -> None:
    calls: list[str] = []
    node = node_of(answer)

    async def note(what: str) -> None:
        known = await is_registered(client, store.keys.full("gpu-1"))
        calls.append(f"{what}, {'registered' if known else 'not registered'}")

    if is_async:
        node.startup(lambda: note("start"))
        node.shutdown(lambda: note("end"))
    else:
        node.startup(lambda: calls.append("start, not registered"))
        node.shutdown(lambda: calls.append("end, not registered"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, client)
        with anyio.fail_after(WITHIN_S):
            await say(client, store)
            await recorded(store)
            node.drain()
    assert calls == ["start, not registered", "end, not registered"]


async def test_a_node_whose_startup_fails_is_not_registered_and_says_why(
    client: Client, store: TimedStore
) -> None:
    node = node_of(answer)
    node.startup(life_handlers.fail_to_start)
    with pytest.raises(eventsched.InvalidMessage) as caught:
        await node.run(client)
    message = str(caught.value)
    assert "startup: RuntimeError: no GPU at life_handlers.py:" in message
    assert "more lines" not in message
    assert await store.log("NodeRegistered") == []


async def test_a_shutdown_that_fails_does_not_fail_the_node(client: Client) -> None:
    node = node_of(answer)
    node.shutdown(life_handlers.fail_to_start)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, client)
        node.drain()


async def test_hooks_run_in_each_worker_process(
    client: Client, store: TimedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = tmp_path / "ended"
    monkeypatch.setenv(life_handlers.PROCESSES_VARIABLE, str(ended))
    node = node_of(life_handlers.say_where_it_started, processes=True)
    node.startup(life_handlers.start)
    node.shutdown(life_handlers.end)
    async with opened(client) as session:
        results = session.results()
        async with serving(client, node):
            await session.append(SECOND, end_of_utterance=True)
            await store.dispatch()
            assert (await next_result(results)).text == "True"
    assert life_handlers.STARTED == []
    assert os.getpid() not in map(int, ended.read_text().split())


async def test_startup_has_run_in_a_process_for_each_slot_before_the_node_registers(
    client: Client, store: TimedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job would wait for a startup within its lease and within its time limit."""
    started = tmp_path / "started"
    monkeypatch.setenv(life_handlers.PROCESSES_VARIABLE, str(started))
    node = node_of(life_handlers.say_where_it_started, processes=True, slots=3)
    node.startup(life_handlers.note_process)
    async with serving(client, node):
        assert len(set(started.read_text().split())) == 3


async def test_a_startup_that_fails_in_a_process_names_its_cause(
    client: Client, store: TimedStore
) -> None:
    node = node_of(life_handlers.say_where_it_started, processes=True)
    node.startup(life_handlers.fail_to_start)
    with pytest.raises(eventsched.InvalidMessage, match="RuntimeError: no GPU at life_handlers"):
        await node.run(client)
    assert await store.log("NodeRegistered") == []


@pytest.mark.parametrize("hook", [None, "load", lambda job: None], ids=["none", "text", "argument"])
def test_a_hook_that_cannot_be_called_is_refused(hook: Any) -> None:
    for declare in (node_of(answer).startup, node_of(answer).shutdown):
        with pytest.raises(eventsched.InvalidMessage, match="without arguments"):
            declare(hook)


# --- calls from processes -----------------------------------------------------------------------


async def test_a_handler_in_a_process_sends_partials_and_extends_its_lease(
    client: Client, store: TimedStore
) -> None:
    node = node_of(life_handlers.send_and_extend, processes=True)
    async with opened(client) as session:
        results = session.results(partials=True)
        async with serving(client, node):
            await session.append(SECOND, end_of_utterance=True)
            await store.dispatch()
            partial = await next_of(eventsched.Partial, results)
            assert (partial.text, partial.source_text) == ("ho", "he")
            assert (await next_of(eventsched.Result, results)).text == "True True"


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False], ids=["async def", "def"])
async def test_one_call_gets_several_jobs_and_each_gets_its_outcome(
    client: Client, store: TimedStore, is_async: bool
) -> None:
    sizes: list[int] = []

    def outcomes(jobs: list[Any]) -> list[Any]:
        sizes.append(len(jobs))
        return [
            eventsched.JobError("NO_MODEL")
            if job.utterance == 1
            else eventsched.Result(text=f"hola {job.utterance}")
            for job in jobs
        ]

    async def outcomes_async(jobs: list[Any]) -> list[Any]:
        return outcomes(jobs)

    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=3)
    node.job(batch=eventsched.Batch(size=3, within_ms=10_000))(
        outcomes_async if is_async else outcomes
    )
    async with opened(client) as session:
        results = session.results()
        async with serving(client, node):
            for _ in range(3):
                await session.append(SECOND, end_of_utterance=True)
            await store.dispatch()
            assert (await next_of(eventsched.Result, results)).text == "hola 0"
            assert (await next_of(eventsched.Failed, results)).code == "NO_MODEL"
            assert (await next_of(eventsched.Result, results)).text == "hola 2"
    assert sizes == [3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": eventsched.Batch(size=3)}, "at most the slots of the node, 2"),
        ({"batch": eventsched.Batch(size=2), "processes": True}, "not with processes"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": 301}, "timeout_s"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(arguments: dict[str, Any], message: str) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"], slots=2)
    with pytest.raises(eventsched.InvalidMessage, match=message):
        node.job(**arguments)(life_handlers.say_where_it_started)


# --- the time limit of a handler ----------------------------------------------------------------


async def test_a_handler_ends_after_its_own_time_limit_and_another_attempt_follows(
    client: Client, store: TimedStore
) -> None:
    async def hang(job: eventsched.Job) -> eventsched.Result:
        await anyio.sleep_forever()
        raise AssertionError

    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    node.job(timeout_s=0.1)(hang)
    async with serving(client, node):
        await say(client, store)
        failed: JobFailed = await recorded(store, "JobFailed")
    assert failed.code == "HANDLER_TIMEOUT"
    ended = [event.data for event in await store.log("AttemptEnded")]
    assert [each.code for each in ended if isinstance(each, AttemptEnded)] != []


async def test_a_long_time_limit_extends_the_lease(client: Client, store: TimedStore) -> None:
    deadlines: list[int] = []

    async def note(job: eventsched.Job) -> eventsched.Result:
        deadlines.append(job.deadline_ms)
        return eventsched.Result(text="hola")

    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    node.job(timeout_s=200)(note)
    async with serving(client, node):
        await say(client, store)
        await recorded(store)
    assert deadlines == [store.at_ms + 200_000]


# --- serve --------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_serve_connects_and_returns_0_after_a_drain(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = node_of(answer)
    codes: list[int] = []

    async def serve() -> None:
        codes.append(await node.serve(server.url))

    with anyio.fail_after(WITHIN_S):
        async with eventsched.connect(server.url) as es, anyio.create_task_group() as tasks:
            assert cell not in es.cells
            tasks.start_soon(serve)
            while not await is_registered(es, eventsched.schema.keys.complete("gpu-1", es.cells)):
                await anyio.lowlevel.checkpoint()
            node.drain()
    assert codes == [0]


def test_what_is_declared_stays_callable() -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    hook: Callable[[], None] = life_handlers.start
    assert node.startup(hook) is hook
    assert node.shutdown(hook) is hook
    assert node.job(timeout_s=1)(answer) is answer


# --- why a handler failed -----------------------------------------------------------------------


def _fails(job: Any) -> eventsched.Result:
    raise ValueError("out of memory\nand 12 more lines")


async def _fails_with_a_cause(job: eventsched.Job) -> eventsched.Result:
    try:
        raise OSError("no device")
    except OSError as error:
        raise eventsched.JobError("NO_GPU") from error


@pytest.mark.parametrize(
    ("handler", "processes", "error"),
    [
        (_fails, False, "ValueError: out of memory at test_node_life.py:"),
        (_fails, True, "ValueError: out of memory at test_node_life.py:"),
        (_fails_with_a_cause, False, "OSError: no device at test_node_life.py:"),
    ],
    ids=["thread", "process", "cause"],
)
async def test_the_log_has_why_a_handler_failed(
    client: Client, store: TimedStore, handler: Any, processes: bool, error: str
) -> None:
    async with serving(client, node_of(handler, processes=processes)):
        await say(client, store)
        ended: AttemptEnded = await recorded(store, "AttemptEnded")
    assert ended.error.startswith(error)
    assert "more lines" not in ended.error


async def test_the_line_of_a_failed_attempt_has_its_time_and_its_cause(
    client: Client, store: TimedStore
) -> None:
    with capture_logs() as lines:
        async with serving(client, node_of(_fails_with_a_cause)):
            session = await say(client, store)
            await recorded(store, "JobFailed")
    (line,) = [line for line in lines if line["event"] == "failed"]
    assert (line["session"], line["attempt"], line["code"]) == (session, 1, "NO_GPU")
    assert line["ms"] >= 0


async def test_the_log_has_no_exception_of_an_encrypted_session(
    store: TimedStore, tmp_path: Path
) -> None:
    key_store = eventsched.KeyFolder(tmp_path / "keys")
    async with client_of(store, key_store) as es, serving(es, node_of(_fails)):
        await say(es, store, encrypt=True)
        ended: AttemptEnded = await recorded(store, "AttemptEnded")
    assert (ended.code, ended.error) == ("HANDLER_ERROR", "")
