"""What `up` and `run` share: settings by flag, running until a signal, saying when ready.

Owns: `--cells`, `--set`, and the end by SIGTERM (exit code 0) or Ctrl-C (130).
Never does: anything a role does. Read next: up.py, running.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Sequence
from difflib import get_close_matches
from typing import Annotated

import anyio
import typer

from eventsched.cli.options import Options
from eventsched.errors import InvalidMessage

Cells = Annotated[
    int | None,
    typer.Option("--cells", metavar="N", help="Number of cells of a new server (default 1)."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting, such as pause_ms=500; may be repeated. EVENTSCHED_PAUSE_MS does the same.",
    ),
]


def settings_of(given: Sequence[str]) -> dict[str, int]:
    """The settings that flags and environment name, checked. Raises InvalidMessage."""
    from eventsched.settings import PREFIX, Settings, chosen

    environ = dict(os.environ)
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not value:
            raise InvalidMessage.of("--set", f"NAME=VALUE expected, got {one!r}", "add a value")
        if name not in Settings.__struct_fields__:
            near = get_close_matches(name, Settings.__struct_fields__, 1)
            remedy = f"did you mean {near[0]}?" if near else f"see {PREFIX}* in the README"
            raise InvalidMessage.of("--set", f"{name!r} is no setting", remedy)
        environ[PREFIX + name.upper()] = value
    return chosen(environ)


async def serve(
    options: Options, roles: Sequence[str], cells: int | None, given: Sequence[str]
) -> int:
    """Run the roles until a signal; say on stdout where the server is once they run."""
    settings = settings_of(given)
    from eventsched.cli.show import print_json
    from eventsched.running import running

    async with (
        options.connect(create=True, cells=cells, settings=settings) as connection,
        running(connection, roles),
    ):
        url, served = without_secret(connection.url), connection.cells
        # Before anybody is told that it is ready: from then on a signal may come.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            if options.json:
                told = {"ready": True, "url": url, "cells": served, "roles": roles}
                print_json(told | {"pid": os.getpid()})
            else:
                typer.echo(f"ready: {url}  cells: {', '.join(served)}  roles: {', '.join(roles)}")
            return await _first_of(signals)


async def _first_of(signals: AsyncIterator[signal.Signals]) -> int:
    """Wait for a signal; the exit code that belongs to it."""
    async for received in signals:
        return 130 if received == signal.SIGINT else 0
    raise AssertionError("signals never end")


def without_secret(url: str) -> str:
    """The address without user and password: it is printed and may be logged."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
