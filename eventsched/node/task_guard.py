"""SystemExit and KeyboardInterrupt in a task of a handler end this task, not the event loop.

Owns: the task factory of an event loop while a node serves in it.
Must not: handle exceptions that the handler itself raises (executor.py).
Read next: node.py.

asyncio re-raises these two exceptions from the event loop, whichever task raised them. If a handler
runs its model in a task (a task group, `asyncio.gather`), one `sys.exit()` in a library would end
the whole node. In tasks that a handler starts, both become ExitInTask, which reaches the handler
like any other error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

in_handler: ContextVar[bool] = ContextVar("in_handler", default=False)
"""True in the context of a handler, and so in the tasks it starts."""


class ExitInTask(Exception):
    """Raised in place of SystemExit or KeyboardInterrupt by a task that a handler started."""


@contextmanager
def exits_contained() -> Iterator[None]:
    """While the block lasts, tasks that handlers start cannot end the running event loop."""
    loop = asyncio.get_running_loop()
    current: Any = loop.get_task_factory()
    factory = current if isinstance(current, _TaskFactory) else _TaskFactory(current)
    loop.set_task_factory(factory)
    factory.users += 1
    try:
        yield
    finally:
        factory.users -= 1
        if not factory.users and loop.get_task_factory() is factory:
            loop.set_task_factory(factory.inner)


class _TaskFactory:
    """Creates tasks as `inner` or asyncio does, and wraps the coroutines of handlers' tasks."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.users = 0

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Future[Any]:
        if in_handler.get() and asyncio.iscoroutine(coroutine):
            coroutine = _Contained(coroutine)
        if self.inner is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        task: asyncio.Future[Any] = self.inner(loop, coroutine, **options)
        return task


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine that raises ExitInTask where the inner coroutine raises an exit.

    An `async def` around the inner coroutine would not do: if it is cancelled before its first
    step, the inner coroutine never starts, and Python warns about it.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner
        self.__name__ = getattr(inner, "__name__", type(inner).__name__)
        self.__qualname__ = getattr(inner, "__qualname__", self.__name__)

    def send(self, value: Any) -> Any:
        return self._step(self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._inner.throw, *error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._inner.__await__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # cr_frame, cr_code, …: for stacks and task names

    def _step(self, step: Callable[..., Any], *args: Any) -> Any:
        try:
            return step(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            raise ExitInTask(f"{error!r} in a task of the handler") from error
