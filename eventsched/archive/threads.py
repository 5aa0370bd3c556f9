"""Runs file access of the archive in a thread, so that the event loop continues.

Owns: the only way in which archiver and readers wait for a disk. Callers use `threads.in_thread`,
so that the simulation, which has no event loop, can replace it.
Must not: know what the work is.
Read next: archiver.py, history/log.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio.to_thread import run_sync

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread and return its result."""
    return await run_sync(work)
