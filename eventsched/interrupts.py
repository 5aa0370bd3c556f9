"""Ctrl-C: the first one ends a command in order, the next one at once, none by a traceback.

Owns: what SIGINT does before, while and after a command's event loop runs; signals as they come;
the end of a process that does not come to its end by itself.
Never does: import more than Python's own at first: it counts from the program's first line on.
Read next: runtime.py (`run_async`).

Python's own way, an exception at whatever place the program is, breaks into cleanups as well: so
that handler is never in force here, not even between two others.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
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


END_S = 10.0
"""How long a program may take to end once its work is done, or a second signal came."""


class ForcedEnd:
    """Ends the process some time after it was asked to, whatever its threads and tasks do.

    An event loop waits for its tasks before it ends, and Python for threads, both without a bound:
    a handler that ignores its cancellation would keep the process for ever. The thread here is
    started early and asked through a queue, which a signal handler may use at any point.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._wait, name="forced end", daemon=True).start()

    def soon(self, code: int) -> None:
        """In END_S, the process has ended, with `code` if by this; the first bound counts."""
        self._asked.put((time.monotonic() + END_S, code))

    def cancel(self) -> None:
        """Nothing is ended any more."""
        self._asked.put(None)

    def _wait(self) -> None:
        asked = self._asked.get()
        while asked is not None:
            ends_at, code = asked
            try:
                other = self._asked.get(timeout=max(0.0, ends_at - time.monotonic()))
            except queue.Empty:
                os.write(2, b"eventsched: something here does not end: ended without it\n")
                os._exit(code)
            asked = None if other is None else min(asked, other)


def end_in_spite_of_threads(code: int) -> None:
    """The program ends within END_S, also if a thread that Python would wait for does not."""
    main = threading.main_thread()
    if any(thread is not main and not thread.daemon for thread in threading.enumerate()):
        ForcedEnd().soon(code)


@contextmanager
def open_signals(
    *numbers: signal.Signals, also: Callable[[signal.Signals], None] | None = None
) -> Iterator[asyncio.Queue[signal.Signals]]:
    """These signals as they come while the block lasts; then they do again what they did.

    `also` is called at once, between two steps of whatever runs: even an event loop that does not
    turn cannot keep it back.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    came: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def tell(number: int, _: FrameType | None) -> None:
        if also is not None:
            also(signal.Signals(number))
        loop.call_soon_threadsafe(came.put_nowait, signal.Signals(number))

    earlier = {number: signal.signal(number, tell) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
