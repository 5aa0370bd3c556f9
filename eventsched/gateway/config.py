"""The configuration of a gateway.

Owns: its fields and their limits. Never does: I/O.
Read next: server.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from eventsched.errors import InvalidMessage

SOCKETS_MAX = 20_000
STREAMS_MAX = 512
ENDPOINTING_MAX = 256
_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){0,8}")


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway listens, and whom it trusts."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 for any free port."""
    token_keys: str
    """File or URL of the public keys of tokens, a JWKS."""
    base_path: str = ""
    """Path below which all routes are, such as `/speech`; empty for none."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    proxies: tuple[str, ...] = ()
    """Addresses of the proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` count."""
    origins: tuple[str, ...] = ()
    """Origins of pages, beside the gateway's own, that may open sockets, such as
    `https://app.example`."""
    archive: Path | None = None
    """Archive that is read beside the log."""
    sockets_max: int = SOCKETS_MAX
    """Connections with a token at the same time: sockets, streams and requests; more are refused
    with 503."""
    tenant_connections_max: int = 0
    """Of these, the connections of one tenant, or of one subject with a token for all tenants.
    0: as many as are free, so that one tenant gets at most half, and some are free for others."""
    streams_max: int = STREAMS_MAX
    """Streams of events at the same time. A tenant may have as many as are free; more are refused
    with 429."""
    endpointing_max: int = ENDPOINTING_MAX
    """Producer sockets with endpointing at the same time; with its first chunk each has a detector
    of 2.6 MB. A tenant may have as many as are free; more are refused with TOO_MANY_DETECTORS."""


def check_base_path(path: str) -> str:
    """Return the path without a slash at its end. Raises InvalidMessage."""
    stripped = path.rstrip("/")
    if not _BASE_PATH.fullmatch(stripped):
        raise InvalidMessage.of(
            "--base-path", f"a path such as /speech expected, got {path!r:.80}", "change it"
        )
    return stripped
