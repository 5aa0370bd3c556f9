"""Runs roles for every cell of a connection.

Owns: the names of the roles, and the loops that each role runs for a cell.
Must not: do the work of a role.
Read next: dispatcher.py, projector.py, timer.py, archive/archiver.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio

from eventsched.archive.config import ArchiveSettings
from eventsched.projection.protocol import load_sets
from eventsched.projection.store import ProjectionStore
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.dispatcher import Dispatcher
from eventsched.roles.projector import Projector
from eventsched.roles.timer import Timer
from eventsched.roles.trimmer import Trimmer
from eventsched.store.cell import Store
from eventsched.store.connection import Connection

Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


def _dispatchers(store: Store, _: ArchiveSettings | None) -> list[Run]:
    return [Dispatcher(store).run]


def _projectors(store: Store, archive_settings: ArchiveSettings | None) -> list[Run]:
    projection_store = ProjectionStore(store.transport, store.cell)
    archive = archive_settings.folder if archive_settings else None
    return [Projector(projection_store, each, archive=archive).run for each in load_sets()]


def _timers(store: Store, _: ArchiveSettings | None) -> list[Run]:
    projection_store = ProjectionStore(store.transport, store.cell)
    return [Timer(store).run, BackpressureMonitor(store).run, Trimmer(projection_store).run]


def _archivers(store: Store, archive_settings: ArchiveSettings | None) -> list[Run]:
    return [archive_settings.archiver(store).run] if archive_settings else []


ROLES: dict[str, Callable[[Store, ArchiveSettings | None], list[Run]]] = {
    "dispatcher": _dispatchers,
    "projector": _projectors,
    "timer": _timers,
    "archiver": _archivers,
}


async def run_roles(
    connection: Connection, roles: Sequence[str], archive_settings: ArchiveSettings | None = None
) -> None:
    """Run these roles for every cell until cancelled; an unexpected error in a role ends them all.

    Args:
        connection: The server and its cells.
        roles: Names in ROLES.
        archive_settings: The archive to seal into; without it no archiver runs.
    """
    async with anyio.create_task_group() as tasks:
        for role in roles:
            for store in connection.stores.values():
                for run in ROLES[role](store, archive_settings):
                    tasks.start_soon(run, name=f"{role} {store.cell}")


@asynccontextmanager
async def running(
    connection: Connection,
    roles: Sequence[str] = tuple(ROLES),
    archive_settings: ArchiveSettings | None = None,
) -> AsyncIterator[None]:
    """Run the roles in this process while the block runs; see `run_roles`."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_roles, connection, roles, archive_settings)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
