"""The attempts that a node has in hand, each in a task of its own.

Owns: starting, cancelling and waiting for them. The tasks are asyncio's, for 4 µs each; a task
group takes 22 to start one, and the handlers of one read of the inbox wait for each other (p99 of
2,000 jobs a second: 4.7 and 5.5 ms). What a group promises is kept: none begins behind the end of
`run`, a handler is cancelled through its scope only, what one raises `run` raises, and `run` waits
for all. One exception: a handler that does not end within END_S of its cancel is left behind, so
that one handler cannot keep a node from registering again or from ending.
Never does: know what an attempt is for. Read next: registration.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import anyio
import structlog

END_S = 5.0
"""How long a cancelled handler may take to clean up before `run` ends without it."""

log = structlog.get_logger("eventsched.node.node")


class Attempt:
    """One attempt in hand."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.scope = anyio.CancelScope()
        """Its handler runs in it: cancelled, nobody waits for the result any more."""
        self.has_ended = False
        """Its handler has: what is left is to tell how."""
        self.is_given_up = False
        """The registration is over: nobody hears how it ended, even if its handler did in time."""


Work: TypeAlias = Callable[[Attempt], Coroutine[Any, Any, None]]


class Attempts:
    """Those in hand, by job key. `run` must run somewhere."""

    def __init__(self) -> None:
        self._held: dict[str, Attempt] = {}
        self._tasks: dict[asyncio.Task[None], Attempt] = {}
        self._failed = anyio.Event()
        self._error: BaseException | None = None
        self._is_over = False
        self._runner: asyncio.Task[Any] | None = None

    def __len__(self) -> int:
        return len(self._held)

    def numbers(self) -> list[tuple[str, int]]:
        """(job key, attempt) of each; may be asked by another thread: `copy` is one step."""
        return [(key, attempt.number) for key, attempt in self._held.copy().items()]

    def start(self, key: str, number: int, work: Work) -> None:
        """Takes it in hand; an earlier one of the same job, whose cancel is on its way, goes.

        Behind the end of `run` nothing is taken: the lease ends, or goes with the registration.
        """
        if self._is_over:
            return
        earlier = self._held.get(key)
        if earlier is not None:
            earlier.scope.cancel()
        attempt = self._held[key] = Attempt(number)
        task = asyncio.get_running_loop().create_task(self._hold(key, attempt, work), name=key)
        self._tasks[task] = attempt
        task.add_done_callback(self._let_go)

    async def _hold(self, key: str, attempt: Attempt, work: Work) -> None:
        try:
            await work(attempt)
        finally:
            if self._held.get(key) is attempt:
                del self._held[key]

    def _let_go(self, task: asyncio.Task[None]) -> None:
        attempt = self._tasks.pop(task)
        if task.cancelled():
            if not self.is_cancelled(attempt):
                log.error("attempt cancelled from outside", job=task.get_name())
            return
        error = task.exception()
        if error is None:
            return
        if self._error is None and not self._is_over:
            self._error = error
            self._failed.set()
        else:
            log.error("attempt failed", job=task.get_name(), error=repr(error))

    def cancel(self, key: str, number: int) -> bool:
        """Whether this one's handler was running; it ends at its next wait."""
        attempt = self._held.get(key)
        if attempt is None or attempt.number != number or attempt.has_ended:
            return False
        attempt.scope.cancel()
        return True

    def is_cancelled(self, attempt: Attempt) -> bool:
        """Whether somebody other than its handler has cancelled the attempt, or all of them.

        `asyncio.run` cancels every task at once when it ends, so the runner's own counts as well.
        """
        is_ending = self._runner is not None and self._runner.cancelling() > 0
        return attempt.scope.cancel_called or self._is_over or is_ending

    async def run(self) -> None:
        """Until cancelled: then all are, and this ends when they have. Raises what one raised.

        A handler that swallows its cancel is left behind after END_S; a log line names its job.
        """
        self._runner = asyncio.current_task()
        try:
            await self._failed.wait()
        finally:
            self._is_over = True
            for task, attempt in self._tasks.items():
                attempt.is_given_up = True
                attempt.scope.cancel()
                if attempt.has_ended:
                    task.cancel()
            with anyio.CancelScope(shield=True):
                await self._wait_for_all()
            if self._error is not None:
                raise self._error

    async def _wait_for_all(self) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + END_S
        while self._tasks and (left_s := ends_at - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left_s)
        for task in self._tasks:
            log.error("handler ignores its cancellation, left behind", job=task.get_name())
