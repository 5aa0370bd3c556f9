"""What a handler may do without harm to its node: exits, cancellations, groups, odd callables.

No clock moves the leases: an attempt that is not cancelled at once would never end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import anyio
import pytest
import structlog

import eventsched
from eventsched.client.client import Client
from eventsched.node.job import BlockingJob, Job
from eventsched.schema.events import JobFailed, ResultRecorded
from tests.client.test_node import node_of, recorded, say
from tests.fixtures_store import TimedStore
from tests.systems import serving, until

GOOD = eventsched.Result(text="hola")


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log's lines, as structlog has them before they are written."""
    with structlog.testing.capture_logs() as captured:
        yield captured


# --- whatever is raised -----------------------------------------------------------------------


class OfItsOwn(BaseException):
    """An exception that `except Exception` does not see, and that cannot even be shown."""

    def __repr__(self) -> str:
        raise SystemExit(3)


async def exits(_: Job) -> Any:
    sys.exit("no model")


async def exits_well(_: Job) -> Any:
    sys.exit(0)


async def is_interrupted(_: Job) -> Any:
    raise KeyboardInterrupt


async def raises_its_own(_: Job) -> Any:
    raise OfItsOwn


async def raises_generator_exit(_: Job) -> Any:
    raise GeneratorExit


async def exits_in_a_task(_: Job) -> Any:
    await asyncio.create_task(exits(_))


async def exits_in_a_gathering(_: Job) -> Any:
    await asyncio.gather(exits(_), asyncio.sleep(0))  # sleeps: one turn of the event loop


async def exits_in_a_task_group(_: Job) -> Any:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exits, _)


async def exits_in_a_task_that_nobody_awaits(_: Job) -> Any:
    task = asyncio.create_task(is_interrupted(_))
    await asyncio.wait([task])
    raise RuntimeError("task failed") from task.exception()


async def awaits_what_it_cancelled(_: Job) -> Any:
    task = asyncio.ensure_future(asyncio.sleep(60))  # sleeps: work that ends by a cancel alone
    await asyncio.sleep(0)  # sleeps: one turn of the event loop
    task.cancel()
    await task


async def cancels_itself(_: Job) -> Any:
    task = asyncio.current_task()
    assert task
    task.cancel()
    await asyncio.sleep(60)  # sleeps: work that ends by a cancel alone


async def raises_a_cancellation(_: Job) -> Any:
    raise asyncio.CancelledError


async def cancels_itself_and_fails(_: Job) -> Any:
    task = asyncio.current_task()
    assert task
    task.cancel()
    raise ZeroDivisionError


async def leaves_a_scope_open(_: Job) -> Any:
    anyio.CancelScope().__enter__()
    return GOOD


async def raises_a_mixed_group(_: Job) -> Any:
    raise ExceptionGroup("both", [eventsched.NoSpeechError(), ZeroDivisionError()])


async def raises_an_exit_in_a_group(_: Job) -> Any:
    raise BaseExceptionGroup("both", [eventsched.NoSpeechError(), SystemExit()])


def exits_in_a_thread(_: BlockingJob) -> Any:
    sys.exit(2)


def is_interrupted_in_a_thread(_: BlockingJob) -> Any:
    raise KeyboardInterrupt


def is_cancelled_in_a_thread(_: BlockingJob) -> Any:
    raise asyncio.CancelledError


def stops_in_a_thread(_: BlockingJob) -> Any:
    raise StopIteration


@pytest.mark.parametrize(
    "handler",
    [
        exits,
        exits_well,
        is_interrupted,
        raises_its_own,
        raises_generator_exit,
        exits_in_a_task,
        exits_in_a_gathering,
        exits_in_a_task_group,
        exits_in_a_task_that_nobody_awaits,
        awaits_what_it_cancelled,
        cancels_itself,
        raises_a_cancellation,
        cancels_itself_and_fails,
        leaves_a_scope_open,
        raises_a_mixed_group,
        raises_an_exit_in_a_group,
        exits_in_a_thread,
        is_interrupted_in_a_thread,
        is_cancelled_in_a_thread,
        stops_in_a_thread,
    ],
)
@pytest.mark.parametrize("batch", [None, eventsched.Batch(size=2, within_ms=0)], ids=["", "batch"])
async def test_whatever_a_handler_raises_is_its_error_in_one_line_and_the_node_serves_on(
    client: Client,
    store: TimedStore,
    lines: list[Any],
    handler: Callable[[Any], Any],
    batch: eventsched.Batch | None,
) -> None:
    async with serving(client, node_of(handler, batch=batch)):
        session = await say(client, store)
        failed: JobFailed = await recorded(store, "JobFailed")
        assert (failed.code, failed.attempt) == ("HANDLER_ERROR", 4)
        await say(client, store)
        await recorded(store, "JobFailed", 2)
        assert not await store.log("NodeLost")
    failures = [line for line in lines if line["event"] == "handler failed"]
    first = [line for line in failures if line["session"] == session]
    assert [line["attempt"] for line in first] == [1, 2, 3, 4]
    assert len(failures) == 8
    assert all(session in line["job"] for line in first)
    assert len([line for line in lines if line["log_level"] == "error"]) == 8


async def test_a_cancellation_that_comes_late_does_not_keep_a_result_back(
    client: Client, store: TimedStore
) -> None:
    """The handler cancels its own task and returns: the next wait would be the result's."""

    async def handler(_: Job) -> eventsched.Result:
        task = asyncio.current_task()
        assert task
        task.cancel()
        return GOOD

    async with serving(client, node_of(handler)):
        await say(client, store)
        event: ResultRecorded = await recorded(store)
    assert (event.status, event.attempt) == ("ok", 1)


async def test_exits_are_contained_only_while_a_node_serves_and_only_in_handlers(
    client: Client, store: TimedStore
) -> None:
    loop = asyncio.get_running_loop()
    seen: list[Any] = []

    async def handler(_: Job) -> eventsched.Result:
        task = asyncio.create_task(exits(_), name="a task of the handler")
        await asyncio.wait([task])
        seen.extend((task.get_name(), type(task.exception()).__name__, repr(task)))
        cancelled = asyncio.create_task(exits(_))
        cancelled.cancel()  # before it begins
        await asyncio.wait([cancelled])
        return GOOD

    first, second = node_of(handler), node_of(handler, name="gpu-2")
    async with serving(client, first):
        async with serving(client, second):
            assert loop.get_task_factory() is not None
            task = asyncio.create_task(asyncio.sleep(0))  # sleeps: one turn of the event loop
            assert "Contained" not in repr(task)
            await task
        await say(client, store)
        await recorded(store)
    assert loop.get_task_factory() is None
    assert seen[:2] == ["a task of the handler", "ExitInTask"]
    assert "exits" in seen[2]


# --- outcomes in groups -----------------------------------------------------------------------


def in_group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("", [BaseExceptionGroup("", errors)])


@pytest.mark.parametrize(
    ("error", "event", "code"),
    [
        (in_group(eventsched.NoSpeechError()), "ResultRecorded", "ASR_EMPTY"),
        (in_group(eventsched.JobError("BAD_VOICE")), "JobFailed", "BAD_VOICE"),
        (
            in_group(eventsched.JobError("BAD_VOICE"), eventsched.NoSpeechError("BLANK")),
            "JobFailed",
            "BAD_VOICE",
        ),
        (
            in_group(eventsched.NoSpeechError("BLANK"), eventsched.JobError("BAD_VOICE")),
            "ResultRecorded",
            "BLANK",
        ),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
async def test_a_group_of_outcomes_counts_as_its_first(
    client: Client, store: TimedStore, error: BaseException, event: str, code: str, plain: bool
) -> None:
    def raise_it(_: Any) -> NoReturn:
        raise error

    async def raise_it_in_the_loop(_: Any) -> Any:
        raise_it(_)

    async with serving(client, node_of(raise_it if plain else raise_it_in_the_loop)):
        await say(client, store)
        assert (await recorded(store, event)).code == code
    assert len(await store.log("JobDispatched")) == 1


async def test_no_text_from_a_task_group_ends_the_job_well(
    client: Client, store: TimedStore
) -> None:
    async def recognise() -> None:
        raise eventsched.NoSpeechError

    async def handler(_: Job) -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(recognise)

    async with serving(client, node_of(handler)):
        await say(client, store)
        event: ResultRecorded = await recorded(store)
    assert (event.status, event.code, event.attempt) == ("no_speech", "ASR_EMPTY", 1)


# --- callables of every kind ------------------------------------------------------------------


async def listens(job: Job) -> eventsched.Result:
    """Works with the job of an asynchronous handler only."""
    return eventsched.Result(text=str(len(await job.audio())))


def listens_in_a_thread(job: BlockingJob) -> eventsched.Result:
    assert threading.current_thread() is not threading.main_thread()
    return eventsched.Result(text=str(len(job.audio())))


class Model:
    async def __call__(self, job: Job) -> eventsched.Result:
        return await listens(job)

    async def method(self, job: Job) -> eventsched.Result:
        return await listens(job)

    def plain(self, job: BlockingJob) -> eventsched.Result:
        return listens_in_a_thread(job)


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*given: Any) -> Any:
        return function(*given)

    return inner


def runs_a_loop(function: Any) -> Any:
    """As decorators do that make plain functions of asynchronous ones."""

    @functools.wraps(function)
    def inner(job: BlockingJob) -> Any:
        return asyncio.run(function(job))

    return inner


@runs_a_loop
async def plain_after_all(job: Any) -> eventsched.Result:
    await asyncio.sleep(0)  # sleeps: one turn of the event loop
    return listens_in_a_thread(job)


def with_two(_: str, job: Job) -> Any:
    return listens(job)


async def returns_a_coroutine(job: Job) -> Any:
    return listens(job)


@pytest.mark.parametrize(
    "handler",
    [
        listens,
        Model(),
        Model().method,
        wrapped(listens),
        lambda job: listens(job),  # noqa: PLW0108 - a function that does not look asynchronous
        functools.partial(with_two, "es"),
        returns_a_coroutine,
        listens_in_a_thread,
        Model().plain,
        functools.partial(listens_in_a_thread),
        plain_after_all,
    ],
)
async def test_what_a_handler_returns_is_awaited_if_it_can_be(
    client: Client, store: TimedStore, lines: list[Any], handler: Any
) -> None:
    async with serving(client, node_of(handler)):
        for count in (1, 2):
            await say(client, store)
            event: ResultRecorded = await recorded(store, count=count)
            assert (event.status, event.attempt) == ("ok", 1)
    assert not [line for line in lines if line["log_level"] in ("error", "warning")]


async def yields(job: Job) -> Any:
    yield GOOD


def yields_in_a_thread(job: BlockingJob) -> Any:
    yield GOOD


class Yields:
    async def __call__(self, job: Job) -> Any:
        yield GOOD


def lacks_a_parameter() -> Any: ...


def has_too_many(job: Job, model: str) -> Any: ...


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (yields, "yields is a generator"),
        (yields_in_a_thread, "yields_in_a_thread is a generator"),
        (Yields(), "is a generator"),
        (functools.partial(yields), "is a generator"),
        (Yields, "instead of its class"),
        ("handler", "callable"),
        (lacks_a_parameter, "with a job alone"),
        (has_too_many, "with a job alone"),
    ],
)
def test_what_can_never_run_is_refused_where_it_is_declared(handler: Any, says: str) -> None:
    with pytest.raises(eventsched.InvalidMessage, match=says):
        node_of(handler)


# --- handlers that do not end -----------------------------------------------------------------


async def test_a_handler_that_ignores_its_cancellation_keeps_no_node_from_ending(
    client: Client,
    store: TimedStore,
    lines: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventsched.node.attempts.END_S", 0.2)
    started, release = anyio.Event(), anyio.Event()

    async def handler(_: Job) -> eventsched.Result:
        started.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return GOOD

    async with serving(client, node_of(handler)):
        await say(client, store)
        await started.wait()
    (left,) = [line for line in lines if "ignores" in line["event"]]
    assert left["job"].startswith("acme:")
    assert left["log_level"] == "error"
    release.set()
    others = {task for task in asyncio.all_tasks() if task.get_name() == left["job"]}
    await asyncio.wait(others)


async def test_jobs_fail_at_once_when_cancelled_calls_have_taken_all_threads(
    client: Client, store: TimedStore, lines: list[Any]
) -> None:
    release, started = threading.Event(), []

    def handler(job: BlockingJob) -> eventsched.Result:
        started.append(job.key)
        release.wait(60)
        return GOOD

    await store.configure_cell({"node_lost_ms": 10_000_000}, overwrite=True)
    try:
        async with serving(client, node_of(handler, slots=1)):
            await say(client, store)
            for count in (1, 2):
                await until("started", lambda count=count: len(started) == count)  # type: ignore[misc]
                store.tick(31_000)
                await store.timers()
            failed: JobFailed = await recorded(store, "JobFailed")
    finally:
        release.set()
    assert failed.code == "HANDLER_ERROR"
    failures = [line["error"] for line in lines if line["event"] == "handler failed"]
    assert failures
    assert all("2 threads are busy" in error for error in failures)


async def test_a_batch_fails_at_once_when_cancelled_calls_have_taken_all_threads(
    client: Client, store: TimedStore, lines: list[Any]
) -> None:
    release, started = threading.Event(), []

    def handler(jobs: list[BlockingJob]) -> list[eventsched.Result]:
        started.append(len(jobs))
        release.wait(60)
        return [GOOD for _ in jobs]

    await store.configure_cell({"node_lost_ms": 10_000_000, "idle_ms": 10_000_000}, overwrite=True)
    node = node_of(handler, batch=eventsched.Batch(size=2, within_ms=0))
    try:
        async with serving(client, node):
            await say(client, store)
            for count in range(1, 5):
                await until("started", lambda count=count: len(started) == count)  # type: ignore[misc]
                store.tick(31_000)
                await store.timers()
            await recorded(store, "JobFailed")
            await say(client, store)
            failed: JobFailed = await recorded(store, "JobFailed", 2)
    finally:
        release.set()
    assert failed.code == "HANDLER_ERROR"
    failures = [line["error"] for line in lines if line["event"] == "handler failed"]
    assert len(failures) == 4
    assert all("4 threads are busy" in error for error in failures)
