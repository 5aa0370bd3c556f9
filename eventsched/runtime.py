"""The event loop of a program: uvloop if it is installed, and an orderly end by Ctrl-C.

Owns: `run_async`. Never does: choose what runs. Read next: interrupts.py.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from eventsched.errors import EventschedError
from eventsched.interrupts import ExitTimer, Interrupted, interruptible

Outcome = TypeVar("Outcome")
GC_OBJECTS = 50_000
"""New objects between two runs of Python's garbage collector, whose default is 700. Events and
records are created by the thousand without cycles; with the default, the collector took a third of
the time of a fold."""


class LoopEnded(EventschedError):
    """Raised when code in the event loop has ended the loop itself."""


STOPPED = "Event loop stopped before Future completed"
"""Start of the message of asyncio and uvloop after a call of the loop's `stop`."""


def run_async(main: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Run `main` in an event loop of its own and return its result.

    Raises:
        KeyboardInterrupt: Ctrl-C has ended it.
        LoopEnded: code in the loop has ended it, by an exit or by stopping the loop.
    """
    gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
    uvloop = importlib.util.find_spec("uvloop") is not None
    exit_timer = ExitTimer()

    async def bounded() -> Outcome:
        try:
            return await interruptible(main)
        finally:
            exit_timer.start(1)  # remaining tasks may ignore their cancellation

    try:
        return anyio.run(bounded, backend_options={"use_uvloop": uvloop})
    except Interrupted:
        raise KeyboardInterrupt from None
    except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and STOPPED not in str(error):
            raise
        raise LoopEnded(f"the event loop was ended by {error!r:.200}") from error
    finally:
        exit_timer.cancel()
