"""Retries while the server is unavailable, with bounded, jittered pauses.

Owns: `Backoff`, for calls that fail after some tries and for loops that never do; waiting for an
event with a timeout. All waiting uses the transport's time.
Must not: decide what may be repeated. Callers pass calls that have no second effect.
Read next: transport.py, error_replies.py (which errors there are).
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Protocol, TypeVar

import anyio

from eventsched.errors import ServerRefused, ServerUnavailable, UnexpectedReply
from eventsched.logs import get_logger

T = TypeVar("T")
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 2.0
CALL_PAUSE_S_MAX = 1.0
TRIES = 12
"""With the pauses between them about eight seconds: longer than a cluster's failover."""
REMIND_S = 60.0
"""Interval between two log lines about a server that stays unavailable."""
_log = get_logger("eventsched.store.retry")


class Time(Protocol):
    """The time in which to wait; every transport is one."""

    async def sleep(self, seconds: float) -> None: ...


class EventLoopTime:
    """The time of the event loop, for waits that have no transport yet."""

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Backoff:
    """Exponential backoff from 50 ms up to a bound; the jitter is up to half of each pause.

    `call` repeats a call a bounded number of times. `attempt` is one iteration of an endless
    loop; it logs a line when the server becomes unavailable, one each minute while it stays so, and
    one when the server is back.
    """

    def __init__(self, time: Time, log: Any = _log, **context: str) -> None:
        self._time = time
        self._log = log
        self._context = context
        self._failures = 0
        self._logged_s: dict[type[Exception], float] = {}
        """When a line about each class of error was logged."""

    async def call(self, call: Callable[[], Awaitable[T]], *, tries: int = TRIES) -> T:
        """Return the reply of a repeatable call. Raises ServerUnavailable after the last try."""
        for _ in range(tries - 1):
            try:
                return await call()
            except ServerUnavailable:
                await self._pause(CALL_PAUSE_S_MAX)
        return await call()

    @asynccontextmanager
    async def attempt(
        self, errors: type[ServerUnavailable] | tuple[()] = ServerUnavailable
    ) -> AsyncIterator[None]:
        """Run the block once. If it raises one of `errors`, log the error and pause.

        An error of a task group in the block counts as well.
        """
        error: ServerUnavailable | None = None
        try:
            yield
        except* errors as group:
            error = first_error(group)
        if error is not None:
            self._report(error)
            await self._pause(PAUSE_S_MAX)
            return
        if self._failures:
            self._log.warning("server is back", **self._context)
        self._failures = 0
        self._logged_s.clear()

    def _report(self, error: ServerUnavailable) -> None:
        """Log the error, unless a line about its class was logged within the last minute."""
        now_s = monotonic()
        logged_s = self._logged_s.get(type(error))
        if logged_s is not None and now_s - logged_s < REMIND_S:
            return
        self._logged_s[type(error)] = now_s
        if isinstance(error, UnexpectedReply):
            self._log.error("unexpected reply, trying again", **self._context, error=str(error))
        elif isinstance(error, ServerRefused):
            self._log.warning("server refuses, trying again", **self._context, error=str(error))
        else:
            self._log.warning("server away, trying again", **self._context, error=str(error))

    async def _pause(self, pause_s_max: float) -> None:
        pause_s = min(PAUSE_S_MIN * 2**self._failures, pause_s_max)
        self._failures = min(self._failures + 1, 10)
        await self._time.sleep(pause_s * random.uniform(0.5, 1.0))


def first_error(error: BaseException) -> Any:
    """Return the first error of a group, at any depth; any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def run_until(
    stop: Callable[[], Awaitable[object]], main: Callable[[], Awaitable[T]]
) -> T | None:
    """Return the result of `main`; cancel it and return None when `stop` returns first.

    An error of `main` comes out unchanged.
    """
    outcome: T | None = None
    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            await stop()
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            outcome = await main()
        except Exception as error:  # noqa: BLE001 - raised again below, without a group around it
            raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised
    return outcome


async def happens_within(time: Time, seconds: float, event: anyio.Event) -> bool:
    """Whether the event is set within this many seconds of a time."""
    async with anyio.create_task_group() as tasks:

        async def time_out() -> None:
            await time.sleep(seconds)
            tasks.cancel_scope.cancel()

        tasks.start_soon(time_out)
        await event.wait()
        tasks.cancel_scope.cancel()
    return event.is_set()
