"""`eventsched query SQL`: query the archive with SQL.

Owns: the printed rows, and the choice of the form of the result.
Never does: running the query.
Read next: archive/sql.py, archive/export.py (files).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage

if TYPE_CHECKING:
    from eventsched.archive.sql import Query

SQL_BYTES_MAX = 1 << 20
"""Bytes of a statement that is read from the input."""
SHOWN_MAX = 1_000
"""Rows in the text output; --json prints all rows."""
GAP = 2
"""Columns between two columns of a table."""

Sql = Annotated[
    str,
    typer.Argument(
        metavar="[SQL]",
        help="One SELECT over events, jobs and sessions; - reads it from the input.",
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Write CSV to --output.")]
Parquet = Annotated[bool, typer.Option("--parquet", help="Write Parquet to --output.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="File of --csv or --parquet.")
]
Views = Annotated[
    bool, typer.Option("--views", help="Print the SQL of the views, for a DuckDB of your own.")
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
    sql: Sql = "",
    archive: From = None,
    session: Session = "",
    since: Since = "",
    until: Until = "",
    timeout: Timeout = 60,
    memory_mb: MemoryMb = 1_024,
    rows: Rows = 1_000_000,
    csv: Csv = False,
    parquet: Parquet = False,
    output: Output = None,
    views: Views = False,
) -> None:
    """Query the archive with SQL (DuckDB). No server is needed.

    The views are events (cell, id, time, type, session, job, node, cause, data), jobs and sessions.
    SELECT * FROM (DESCRIBE jobs) lists the columns of jobs. Times are UTC. The archive is verified
    with its own public key before it is read. Ctrl-C interrupts the query.

    --session, --since and --until choose the segments that are verified and read: with them, the
    time of a query depends little on the size of the archive. The id of a session may be shortened
    to a beginning that no other session has.

    --csv and --parquet write the result; a file appears when it is complete.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.archive.sql import QueryLimits, QueryScope, limit_memory, run_query, views_sql
    from eventsched.history.position import parse_position
    from eventsched.history.short_ids import expand
    from eventsched.history.source import HistorySource
    from eventsched.schema.ids import parse_id
    from eventsched.schema.keys import complete

    if archive is None:
        raise InvalidMessage.of("--archive", "a folder is needed", "add --archive DIR")
    if bool(sql) == views:
        raise InvalidMessage.of("SQL", "one statement, or --views", "give one of the two")
    if sql == "-":
        sql = sys.stdin.buffer.read(SQL_BYTES_MAX).decode("utf-8", "replace")
    show = _form(as_json=options.json, csv=csv, parquet=parquet, output=output)
    limits = QueryLimits(seconds=timeout, memory_mb=memory_mb, rows=rows)
    folder = ArchiveFolder.open(archive)
    if session:
        session = complete(await expand(HistorySource(None, folder), session), folder.cells())
    scope = QueryScope(session=session)
    if since:
        scope = replace(scope, after=parse_id(parse_position(since, "--since").before))
    if until:
        scope = replace(scope, upto=parse_id(parse_position(until, "--until").last))
    if views:
        from eventsched.cli.output import print_line

        for statement in views_sql(folder, scope):
            print_line(statement)
        return
    limit_memory(limits)
    await run_query(folder, sql, limits, show, scope)


def _form(
    *, as_json: bool, csv: bool, parquet: bool, output: Path | None
) -> Callable[[Query], None]:
    """Return what prints or writes the result. Raises InvalidMessage."""
    from eventsched.archive import export

    if as_json + csv + parquet > 1:
        raise InvalidMessage.of("--json, --csv, --parquet", "one form only", "leave the others out")
    if (csv or parquet) != (output is not None):
        raise InvalidMessage.of(
            "--output", "with --csv or --parquet", "give a form and --output FILE"
        )
    if output is None:
        return _print_json if as_json else _show
    return partial(export.write_csv if csv else export.write_parquet, path=output)


def _print_json(query_: Any) -> None:
    from eventsched.cli.output import print_json

    for row in query_.rows():
        print_json({name: _json_value(v) for name, v in zip(query_.columns, row, strict=True)})


def _show(query_: Any) -> None:
    """Print a table, or a line for each value if the table is wider than the output."""
    from eventsched.cli.output import console

    shown: list[list[str]] = []
    numbers: set[str] = set()
    more = 0
    for row in query_.rows():
        if not shown:
            numbers = {n for n, v in zip(query_.columns, row, strict=True) if _is_number(v)}
        if len(shown) < SHOWN_MAX:
            shown.append([_text(value) for value in row])
        else:
            more += 1
    if not shown:
        console().print("no rows")
        return
    _print_rows(query_.columns, shown, numbers)
    if more:
        console().print(f"and {more:,} more rows, see --json")


def _print_rows(names: Sequence[str], rows: list[list[str]], numbers: set[str]) -> None:
    from eventsched.cli.output import console, print_line
    from eventsched.tables import Text, table

    columns = list(zip(names, *rows, strict=True))
    # A heading and a word need their width; a text of several words may be folded.
    least = [max(map(len, " ".join(cells).split()), default=0) for cells in columns]
    if sum(least) + GAP * (len(least) - 1) <= console().width:
        result = table(*names, right=tuple(numbers))
        for column, cells, width in zip(result.columns, columns, least, strict=True):
            column.no_wrap = max(map(len, cells)) == width
        for row in rows:
            result.add_row(*map(Text, row))
        console().print(result)
        return
    width = max(map(len, names))
    for number, row in enumerate(rows):
        if number:
            print_line("")
        for name, text in zip(names, row, strict=True):
            print_line(f"{name:<{width}}  {text}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
