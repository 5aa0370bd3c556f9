"""`eventsched rebuild NAME…`: fold the log from its start into fresh views, then switch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from eventsched.cli.options import Archive, Options, command
from eventsched.errors import EventschedError, InvalidMessage

if TYPE_CHECKING:
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.projection.protocol import ProjectionSet
    from eventsched.store.cell import Store

Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME…", help="session, group, job, node, or a read model's name."),
]
COUNTS = {"entries": "FOLDED", "skipped": "NOT FOLDABLE", "dropped": "OLD RECORDS"}


class IsRunning(EventschedError):
    """Raised when another rebuild of the same set has not ended yet."""


@command
async def rebuild(options: Options, names: Names, archive: Archive = None) -> None:
    """Replay the log from its start into fresh views and switch readers to them.

    The system may run meanwhile: what is live stays live until the new view has caught up. What the
    log has no more is read from the archive.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.cli.output import console, print_json
    from eventsched.formatting import table

    chosen = _chosen(names)
    folder = ArchiveFolder.open(archive) if archive else None
    made = table("CELL", "VIEWS", *COUNTS.values(), right=tuple(COUNTS.values()))
    told: list[dict[str, Any]] = []
    async with options.connect() as connection:
        for store in connection.stores.values():
            for projection_set, of_set in chosen:
                done = await _rebuild(store, projection_set, of_set, folder)
                told.append({"cell": store.cell, "set": projection_set.name} | done)
                revisions = ", ".join(
                    f"{name} {revision}" for name, revision in done["revisions"].items()
                )
                made.add_row(store.cell, revisions, *(f"{done[name]:,}" for name in COUNTS))
    if options.json:
        print_json({"rebuilt": told})
    else:
        console().print(made)


def _chosen(names: list[str]) -> list[tuple[ProjectionSet, list[str]]]:
    """The sets that hold these read models, and which of each."""
    from eventsched.projection.protocol import load_sets

    sets = load_sets()
    known = [one.name for each in sets for one in each.projections]
    for name in names:
        if name not in known:
            raise InvalidMessage.of("NAME", f"no view {name!r}", f"choose of {', '.join(known)}")
    chosen = [(each, [one.name for one in each.projections if one.name in names]) for each in sets]
    return [(each, of_set) for each, of_set in chosen if of_set]


async def _rebuild(
    store: Store, projection_set: ProjectionSet, names: list[str], archive: ArchiveFolder | None
) -> dict[str, Any]:
    from eventsched.cli.output import progress
    from eventsched.history.log import History
    from eventsched.projection.store import ProjectionStore
    from eventsched.roles.rebuild import Rebuild

    total = await store.transport.command("XLEN", store.keys.log, key=store.keys.log)
    with progress(f"{store.cell} {', '.join(names)}", total) as moved:
        views = ProjectionStore(store.transport, store.cell)
        history = await History.open(views, archive, projection_set)
        rebuild = Rebuild(views, projection_set, names, history=history, progress=moved)
        done = await rebuild.run()
    if done is None:
        raise IsRunning(f"a rebuild of {projection_set.name} is running in {store.cell}; wait")
    built: dict[str, Any] = msgspec.to_builtins(done)
    return built
