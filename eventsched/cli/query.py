"""`eventsched query SQL`: query the archive with SQL.

Owns: the printed rows. Never does: running the query. Read next: archive/sql.py.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage

SHOWN_MAX = 1_000
"""Rows in the text output; --json prints all rows."""

Sql = Annotated[
    str, typer.Argument(metavar="SQL", help="One SELECT over events, jobs and sessions.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        metavar="DIR",
        envvar="EVENTSCHED_ARCHIVE",
        show_envvar=False,
        help="The archive's folder [EVENTSCHED_ARCHIVE].",
    ),
]


Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Limit of time.")
]
MemoryMb = Annotated[
    int, typer.Option("--memory-mb", metavar="MB", min=16, help="Limit of memory.")
]
Rows = Annotated[
    int, typer.Option("--rows", metavar="N", min=1, help="Limit of the rows of the result.")
]


Session = Annotated[
    str,
    typer.Option("--session", metavar="SESSION", help="Read the events of this session only."),
]
Since = Annotated[
    str, typer.Option("--since", metavar="WHEN", help="Read from this entry id or ISO time on.")
]
Until = Annotated[
    str, typer.Option("--until", metavar="WHEN", help="Read up to this entry id or ISO time.")
]


@command
async def query(
    options: Options,
    sql: Sql,
    archive: From = None,
    session: Session = "",
    since: Since = "",
    until: Until = "",
    timeout: Timeout = 60,
    memory_mb: MemoryMb = 1_024,
    rows: Rows = 1_000_000,
) -> None:
    """Query the archive with SQL (DuckDB). No server is needed.

    The views are events (cell, id, time, type, session, job, node, cause, data), jobs and sessions.
    SELECT * FROM (DESCRIBE jobs) lists the columns of jobs. Times are UTC. The archive is verified
    with its own public key before it is read. Ctrl-C interrupts the query.

    --session, --since and --until choose the segments that are verified and read: with them, the
    time of a query depends little on the size of the archive.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.archive.sql import QueryLimits, QueryScope, limit_memory, run_query
    from eventsched.history.position import parse_position
    from eventsched.schema.ids import parse_id
    from eventsched.schema.keys import complete

    if archive is None:
        raise InvalidMessage.of("--archive", "a folder is needed", "add --archive DIR")
    limits = QueryLimits(seconds=timeout, memory_mb=memory_mb, rows=rows)
    folder = ArchiveFolder.open(archive)
    scope = QueryScope(session=complete(session, folder.cells()) if session else "")
    if since:
        scope = replace(scope, after=parse_id(parse_position(since, "--since").before))
    if until:
        scope = replace(scope, upto=parse_id(parse_position(until, "--until").last))
    limit_memory(limits)
    show = _print_json if options.json else _show
    await run_query(folder, sql, limits, show, scope)


def _print_json(query_: Any) -> None:
    from eventsched.cli.output import print_json

    for row in query_.rows():
        print_json({name: _json_value(v) for name, v in zip(query_.columns, row, strict=True)})


def _show(query_: Any) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import table

    result, more = None, 0
    for row in query_.rows():
        if result is None:
            numbers = tuple(
                name
                for name, value in zip(query_.columns, row, strict=True)
                if isinstance(value, int | float) and not isinstance(value, bool)
            )
            result = table(*query_.columns, right=numbers)
        if result.row_count < SHOWN_MAX:
            result.add_row(*map(_text, row))
        else:
            more += 1
    console().print(result or "no rows")
    if more:
        console().print(f"and {more:,} more rows, see --json")


def _text(value: Any) -> str:
    from eventsched.formatting import NONE

    if value is None:
        return NONE
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds")
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _json_value(value: Any) -> Any:
    """Return the value for JSON: times with their zone, other unknown types as text."""
    if isinstance(value, datetime):
        return f"{value.isoformat(timespec='milliseconds')}Z"
    return value if isinstance(value, bool | int | float | str | None) else str(value)
