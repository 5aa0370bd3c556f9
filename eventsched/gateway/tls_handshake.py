"""The TLS handshake of a connection, which counts like every other connection without a token.

Owns: the start of TLS on an accepted connection, the time for its handshake.
Never does: serve. Read next: server.py (the caller), connection_limits.py.

A server of asyncio with a TLS context makes a connection known only after its handshake, so that
peers which never finish one are in no count. So a gateway accepts without TLS, counts, and starts
TLS then.
"""

from __future__ import annotations

import asyncio
from asyncio import BaseTransport, Transport
from collections.abc import Callable
from ssl import SSLContext
from typing import cast

from eventsched.gateway.connection_limits import ConnectionLimits


class TlsHandshake(asyncio.Protocol):
    """One connection until its handshake is done.

    Args:
        context: The TLS context.
        seconds: How long the handshake may take.
        make_protocol: Makes the protocol that goes on with the connection.
        limits: The connections of the gateway.
        active: The handshakes of the gateway; this one is in it while it goes on.
    """

    def __init__(
        self,
        context: SSLContext,
        seconds: float,
        make_protocol: Callable[[], asyncio.Protocol],
        limits: ConnectionLimits,
        active: set[TlsHandshake],
    ) -> None:
        self._context = context
        self._seconds = seconds
        self._make_protocol = make_protocol
        self._limits = limits
        self._active = active
        self._raw: Transport | None = None
        self._early: list[bytes] = []
        """What arrived with the end of the handshake."""
        self._has_ended = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Count the connection and start its handshake."""
        raw = cast("Transport", transport)
        raw.pause_reading()  # nothing is read before TLS
        raw.set_write_buffer_limits(high=1)  # what is not sent waits where its rate is checked
        self._limits.add(raw)
        self._raw = raw
        self._active.add(self)
        self._task = asyncio.create_task(self._run(raw))

    def data_received(self, data: bytes) -> None:
        """Keep what arrives before the next protocol."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._has_ended = True

    def abort(self) -> None:
        """End the connection."""
        if self._raw is not None:
            self._raw.abort()

    async def _run(self, raw: Transport) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                raw, self, self._context, server_side=True, ssl_handshake_timeout=self._seconds
            )
        except OSError:  # also errors of TLS, and the end of the time
            raw.abort()
            return
        finally:
            self._limits.remove(raw)
            self._active.discard(self)
        if secured is None or self._has_ended:
            return
        protocol = self._make_protocol()
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        for data in self._early:
            protocol.data_received(data)
