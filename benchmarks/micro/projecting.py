"""A projector of the session and group views only.

    EVENTSCHED_URL=URL python -m benchmarks.micro.projecting

Owns: the choice of these views; `eventsched run projector` folds all four.
Never does: measure. Read next: jobs.py, roles/projector.py.
"""

from __future__ import annotations

import os
import signal
import sys

import anyio

from eventsched.projection.installed import load_core
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.runtime import run_async
from eventsched.store.connection import open_connection

VIEWS = ("session", "group")


def session_and_group() -> ProjectionSet:
    """Return the built-in projection set with these two views only."""
    core = load_core()
    projections = tuple(each for each in core.projections if each.name in VIEWS)
    return ProjectionSet(core.name, projections, core.sessions)


async def project(url: str) -> None:
    """Run the projector until a signal."""
    async with open_connection(url) as connection, anyio.create_task_group() as tasks:
        for store in connection.stores.values():
            projector = Projector(ProjectionStore(store.transport, store.cell), session_and_group())
            tasks.start_soon(projector.run)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            async for _ in signals:
                tasks.cancel_scope.cancel()


if __name__ == "__main__":
    run_async(lambda: project(os.environ["EVENTSCHED_URL"]))
