"""Ctrl-C: the first one ends a command in order, the next one at once, none by a traceback.

Owns: what SIGINT does before, while and after a command's event loop runs; signals as they come.
Never does: import more than Python's own at first: it counts from the program's first line on.
Read next: runtime.py (`run_async`).

Python's own way, an exception at whatever place the program is, breaks into cleanups as well: so
that handler is never in force here, not even between two others.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

CODE = 130
T = TypeVar("T")


class Interrupted(Exception):
    """Raised when Ctrl-C has cancelled a command."""


def end_at_once(_: int = signal.SIGINT, __: FrameType | None = None) -> None:
    """All may be cut anywhere, as SIGKILL does: scripts are atomic, files appear whole."""
    os._exit(CODE)


async def interruptible(main: Callable[[], Awaitable[T]]) -> T:
    """What `main` returns. Ctrl-C cancels it, one more ends the program. Raises Interrupted."""
    import asyncio

    import anyio

    if threading.current_thread() is not threading.main_thread():
        return await main()  # signals are the main thread's affair
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:

        def interrupt(*_: Any) -> None:
            signal.signal(signal.SIGINT, end_at_once)
            loop.call_soon_threadsafe(scope.cancel)

        earlier = signal.signal(signal.SIGINT, interrupt)
        try:
            return await main()
        finally:
            signal.signal(signal.SIGINT, earlier)
    raise Interrupted


@contextmanager
def open_signals(*numbers: signal.Signals) -> Iterator[asyncio.Queue[signal.Signals]]:
    """These signals as they come while the block lasts; then they do again what they did."""
    import asyncio

    loop = asyncio.get_running_loop()
    came: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def tell(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(came.put_nowait, signal.Signals(number))

    earlier = {number: signal.signal(number, tell) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
