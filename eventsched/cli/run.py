"""`eventsched run ROLE…`: run some roles in this process.

Owns: the check of the roles' names. Read next: serve.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eventsched.cli.options import Options, command
from eventsched.cli.serve import (
    ArchiveAudio,
    ArchiveDir,
    ArchiveKey,
    ArchiveOptions,
    Cells,
    Set,
    serve,
)
from eventsched.errors import InvalidMessage

Roles = Annotated[
    list[str],
    typer.Argument(metavar="ROLE…", help="dispatcher, projector, timer or archiver."),
]


@command(is_service=True)
async def run(
    options: Options,
    roles: Roles,
    cells: Cells = None,
    set_: Set = None,
    archive: ArchiveDir = None,
    archive_key: ArchiveKey = None,
    archive_audio: ArchiveAudio = False,
) -> int:
    """Run one or several roles in this process.

    Any number of processes may run the same role against one server, on any number of machines.
    """
    from eventsched.roles.runner import ROLES

    for role in roles:
        if role not in ROLES:
            raise InvalidMessage.of("role", f"no role {role!r}", f"choose of {', '.join(ROLES)}")
    archive_options = ArchiveOptions(archive, archive_key, archive_audio)
    return await serve(options, list(dict.fromkeys(roles)), cells, set_ or [], archive_options)
