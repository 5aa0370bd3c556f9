"""`eventsched status`: roles, consumer lag, dead letters, waiting jobs, nodes and warnings.

Owns: printing the status once, or again and again; the check for health checks and alarms.
Read next: history/status.py, history/problems.py, status_view.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage, ServerUnavailable

if TYPE_CHECKING:
    from eventsched.store.connection import Connection

Watch = Annotated[bool, typer.Option("--watch", "-w", help="Repeat until Ctrl-C.")]
Every = Annotated[
    float, typer.Option("--every", min=0.1, max=3_600, help="Seconds between repeats of --watch.")
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Print only what needs a person; exit code 1 if there is any."),
]
Role = Annotated[
    str, typer.Option("--role", metavar="ROLE", help="With --check: check this role only (cheap).")
]


@command
async def status(
    options: Options,
    watch: Watch = False,
    every: Every = 1.0,
    check: Check = False,
    role: Role = "",
) -> int:
    """Show roles, consumer lag, dead letters, backpressure, waiting jobs and nodes of each cell.

    LAG is the number of entries that a consumer has not processed, OLDEST the age of the oldest.
    """
    from eventsched.history.roles import MEANINGS

    if role and (not check or role not in MEANINGS):
        raise InvalidMessage.of(
            "--role", f"with --check, one of {', '.join(MEANINGS)}", "name one of these roles"
        )
    async with options.connect() as connection:
        if check:
            return await _check(connection, options.json, role)
        if watch:
            await _watch(connection, options.json, every)
        await _once(connection, options.json)
    return 0


async def _check(connection: Connection, as_json: bool, role: str) -> int:
    """Print the conditions that need a person and return the exit code."""
    from eventsched.cli.output import print_json, print_line

    problems = await _role_problems(connection, role) if role else await _problems(connection)
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems or ["ok"]:
            print_line(problem)
    return 1 if problems else 0


async def _problems(connection: Connection) -> list[str]:
    from eventsched.history.problems import problems_of
    from eventsched.history.status import read_status

    return problems_of(await read_status(connection))


async def _role_problems(connection: Connection, role: str) -> list[str]:
    """Return the problems of one role; a few reads for each cell."""
    from eventsched.history.problems import role_problems
    from eventsched.history.roles import read_roles

    return [
        f"{store.cell}: {problem}"
        for store in connection.stores.values()
        for problem in role_problems(await read_roles(store, await store.read_now(), [role]))
    ]


async def _once(connection: Connection, as_json: bool) -> None:
    from eventsched.cli.output import console, print_json
    from eventsched.history.status import read_status

    status = await read_status(connection)
    if as_json:
        print_json(status)
        return
    from eventsched.cli.status_view import panel

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
