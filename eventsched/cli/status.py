"""`eventsched status`: consumer lag, dead letters, waiting jobs, nodes and warnings.

Owns: printing the status once, or again and again. Read next: history/status.py, status_view.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from eventsched.cli.options import Options, command
from eventsched.errors import ServerUnavailable

if TYPE_CHECKING:
    from eventsched.store.connection import Connection

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")]
Every = Annotated[
    float, typer.Option("--every", min=0.1, max=3_600, help="Seconds between repeats of --watch.")
]


@command
async def status(options: Options, watch: Watch = False, every: Every = 1.0) -> None:
    """Show consumer lag, dead letters, backpressure, waiting jobs and nodes of each cell.

    LAG is the number of entries that a consumer has not processed, OLDEST the age of the oldest.
    """
    async with options.connect() as connection:
        if watch:
            await _watch(connection, options.json, every)
        else:
            await _once(connection, options.json)


async def _once(connection: Connection, as_json: bool) -> None:
    from eventsched.cli.output import console, print_json
    from eventsched.cli.status_view import panel
    from eventsched.history.status import read_status

    status = await read_status(connection)
    if as_json:
        print_json(status)
    else:
        console().print(panel(status))


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
                print_json({"error": str(error)}) if as_json else print_line(_message(error))
            await anyio.sleep(every_s)
    with Live(console=console(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                live.update(panel(await read_status(connection)), refresh=True)
            except ServerUnavailable as error:
                live.update(_message(error), refresh=True)
            await anyio.sleep(every_s)


def _message(error: ServerUnavailable) -> str:
    """Return one line about an unavailable server; the command goes on, since it may return."""
    return " ".join(f"server unavailable: {error}".split())
