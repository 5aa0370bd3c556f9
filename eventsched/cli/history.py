"""`eventsched history SESSION`: everything that happened to one session, in order."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsched.cli.options import Options, command


@command
async def history(
    options: Options,
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its id, <cell>.<name>.")],
) -> None:
    """Show everything that happened to a session, oldest first.

    AFTER says how long after its cause, or after its job's last event, each came. With --json:
    JSON Lines, an event each.
    """
    from eventsched.cli.show import print_json
    from eventsched.cli.telling import as_json
    from eventsched.cli.timeline import show_timeline
    from eventsched.reading import Reader

    async with options.connect() as connection:
        found = Reader(connection).history(session)
        if options.json:
            async for event in found:
                print_json(as_json(event))
        else:
            show_timeline(session, [event async for event in found])
