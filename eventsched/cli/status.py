"""`eventsched status`: what is behind, what waits, who serves, what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from eventsched.cli.options import Options, command
from eventsched.errors import ServerUnavailable

if TYPE_CHECKING:
    from eventsched.store.connection import Connection

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Again every second, until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.1, max=3_600, help="Seconds with --watch.")]


@command
async def status(options: Options, watch: Watch = False, every: Every = 1.0) -> None:
    """Show cells, how far behind each group is, what waits, nodes and their load."""
    async with options.connect() as connection:
        if watch:
            await _watch(connection, options.json, every)
        else:
            await _once(connection, options.json)


async def _once(connection: Connection, as_json: bool) -> None:
    from eventsched.cli.output import console, print_json
    from eventsched.cli.status_view import panel
    from eventsched.history.status import read_status

    found = await read_status(connection)
    if as_json:
        print_json(found)
    else:
        console().print(panel(found))


async def _watch(connection: Connection, as_json: bool, every_s: float) -> None:
    from rich.live import Live

    from eventsched.cli.output import console, print_json, print_line
    from eventsched.cli.status_view import panel
    from eventsched.history.status import read_status

    if as_json or not console().is_terminal:
        while True:
            try:
                await _once(connection, as_json)
            except ServerUnavailable as error:
                print_json({"away": str(error)}) if as_json else print_line(_away(error))
            await anyio.sleep(every_s)
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                live.update(panel(await read_status(connection)), refresh=True)
            except ServerUnavailable as error:
                live.update(_away(error), refresh=True)
            await anyio.sleep(every_s)


def _away(error: ServerUnavailable) -> str:
    """It may come back: whoever watches sees that, too."""
    return " ".join(f"server away: {error}".split())
