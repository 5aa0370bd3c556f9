"""`eventsched verify`: check that stored state and read models follow from the log.

Owns: the printed report. Never does: the checks. Read next: audit/verify.py.
"""

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
    "audio_chunks": "audio chunks checked",
    "outbox_entries": "outbox entries checked",
    "dead_letters": "dead letters",
    "trimmed_entries": "log entries trimmed",
    "repairs": "repairs recorded",
    "accepted": "violations accepted",
}
SHOWN_MAX = 20
"""Violations, and repairs, of a cell in the text output; --json prints up to 1,000."""


@command
async def verify(options: Options, archive: Archive = None) -> int:
    """Check every invariant of the running system; the exit code is 1 if one is violated.

    The command folds the log and compares the result with the live views, the authoritative state
    and the streams. Entries that were trimmed from the log are read from the archive, if it is
    named. The command writes nothing and pauses nothing.

    A repair may have accepted the violations of a log entry. The command lists such repairs; ask
    the operator whether they are right. The exit code is 0 if all violations are accepted.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.cli.output import print_json

    folder = ArchiveFolder.open(archive) if archive else None

    async with options.connect() as connection:
        reports = {store.cell: await _verify(store, folder) for store in connection.stores.values()}
    is_clean = all(report.is_clean for report in reports.values())
    if options.json:
        cells = [{"cell": cell} | msgspec.to_builtins(report) for cell, report in reports.items()]
        print_json({"clean": is_clean, "cells": cells})
    else:
        for cell, report in reports.items():
            _show(cell, report)
    return 0 if is_clean else 1


async def _verify(store: Store, archive: ArchiveFolder | None) -> Report:
    from eventsched.audit.verify import Verifier
    from eventsched.cli.output import progress
    from eventsched.history.log import History
    from eventsched.projection.installed import load_core
    from eventsched.projection.store import ProjectionStore

    total = await store.transport.command("XLEN", store.keys.log, key=store.keys.log)
    core = load_core()
    projection_store = ProjectionStore(store.transport, store.cell)
    history = await History.open(projection_store, archive, core)
    with progress(f"verifying {store.cell}", total) as set_progress:
        return await Verifier(projection_store, core, set_progress, history=history).run()


def _show(cell: str, report: Report) -> None:
    from eventsched.cli.output import console, pairs
    from eventsched.formatting import plural
    from eventsched.tables import Text, table

    verdict = "clean" if report.is_clean else plural(report.violations_total, "violation")
    if report.accepted:
        verdict += f", {plural(report.accepted, 'violation')} accepted"
    if report.not_compared_total:
        verdict += f", {report.not_compared_total:,} not compared"
    rows = [(title, f"{getattr(report, name):,}") for name, title in COUNTS.items()]
    rows += [("skipped, not foldable", f"{len(report.failed_entries):,}")] * bool(
        report.failed_entries
    )
    rows += [("", entry) for entry in report.failed_entries[:SHOWN_MAX]]
    rows += [("not compared", line) for line in report.not_compared[:SHOWN_MAX]]
    if not report.is_complete:
        rows.append(("not compared", "the first log entries were trimmed and not archived"))
    style = "bold green" if report.is_clean else "bold red"
    if report.is_clean and (report.accepted or report.not_compared_total):
        style = "bold yellow"
    console().print(Text.assemble((f"cell {cell}: ", "bold"), (verdict, style)))
    console().print(pairs("", rows))
    _show_repairs(report)
    if report.is_clean:
        return
    result = table("INVARIANT", "WHERE", "VIOLATION")
    for violation in report.violations[:SHOWN_MAX]:
        result.add_row(violation.invariant, violation.where, violation.what)
    console().print(result)
    if report.violations_total > SHOWN_MAX:
        console().print(f"and {report.violations_total - SHOWN_MAX:,} more, see --json")


def _show_repairs(report: Report) -> None:
    """Print the recorded repairs, those that accept violations first."""
    from eventsched.cli.output import console
    from eventsched.tables import table

    repairs = [*report.acceptances, *report.changes]
    if not repairs:
        return
    result = table("REPAIR", "ACCEPTS", "WHERE", "CHANGE", "BY", "WHY")
    for repair in repairs[:SHOWN_MAX]:
        accepts = f"log/{repair.accepts}" if repair.accepts else ""
        result.add_row(
            f"log/{repair.id}", accepts, repair.where, repair.what, repair.by, repair.why
        )
    console().print(result)
    if report.repairs > SHOWN_MAX:
        console().print(f"and {report.repairs - SHOWN_MAX:,} more repairs, see --json")
