"""Peers that read slowly or not at all, with and without TLS, at a whole gateway."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventsched.gateway import connections, send_rate
from eventsched.gateway import server as gateway_server
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.connections import UNSENT_BYTES, Connections
from tests.gateway.certificates import write_certificate
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.test_floods import TEXT, frame, handshake
from tests.server_kinds import Server
from tests.systems import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
SLOWLY = 1_024
"""Bytes that a slow client reads at once."""
REPLY_BYTES = 200_000
"""More than the largest reply of these tests."""
UNREAD_BYTES = 20_000
"""More than the kernel and the layers of a connection buffer."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Connections]:
    """The connections of each gateway, for which the kernel buffers little."""
    listen = gateway_server._listen
    gateways: list[Connections] = []

    def listen_small(config: GatewayConfig) -> socket.socket:
        listening = listen(config)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        return listening

    def remember(*args: Any) -> Connections:
        gateways.append(Connections(*args))
        return gateways[-1]

    monkeypatch.setattr(gateway_server, "_listen", listen_small)
    monkeypatch.setattr(gateway_server, "Connections", remember)
    return gateways


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path] | None:
    return write_certificate(tmp_path) if request.param else None


@asynccontextmanager
async def gateway_of(
    server: Server, cell: str, tls: tuple[Path, Path] | None
) -> AsyncIterator[GatewaySystem]:
    options: dict[str, Any] = {} if tls is None else {"tls_cert": tls[0], "tls_key": tls[1]}
    async with gateway_system(server.url, cell, roles=(), **options) as system:
        yield system


@asynccontextmanager
async def asking(
    system: GatewaySystem, tls: tuple[Path, Path] | None, request: bytes
) -> AsyncIterator[socket.socket]:
    """A client that receives few bytes before its peer must wait, after its request."""

    def connect(peer: socket.socket) -> socket.socket:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.settimeout(30)
        peer.connect(("127.0.0.1", int(system.url.rpartition(":")[2])))
        if tls is not None:
            context = ssl.create_default_context(cafile=str(tls[0]))
            peer = context.wrap_socket(peer, server_hostname="localhost")
        peer.sendall(request)
        return peer

    with socket.socket() as raw:
        peer = await anyio.to_thread.run_sync(connect, raw)
        with peer:
            yield peer


def get(system: GatewaySystem, path: str) -> bytes:
    host, token = system.url.partition("://")[2], system.token("viewer")
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {token}", "", "")
    return "\r\n".join(lines).encode()


def send_what_fits(peer: socket.socket, data: bytes) -> None:
    """Send until the gateway reads no more, or has ended the connection."""
    peer.setblocking(False)
    try:
        for _ in range(100):
            peer.send(data)
    except (ssl.SSLWantWriteError, OSError):
        pass


@pytest.mark.parametrize("kind", ["reply", "stream", "socket"])
async def test_a_peer_that_never_reads_is_dropped_and_its_bytes_are_bounded(
    server: Server,
    cell: str,
    tls: tuple[Path, Path] | None,
    opened: list[Connections],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(send_rate, "SEND_S", 0.3)
    async with gateway_of(server, cell, tls) as system:
        request, more = get(system, "/v1/openapi.json"), b""
        if kind == "stream":
            for _ in range(40):
                async with system.es.session("acme", "en", ["es"]):
                    pass
            request = get(system, f"/v1/events?after={cell}=0-0")
        elif kind == "socket":  # each frame gets an error, which the peer does not read
            request, more = handshake(system), frame(TEXT, b"x" * 64)
        protocols = opened[0].connections
        async with asking(system, tls, request) as peer:
            most = 0

            def is_ended() -> bool:
                nonlocal most
                if more:
                    send_what_fits(peer, more)
                sizes = [each.transport.get_write_buffer_size() for each in protocols]
                most = max([most, *sizes])
                return most > 0 and not sizes

            await until("the connection is dropped", is_ended, within_s=20)
            assert 1_000 < most < UNSENT_BYTES + REPLY_BYTES


async def test_a_reply_that_is_read_slowly_arrives_whole_and_then_the_next_request_has_its_time(
    server: Server,
    cell: str,
    tls: tuple[Path, Path] | None,
    opened: list[Connections],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.4)
    async with gateway_of(server, cell, tls) as system:
        request = get(system, "/v1/openapi.json")
        async with asking(system, tls, request + request[:20]) as peer:
            received = b""
            with anyio.move_on_after(1):
                while True:
                    received += await anyio.to_thread.run_sync(peer.recv, SLOWLY)
                    await anyio.sleep(0.05)  # sleeps: a client that reads slowly
            assert opened[0].connections  # a part of the reply waits
            head, _, body = received.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert len(body) < size - UNREAD_BYTES
            while len(body) < size:
                body += await anyio.to_thread.run_sync(peer.recv, SLOWLY)
            assert len(body) == size
            assert await anyio.to_thread.run_sync(end_of, peer) == b""


def end_of(peer: socket.socket) -> bytes:
    """What arrives until the gateway ends the connection."""
    try:
        return peer.recv(1)
    except OSError:  # dropped without the end of TLS
        return b""
