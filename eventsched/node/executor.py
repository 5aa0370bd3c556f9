"""Running a handler, wherever it runs, and what its end means.

Owns: the three ways to run (in the loop, in a thread, in a process) and the table from what a
handler gives or raises to the result that is told.
Never does: leases, cancelling (registration.py). Read next: job.py.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import anyio.to_process
import anyio.to_thread
import structlog

from eventsched.client.results import Result
from eventsched.errors import InvalidMessage
from eventsched.node.job import BlockingJob, Job, JobError, NoSpeech
from eventsched.store.cell import NodeResult

Ending: TypeAlias = Result | NoSpeech | JobError
AsyncHandler: TypeAlias = Callable[[Job], Awaitable[Ending]]
BlockingHandler: TypeAlias = Callable[[BlockingJob], Ending]
Handler: TypeAlias = AsyncHandler | BlockingHandler
Run: TypeAlias = Callable[[Job], Awaitable[Any]]

HANDLER_ERROR = "HANDLER_ERROR"
"""The handler raised something unforeseen: a fault here, another node may do better."""
BLANK = "BLANK"
MODEL_NOT_AVAILABLE = "MODEL_NOT_AVAILABLE"

log = structlog.get_logger("eventsched.node.node")


def runner(handler: Any, *, slots: int, processes: bool) -> Run:
    """How to run the handler: as it is if it is asynchronous, else in threads or processes."""
    if inspect.iscoroutinefunction(handler):
        if processes:
            raise InvalidMessage.of(
                "processes", "a plain function expected", "use def instead of async def"
            )
        return handler  # type: ignore[no-any-return]
    if processes:
        return _in_processes(handler, slots)
    return _in_threads(handler, slots)


def _in_threads(handler: BlockingHandler, slots: int) -> Run:
    # A thread cannot be stopped: one that was given up keeps its place until it ends, so there
    # are twice as many places as slots.
    limiter: anyio.CapacityLimiter | None = None

    async def run(job: Job) -> Any:
        nonlocal limiter
        limiter = limiter or anyio.CapacityLimiter(2 * slots)
        loaded = await job.loaded()
        try:
            return await anyio.to_thread.run_sync(
                handler, loaded, abandon_on_cancel=True, limiter=limiter
            )
        finally:
            loaded.cancel()

    return run


def _in_processes(handler: BlockingHandler, slots: int) -> Run:
    limiter: anyio.CapacityLimiter | None = None

    async def run(job: Job) -> Any:
        nonlocal limiter
        limiter = limiter or anyio.CapacityLimiter(slots)
        loaded = await job.loaded()
        # Cancelled, its process is killed: nothing keeps computing for nobody.
        return await anyio.to_process.run_sync(handler, loaded, cancellable=True, limiter=limiter)

    return run


async def end_of(run: Run, job: Job) -> NodeResult:
    """How the attempt ended. Only a cancelled one does not return."""
    try:
        try:
            ending = await run(job)
        except (NoSpeech, JobError) as raised:
            ending = raised
        return told(job, ending)
    except Exception as error:
        log.exception("handler failed", session=job.session, job=job.key, error=repr(error))
        return told(job, JobError(HANDLER_ERROR, retryable=True))


def told(job: Job, ending: Any) -> NodeResult:
    """What is said of the attempt; raises TypeError, InvalidMessage for what cannot be said."""
    if isinstance(ending, NoSpeech):
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
        raise TypeError(f"a handler gives a Result, NoSpeech or JobError, not {ending!r:.80}")
    if ending.is_blank:
        return NodeResult(job=job.key, attempt=job.attempt, status="no_speech", code=BLANK)
    body, audio = job.packed(ending)
    return NodeResult(
        job=job.key,
        attempt=job.attempt,
        status="ok",
        body=body,
        audio=audio,
        audio_sha256=hashlib.sha256(audio).hexdigest() if audio else "",
    )
