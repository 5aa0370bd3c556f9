"""`eventsched state KIND ID`: what a read model says of one session, group, job or node."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from msgspec import NODEFAULT
from msgspec.structs import FieldInfo

from eventsched.cli.options import Archive, Options, command
from eventsched.escaping import escape_controls
from eventsched.schema.ids import ms_of

Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="session, group, job, node, or a read model's name.")
]
Id = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A session or node (<cell>.<name>), a job's key, a group (<session>/<target>/<n>).",
    ),
]

At = Annotated[
    str,
    typer.Option("--at", metavar="WHEN", help="As it was at this entry's id or ISO time."),
]

WORD_MAX = 16
"""A column of a table folds its values only when they are longer."""


@command
async def state(
    options: Options, kind: Kind, id_: Id, at: At = "", archive: Archive = None
) -> None:
    """Show what is known of one session, group, job or node, or what was true at a moment.

    With --at the record is folded from its history up to that moment: it says what the live
    view said then.
    """
    from eventsched.cli.output import print_json
    from eventsched.history.position import parse_position
    from eventsched.history.reader import Reader

    moment = parse_position(at, "--at") if at else None
    async with options.past(archive) as past:
        reader = Reader(past)
        entity = await reader.job_key(id_) if kind == "job" else id_
        found = await reader.state(kind, entity, moment)
    told = named(found)
    if options.json:
        print_json(told)
    else:
        show(msgspec.json.decode(msgspec.json.encode(told)))


def named(value: Any) -> Any:
    """Records with the names of their fields, which stored ones do without."""
    if isinstance(value, msgspec.Struct):
        tag = {value.__struct_config__.tag_field: value.__struct_config__.tag}
        told = {
            field.encode_name: named(getattr(value, field.name))
            for field in msgspec.structs.fields(value)
            if not _goes_without(value, field)
        }
        return {key: word for key, word in tag.items() if key} | told
    if isinstance(value, dict):
        return {key: named(one) for key, one in value.items()}
    return [named(one) for one in value] if isinstance(value, list | tuple) else value


def _goes_without(record: msgspec.Struct, field: FieldInfo) -> bool:
    """As msgspec leaves out what nobody set, where a record is told so."""
    if not record.__struct_config__.omit_defaults:
        return False
    value = getattr(record, field.name)
    return value is field.default or (value in ({}, []) and field.default_factory is not NODEFAULT)


def show(found: dict[str, Any]) -> None:
    """The record's own fields, then a table for each of its lists and maps of records."""
    from eventsched.cli.output import console, pairs
    from eventsched.formatting import day_and_clock

    view: dict[str, Any] = found["view"]
    flat = {name: value for name, value in view.items() if not _is_nested(value)}
    rows = [(_words(name), _cell(name, value)) for name, value in flat.items()]
    source = "" if found["is_live"] else ", folded from its history"
    if found["dropped_at"]:
        dropped_ms = ms_of(found["dropped_at"])
        source += f"; ended {day_and_clock(dropped_ms)} (log/{found['dropped_at']})"
    at_ms = ms_of(found["at"])
    rows.append(("as of", f"{day_and_clock(at_ms)} (log/{found['at']}){source}"))
    console().print(pairs(f"{found['kind']} {found['id']}", rows))
    for name, value in view.items():
        if _is_nested(value):
            _show_nested(name, value)


def _is_nested(value: Any) -> bool:
    """A list or a map of records; it becomes a table of its own."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(one, dict) for one in items)


def _show_nested(name: str, value: Any) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import table

    keyed = value.items() if isinstance(value, dict) else enumerate(value)
    records = [({"": key} if isinstance(value, dict) else {}) | one for key, one in keyed]
    columns = list(dict.fromkeys(column for one in records for column in one))
    numbers = tuple(c for c in columns if all(isinstance(r.get(c, 0), int) for r in records))
    made = table(*map(_words, columns), title=_words(name), right=tuple(map(_words, numbers)))
    rows = [[_cell(column, record.get(column, "")) for column in columns] for record in records]
    for column, values in zip(made.columns, zip(*rows, strict=True), strict=True):
        column.no_wrap = max(map(len, values)) <= WORD_MAX
    for row in rows:
        made.add_row(*row)
    console().print()
    console().print(made)


def _words(name: str) -> str:
    """A field's name as a heading: units are told by the values."""
    return "class" if name == "cls" else name.removesuffix("_ms").replace("_", " ")


def _cell(name: str, value: Any) -> str:
    from eventsched.formatting import clock, day_and_clock, duration

    if isinstance(value, int) and (name == "ms" or name.endswith("_ms")):
        if value > 10**11:  # a moment; anything shorter than three years is a duration
            return day_and_clock(value) if name in ("opened_ms", "since_ms") else clock(value)
        return duration(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(key, one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_cell("", one) for one in value)
    return escape_controls(str(value))  # here: its length decides the look of its column
