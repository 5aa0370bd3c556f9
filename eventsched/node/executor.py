"""Running a handler, and the result that follows from what it returns or raises.

Owns: the ways to run a handler (in the event loop, in a thread, in a process, in batches), its time
limit, and the mapping from a value or exception to the result that is reported.
Must not: manage leases, cancel attempts (registration.py).
Read next: job.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias, cast

import anyio
import anyio.to_thread
import msgspec

from eventsched.client.results import NoSpeech, Result
from eventsched.current_span import batch_span
from eventsched.errors import InvalidMessage
from eventsched.logs import get_logger
from eventsched.node.batches import Batch, Batches
from eventsched.node.cause import Cause, cause_of, is_odd, trace_of
from eventsched.node.handler_checks import check_handler, is_async, pickled
from eventsched.node.hooks import Hooks, running_hooks
from eventsched.node.job import (
    BlockingJob,
    Job,
    JobError,
    NoSpeechError,
    encode_result_of,
    is_a,
    is_encrypted,
    load_audio,
    mark_cancelled,
    no_outcome,
    outcome_of,
)
from eventsched.node.plain import plain_error, plain_result, plain_text
from eventsched.node.process_pool import HandlerRaised, process_pool
from eventsched.node.process_worker import Raised
from eventsched.schema.trace_context import process_span
from eventsched.schema.validation import check_code
from eventsched.store.node_commands import NodeResult

Returned: TypeAlias = Result | NoSpeech | NoSpeechError | JobError
"""What a handler may return."""
AsyncHandler: TypeAlias = Callable[[Job], Awaitable[Returned]]
BlockingHandler: TypeAlias = Callable[[BlockingJob], Returned]
Handler: TypeAlias = AsyncHandler | BlockingHandler
Run: TypeAlias = Callable[[Job], Awaitable[Any]]
Runner: TypeAlias = Callable[[Hooks], AbstractAsyncContextManager[Run]]
"""A block in which the handler can run, between the hooks; its worker processes end with it."""

HANDLER_ERROR = "HANDLER_ERROR"
"""The handler raised an unexpected exception. Another node may not have this fault."""
HANDLER_TIMEOUT = "HANDLER_TIMEOUT"
"""The handler took longer than its own time limit."""
LEASE_S_MIN = 15.0
"""No lease is shorter (rule 19, lease duration)."""
TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.1, 300.0
BLANK = "BLANK"
MODEL_NOT_AVAILABLE = "MODEL_NOT_AVAILABLE"

log = get_logger("eventsched.node.node")


def runner(
    handler: Any,
    *,
    slots: int,
    processes: bool,
    timeout_s: float | None = None,
    batch: Batch | None = None,
) -> Runner:
    """Run an asynchronous handler in the event loop, and a plain one in threads or processes.

    Raises InvalidMessage for a handler that cannot run.
    """
    check_handler(handler, processes=processes)
    if timeout_s is not None and not TIMEOUT_S_MIN <= timeout_s <= TIMEOUT_S_MAX:
        raise InvalidMessage.of(
            "timeout_s",
            f"{TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g} s expected, got {timeout_s!r:.80}",
            "change it",
        )
    if batch is None:
        block = partial(_in_processes if processes else _in_this_process, handler, slots)
    elif processes:
        raise InvalidMessage.of(
            "batch", "not with processes", "leave out processes: a plain function runs in a thread"
        )
    elif batch.size > slots:
        raise InvalidMessage.of(
            "batch", f"at most the slots of the node, {slots}", "declare more slots"
        )
    else:
        block = partial(_in_batches, handler, slots, batch)
    return block if timeout_s is None else partial(_limited, block, timeout_s)


@asynccontextmanager
async def _limited(block: Runner, timeout_s: float, hooks: Hooks) -> AsyncIterator[Run]:
    """End the handler after its own time limit. The lease is extended if it may be shorter."""
    async with block(hooks) as inner:

        async def run(job: Job) -> Any:
            if timeout_s > LEASE_S_MIN:
                await job.extend(timeout_s)
            with anyio.move_on_after(timeout_s):
                return await inner(job)
            log.error(
                "handler took too long",
                session=job.session,
                job=job.key,
                attempt=job.attempt,
                timeout_s=timeout_s,
            )
            raise JobError(HANDLER_TIMEOUT, retryable=True)

        yield run


@asynccontextmanager
async def _in_this_process(handler: Any, slots: int, hooks: Hooks) -> AsyncIterator[Run]:
    async with running_hooks(hooks):
        yield partial(_call, handler) if is_async(handler) else _Threads(handler, slots)


@asynccontextmanager
async def _in_batches(handler: Any, slots: int, batch: Batch, hooks: Hooks) -> AsyncIterator[Run]:
    """Call the handler with a list of jobs; it returns a list of their outcomes."""
    threads = None if is_async(handler) else _Threads(handler, slots)

    async def run_all(jobs: Sequence[Job]) -> Any:
        spans = {
            job.key: process_span(
                job.traceparent, job.session, job.utterance, job.key, job.attempt
            ).traceparent
            for job in jobs
        }
        with batch_span(spans):
            return await (_call(handler, jobs) if threads is None else threads.run_batch(jobs))

    async with running_hooks(hooks), anyio.create_task_group() as tasks:
        yield Batches(batch, run_all, tasks)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def _in_processes(handler: BlockingHandler, slots: int, hooks: Hooks) -> AsyncIterator[Run]:
    """The hooks run in each process."""
    # A startup hook may take longer than a lease: it has run in all processes before the first job.
    loaded = slots if hooks.startup is not None and hooks.before_jobs else 1
    pickle = pickled(handler, hooks.startup, hooks.shutdown)
    async with process_pool(pickle, size=slots, loaded=loaded) as pool:

        async def run(job: Job) -> Any:
            # If the attempt is cancelled, its process is killed.
            return await pool.run(await load_audio(job), job)

        yield run


async def _call(handler: Any, job: Job | Sequence[Job]) -> Any:
    """Call the handler in the event loop; an awaitable that it returns is awaited."""
    try:
        returned = handler(job)
        while inspect.isawaitable(returned):
            returned = await returned
        return returned
    except BaseException as error:
        if not is_odd(error):
            raise
        odd = _raised(error)
    raise odd


def _raised(error: BaseException) -> HandlerRaised:
    """An exception that hides its class, as text: the tasks and scopes around it ask for it."""
    trace, _ = trace_of(error)
    return HandlerRaised(Raised("", trace, cause_of(error)))


class _Threads:
    """Runs a plain function in threads.

    A thread cannot be stopped: after a cancelled attempt it is busy until its handler returns.
    Once as many threads as slots are busy for cancelled attempts, new attempts fail at once and go
    to other nodes.
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
            return await _call(self._handler, job)
        returned = await self._in_thread(job)
        if inspect.iscoroutine(returned):
            # The handler wraps an `async def`. The coroutine has not started, and it would use the
            # BlockingJob of a plain function: call the handler again with a Job.
            returned.close()
            self._is_async = True
            return await _call(self._handler, job)
        return await returned if inspect.isawaitable(returned) else returned

    async def _in_thread(self, job: Job) -> Any:
        blocking_job = await load_audio(job)
        try:
            return await self._call(blocking_job)
        finally:
            mark_cancelled(blocking_job)

    async def run_batch(self, jobs: Sequence[Job]) -> Any:
        """Call the handler once, with a list of blocking jobs."""
        blocking_jobs = [await load_audio(job) for job in jobs]
        try:
            return await self._call(blocking_jobs)
        finally:
            for each in blocking_jobs:
                mark_cancelled(each)

    async def _call(self, argument: BlockingJob | list[BlockingJob]) -> Any:
        """Call the handler in a thread. Raises RuntimeError if too many threads are busy."""
        if self._busy >= self._busy_max:
            raise RuntimeError(f"{self._busy} threads are busy with calls that were cancelled")
        return await anyio.to_thread.run_sync(
            self._call_counted, argument, abandon_on_cancel=True, limiter=self._limiter
        )

    def _call_counted(self, argument: BlockingJob | list[BlockingJob]) -> Any:
        with self._counted():
            try:
                return self._handler(argument)
            except BaseException as error:
                if not is_odd(error):
                    raise
                odd = _raised(error)
            raise odd

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1


async def run_attempt(run: Run, job: Job, is_cancelled: Callable[[], bool]) -> NodeResult:
    """Run the handler and return the result to report.

    If the attempt was cancelled from outside (`is_cancelled`), the cancellation is raised. All
    other exceptions of a handler become HANDLER_ERROR, also SystemExit and a cancellation by the
    handler itself: the node continues to serve.
    """
    try:
        try:
            returned = await run(job)
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome is None:
                raise
            returned = outcome
        result = result_of(job, returned)
        if isinstance(returned, JobError) and returned.__cause__ is not None:
            result = _with_cause(result, job, cause_of(returned.__cause__))
    except BaseException as error:
        if _ends_the_task(error, is_cancelled):
            raise
        result = handler_error(job, error)
    if not is_cancelled():
        await _clear_cancellation()
    return result


def _ends_the_task(error: BaseException, is_cancelled: Callable[[], bool]) -> bool:
    """Whether the event loop, not the handler, ends this task with the exception."""
    if is_a(error, asyncio.CancelledError):
        return is_cancelled()
    return is_a(error, GeneratorExit) and not _in_event_loop()


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # Python closes the coroutines of an event loop that no longer exists
        return False
    return True


async def _clear_cancellation() -> None:
    """Undo a handler's `cancel()` of its own task, which would cancel the report of its result."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    while task.cancelling():
        task.uncancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)


def handler_error(job: Job, error: BaseException) -> NodeResult:
    """Log an unexpected exception of a handler; the result to report is HANDLER_ERROR."""
    fields: dict[str, Any] = {"session": job.session, "job": job.key, "attempt": job.attempt}
    if is_a(error, HandlerRaised):  # raised in another process, with its traceback as text
        raised = cast("HandlerRaised", error)
        cause = raised.cause
        log.error("handler failed", **fields, error=str(cause), exception=raised.trace)
    else:
        cause, (trace, is_whole) = cause_of(error), trace_of(error)
        shown: dict[str, Any] = {"exc_info": error} if is_whole else {"exception": trace}
        log.error("handler failed", **fields, error=str(cause), **shown)
    return _with_cause(failed(job), job, cause)


def failed(job: Job, refused: InvalidMessage | None = None) -> NodeResult:
    """The result to report of an attempt whose handler, or whose result, is not acceptable.

    Args:
        job: The job.
        refused: Why the result was refused: it names a field and its limit, and no text.
    """
    result = result_of(job, JobError(HANDLER_ERROR, retryable=True))
    if refused is None:
        return result
    return _with_cause(result, job, Cause("InvalidMessage", str(refused)[:200], ""))


def _with_cause(result: NodeResult, job: Job, cause: Cause) -> NodeResult:
    """The result with its cause. An exception may quote what was spoken: never if encrypted."""
    if is_encrypted(job):
        return result
    return msgspec.structs.replace(
        result,
        error_type=cause.type,
        error_message=cause.message,
        error_place=cause.place,
    )


def result_of(job: Job, returned: Any) -> NodeResult:
    """The result to report. Raises TypeError, InvalidMessage if the value cannot be reported.

    Values are exactly of their types: a subclass of a handler could have methods of its own, which
    would run in the tasks that report the results of all attempts.
    """
    if isinstance(returned, NoSpeech | NoSpeechError):
        code = plain_text(check_code("code", returned.code))
        return NodeResult(job=job.key, attempt=job.attempt, status="no_speech", code=code)
    if isinstance(returned, JobError):
        returned = plain_error(returned)
        is_missing_model = returned.code == MODEL_NOT_AVAILABLE
        if is_missing_model and returned.feature and returned.feature not in job.features:
            features = ", ".join(job.features) or "none"
            raise InvalidMessage.of(
                "feature", f"one of the job's ({features})", "name it, or leave it out"
            )
        return NodeResult(
            job=job.key,
            attempt=job.attempt,
            status="failed",
            code=returned.code,
            retryable=returned.retryable,
            feature=returned.feature,
            retry_in_ms=returned.retry_in_ms,
        )
    if not isinstance(returned, Result):
        raise no_outcome(returned)
    returned = plain_result(returned)
    if returned.is_blank:
        return NodeResult(job=job.key, attempt=job.attempt, status="no_speech", code=BLANK)
    body, audio = encode_result_of(job, returned)
    return NodeResult(
        job=job.key,
        attempt=job.attempt,
        status="ok",
        body=body,
        audio=audio,
        audio_sha256=hashlib.sha256(audio).hexdigest() if audio else "",
    )
