"""`eventsched state KIND ID`: one record of a read model, current or at an earlier time.

Owns: the text form of a record. Never does: folding. Read next: history/reader.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from eventsched.cli.options import Archive, Options, command
from eventsched.escaping import escape_line
from eventsched.schema.ids import ms_of

if TYPE_CHECKING:
    from eventsched.history.reader import State
    from eventsched.history.source import HistorySource

Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="session, group, job, node or another read model.")
]
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Session or node <cell>.<name>, key of a job, or group <session>/<target>/<n>.",
    ),
]

At = Annotated[
    str,
    typer.Option("--at", metavar="WHEN", help="Show the state at this entry id or ISO time."),
]

OF_SESSIONS = ("session", "group", "job")
"""Read models whose ids begin with a session, so that it may be shortened."""
NO_WRAP_MAX = 16
"""A column of a table wraps its values only if one of them is longer than this."""


@command
async def state(
    options: Options, kind: Kind, id_: Id, at: At = "", archive: Archive = None
) -> None:
    """Show the state of one session, group, job or node, now or at an earlier time.

    With --at, the record is computed from its events up to that time. The id of a session may be
    shortened to a beginning that no other session has.
    """
    from eventsched.cli.output import notes, print_json
    from eventsched.formatting import plural
    from eventsched.history.position import parse_position
    from eventsched.history.reader import Reader
    from eventsched.history.record_json import named
    from eventsched.history.short_ids import expand

    position = parse_position(at, "--at") if at else None
    async with options.history_source(archive) as source:
        reader = Reader(source)
        if kind in OF_SESSIONS:
            id_ = await expand(source, id_)
        entity = await reader.job_key(id_) if kind == "job" else id_
        record = await reader.state(kind, entity, position)
        lacking = await _lacking(source, record) if record.is_live else 0
    fields = named(record)
    if options.json:
        print_json(fields)
    else:
        show(msgspec.json.decode(msgspec.json.encode(fields)))
    if lacking:
        events = plural(lacking, "event")
        notes().print(
            f"the read model {kind} lacks {events} that it could not fold: "
            "see `eventsched dead-letters`"
        )


async def _lacking(source: HistorySource, record: State) -> int:
    """Return how many events the read model lacks, of which this record may be made as well."""
    from eventsched.history.dead_letters import count_of_view

    store = source.projection_store(record.cell)
    if store is None or source.connection is None:
        return 0
    revision = await store.active_revision(record.kind)
    cell = source.connection.stores[record.cell]
    return await count_of_view(cell, record.kind, str(revision)) if revision else 0


def show(record: dict[str, Any]) -> None:
    """Print the fields of the record, then a table for each of its lists and maps of records."""
    from eventsched.cli.output import console, pairs
    from eventsched.formatting import day_and_clock

    view: dict[str, Any] = record["view"]
    plain = {name: value for name, value in view.items() if not _is_nested(value)}
    rows = [(heading(name), cell_text(name, value)) for name, value in plain.items()]
    source = "" if record["is_live"] else ", computed from its events"
    if record["dropped_at"]:
        dropped_ms = ms_of(record["dropped_at"])
        source += f"; ended {day_and_clock(dropped_ms)} (log/{record['dropped_at']})"
    at_ms = ms_of(record["at"])
    rows.append(("as of", f"{day_and_clock(at_ms)} (log/{record['at']}){source}"))
    console().print(pairs(f"{record['kind']} {record['id']}", rows))
    for name, value in view.items():
        if _is_nested(value):
            _show_nested(name, value)


def _is_nested(value: Any) -> bool:
    """Whether the value is a list or a map of records, which is printed as a table of its own."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(item, dict) for item in items)


def _show_nested(name: str, value: Any) -> None:
    from eventsched.cli.output import console
    from eventsched.tables import table

    keyed = value.items() if isinstance(value, dict) else enumerate(value)
    records = [({"": key} if isinstance(value, dict) else {}) | item for key, item in keyed]
    columns = list(dict.fromkeys(column for record in records for column in record))
    numbers = tuple(c for c in columns if all(isinstance(r.get(c, 0), int) for r in records))
    right = tuple(map(heading, numbers))
    result = table(*map(heading, columns), title=heading(name), right=right)
    rows = [[cell_text(column, record.get(column, "")) for column in columns] for record in records]
    for column, values in zip(result.columns, zip(*rows, strict=True), strict=True):
        column.no_wrap = max(map(len, values)) <= NO_WRAP_MAX
    for row in rows:
        result.add_row(*row)
    console().print()
    console().print(result)


def heading(name: str) -> str:
    """Return the heading of a field: its name without the unit, which the values have."""
    return "class" if name == "cls" else name.removesuffix("_ms").replace("_", " ")


def cell_text(name: str, value: Any) -> str:
    from eventsched.formatting import clock, day_and_clock, duration

    if isinstance(value, int) and (name == "ms" or name.endswith("_ms")):
        if value > 10**11:  # a time; a smaller value, below three years, is a duration
            return day_and_clock(value) if name in ("opened_ms", "since_ms") else clock(value)
        return duration(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell_text(key, item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(cell_text("", item) for item in value)
    return escape_line(str(value))  # escaped here, since its length sets the column's wrapping
