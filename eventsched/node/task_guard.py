"""SystemExit and KeyboardInterrupt in the tasks of a handler end that task, not the event loop.

Owns: the task factory of an event loop while a node serves in it.
Never does: handle what a handler itself raises (executor.py). Read next: node.py.

asyncio lets these two exceptions leave the event loop from whichever task raises them. A handler
that runs the recogniser in a task of its own (a task group, `asyncio.gather`) would so end the
whole node with one `sys.exit()` of a library. In tasks that a handler starts, both become
ExitInTask, which reaches the handler as any other error does.
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
    """Tasks that handlers start in the running event loop cannot end it, while the block lasts."""
    loop = asyncio.get_running_loop()
    present: Any = loop.get_task_factory()
    containing = present if isinstance(present, _TaskFactory) else _TaskFactory(present)
    loop.set_task_factory(containing)
    containing.users += 1
    try:
        yield
    finally:
        containing.users -= 1
        if not containing.users and loop.get_task_factory() is containing:
            loop.set_task_factory(containing.inner)


class _TaskFactory:
    """Creates tasks as `inner` does (asyncio itself without one); those of handlers contained."""

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
    """A coroutine that raises ExitInTask where the one inside raises an exit.

    A class, not an `async def` around the other: cancelled before its first step, that one would
    never start the coroutine inside, and Python would warn of it.
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

    def _step(self, step: Callable[..., Any], *given: Any) -> Any:
        try:
            return step(*given)
        except (SystemExit, KeyboardInterrupt) as error:
            raise ExitInTask(f"{error!r} in a task of the handler") from error
