"""Waiting: bounded, jittered, and only through the transport.

Owns: trying again while the server is away, and waiting for something no longer than a bound.
Never does: deciding what may be repeated: callers pass calls that have no second effect.
Read next: transport.py, patience.py (`Patience`, for loops that never give up).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from eventsched.errors import ServerUnavailable
from eventsched.store.transport import Transport

T = TypeVar("T")
PAUSE_S_MIN, PAUSE_S_MAX = 0.05, 1.0
TRIES = 12
"""With the pauses between them some eight seconds: longer than a cluster's failover."""


async def insist(
    transport: Transport, call: Callable[[], Awaitable[T]], *, tries: int = TRIES
) -> T:
    """The reply of a repeatable call, tried again while no server answers.

    Raises ServerUnavailable after the last try.
    """
    for tried in range(tries - 1):
        try:
            return await call()
        except ServerUnavailable:
            pause = min(PAUSE_S_MIN * 2**tried, PAUSE_S_MAX)
            await transport.sleep(pause * random.uniform(0.5, 1.0))
    return await call()


async def happens_within(transport: Transport, seconds: float, event: anyio.Event) -> bool:
    """Whether the event is set before that many seconds of the transport's time have passed."""
    async with anyio.create_task_group() as tasks:

        async def give_up() -> None:
            await transport.sleep(seconds)
            tasks.cancel_scope.cancel()

        tasks.start_soon(give_up)
        await event.wait()
        tasks.cancel_scope.cancel()
    return event.is_set()
