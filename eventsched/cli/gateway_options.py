"""The options of a gateway, and its configuration from them.

Owns: the options that `run` and `up` share. Never does: serve. Read next: gateway/config.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from eventsched.errors import InvalidMessage, MissingDependencyError, require_packages
from eventsched.gateway.config import ENDPOINTING_MAX, STREAMS_MAX

if TYPE_CHECKING:
    from eventsched.cli.options import Options
    from eventsched.gateway.config import GatewayConfig
    from eventsched.tokens.keys import TokenKey

MakeGateway: TypeAlias = "Callable[[], tuple[GatewayConfig, TokenKey | None]]"
"""Makes the configuration of a gateway, and the key that signs the token of its login link."""
LOOPBACK = "127.0.0.1:0"
PACKAGES = ("joserfc", "starlette", "uvicorn", "websockets")
Listen = Annotated[
    str,
    typer.Option("--listen", metavar="HOST:PORT", help="Gateway: the address to listen on."),
]
NoGateway = Annotated[bool, typer.Option("--no-gateway", help="Run no gateway.")]
TokenKeys = Annotated[
    str,
    typer.Option(
        "--token-keys",
        metavar="FILE|URL",
        envvar="EVENTSCHED_TOKEN_KEYS",
        show_envvar=False,
        help="Gateway: JWKS with the public keys of tokens [EVENTSCHED_TOKEN_KEYS].",
    ),
]
BasePath = Annotated[
    str, typer.Option("--base-path", metavar="PATH", help="Gateway: path below which it serves.")
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Gateway: certificate chain.")
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="Gateway: key of --tls-cert.")
]
Proxies = Annotated[
    list[str] | None,
    typer.Option(
        "--proxy",
        metavar="ADDRESS",
        help="Gateway: trust X-Forwarded-* of this address or network; repeatable.",
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--origin",
        metavar="ORIGIN",
        help="Gateway: pages of this origin may open sockets; repeatable.",
    ),
]
TenantConnections = Annotated[
    int,
    typer.Option(
        "--tenant-connections",
        metavar="N",
        min=0,
        help="Gateway: connections of one tenant; 0: as many as are free.",
    ),
]

Streams = Annotated[
    int,
    typer.Option(
        "--streams",
        metavar="N",
        min=1,
        help="Gateway: streams of events; a tenant may have as many as are free.",
    ),
]
EndpointingSockets = Annotated[
    int,
    typer.Option(
        "--endpointing-sockets",
        metavar="N",
        min=1,
        help="Gateway: sockets with endpointing; a tenant may have as many as are free.",
    ),
]


def gateway_config(
    *,
    listen: str,
    token_keys: str,
    base_path: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    proxies: Sequence[str],
    origins: Sequence[str],
    archive: Path | None,
    tenant_connections: int = 0,
    streams: int = STREAMS_MAX,
    endpointing_sockets: int = ENDPOINTING_MAX,
) -> GatewayConfig:
    """Return the configuration.

    Raises InvalidMessage; MissingDependencyError if the extra `gateway` is not installed.
    """
    require_packages(*PACKAGES, extra="gateway")
    from eventsched.addresses import parse_listen
    from eventsched.gateway.config import GatewayConfig, check_base_path

    if not listen:
        raise InvalidMessage.of("--listen", "an address is needed", "add --listen HOST:PORT")
    if not token_keys:
        raise InvalidMessage.of(
            "--token-keys", "public keys are needed", "make them by `eventsched token keygen`"
        )
    if (tls_cert is None) != (tls_key is None):
        raise InvalidMessage.of("--tls-cert", "together with --tls-key", "name both")
    host, port = parse_listen("--listen", listen)
    return GatewayConfig(
        host=host,
        port=port,
        token_keys=token_keys,
        base_path=check_base_path(base_path),
        tls_cert=tls_cert,
        tls_key=tls_key,
        proxies=tuple(proxies),
        origins=tuple(origins),
        archive=archive,
        tenant_connections_max=tenant_connections,
        streams_max=streams,
        endpointing_max=endpointing_sockets,
    )


def local_gateway(
    options: Options, listen: str, archive: Path | None, *, is_wanted: bool
) -> MakeGateway | None:
    """Return what makes the gateway of `up`, whose key of tokens is in the data folder.

    Without --listen it serves on a free port of this machine, if the server is that of the data
    folder. A missing extra is then a note, and there is no gateway.

    Args:
        options: The options of every command.
        listen: Value of `--listen`; empty for a free port.
        archive: The archive that the gateway reads.
        is_wanted: False if the user wants no gateway.

    Raises InvalidMessage; MissingDependencyError with --listen and without the extra `gateway`.
    """
    from eventsched.server.choice import choose_server

    if listen and not is_wanted:
        raise InvalidMessage.of("--listen", "not with --no-gateway", "leave one of them out")
    server = choose_server(options.url, options.data)
    if not is_wanted or (server.url and not listen):
        return None
    try:
        require_packages(*PACKAGES, extra="gateway")
    except MissingDependencyError as error:
        if listen:
            raise
        from eventsched.cli.output import notes

        notes().print(f"no gateway: {error}", soft_wrap=True)
        return None
    from eventsched.addresses import parse_listen

    parse_listen("--listen", listen or LOOPBACK)
    path = server.folder / "token.key"

    def make() -> tuple[GatewayConfig, TokenKey]:
        # The server runs: its folder exists, and is checked.
        from eventsched.logs import get_logger
        from eventsched.tokens.keys import PUBLIC_SUFFIX, TokenKey, add_public_key

        key = TokenKey.read_or_create(path)
        public = path.with_name(path.name + PUBLIC_SUFFIX)
        others = add_public_key(public, key)
        if others:
            get_logger("eventsched.gateway").warning(
                "tokens of other keys count as well",
                keys=others,
                file=str(public),
                remedy="remove the keys that are not yours",
            )
        config = gateway_config(
            listen=listen or LOOPBACK,
            token_keys=str(public),
            base_path="",
            tls_cert=None,
            tls_key=None,
            proxies=(),
            origins=(),
            archive=archive,
        )
        return config, key

    return make
