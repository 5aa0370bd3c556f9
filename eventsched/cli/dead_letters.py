"""`eventsched dead-letters`: list the dead letters; `retry ID` processes one again, `discard ID`
deletes that of a read model.

Owns: the printed list, the messages about a retry. Never does: the retry itself.
Read next: audit/dead_letters.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage
from eventsched.schema.ids import ms_of

if TYPE_CHECKING:
    from eventsched.store.cell import Store
    from eventsched.store.connection import Connection

SHOWN_MAX = 50
"""Dead letters in the text output; --json prints all."""
app = typer.Typer(add_completion=False, help="List dead letters, retry or discard one.")

Id = Annotated[
    str, typer.Argument(metavar="ID", help="Id from the list, such as c0/1700000000000-0.")
]
Force = Annotated[bool, typer.Option("--force", help="Retry even a partially processed entry.")]


@app.callback(invoke_without_command=True)
@command
async def dead_letters(options: Options, context: typer.Context) -> None:
    """List the entries that could not be processed, oldest first, with the reason."""
    if context.invoked_subcommand is not None:
        return
    from eventsched.cli.output import print_json
    from eventsched.history.dead_letters import read_dead_letters

    async with options.connect() as connection:
        letters = [
            letter
            for store in connection.stores.values()
            async for letter in read_dead_letters(store)
        ]
    if options.json:
        for letter in letters:
            print_json(letter)
    else:
        _show(letters)


@app.command()
@command
async def retry(options: Options, id_: Id, force: Force = False) -> None:
    """Process one dead letter again.

    Targets that already have a job or an outcome are skipped. A partial entry, whose first
    processing failed after its first write, needs --force; run `eventsched verify` before.
    """
    from eventsched.audit.dead_letters import retry_dead_letter
    from eventsched.cli.output import print_json, print_line

    async with options.connect() as connection:
        store, entry_id = await _find(connection, id_)
        done = await retry_dead_letter(store, entry_id, force=force)
    if options.json:
        print_json(done)
    elif done.outcome == "removed":
        print_line(f"{id_}: removed, all its targets have a job or an outcome")
    else:
        skipped = f", {done.skipped} skipped" if done.skipped else ""
        print_line(f"{id_}: queued again ({done.retried}{skipped})")


@app.command()
@command
async def discard(options: Options, id_: Id) -> None:
    """Delete the dead letter of an event that a read model could not fold.

    The event stays in the log: a rebuild folds it, once the read model can. Other dead letters are
    not deleted, because they are work that nothing else does: retry them.
    """
    from eventsched.audit.dead_letters import discard_dead_letter
    from eventsched.cli.output import print_json, print_line

    async with options.connect() as connection:
        store, entry_id = await _find(connection, id_)
        await discard_dead_letter(store, entry_id)
    if options.json:
        print_json({"id": f"{store.cell}/{entry_id}", "outcome": "discarded"})
    else:
        print_line(f"{id_}: discarded; the log keeps the event")


def _show(letters: list[dict[str, Any]]) -> None:
    from eventsched.cli.output import console
    from eventsched.formatting import Text, day_and_clock, table

    if not letters:
        console().print("no dead letters")
        return
    result = table("ID", "TIME", "ENTRY", "REASON")
    result.columns[0].no_wrap = True
    for letter in letters[:SHOWN_MAX]:
        time = day_and_clock(ms_of(letter["id"].partition("/")[2]))
        entry = f"{letter['kind']} {letter['source']}/{letter['source_id']}"
        entry += " (partial)" * letter["partial"]
        result.add_row(letter["id"], time, Text(entry), Text(letter["reason"]))
    console().print(result)
    if len(letters) > SHOWN_MAX:
        console().print(f"and {len(letters) - SHOWN_MAX:,} more, see --json")


async def _find(connection: Connection, id_: str) -> tuple[Store, str]:
    """Return the store of the cell and the entry id.

    Args:
        connection: the connection with all cells.
        id_: `<cell>/<id>`; the cell may be left out if there is only one.
    """
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
