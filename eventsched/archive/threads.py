"""Work on the archive's files, beside the event loop.

Owns: the one way in which archiver and readers wait for a disk.
Never does: say what is done there. Read next: archiver.py, history/log.py.

They call `disk.in_thread`, so that a simulation, which has no event loop, can put its own there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio.to_thread import run_sync

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns; whatever else the process does goes on meanwhile."""
    return await run_sync(work)
