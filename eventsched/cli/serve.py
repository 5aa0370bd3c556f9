"""What `up` and `run` share: settings by flag, running until a signal, saying when ready.

Owns: `--cells`, `--set`, `--archive` and what belongs to it, and the end by SIGTERM (exit code 0)
or Ctrl-C (130).
Never does: anything a role does. Read next: up.py, roles/runner.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from eventsched.cli.options import Options
from eventsched.errors import InvalidMessage
from eventsched.interrupts import open_signals

if TYPE_CHECKING:
    from eventsched.archive.config import ArchiveSettings

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

ArchiveDir = Annotated[
    Path | None,
    typer.Option(
        "--archive",
        metavar="DIR",
        envvar="EVENTSCHED_ARCHIVE",
        show_envvar=False,
        help="Seal the log into this folder [EVENTSCHED_ARCHIVE].",
    ),
]
ArchiveKey = Annotated[
    Path | None,
    typer.Option(
        "--archive-key",
        metavar="FILE",
        envvar="EVENTSCHED_ARCHIVE_KEY",
        show_envvar=False,
        help="The archive's private key, made at first use [DIR.key or EVENTSCHED_ARCHIVE_KEY].",
    ),
]
ArchiveAudio = Annotated[
    bool,
    typer.Option(
        "--archive-audio",
        envvar="EVENTSCHED_ARCHIVE_AUDIO",
        show_envvar=False,
        help="Seal each utterance's audio beside it [EVENTSCHED_ARCHIVE_AUDIO=1].",
    ),
]


class ArchiveOptions(NamedTuple):
    """What was said about the archive."""

    folder: Path | None
    key: Path | None
    audio: bool

    def sealing(self, roles: Sequence[str]) -> ArchiveSettings | None:
        """What an archiver among these roles needs. Raises ArchiveError, InvalidMessage."""
        if "archiver" not in roles:
            return None
        if self.folder is None:
            raise InvalidMessage.of("--archive", "a folder is needed", "add --archive DIR")
        from eventsched.archive.config import ArchiveSettings

        return ArchiveSettings.into(self.folder, self.key, audio=self.audio)


def settings_of(given: Sequence[str]) -> dict[str, int]:
    """The settings that flags and environment name, checked. Raises InvalidMessage."""
    from eventsched.schema.settings import checked, chosen

    said: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not value:
            raise InvalidMessage.of("--set", f"NAME=VALUE expected, got {one!r}", "add a value")
        said[name] = value
    return chosen() | checked(said)


async def serve(
    options: Options,
    roles: Sequence[str],
    cells: int | None,
    given: Sequence[str],
    archive: ArchiveOptions,
) -> int:
    """Run the roles until a signal; say on stdout where the server is once they run."""
    settings = settings_of(given)
    sealing = archive.sealing(roles)
    from eventsched.addresses import display_url
    from eventsched.cli.output import print_json, print_line
    from eventsched.roles.runner import running

    async with (
        options.connect(create=True, cells=cells, settings=settings) as connection,
        running(connection, roles, sealing),
    ):
        url, served = display_url(connection.url), connection.cells
        # Before anybody is told that it is ready: from then on a signal may come.
        with open_signals(signal.SIGINT, signal.SIGTERM) as signals:
            if options.json:
                told = {"ready": True, "url": url, "cells": served, "roles": roles}
                print_json(told | {"pid": os.getpid()})
            else:
                print_line(f"ready: {url}  cells: {', '.join(served)}  roles: {', '.join(roles)}")
            return 130 if await signals.get() == signal.SIGINT else 0
