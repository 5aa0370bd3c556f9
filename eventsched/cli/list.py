"""`eventsched list KIND`: the records of a read model, by id.

Owns: the columns of the list. Never does: reading records of an earlier time (state.py).
Read next: history/records_by_id.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from eventsched.cli.options import Options, command
from eventsched.cli.state import cell_text, heading
from eventsched.schema.ids import ms_of

Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="session, group, job, node or another read model.")
]
After = Annotated[
    str, typer.Option("--after", metavar="ID", help="Begin after the record with this id.")
]
Limit = Annotated[int, typer.Option("--limit", help="Show at most this many records.")]

COLUMNS = {
    "session": ("tenant", "targets", "status"),
    "group": ("closed",),
    "job": ("status", "outcome", "node", "attempt"),
    "node": ("status", "sources", "targets", "slots"),
}
"""The fields shown of a record; of other read models the first COLUMNS_MAX plain ones."""
COLUMNS_MAX = 4
ID_MAX = 40
"""A record with a longer id, such as the key of a job, is one line instead of a row of a table."""


@command
async def list(  # noqa: A001  the name of the command
    options: Options, kind: Kind, after: After = "", limit: Limit = 100
) -> None:
    """List the current records of a read model, by id; `eventsched state` shows one of them.

    With --json, each line is a record with all its fields.
    """
    from eventsched.cli.output import console, flush, write_json
    from eventsched.history.record_json import named
    from eventsched.history.records_by_id import list_records

    async with options.history_source(None) as source:
        page = await list_records(source, kind, after=after, limit=limit)
    records = [named(state) for state in page.items]
    if options.json:
        for record in records:
            write_json(record)
        flush()
    elif not records:
        console().print(f"no records of {kind}" + (f" after {after}" if after else ""))
    else:
        _show(kind, msgspec.json.decode(msgspec.json.encode(records)))
        if page.next:
            console().print(f"there may be more: --after {page.next}")


def _show(kind: str, records: Sequence[dict[str, Any]]) -> None:
    """Print the ids, some fields, and the time of the last change."""
    from eventsched.cli.output import console, print_line
    from eventsched.formatting import day_and_clock
    from eventsched.tables import Text, table

    columns = COLUMNS.get(kind) or _plain_fields(records[0]["view"])
    rows = [
        (
            record["id"],
            *(cell_text(name, record["view"].get(name, "")) for name in columns),
            day_and_clock(ms_of(record["at"])),
        )
        for record in records
    ]
    headings = [*(heading(name) for name in columns), "changed"]
    if max(len(id_) for id_, *_ in rows) > ID_MAX:
        for id_, *values in rows:
            fields = [f"{name} {each}" for name, each in zip(headings, values, strict=True) if each]
            print_line(f"{id_}  {', '.join(fields)}")
        return
    result = table("ID", *(each.upper() for each in headings))
    result.columns[0].no_wrap = True
    for column in result.columns:
        column.min_width = len(str(column.header))
    for id_, *values in rows:
        result.add_row(id_, *map(Text, values))
    console().print(result)


def _plain_fields(view: Any) -> Sequence[str]:
    if not isinstance(view, dict):
        return ()
    plain = [name for name, value in view.items() if isinstance(value, str | int | float)]
    return plain[:COLUMNS_MAX]
