"""What a node runs at the start and at the end of a process that runs its handler.

Owns: checking and calling the hooks, and the error of a hook that fails.
Must not: run jobs (executor.py), or start processes (process_pool.py).
Read next: node.py, process_worker.py (hooks in a worker process).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
from anyio import to_thread

from eventsched.errors import InvalidMessage
from eventsched.logs import get_logger
from eventsched.node.cause import cause_of
from eventsched.node.handler_checks import is_async

SHUTDOWN_S = 10.0
"""How long a shutdown hook may take before the node ends without it."""

log = get_logger("eventsched.node.node")


class Hooks(NamedTuple):
    """The hooks of a node; either may be None."""

    startup: Callable[[], Any] | None = None
    shutdown: Callable[[], Any] | None = None
    before_jobs: bool = True
    """Whether `startup` runs in all processes before the first job, or in each before its first."""


def check_hook(name: str, hook: Any) -> None:
    """Raise InvalidMessage if this cannot be called without an argument."""
    try:
        inspect.signature(hook).bind()
    except (TypeError, ValueError) as error:
        raise InvalidMessage.of(
            name, "a function without arguments expected", "take no argument"
        ) from error


@asynccontextmanager
async def running_hooks(hooks: Hooks) -> AsyncIterator[None]:
    """Run the startup hook before the block, and the shutdown hook after it.

    Raises InvalidMessage with the cause if the startup hook fails. A shutdown hook that fails, or
    takes longer than SHUTDOWN_S, is an error in the log.
    """
    if hooks.startup is not None:
        try:
            await _call(hooks.startup)
        except Exception as error:
            log.error("startup failed", exc_info=error)
            raise startup_failed(str(cause_of(error))) from error
    try:
        yield
    finally:
        if hooks.shutdown is not None:
            with anyio.move_on_after(SHUTDOWN_S, shield=True) as scope:
                try:
                    await _call(hooks.shutdown)
                except Exception as error:  # the node ends all the same
                    log.error("shutdown failed", error=str(cause_of(error)), exc_info=error)
            if scope.cancelled_caught:
                log.error("shutdown did not end in time", seconds=SHUTDOWN_S)


def startup_failed(cause: str) -> InvalidMessage:
    """Return the error for a startup hook that raised this."""
    return InvalidMessage.of("startup", cause, "the node was not registered: mend its startup hook")


async def _call(hook: Callable[[], Any]) -> None:
    """Call a hook; a plain function runs in a thread."""
    if is_async(hook):
        await hook()
        return
    returned = await to_thread.run_sync(hook, abandon_on_cancel=True)
    if inspect.isawaitable(returned):
        await returned
