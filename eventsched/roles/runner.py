"""Runs roles for every cell of a connection.

Owns: the names of the roles, the loops that each role runs for a cell, and their supervision.
Must not: do the work of a role.
Read next: supervisor.py, presence.py, dispatcher.py, projector.py, timer.py, archive/archiver.py.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

import anyio

from eventsched.archive.config import ArchiveSettings
from eventsched.logs import get_logger
from eventsched.projection.installed import check_names, load_set
from eventsched.projection.store import ProjectionStore
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.dispatcher import Dispatcher
from eventsched.roles.presence import PresenceRenewer, Role
from eventsched.roles.projector import Projector
from eventsched.roles.supervisor import Run, Supervisor
from eventsched.roles.timer import Timer
from eventsched.roles.trimmer import Trimmer
from eventsched.store.cell import Store
from eventsched.store.connection import Connection

log = get_logger("eventsched.roles.runner")


ExportTraces: TypeAlias = Callable[[Store, str], Coroutine[Any, Any, None]]
"""Exports the traces of a cell, as the consumer that is named, until cancelled."""


class Process(NamedTuple):
    """What the roles of this process share."""

    instance: str
    """Opaque id of the process: owner of its leases, and consumer of the groups that it reads."""
    archive: ArchiveSettings | None = None
    export_traces: ExportTraces | None = None


Loops: TypeAlias = dict[tuple[str, str], Run]
"""The loops of a role in a cell: (projection set or empty, name of the loop) -> its start."""


def _dispatcher(store: Store, process: Process) -> Loops:
    return {("", "dispatcher"): lambda: Dispatcher(store, consumer=process.instance).run()}


def _projector(store: Store, process: Process) -> Loops:
    projection_store = ProjectionStore(store.transport, store.cell)
    archive = process.archive.folder if process.archive else None

    def starting(name: str) -> Run:
        """Load the set at the start, so a set that cannot be loaded fails alone."""
        return lambda: Projector(
            projection_store, load_set(name), archive=archive, owner=process.instance
        ).run()

    return {(name, f"projector {name}"): starting(name) for name in check_names()}


def _timer(store: Store, _: Process) -> Loops:
    projection_store = ProjectionStore(store.transport, store.cell)
    return {
        ("", "timer"): lambda: Timer(store).run(),
        ("", "backpressure"): lambda: BackpressureMonitor(store).run(),
        ("", "trimmer"): lambda: Trimmer(projection_store).run(),
    }


def _archiver(store: Store, process: Process) -> Loops:
    archive = process.archive
    if archive is None:
        return {}
    return {("", "archiver"): lambda: archive.archiver(store, owner=process.instance).run()}


def _traces(store: Store, process: Process) -> Loops:
    export = process.export_traces
    if export is None:
        return {}
    return {("", TRACES): lambda: export(store, process.instance)}


ROLES: dict[str, Callable[[Store, Process], Loops]] = {
    "dispatcher": _dispatcher,
    "projector": _projector,
    "timer": _timer,
    "archiver": _archiver,
}
TRACES = "traces"
"""A role that no cell needs: it has work only with `export_traces`."""


def roles_of(store: Store, names: Sequence[str], process: Process) -> list[Role]:
    """Return the roles of a cell, each with its supervised loops."""
    roles, loops_of = [], ROLES | {TRACES: _traces}
    for name in names:
        supervisors: dict[str, list[Supervisor]] = {}
        for (projection_set, loop), run in loops_of[name](store, process).items():
            supervisor = Supervisor(loop, store.cell, run, store.transport)
            supervisors.setdefault(projection_set, []).append(supervisor)
        roles += [Role(name, each, loops) for each, loops in supervisors.items()]
    return roles


async def run_roles(
    connection: Connection,
    names: Sequence[str],
    archive_settings: ArchiveSettings | None = None,
    also_present: Sequence[str] = (),
    export_traces: ExportTraces | None = None,
) -> None:
    """Run these roles for every cell until cancelled.

    An unforeseen error ends the loop that raised it and no other; `Supervisor` starts it again.

    Args:
        connection: The server and its cells.
        names: Names in ROLES, and TRACES.
        archive_settings: The archive to seal into; without it no archiver runs.
        also_present: Roles of this process that run elsewhere, such as the gateway: only their
            presence is renewed.
        export_traces: The work of the role `traces`; without it no traces are exported.
    """
    process = Process(secrets.token_hex(8), archive_settings, export_traces)
    create_cells = connection.create_cells if names else _leave_missing
    all_names = [*names, *also_present]
    log.info("roles started", roles=all_names, cells=connection.cells, instance=process.instance)
    try:
        await _run(connection, names, process, also_present, create_cells)
    finally:
        log.info("roles ended", roles=all_names, cells=connection.cells, instance=process.instance)


async def _run(
    connection: Connection,
    names: Sequence[str],
    process: Process,
    also_present: Sequence[str],
    create_cells: Callable[[], Awaitable[None]],
) -> None:
    async with anyio.create_task_group() as tasks:
        for store in connection.stores.values():
            roles = roles_of(store, names, process)
            for role in roles:
                for loop in role.loops:
                    tasks.start_soon(loop.run, name=f"{loop.name} {store.cell}")
            roles += [Role(name, "", ()) for name in also_present]
            renewer = PresenceRenewer(store, process.instance, roles, create_cells)
            presence = Supervisor("presence", store.cell, renewer.run, store.transport)
            tasks.start_soon(presence.run, name=f"presence {store.cell}")


async def _leave_missing() -> None:
    """A process without roles of its own is a client: it waits for a cell that is missing."""


@asynccontextmanager
async def running(
    connection: Connection,
    names: Sequence[str] = tuple(ROLES),
    archive_settings: ArchiveSettings | None = None,
    also_present: Sequence[str] = (),
    export_traces: ExportTraces | None = None,
) -> AsyncIterator[None]:
    """Run the roles in this process while the block runs; see `run_roles`."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            run_roles, connection, names, archive_settings, also_present, export_traces
        )
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
