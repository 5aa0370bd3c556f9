"""How a program's event loop is run: uvloop where it is installed, Ctrl-C in order.

Owns: `run_async`. Never does: choosing what runs. Read next: interrupts.py.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from eventsched.interrupts import Interrupted, interruptible

Outcome = TypeVar("Outcome")
GC_OBJECTS = 50_000
"""New objects between two looks of Python's garbage collector (its default is 700): events and
records come by the thousand and make no cycles, and looking at them took a third of a fold."""


def run_async(main: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
    """Run it to its end in an event loop of its own. Raises KeyboardInterrupt when it has ended."""
    gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
    uvloop = importlib.util.find_spec("uvloop") is not None
    try:
        return anyio.run(interruptible, main, backend_options={"use_uvloop": uvloop})
    except Interrupted:
        raise KeyboardInterrupt from None
