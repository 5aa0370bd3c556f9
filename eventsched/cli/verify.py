"""`eventsched verify`: check that views and stored state follow from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventsched.cli.options import Archive, Options, command

if TYPE_CHECKING:
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.audit.verify import Report
    from eventsched.store.cell import Store

COUNTS = {
    "events": "events folded",
    "sessions": "sessions compared",
    "jobs": "jobs compared",
    "nodes": "nodes compared",
    "records": "live records compared",
    "chunks": "audio chunks checked",
    "outbox_entries": "outbox entries checked",
    "dead_letters": "dead letters",
    "trimmed": "log entries trimmed",
}
SHOWN_MAX = 20
"""Violations of a cell that people are shown; --json has up to 1,000."""


@command
async def verify(options: Options, archive: Archive = None) -> int:
    """Check every invariant on the running system; exit code 1 when one is broken.

    Folds the log and compares it with the live views, the authoritative state and the streams.
    Trimmed entries are read from the archive, starting with its last snapshot before the log.
    Nothing is paused and nothing is written.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.cli.output import print_json

    folder = ArchiveFolder.open(archive) if archive else None

    async with options.connect() as connection:
        found = {store.cell: await _verify(store, folder) for store in connection.stores.values()}
    is_clean = all(report.is_clean for report in found.values())
    if options.json:
        cells = [{"cell": cell} | msgspec.to_builtins(report) for cell, report in found.items()]
        print_json({"clean": is_clean, "cells": cells})
    else:
        for cell, report in found.items():
            _show(cell, report)
    return 0 if is_clean else 1


async def _verify(store: Store, archive: ArchiveFolder | None) -> Report:
    from eventsched.audit.verify import Verifier
    from eventsched.cli.output import progress
    from eventsched.history.log import History
    from eventsched.projection.protocol import indexing_set, load_sets
    from eventsched.projection.store import ProjectionStore

    total = await store.transport.command("XLEN", store.keys.log, key=store.keys.log)
    core = indexing_set(load_sets())
    views = ProjectionStore(store.transport, store.cell)
    history = await History.open(views, archive, core)
    with progress(f"verifying {store.cell}", total) as moved:
        return await Verifier(views, core, moved, history=history).run()


def _show(cell: str, report: Report) -> None:
    from eventsched.cli.output import console, pairs
    from eventsched.formatting import Text, plural, table

    verdict = "clean" if report.is_clean else plural(report.violations_total, "violation")
    rows = [(words, f"{getattr(report, name):,}") for name, words in COUNTS.items()]
    rows += [("entries that could not be folded", f"{len(report.failed_entries):,}")] * bool(
        report.failed_entries
    )
    rows += [("", one) for one in report.failed_entries[:SHOWN_MAX]]
    if not report.is_complete:
        rows.append(("not compared", "the first entries of the log were trimmed and not archived"))
    style = "bold green" if report.is_clean else "bold red"
    console().print(Text.assemble((f"cell {cell}: ", "bold"), (verdict, style)))
    console().print(pairs("", rows))
    if report.is_clean:
        return
    made = table("BROKEN", "WHERE", "WHAT")
    for one in report.violations[:SHOWN_MAX]:
        made.add_row(one.invariant, one.where, one.what)
    console().print(made)
    if report.violations_total > SHOWN_MAX:
        console().print(f"and {report.violations_total - SHOWN_MAX:,} more, see --json")
