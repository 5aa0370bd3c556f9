"""A projector of session and group views alone.

    EVENTSCHED_URL=URL python -m benchmarks.micro.projecting

Owns: which views a benchmark has projected meanwhile; `eventsched run projector` folds all four.
Read next: jobs.py, roles/projector.py.
"""

from __future__ import annotations

import os
import signal
import sys

import anyio

from eventsched.projection.protocol import ProjectionSet, load_sets
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.runtime import run_async
from eventsched.store.connection import open_connection

VIEWS = ("session", "group")


def session_and_group() -> ProjectionSet:
    """The built-in set, reduced to these two."""
    core = next(one for one in load_sets() if one.name == "core")
    chosen = tuple(one for one in core.projections if one.name in VIEWS)
    return ProjectionSet(core.name, chosen, core.sessions)


async def project(url: str) -> None:
    """Until SIGTERM."""
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
