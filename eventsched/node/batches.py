"""Running one call of a handler for several jobs, as a GPU does best.

Owns: collecting jobs up to a number or a time, and giving each its outcome.
Must not: report results, or know what a job is.
Read next: executor.py.

A batch starts when it is full, or when its first job has waited `within_s`. A job whose attempt is
cancelled leaves a batch that has not started. A batch whose jobs are all cancelled is cancelled.

The handler runs in a task of its own: it may cancel its task, leave a cancel scope open in it or
raise SystemExit, and none of these ends another task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup

from eventsched.logs import get_logger
from eventsched.node.attempts import END_S
from eventsched.schema.validation import check_between

SIZE_MAX = 256
WITHIN_MS_MAX = 10_000

log = get_logger("eventsched.node.node")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs one call of a handler gets; see `Node.job`.

    A value out of bounds raises InvalidMessage.
    """

    size: int
    """Jobs of one call at most, 2 to 256, and at most the slots of the node."""
    within_ms: int = 20
    """How long the first job waits for others, 0 to 10,000 ms."""

    def __post_init__(self) -> None:
        check_between("size", self.size, 2, SIZE_MAX)
        check_between("within_ms", self.within_ms, 0, WITHIN_MS_MAX)


class _Waiting:
    """A job that waits for its outcome."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.done = anyio.Event()
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.is_cancelled = False


class Batches:
    """Collects jobs and calls `run` for several of them, while its block lasts.

    Args:
        batch: When a batch starts.
        run: Gets the jobs; returns an outcome for each, in their order.
    """

    def __init__(
        self, batch: Batch, run: Callable[[Sequence[Any]], Awaitable[Any]], tasks: TaskGroup
    ) -> None:
        self._batch = batch
        self._run = run
        self._tasks = tasks
        self._waiting: list[_Waiting] = []
        self._number = 0
        """How many batches have started."""
        self._running: list[tuple[list[_Waiting], anyio.CancelScope]] = []

    async def __call__(self, job: Any) -> Any:
        """Return the outcome of the job. Raises what the call of its batch raises."""
        waiting = _Waiting(job)
        self._waiting.append(waiting)
        if len(self._waiting) >= self._batch.size:
            self._start()
        elif len(self._waiting) == 1:
            self._tasks.start_soon(self._start_later, self._number)
        try:
            await waiting.done.wait()
        except BaseException:
            self._cancel(waiting)
            raise
        if waiting.error is not None:
            raise waiting.error
        return waiting.outcome

    async def _start_later(self, number: int) -> None:
        """Start the batch with this number once its first job has waited long enough."""
        await anyio.sleep(self._batch.within_ms / 1_000)
        if self._number == number and self._waiting:
            self._start()

    def _start(self) -> None:
        jobs, self._waiting = self._waiting, []
        self._number += 1
        self._tasks.start_soon(self._run_batch, jobs)

    def _cancel(self, waiting: _Waiting) -> None:
        waiting.is_cancelled = True
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        for jobs, scope in self._running:
            if waiting in jobs and all(each.is_cancelled for each in jobs):
                scope.cancel()

    async def _run_batch(self, waiting: list[_Waiting]) -> None:
        waiting = [each for each in waiting if not each.is_cancelled]
        if not waiting:
            return
        running = (waiting, anyio.CancelScope())
        self._running.append(running)
        task = asyncio.create_task(self._call(waiting))
        try:
            with running[1]:
                await asyncio.wait([task])
        finally:
            self._running.remove(running)
            await _end(task)
            for each in waiting:
                each.done.set()

    async def _call(self, waiting: Sequence[_Waiting]) -> None:
        """Call the handler and give each job its outcome, or the error."""
        try:
            outcomes = await self._run([each.job for each in waiting])
            for each, outcome in zip(waiting, _checked(outcomes, len(waiting)), strict=True):
                each.outcome = outcome
        except BaseException as error:  # noqa: BLE001 - raised for each job of the batch
            for each in waiting:
                each.error = error


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel the task if it still runs. A handler that ignores it for END_S is abandoned."""
    if task.done():
        return
    task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait([task], timeout=END_S)
    if not task.done():
        log.error("handler of a batch ignores its cancellation, abandoned")


def _checked(outcomes: Any, count: int) -> Sequence[Any]:
    """Return the outcomes of a batch. Raises TypeError if they are not one for each job."""
    if not isinstance(outcomes, list | tuple) or len(outcomes) != count:
        got = f"{len(outcomes)}" if isinstance(outcomes, list | tuple) else type(outcomes).__name__
        raise TypeError(f"a handler of a batch returns a list of {count} outcomes, got {got}")
    return outcomes
