"""Runs roles: any of them, for every cell of a connection, until cancelled.

Owns: which roles there are and what one of each cell is made of.
Never does: anything a role does.
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


def _projectors(store: Store, sealing: ArchiveSettings | None) -> list[Run]:
    views = ProjectionStore(store.transport, store.cell)
    archive = sealing.folder if sealing else None
    return [Projector(views, one, archive=archive).run for one in load_sets()]


def _timers(store: Store, _: ArchiveSettings | None) -> list[Run]:
    views = ProjectionStore(store.transport, store.cell)
    return [Timer(store).run, BackpressureMonitor(store).run, Trimmer(views).run]


def _archivers(store: Store, sealing: ArchiveSettings | None) -> list[Run]:
    return [sealing.archiver(store).run] if sealing else []


ROLES: dict[str, Callable[[Store, ArchiveSettings | None], list[Run]]] = {
    "dispatcher": _dispatchers,
    "projector": _projectors,
    "timer": _timers,
    "archiver": _archivers,
}


async def run_roles(
    connection: Connection, roles: Sequence[str], sealing: ArchiveSettings | None = None
) -> None:
    """Run these roles for every cell until cancelled; an unexpected error of one ends all."""
    async with anyio.create_task_group() as tasks:
        for role in roles:
            for store in connection.stores.values():
                for run in ROLES[role](store, sealing):
                    tasks.start_soon(run, name=f"{role} {store.cell}")


@asynccontextmanager
async def running(
    connection: Connection,
    roles: Sequence[str] = tuple(ROLES),
    sealing: ArchiveSettings | None = None,
) -> AsyncIterator[None]:
    """The roles run in this process for as long as the block lasts; an archiver if it may seal."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_roles, connection, roles, sealing)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
