"""`eventsched rebuild NAME…`: fold the log from its start into new views, then promote them.

Owns: the choice of read models, the printed counts. Read next: roles/rebuild.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from eventsched.cli.options import Archive, By, Options, Request, Why, act_of, command

if TYPE_CHECKING:
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.projection.protocol import ProjectionSet
    from eventsched.store.cell import Store
    from eventsched.store.operator_commands import Act

Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME…", help="session, group, job, node or another read model."),
]
AllowFailures = Annotated[
    int,
    typer.Option(
        "--allow-failures",
        metavar="N",
        min=0,
        help="Switch even if up to N events cannot be folded; they are left out.",
    ),
]
COUNTS = {"entries": "FOLDED", "skipped": "NOT FOLDABLE", "dropped": "OLD RECORDS"}


@command
async def rebuild(
    options: Options,
    names: Names,
    archive: Archive = None,
    allow_failures: AllowFailures = 0,
    why: Why = "",
    by: By = "",
    request: Request = "",
) -> None:
    """Rebuild read models from the log and switch readers to the new records.

    The events RebuildStarted and RebuildPromoted record it, with the reason of --why.
    The system may run meanwhile: readers use the old records until the new ones have caught up.
    Entries that were trimmed from the log are read from the archive. If an event cannot be folded,
    the old records stay live, the first failures are printed, and the exit code is 1.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.cli.output import console, notes, print_json
    from eventsched.tables import table

    selection, act = _select(names), act_of(why, by, request)
    folder = ArchiveFolder.open(archive) if archive else None
    result = table("CELL", "REVISIONS", *COUNTS.values(), right=tuple(COUNTS.values()))
    rebuilds: list[dict[str, Any]] = []
    async with options.connect() as connection:
        for store in connection.stores.values():
            for number, (projection_set, set_names) in enumerate(selection):
                counts = await _rebuild(
                    store, projection_set, set_names, folder, allow_failures, act.part(number)
                )
                rebuilds.append({"cell": store.cell, "set": projection_set.name} | counts)
                revisions = ", ".join(
                    f"{name} {revision}" for name, revision in counts["revisions"].items()
                )
                result.add_row(store.cell, revisions, *(f"{counts[name]:,}" for name in COUNTS))
    if options.json:
        print_json({"rebuilds": rebuilds})
    else:
        console().print(result)
    for each in rebuilds:
        if not each["entries"]:
            notes().print(
                f"{each['cell']}: {each['set']} has folded no event yet, and a rebuild folds no "
                "more than its projector: run `eventsched run projector`"
            )


def _select(names: list[str]) -> list[tuple[ProjectionSet, list[str]]]:
    """Return the projection sets of these read models, each with the names that it has.

    Raises InvalidMessage for an unknown name.
    """
    from eventsched.projection.installed import load_sets, missing_read_model

    sets = load_sets()
    known = [projection.name for each in sets for projection in each.projections]
    for name in names:
        if name not in known:
            raise missing_read_model("NAME", name, known)
    selection = [(each, [p.name for p in each.projections if p.name in names]) for each in sets]
    return [(each, set_names) for each, set_names in selection if set_names]


async def _rebuild(
    store: Store,
    projection_set: ProjectionSet,
    names: list[str],
    archive: ArchiveFolder | None,
    failures_max: int,
    act: Act,
) -> dict[str, Any]:
    from eventsched.cli.output import progress
    from eventsched.history.log import History
    from eventsched.projection.store import ProjectionStore
    from eventsched.roles.rebuild import Rebuild
    from eventsched.roles.refold import RebuildRunning

    total = await store.transport.command("XLEN", store.keys.log, key=store.keys.log)
    with progress(f"{store.cell} {', '.join(names)}", total) as set_progress:
        projection_store = ProjectionStore(store.transport, store.cell)
        history = await History.open(projection_store, archive, projection_set)
        rebuild = Rebuild(
            projection_store, projection_set, names,
            history=history, progress=set_progress, failures_max=failures_max, act=act,
        )  # fmt: skip
        outcome = await rebuild.run()
    if outcome is None:
        raise RebuildRunning.of(projection_set.name, store.cell)
    counts: dict[str, Any] = msgspec.to_builtins(outcome)
    return counts
