"""Signals that end a program: SIGINT (Ctrl-C) and SIGTERM.

Owns: the SIGINT handler before, during and after a command's event loop; `drain_on_signal`, which
every node process runs in; the exit of a process whose threads or tasks do not end.
Must not: import a third-party package at module level, because this module sets the SIGINT handler
at the first line of a program.
Read next: runtime.py (`run_async`).

Python's default SIGINT handler raises KeyboardInterrupt at an arbitrary point, also inside cleanup
code. Therefore it is never in force here, not even between two other handlers.
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

INTERRUPT_CODE = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect it."""
T = TypeVar("T")


class Interrupted(Exception):
    """Raised when Ctrl-C has cancelled a command."""


def exit_at_once(_: int = signal.SIGINT, __: FrameType | None = None) -> None:
    """End the process without cleanup. This is safe: scripts are atomic and files appear whole."""
    os._exit(INTERRUPT_CODE)


async def interruptible(main: Callable[[], Awaitable[T]]) -> T:
    """Run `main` and return its result. Ctrl-C cancels it; a second Ctrl-C exits at once.

    Raises:
        Interrupted: Ctrl-C has cancelled `main`.
    """
    import asyncio

    import anyio

    if threading.current_thread() is not threading.main_thread():
        return await main()  # only the main thread may set signal handlers
    loop = asyncio.get_running_loop()
    with anyio.CancelScope() as scope:

        def interrupt(*_: Any) -> None:
            signal.signal(signal.SIGINT, exit_at_once)
            loop.call_soon_threadsafe(scope.cancel)

        previous = signal.signal(signal.SIGINT, interrupt)
        try:
            return await main()
        finally:
            signal.signal(signal.SIGINT, previous)
    raise Interrupted


EXIT_LIMIT_S = 10.0
"""How long a program may take to end once its work is done or a second signal has arrived."""


class ExitTimer:
    """Ends the process at a deadline, whatever its threads and tasks do.

    At exit, an event loop waits for its tasks and Python waits for its threads, both without a
    limit: a handler that ignores its cancellation would keep the process alive for ever. The thread
    of this class is started early and takes its deadline from a queue, because a signal handler may
    use a queue at any point.
    """

    def __init__(self) -> None:
        self._deadlines: queue.SimpleQueue[tuple[float, int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._wait, name="exit timer", daemon=True).start()

    def start(self, code: int) -> None:
        """End the process with exit code `code` in EXIT_LIMIT_S; the earliest deadline counts."""
        self._deadlines.put((time.monotonic() + EXIT_LIMIT_S, code))

    def cancel(self) -> None:
        """Remove the deadline."""
        self._deadlines.put(None)

    def _wait(self) -> None:
        deadline = self._deadlines.get()
        while deadline is not None:
            ends_at, code = deadline
            try:
                update = self._deadlines.get(timeout=max(0.0, ends_at - time.monotonic()))
            except queue.Empty:
                os.write(2, b"eventsched: a task or thread did not end in time: exit without it\n")
                os._exit(code)
            deadline = None if update is None else min(deadline, update)


def exit_despite_threads(code: int) -> None:
    """Make the program end within EXIT_LIMIT_S, even if a non-daemon thread does not end."""
    main = threading.main_thread()
    if any(thread is not main and not thread.daemon for thread in threading.enumerate()):
        ExitTimer().start(code)


@contextmanager
def open_signals(
    *numbers: signal.Signals, on_signal: Callable[[signal.Signals], None] | None = None
) -> Iterator[asyncio.Queue[signal.Signals]]:
    """Queue these signals while the block runs; restore the previous handlers afterwards.

    Args:
        numbers: The signals to handle.
        on_signal: Called in the signal handler itself, so a blocked event loop cannot delay it.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def handle(number: int, _: FrameType | None) -> None:
        if on_signal is not None:
            on_signal(signal.Signals(number))
        loop.call_soon_threadsafe(received.put_nowait, signal.Signals(number))

    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


async def drain_on_signal(
    main: Callable[[], Awaitable[None]],
    drain: Callable[[], None],
    *,
    drain_s_max: float | None = None,
) -> int:
    """Run `main` until it returns; SIGINT and SIGTERM make it end, in three steps.

    The first signal calls `drain`. The second cancels `main`, and the process ends within
    EXIT_LIMIT_S, whatever its tasks and threads do. The third ends the process at once.

    Args:
        main: What runs, such as a node.
        drain: Asks `main` to finish its running work and to return.
        drain_s_max: How long after a signal `main` is cancelled if it has not returned; without
            it, only a second signal cancels `main`.

    Returns:
        The exit code: 0, or 128 + the second signal (130 for Ctrl-C, 143 for SIGTERM).
    """
    import anyio

    stop = _StopSteps()
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            while True:
                await received.get()
                if stop.code:
                    tasks.cancel_scope.cancel()
                drain()
                if drain_s_max is not None:
                    tasks.cancel_scope.deadline = anyio.current_time() + drain_s_max

        with open_signals(signal.SIGINT, signal.SIGTERM, on_signal=stop.on_signal) as received:
            tasks.start_soon(listen)
            await main()
            tasks.cancel_scope.cancel()
    return stop.code


class _StopSteps:
    """Counts the signals and takes the second and the third step of `drain_on_signal`."""

    def __init__(self) -> None:
        self._exit_timer = ExitTimer()
        self._count = 0
        self.code = 0
        """The exit code, from the second signal on."""

    def on_signal(self, number: signal.Signals) -> None:
        """Runs in the signal handler: a blocked event loop does not delay it."""
        self._count += 1
        if self._count == 2:
            self.code = 128 + number
            self._exit_timer.start(self.code)
        elif self._count > 2:
            os._exit(128 + number)
