"""`eventsched repair`: bring each cell that verify finds broken to a state that it finds clean.

Owns: the printed plan, the reason and the name of the operator. Never does: the repair itself.
Read next: audit/repair.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from eventsched.cli.options import Archive, By, Options, Why, command, operator_name
from eventsched.errors import InvalidMessage

if TYPE_CHECKING:
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.audit.repair import Plan, Repair, Repairer
    from eventsched.audit.repair_change import Change
    from eventsched.history.log import History
    from eventsched.projection.protocol import ProjectionSet
    from eventsched.projection.store import ProjectionStore
    from eventsched.store.cell import Store
    from eventsched.store.operator_commands import Act

Apply = Annotated[bool, typer.Option("--apply", help="Make the changes; without it, print them.")]
SHOWN_MAX = 50
"""Changes of a cell in the text output; --json prints all."""
_SHOWN = ("where", "what", "reason", "gives_up")


@command
async def repair(
    options: Options, apply: Apply = False, why: Why = "", by: By = "", archive: Archive = None
) -> int:
    """Show what would repair each cell, with the reason and the loss of each change.

    With --apply and --why the changes are made, and an event records each. What the log says wins.
    The system may run meanwhile. The exit code is 1 if a cell is not clean.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.cli.output import print_json

    if apply and not why.strip():
        raise InvalidMessage.of("--why", "no reason is given", "say why the cell is repaired")
    folder = ArchiveFolder.open(archive) if archive else None
    operator = by or operator_name()
    is_clean, cells = True, []
    async with options.connect() as connection:
        for store in connection.stores.values():
            repairer = await _open(store, folder)
            if apply:
                done = await repairer.apply(why, operator)
                is_clean = is_clean and not done.left
                cells.append(_applied(store.cell, done, shows=not options.json))
            else:
                plan = await repairer.plan()
                is_clean = is_clean and plan.report.is_clean
                cells.append(_planned(store.cell, plan, shows=not options.json))
    if options.json:
        print_json({"clean": is_clean, "cells": cells})
    return 0 if is_clean else 1


async def _open(store: Store, archive: ArchiveFolder | None) -> Repairer:
    from eventsched.audit.repair import Repairer
    from eventsched.history.log import History
    from eventsched.projection.installed import load_core
    from eventsched.projection.store import ProjectionStore

    core = load_core()
    projection_store = ProjectionStore(store.transport, store.cell)
    history = await History.open(projection_store, archive, core)
    rebuild = partial(_rebuild, projection_store, core, history)
    return Repairer(projection_store, core, history, rebuild)


async def _rebuild(
    store: ProjectionStore, core: ProjectionSet, history: History, name: str, act: Act
) -> bool:
    from eventsched.roles.rebuild import Rebuild

    return await Rebuild(store, core, [name], history=history, act=act).run() is not None


def _planned(cell: str, plan: Plan, *, shows: bool) -> dict[str, Any]:
    from eventsched.formatting import plural

    if shows:
        verdict = "clean" if plan.report.is_clean else plural(len(plan.changes), "change")
        verdict += ", nothing is written without --apply"
        _show(cell, verdict, plan.changes, plan.report.not_compared)
    changes = [_shown(change) for change in plan.changes]
    return {"cell": cell, "changes": changes, "not_compared": plan.report.not_compared}


def _applied(cell: str, done: Repair, *, shows: bool) -> dict[str, Any]:
    from eventsched.formatting import plural

    if shows:
        left = f", {plural(len(done.left), 'violation')} left" if done.left else ", clean"
        verdict = plural(len(done.applied), "change") + " made" + left
        _show(cell, verdict, done.applied, done.not_compared)
    changes = [_shown(change) for change in done.applied]
    left_over = {"left": msgspec.to_builtins(done.left), "not_compared": done.not_compared}
    return {"cell": cell, "changes": changes} | left_over


def _shown(change: Change) -> dict[str, str]:
    return {field: getattr(change, field) for field in _SHOWN}


def _show(cell: str, verdict: str, changes: list[Change], not_compared: list[str]) -> None:
    from eventsched.cli.output import console
    from eventsched.tables import Text, table

    console().print(Text.assemble((f"cell {cell}: ", "bold"), verdict))
    for line in not_compared[:SHOWN_MAX]:
        console().print(Text(f"not compared, nothing is written: {line}"))
    if not changes:
        return
    result = table("WHERE", "CHANGE", "REASON", "GIVES UP")
    for change in changes[:SHOWN_MAX]:
        result.add_row(*(Text(text) for text in _shown(change).values()))
    console().print(result)
    if len(changes) > SHOWN_MAX:
        console().print(f"and {len(changes) - SHOWN_MAX:,} more, see --json")
