"""`eventsched run ROLE…`: run some roles in this process.

Owns: the check of the roles' names. Read next: serve.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.cli.gateway_options import (
    BasePath,
    EndpointingSockets,
    Listen,
    MakeGateway,
    Origins,
    Proxies,
    Streams,
    TenantConnections,
    TlsCert,
    TlsKey,
    TokenKeys,
    gateway_config,
)
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
from eventsched.errors import InvalidMessage
from eventsched.gateway.config import ENDPOINTING_MAX, STREAMS_MAX

if TYPE_CHECKING:
    from eventsched.gateway.config import GatewayConfig

GATEWAY = "gateway"
Roles = Annotated[
    list[str],
    typer.Argument(
        metavar="ROLE…", help="dispatcher, projector, timer, archiver, traces or gateway."
    ),
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
    checkpoints: Checkpoints = None,
    listen: Listen = "",
    token_keys: TokenKeys = "",
    base_path: BasePath = "",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    proxies: Proxies = None,
    origins: Origins = None,
    tenant_connections: TenantConnections = 0,
    streams: Streams = STREAMS_MAX,
    endpointing_sockets: EndpointingSockets = ENDPOINTING_MAX,
    otlp: Otlp = "",
) -> int:
    """Run one or several roles in this process.

    Any number of processes may run the same role against one server, on any number of machines.
    The role gateway serves HTTP and WebSockets at --listen; traces sends spans to --otlp.
    """
    from eventsched.roles.runner import ROLES, TRACES

    names = [*ROLES, TRACES, GATEWAY]
    for role in roles:
        if role not in names:
            raise InvalidMessage.of("role", f"no role {role!r}", f"choose of {', '.join(names)}")
    gateway: MakeGateway | None = None
    if GATEWAY in roles:
        config = gateway_config(
            listen=listen,
            token_keys=token_keys,
            base_path=base_path,
            tls_cert=tls_cert,
            tls_key=tls_key,
            proxies=proxies or [],
            origins=origins or [],
            tenant_connections=tenant_connections,
            streams=streams,
            endpointing_sockets=endpointing_sockets,
            archive=archive,
        )
        gateway = partial(_without_link, config)
    elif listen:
        raise InvalidMessage.of("--listen", "only with the role gateway", "leave it out")
    archive_options = ArchiveOptions(archive, archive_key, archive_audio, checkpoints)
    names = [role for role in dict.fromkeys(roles) if role != GATEWAY]
    return await serve(options, names, cells, set_ or [], archive_options, gateway, otlp)


def _without_link(config: GatewayConfig) -> tuple[GatewayConfig, None]:
    """Return the configuration, and no key: the tokens of this gateway come from elsewhere."""
    return config, None
