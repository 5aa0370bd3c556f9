"""`eventsched dead-letters`: list what could not be processed; `retry ID` processes it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import EventschedError, InvalidMessage, NotFound
from eventsched.schema.ids import ms_of
from eventsched.store.replies import fields_of

if TYPE_CHECKING:
    from eventsched.store.cell import Store
    from eventsched.store.connection import Connection
    from eventsched.store.role_commands import RetryOutcome

PAGE = 500
SHOWN_MAX = 50
"""Entries that people are shown; --json has all."""
app = typer.Typer(add_completion=False, help="List what could not be processed; process it again.")

Id = Annotated[str, typer.Argument(metavar="ID", help="As listed, such as c0/1700000000000-0.")]
Force = Annotated[bool, typer.Option("--force", help="Also one that had begun to write (partial).")]


class NotRetried(EventschedError):
    """Raised when a dead letter stays where it is."""


@app.callback(invoke_without_command=True)
@command
async def dead_letters(options: Options, context: typer.Context) -> None:
    """List what could not be processed, oldest first, with the reason."""
    if context.invoked_subcommand is not None:
        return
    from eventsched.cli.output import print_json

    async with options.connect() as connection:
        found = [one for store in connection.stores.values() for one in await _entries(store)]
    if options.json:
        for one in found:
            print_json(one)
    else:
        _show(found)


@app.command()
@command
async def retry(options: Options, id_: Id, force: Force = False) -> None:
    """Process one dead letter again, with the fields that it had.

    Targets that have their job or their outcome already are passed over. An entry that had begun
    to write (partial) goes only with --force: see first what it left, with `eventsched verify`.
    """
    from eventsched.cli.output import print_json, print_line

    async with options.connect() as connection:
        store, entry_id = await _find(connection, id_)
        done = await store.retry_dead_letter(entry_id, force=force)
    told = _told(id_, done)
    if options.json:
        counts = {"retried": done.retried, "passed_over": done.passed_over}
        print_json({"id": f"{store.cell}/{entry_id}", "word": done.word} | counts)
    else:
        print_line(told)


async def _entries(store: Store) -> list[dict[str, Any]]:
    """The dead letters of a cell."""
    found: list[dict[str, Any]] = []
    low = "-"
    while page := await store.read_range(store.keys.dead_letters, low, "+", PAGE):
        for entry_id, flat in page:
            text = {k.decode(): v.decode(errors="replace") for k, v in fields_of(flat).items()}
            found.append({
                "id": f"{store.cell}/{entry_id}",
                "from": text.get("from", ""),
                "origin": text.get("id", ""),
                "kind": text.get("k", ""),
                "reason": text.get("reason", ""),
                "partial": text.get("partial") == "1",
                "data": text.get("d", ""),
            })  # fmt: skip
        low = f"({page[-1][0]}"
    return found


def _show(found: list[dict[str, Any]]) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import Text, day_and_clock, table

    if not found:
        console().print("no dead letters")
        return
    made = table("ID", "SINCE", "WHAT", "REASON")
    made.columns[0].no_wrap = True
    for one in found[:SHOWN_MAX]:
        since = day_and_clock(ms_of(one["id"].partition("/")[2]))
        what = f"{one['kind']} {one['from']}/{one['origin']}" + " (partial)" * one["partial"]
        made.add_row(one["id"], since, Text(what), Text(one["reason"]))
    console().print(made)
    if len(found) > SHOWN_MAX:
        console().print(f"and {len(found) - SHOWN_MAX:,} more, see --json")


async def _find(connection: Connection, id_: str) -> tuple[Store, str]:
    """The store and the entry's id: `<cell>/<id>`, or an id that only one cell has."""
    cell, slash, entry_id = id_.rpartition("/")
    if slash:
        store = connection.stores.get(cell)
        if store is None:
            cells = ", ".join(connection.cells)
            raise InvalidMessage.of("ID", f"no cell {cell!r}", f"the cells are {cells}")
        return store, entry_id
    if len(connection.stores) > 1:
        raise InvalidMessage.of(
            "ID", "<cell>/<id> expected", "copy it from `eventsched dead-letters`"
        )
    return next(iter(connection.stores.values())), entry_id


def _told(id_: str, done: RetryOutcome) -> str:
    """What happened, in words. Raises where nothing did."""
    match done.word:
        case "unknown":
            raise NotFound(f"no dead letter {id_}")
        case "partial":
            raise NotRetried(f"{id_} had begun to write: look at verify, then retry with --force")
        case "projection":
            raise NotRetried(f"{id_} could not be folded: mend the read model, then rebuild it")
        case "unreadable":
            raise NotRetried(f"{id_} is no work that this version can read; a later one may")
        case "passed_over":
            return f"{id_}: nothing is owed any more; removed"
    also = f", {done.passed_over} passed over" if done.passed_over else ""
    return f"{id_}: goes again ({done.retried}{also})"
