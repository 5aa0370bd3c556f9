"""Running a handler, wherever it runs, and what its end means.

Owns: the three ways to run (in the loop, in a thread, in a process) and the table from what a
handler gives or raises to the result that is told.
Never does: leases, cancelling (registration.py). Read next: job.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import anyio
import anyio.to_thread
import structlog

from eventsched.client.results import NoSpeech, Result
from eventsched.errors import InvalidMessage
from eventsched.node.handler_checks import check_handler, is_async, pickled
from eventsched.node.job import (
    BlockingJob,
    Job,
    JobError,
    NoSpeechError,
    encode_result_of,
    load_audio,
    mark_cancelled,
    outcome_of,
)
from eventsched.node.process_pool import HandlerRaised, process_pool
from eventsched.store.node_commands import NodeResult

Ending: TypeAlias = Result | NoSpeech | NoSpeechError | JobError
AsyncHandler: TypeAlias = Callable[[Job], Awaitable[Ending]]
BlockingHandler: TypeAlias = Callable[[BlockingJob], Ending]
Handler: TypeAlias = AsyncHandler | BlockingHandler
Run: TypeAlias = Callable[[Job], Awaitable[Any]]
Runner: TypeAlias = Callable[[], AbstractAsyncContextManager[Run]]
"""Runs the handler for as long as its block lasts: processes end with it."""

HANDLER_ERROR = "HANDLER_ERROR"
"""The handler raised something unforeseen: a fault here, another node may do better."""
BLANK = "BLANK"
MODEL_NOT_AVAILABLE = "MODEL_NOT_AVAILABLE"

log = structlog.get_logger("eventsched.node.node")


def runner(handler: Any, *, slots: int, processes: bool) -> Runner:
    """How to run the handler: in the loop if it is asynchronous, else in threads or processes.

    Raises InvalidMessage for what cannot run.
    """
    check_handler(handler, processes=processes)
    if processes:
        return partial(_in_processes, handler, slots)
    return partial(_in_this_process, handler, slots)


@asynccontextmanager
async def _in_this_process(handler: Any, slots: int) -> AsyncIterator[Run]:
    yield partial(_awaited, handler) if is_async(handler) else _Threads(handler, slots)


@asynccontextmanager
async def _in_processes(handler: BlockingHandler, slots: int) -> AsyncIterator[Run]:
    async with process_pool(pickled(handler), size=slots) as pool:

        async def run(job: Job) -> Any:
            # Cancelled, its process is killed: nothing keeps computing for nobody.
            return await pool.run(await load_audio(job))

        yield run


async def _awaited(handler: Any, job: Job) -> Any:
    """What the handler returns, awaited if it can be, in the event loop."""
    ending = handler(job)
    while inspect.isawaitable(ending):
        ending = await ending
    return ending


class _Threads:
    """Runs a plain function in threads.

    A thread cannot be stopped: one whose job was cancelled goes on until its handler ends. As many
    may do so as there are slots; beyond that, jobs fail at once and go to other nodes.
    """

    def __init__(self, handler: Any, slots: int) -> None:
        self._handler = handler
        self._busy_max = 2 * slots
        self._busy = 0
        self._lock = threading.Lock()
        self._limiter = anyio.CapacityLimiter(math.inf)
        self._is_async = False

    async def __call__(self, job: Job) -> Any:
        if self._is_async:
            return await _awaited(self._handler, job)
        ending = await self._in_thread(job)
        if inspect.iscoroutine(ending):
            # A wrapper around an `async def`. What it gave has not begun, and would be given the
            # job of a plain function: it begins again with the one that it expects.
            ending.close()
            self._is_async = True
            return await _awaited(self._handler, job)
        return await ending if inspect.isawaitable(ending) else ending

    async def _in_thread(self, job: Job) -> Any:
        loaded = await load_audio(job)
        if self._busy >= self._busy_max:
            raise RuntimeError(f"{self._busy} threads are busy with calls that were cancelled")
        try:
            return await anyio.to_thread.run_sync(
                self._call, loaded, abandon_on_cancel=True, limiter=self._limiter
            )
        finally:
            mark_cancelled(loaded)

    def _call(self, loaded: BlockingJob) -> Any:
        with self._counted():
            return self._handler(loaded)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1


async def end_of(run: Run, job: Job, is_cancelled: Callable[[], bool]) -> NodeResult:
    """How the attempt ended. Does not return if `is_cancelled`: then the cancellation comes out.

    Whatever else a handler raises is HANDLER_ERROR, exits and cancellations of its own included:
    the node serves on.
    """
    try:
        try:
            ending = await run(job)
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome is None:
                raise
            ending = outcome
        result = told(job, ending)
    except BaseException as error:
        if _ends_the_task(error, is_cancelled):
            raise
        result = failed_by(job, error)
    if not is_cancelled():
        await _forget_cancellation()
    return result


def _ends_the_task(error: BaseException, is_cancelled: Callable[[], bool]) -> bool:
    """Whether the event loop, and not the handler, ends this task by the exception."""
    if isinstance(error, asyncio.CancelledError):
        return is_cancelled()
    return isinstance(error, GeneratorExit) and not _in_event_loop()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # Python closes the coroutines of an event loop that is gone
        return False
    return True


async def _forget_cancellation() -> None:
    """Undo a handler's `cancel()` of its own task: it would cancel the next wait, which is ours."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    while task.cancelling():
        task.uncancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


def failed_by(job: Job, error: BaseException) -> NodeResult:
    """The attempt failed by an exception that is no outcome: one log line, HANDLER_ERROR."""
    about: dict[str, Any] = {"session": job.session, "job": job.key, "attempt": job.attempt}
    if isinstance(error, HandlerRaised):  # in another process: its traceback is a text here
        log.error("handler failed", **about, error=error.error, exception=error.trace)
    else:
        log.error("handler failed", **about, error=_shown(error), exc_info=error)
    return told(job, JobError(HANDLER_ERROR, retryable=True))


def _shown(error: BaseException) -> str:
    try:
        return f"{error!r:.500}"
    except BaseException:  # noqa: BLE001 - a handler's own class may fail at this as well
        return type(error).__name__


def told(job: Job, ending: Any) -> NodeResult:
    """What is said of the attempt; raises TypeError, InvalidMessage for what cannot be said."""
    if isinstance(ending, NoSpeech | NoSpeechError):
        return NodeResult(job=job.key, attempt=job.attempt, status="no_speech", code=ending.code)
    if isinstance(ending, JobError):
        if ending.code == MODEL_NOT_AVAILABLE and ending.feature not in job.features:
            features = ", ".join(job.features) or "none"
            raise InvalidMessage.of("feature", f"one of the job's ({features})", "name it")
        return NodeResult(
            job=job.key,
            attempt=job.attempt,
            status="failed",
            code=ending.code,
            retryable=ending.retryable,
            feature=ending.feature,
        )
    if not isinstance(ending, Result):
        raise TypeError(f"a handler returns a Result, NoSpeech or JobError, not {ending!r:.80}")
    if ending.is_blank:
        return NodeResult(job=job.key, attempt=job.attempt, status="no_speech", code=BLANK)
    body, audio = encode_result_of(job, ending)
    return NodeResult(
        job=job.key,
        attempt=job.attempt,
        status="ok",
        body=body,
        audio=audio,
        audio_sha256=hashlib.sha256(audio).hexdigest() if audio else "",
    )
