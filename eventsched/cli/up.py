"""`eventsched up`: run all roles in one process, with a server of its own if none is named.

Owns: the choice of the roles. Read next: serve.py.
"""

from __future__ import annotations

from eventsched.cli.gateway_options import Listen, NoGateway, local_gateway
from eventsched.cli.options import Options, command
from eventsched.cli.serve import (
    ArchiveAudio,
    ArchiveDir,
    ArchiveKey,
    ArchiveOptions,
    Cells,
    Checkpoints,
    Otlp,
    Set,
    serve,
)


@command(is_service=True)
async def up(
    options: Options,
    cells: Cells = None,
    set_: Set = None,
    archive: ArchiveDir = None,
    archive_key: ArchiveKey = None,
    archive_audio: ArchiveAudio = False,
    checkpoints: Checkpoints = None,
    listen: Listen = "",
    no_gateway: NoGateway = False,
    otlp: Otlp = "",
) -> int:
    """Run all roles in this process, with a server if none is named.

    Once the roles run, the command prints one line with the server's URL. Ctrl-C ends it.

    A gateway runs as well, with a key of tokens in the data folder, and the command prints a link
    that logs a browser in once, within a minute. It serves this machine only, unless --listen names
    another address; with a server of another place, it runs only with --listen.
    """
    from eventsched.roles.runner import ROLES, TRACES

    roles = [role for role in ROLES if role != "archiver" or archive is not None]
    roles += [TRACES] if otlp else []
    archive_options = ArchiveOptions(archive, archive_key, archive_audio, checkpoints)
    gateway = local_gateway(options, listen, archive, is_wanted=not no_gateway)
    return await serve(options, roles, cells, set_ or [], archive_options, gateway, otlp)
