"""The options of a gateway, and its configuration from them.

Owns: the options that `run` and `up` share. Never does: serve. Read next: gateway/config.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.errors import InvalidMessage, require_packages

if TYPE_CHECKING:
    from eventsched.gateway.config import GatewayConfig
    from eventsched.tokens.keys import TokenKey

PACKAGES = ("joserfc", "starlette", "uvicorn", "websockets")
Listen = Annotated[
    str,
    typer.Option("--listen", metavar="HOST:PORT", help="Gateway: the address to listen on."),
]
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
    )


def local_gateway(
    data: Path | None, listen: str, archive: Path | None
) -> tuple[GatewayConfig, TokenKey]:
    """Return the configuration of a gateway whose key of tokens is in the data folder, and the key.

    Raises InvalidMessage, TokenKeyError; MissingDependencyError without the extra `gateway`.
    """
    require_packages(*PACKAGES, extra="gateway")
    from eventsched.server.choice import choose_server
    from eventsched.tokens.keys import PUBLIC_SUFFIX, TokenKey, add_public_key

    path = choose_server(data=data).folder / "token.key"
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    key = TokenKey.read_or_create(path)
    add_public_key(public, key)
    config = gateway_config(
        listen=listen,
        token_keys=str(public),
        base_path="",
        tls_cert=None,
        tls_key=None,
        proxies=(),
        origins=(),
        archive=archive,
    )
    return config, key
