"""Nodes whose handlers do not let go, or end the event loop: for `test_stubborn_handlers`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import Any

import eventsched
import eventsched.interrupts
import eventsched.node.attempts

# The bounds, shorter: a test would wait for the usual ones.
eventsched.node.attempts.END_S = 0.5
eventsched.interrupts.EXIT_LIMIT_S = 2.0


def node(name: str, target: str) -> eventsched.Node:
    """No other node of a test's server has this target: what one leaves goes to no other."""
    return eventsched.Node(name, sources=["en"], targets=[target])


swallows, blocks, sits = node("swallows", "es"), node("blocks", "fr"), node("sits", "de")
exits, stops = node("exits", "it"), node("stops", "pt")


@swallows.job
async def swallow(_: eventsched.Job) -> eventsched.Result:
    """Ignores each cancellation, for ever."""
    write_line("handler started")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3_600)  # sleeps: work that ends by a cancel alone


@blocks.job
async def block(_: eventsched.Job) -> eventsched.Result:
    """Keeps its event loop from turning, for ever; says when it has handled a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, partial(count_signal, signal.getsignal(number)))
    write_line("handler started")
    while True:
        time.sleep(1)  # noqa: ASYNC251 - exactly this must not keep the process # sleeps: work that no cancel ends


@sits.job
def sit(_: eventsched.BlockingJob) -> eventsched.Result:
    """Keeps its thread, for ever."""
    write_line("handler started")
    threading.Event().wait()
    raise AssertionError


@exits.job
async def exit_outside(_: eventsched.Job) -> eventsched.Result:
    """Ends the event loop by a callback, which belongs to no task."""
    asyncio.get_running_loop().call_soon(sys.exit)
    await asyncio.sleep(3_600)  # sleeps: work that ends by a cancel alone
    raise AssertionError


@stops.job
async def stop(_: eventsched.Job) -> eventsched.Result:
    """Stops the event loop, as a library may that takes it for its own."""
    asyncio.get_running_loop().stop()
    await asyncio.sleep(3_600)  # sleeps: work that ends by a cancel alone
    raise AssertionError


handled: list[int] = []


def count_signal(earlier: Any, number: int, frame: Any) -> None:
    earlier(number, frame)
    handled.append(number)
    write_line(f"{len(handled)} handled")


def write_line(text: str) -> None:
    """Write to standard error at once, also from a signal handler.

    `sys.stderr` refuses a write from a signal handler that runs inside another write of it.
    """
    os.write(2, f"{text}\n".encode())
