"""Runs a gateway: its listening socket, uvicorn, the graceful end.

Owns: `serving_gateway`, the options of uvicorn. Never does: serve a route.
Read next: app.py, connections.py.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import uvicorn

from eventsched.client.client import Client, running_client
from eventsched.errors import InvalidMessage
from eventsched.gateway.app import make_app
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.connection_limits import ConnectionLimits
from eventsched.gateway.connections import (
    FRAME_BYTES_MAX,
    PING_S,
    PONG_S,
    REQUEST_S,
    Connections,
    GatewayHttpProtocol,
    GatewayWebSocketProtocol,
    connections_max,
)
from eventsched.gateway.peer_log import peer_log
from eventsched.gateway.read_slices import SlicedConnection
from eventsched.gateway.service import Gateway
from eventsched.gateway.tls_handshake import TlsHandshake
from eventsched.gateway.tls_slices import TlsSlices
from eventsched.logs import get_logger
from eventsched.store.connection import Connection

BACKLOG = 2_048
ACCEPTED_AT_ONCE = 256
STOP_S = 5
"""How long open requests and sockets may take to end."""

log = get_logger("eventsched.gateway")


class _Server(uvicorn.Server):
    """uvicorn with a limit of connections, and without signal handlers, which the command has."""

    server_state: Connections

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.server_state = connections
        self.ready = anyio.Event()
        self._handshakes: set[TlsHandshake] = set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        self.servers = []
        make_protocol: Callable[[], asyncio.Protocol] = self._protocol
        if self.config.ssl:
            make_protocol = self._tls_handshake
        for each in sockets or []:
            # asyncio accepts as many connections at once as its backlog has, before it reads from
            # any. With few at once, those that send a request at once are not dropped for others.
            self.servers.append(
                await loop.create_server(make_protocol, sock=each, backlog=ACCEPTED_AT_ONCE)
            )
            each.listen(BACKLOG)
        self.started = True
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and end those that exist."""
        for handshake in list(self._handshakes):
            handshake.abort()
        await super().shutdown(sockets)

    def _protocol(self, below_tls: TlsSlices | None = None) -> SlicedConnection:
        http = GatewayHttpProtocol(self.config, self.server_state, self.lifespan.state)
        turns, loop = self.server_state.parse_turns, asyncio.get_running_loop()
        return SlicedConnection(http, turns, loop, below_tls)

    def _tls_handshake(self) -> TlsHandshake:
        context = self.config.ssl
        assert context is not None
        state = self.server_state
        return TlsHandshake(
            context, REQUEST_S, self._protocol, state.parse_turns, state.limits, self._handshakes
        )

    async def run_to_end(self, listening: socket.socket) -> None:
        """Serve until `should_exit` is set, also if the caller is cancelled."""
        with anyio.CancelScope(shield=True):
            await self.serve([listening])


@asynccontextmanager
async def serving_gateway(connection: Connection, config: GatewayConfig) -> AsyncIterator[Gateway]:
    """Serve while the block runs, and yield the gateway.

    At the end, sockets are closed with 1012 and their clients come again; sessions and leases stay.

    Raises:
        InvalidMessage: The address cannot be listened on.
    """
    client = Client(connection.stores, url=connection.url)
    async with running_client(client):
        gateway = Gateway(config, connection, client)
        limits = ConnectionLimits(
            connections_max(config.sockets_max),
            owned_max=config.sockets_max,
            tenant_max=config.tenant_connections_max,
            proxies=config.proxies,
        )
        server = _Server(_uvicorn_config(gateway), Connections(limits))
        with _listen(config) as listening, peer_log.bounding_libraries():
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as feeds:
                gateway.rebuilds.tasks = feeds
                feeds.start_soon(peer_log.run)
                for feed in gateway.feeds.values():
                    feeds.start_soon(feed.run)
                tasks.start_soon(server.run_to_end, listening)
                try:
                    await server.ready.wait()
                    gateway.url = _url_of(config, listening)
                    log.info("gateway serves", url=gateway.url)
                    yield gateway
                finally:
                    gateway.stopping.set()
                    feeds.cancel_scope.cancel()
                    server.should_exit = True
    log.info("gateway ended")


def _uvicorn_config(gateway: Gateway) -> uvicorn.Config:
    config = gateway.config
    options: dict[str, Any] = {}
    if config.tls_cert is not None:
        options = {"ssl_certfile": config.tls_cert, "ssl_keyfile": config.tls_key}
    return uvicorn.Config(
        make_app(gateway),
        http=GatewayHttpProtocol,
        ws=GatewayWebSocketProtocol,
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PONG_S,
        ws_per_message_deflate=False,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",  # its lines at level info show queries
        access_log=False,
        proxy_headers=bool(config.proxies),
        forwarded_allow_ips=list(config.proxies),
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
        **options,
    )


def _listen(config: GatewayConfig) -> socket.socket:
    """Return a socket that is bound to the address. Raises InvalidMessage."""
    is_v6 = ":" in config.host
    listening = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        address = f"{config.host}:{config.port}"
        raise InvalidMessage.of("--listen", f"{address}: {error.strerror or error}", "") from error
    listening.setblocking(False)
    return listening


def _url_of(config: GatewayConfig, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    scheme = "https" if config.tls_cert else "http"
    return f"{scheme}://{name}:{port}{config.base_path}"
