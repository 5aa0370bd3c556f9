"""`eventsched consumer-groups`: list the consumer groups of other programs, or drop one.

Owns: the printed list, the reason and the name of the operator. Never does: reads or writes.
Read next: history/consumer_groups.py, lua/drop_consumer_group.lua, docs/consumer-groups.md.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from eventsched.cli.options import By, Options, Request, Why, act_of, command
from eventsched.errors import InvalidMessage

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List the consumer groups of other programs on the log, or drop one.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the consumer group.")]
Cell = Annotated[str, typer.Option("--cell", metavar="CELL", help="This cell only.")]


@app.command(name="list")
@command
async def list_(options: Options) -> None:
    """List the consumer groups of other programs on the log of each cell.

    HOLDS UP is how much of the log trimming keeps for the group alone.
    """
    from eventsched.cli.output import console, print_json
    from eventsched.cli.status_view import consumer_groups
    from eventsched.history.consumer_groups import read_consumer_groups

    async with options.connect() as connection:
        by_cell = {
            store.cell: await read_consumer_groups(store, await store.read_now())
            for store in connection.stores.values()
        }
    for cell, groups in by_cell.items():
        if options.json:
            for group in groups:
                print_json({"cell": cell} | msgspec.to_builtins(group))
        elif groups:
            console().print(f"cell {cell}", style="bold")
            console().print(consumer_groups(groups))
        else:
            console().print(f"cell {cell}: no consumer group of another program")


@app.command()
@command
async def drop(
    options: Options,
    name: Name,
    cell: Cell = "",
    why: Why = "",
    by: By = "",
    request: Request = "",
) -> None:
    """Delete a consumer group of another program, in every cell that has it.

    The group loses its position and its unacknowledged entries, and trimming no longer waits for
    it. The event ConsumerGroupDropped records it. The command may be repeated. The groups of the
    system are refused.
    """
    from eventsched.cli.output import print_json, print_line
    from eventsched.projection.installed import enabled_names

    act = act_of(why, by, request)
    if name in enabled_names():
        raise InvalidMessage.of("NAME", f"{name} is a group of the system", "name another one")
    async with options.connect() as connection:
        if cell and cell not in connection.stores:
            cells = ", ".join(connection.cells)
            raise InvalidMessage.of("--cell", f"no cell {cell!r:.80}", f"the cells are {cells}")
        for store in connection.stores.values():
            if cell in ("", store.cell):
                outcome = await store.drop_consumer_group(name, act)
                if options.json:
                    print_json({"cell": store.cell, "group": name, "outcome": outcome})
                else:
                    text = "dropped" if outcome == "dropped" else "there is no such group"
                    print_line(f"{store.cell}: {name}: {text}")
