"""How a program's event loop is run: uvloop where it is installed, Ctrl-C in order.

Owns: `run_async`. Never does: choosing what runs. Read next: interrupts.py.
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
"""New objects between two looks of Python's garbage collector (its default is 700): events and
records come by the thousand and make no cycles, and looking at them took a third of a fold."""


class LoopEnded(EventschedError):
    """Raised when something that ran in the event loop has ended the loop itself."""


STOPPED = "Event loop stopped before Future completed"
"""How asyncio and uvloop begin to say that somebody has called the loop's `stop`."""


def run_async(main: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Run it to its end in an event loop of its own.

    Raises KeyboardInterrupt when Ctrl-C has ended it, LoopEnded when code in the loop did, by an
    exit or by stopping it.
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
