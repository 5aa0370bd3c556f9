"""`eventsched query SQL`: ask the archive anything, by DuckDB."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage

SHOWN_MAX = 1_000
"""Rows that people are shown; --json has all."""

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


@command
async def query(options: Options, sql: Sql, archive: From = None) -> None:
    """Ask the archive by SQL; no server is needed.

    Views: events (cell, id, time, type, session, job, node, cause, data), jobs and sessions; what
    else they have, SELECT * FROM (DESCRIBE jobs) says. Times are UTC.
    """
    from eventsched.archive.layout import ArchiveFolder
    from eventsched.archive.sql import Query

    if archive is None:
        raise InvalidMessage.of("--archive", "a folder is needed", "add --archive DIR")
    asked = Query(ArchiveFolder.open(archive), sql)
    try:
        _print_json(asked) if options.json else _show(asked)
    finally:
        asked.close()


def _print_json(asked: Any) -> None:
    from eventsched.cli.output import print_json

    for row in asked.rows():
        print_json({name: _plain(one) for name, one in zip(asked.columns, row, strict=True)})


def _show(asked: Any) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import table

    made, more = None, 0
    for row in asked.rows():
        if made is None:
            numbers = tuple(
                name
                for name, one in zip(asked.columns, row, strict=True)
                if isinstance(one, int | float) and not isinstance(one, bool)
            )
            made = table(*asked.columns, right=numbers)
        if made.row_count < SHOWN_MAX:
            made.add_row(*[_told(one) for one in row])
        else:
            more += 1
    console().print(made or "no rows")
    if more:
        console().print(f"and {more:,} rows more, see --json")


def _told(value: Any) -> str:
    from eventsched.formatting import NONE

    if value is None:
        return NONE
    if isinstance(value, datetime):
        return value.isoformat(" ", "milliseconds")
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(value: Any) -> Any:
    """What JSON can say; times with their zone, anything else as text."""
    if isinstance(value, datetime):
        return f"{value.isoformat(timespec='milliseconds')}Z"
    return value if isinstance(value, bool | int | float | str | None) else str(value)
