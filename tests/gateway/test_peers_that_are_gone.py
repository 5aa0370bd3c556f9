"""Peers that do not read or do not answer: their connections end, and memory stays bounded.

A peer that takes a byte now and then is one of them.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio.to_thread
import pytest

from eventsched.gateway import connections, read_limit, send_rate
from eventsched.gateway import server as gateway_server
from eventsched.gateway.config import GatewayConfig
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.server_kinds import Server
from tests.systems import until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets of the gateway for which the kernel buffers little, so that they are full soon."""
    listen = gateway_server._listen

    def listen_small(config: GatewayConfig) -> socket.socket:
        listening = listen(config)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        return listening

    monkeypatch.setattr(gateway_server, "_listen", listen_small)


class RawPeer:
    """A client that sends frames and reads nothing."""

    def __init__(self, system: GatewaySystem, path: str, token: str, receives: int = 0) -> None:
        host, _, port = system.url.partition("://")[2].partition(":")
        self.connection = socket.socket()
        if receives:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        self.connection.connect((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: Upgrade",
            "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Protocol: eventsched.v1", f"Authorization: Bearer {token}",
        )  # fmt: skip
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, text: str) -> None:
        """Send a text frame of at most 65,535 bytes, masked with zeros."""
        data = text.encode()
        size = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack(">BH", 0xFE, len(data))
        self.connection.sendall(b"\x81" + size + bytes(4) + data)


async def test_a_peer_that_answers_no_ping_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "PING_S", 0.2)
    monkeypatch.setattr(gateway_server, "PONG_S", 0.2)
    async with gateway_system(server.url, cell) as system:
        peer = RawPeer(system, "/v1/sessions", system.token("producer", "acme"))
        peer.send('{"type": "open", "source": "en", "targets": ["es"]}')
        with peer.connection:
            await until("the socket is counted", lambda: system.gateway.sockets == 1)
            await until("the connection is dropped", lambda: system.gateway.sockets == 0)
        assert connections.PING_S == connections.PONG_S == 8.0


@pytest.mark.usefixtures("small_buffers")
async def test_a_peer_that_does_not_read_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_rate, "SEND_S", 0.5)
    async with gateway_system(server.url, cell) as system:
        peer = RawPeer(system, "/v1/sessions", system.token("producer", "acme"))
        with peer.connection:
            peer.send('{"type": "open", "source": "en", "targets": ["es"]}')
            await until("the socket is counted", lambda: system.gateway.sockets == 1)
            peer.connection.setblocking(False)
            bad = '{"type": "' + "x" * 60 + '"}'  # each gets an error, which the peer does not read

            def is_dropped() -> bool:
                try:
                    for _ in range(200):
                        peer.send(bad)
                except (BlockingIOError, ConnectionError):
                    pass  # the gateway reads no more until it has sent, or has dropped the peer
                return system.gateway.sockets == 0

            await until("the connection is dropped", is_dropped, within_s=60)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_ten_thousand_connects_leave_nothing_behind(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        token = system.token("producer", "acme")

        host, _, port = system.url.partition("://")[2].partition(":")

        async def connect_and_leave(count: int) -> None:
            """One in ten opens a socket; the others send a part of a request, or nothing."""
            for _ in range(count // 100):
                peers = [RawPeer(system, "/v1/sessions", token).connection for _ in range(10)]
                for number in range(90):
                    peers.append(socket.create_connection((host, int(port))))
                    peers[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\nA: "[: number % 30])
                await until("some are served", lambda: system.gateway.sockets > 0)
                for peer in peers:
                    peer.close()
                await until("no socket is left", lambda: system.gateway.sockets == 0)

        await connect_and_leave(1_000)
        before = resident_bytes()
        await connect_and_leave(10_000)
        assert resident_bytes() - before < 20_000_000  # 2 KB of each
        assert (await system.get("/healthz")).json() == {"ok": True}


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("keeps", ["keep-alive", "close"])
async def test_a_peer_that_takes_nothing_of_its_replies_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    """Also after a reply that ends the connection: `close` waits for the peer without end."""
    monkeypatch.setattr(send_rate, "SEND_S", 0.3)
    async with gateway_system(server.url, cell) as system:
        host, token = system.url.partition("://")[2], system.token("viewer")
        page = f"GET /v1/openapi.json HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        pages = 200 * f"{page}\r\n" + f"{page}Connection: {keeps}\r\n\r\n"
        with small_peer(system) as connection:
            sender = Sender(connection, pages.encode())
            await until("the connection is dropped", sender.is_dropped, within_s=60)
        assert (await system.get("/healthz")).status_code == 200


@contextmanager
def small_peer(system: GatewaySystem) -> Iterator[socket.socket]:
    """A connection that receives few bytes before its peer must wait."""
    host, _, port = system.url.partition("://")[2].partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect((host, int(port)))
        yield connection


class Sender:
    """Sends without waiting: first `data`, then `more` again and again."""

    def __init__(self, connection: socket.socket, data: bytes, more: bytes = b" ") -> None:
        self._connection = connection
        self._unsent = data
        self._more = more
        connection.setblocking(False)

    def is_dropped(self) -> bool:
        """Send what can be sent; return whether the connection has ended."""
        self._unsent = self._unsent or self._more
        try:
            self._unsent = self._unsent[self._connection.send(self._unsent) :]
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        return False


def take_slowly(connection: socket.socket) -> bool:
    """Take a few bytes; whether the connection has ended."""
    try:
        return connection.recv(10) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.usefixtures("small_buffers")
async def test_a_socket_whose_peer_takes_a_byte_now_and_then_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nothing more is sent to it: fewer bytes wait than a sender would wait for."""
    monkeypatch.setattr(send_rate, "SEND_S", 0.3)
    monkeypatch.setattr(connections, "UNSENT_BYTES", 2**30)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        peer = RawPeer(system, "/v1/sessions", system.token("producer", "acme"), receives=4_096)
        with peer.connection:
            peer.send('{"type": "open", "source": "en", "targets": ["es"]}')
            await until("the socket is counted", lambda: system.gateway.sockets == 1)
            peer.connection.setblocking(False)
            bad = '{"type": "' + "x" * 60 + '"}'

            def is_dropped() -> bool:
                try:
                    for _ in range(200):
                        peer.send(bad)
                except (BlockingIOError, ConnectionError):
                    pass
                take_slowly(peer.connection)
                return system.gateway.sockets == 0

            await until("the connection is dropped", is_dropped, within_s=60)


@pytest.mark.usefixtures("small_buffers")
async def test_a_peer_that_sends_pings_and_takes_no_answers_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNSENT_BYTES_MAX", 10_000)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        peer = RawPeer(system, "/v1/sessions", system.token("producer", "acme"), receives=4_096)
        with peer.connection:
            await until("the socket is counted", lambda: system.gateway.sockets == 1)
            pings = 500 * (b"\x89" + bytes([0x80 | 125]) + bytes(4) + bytes(125))
            sender = Sender(peer.connection, pings, more=pings)
            await until("the connection is dropped", sender.is_dropped, within_s=60)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("path", ["/v1/openapi.json", "/v1/events?after=CELL%3D0-0"])
async def test_replies_whose_peer_takes_a_byte_now_and_then_end(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(send_rate, "SEND_S", 0.3)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        for _ in range(40):
            async with system.es.session("acme", "en", ["es"]):
                pass
        host, token = system.url.partition("://")[2], system.token("viewer")
        asked = f"GET {path.replace('CELL', cell)} HTTP/1.1\r\nHost: {host}\r\n"
        asked += f"Authorization: Bearer {token}\r\n\r\n"
        with small_peer(system) as connection:
            sender = Sender(connection, 400 * asked.encode())

            def is_dropped() -> bool:
                return sender.is_dropped() or take_slowly(connection)

            await until("the connection is dropped", is_dropped, within_s=60)


@pytest.mark.usefixtures("small_buffers")
async def test_replies_that_a_tenant_does_not_take_have_a_limit(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are in memory until they are taken: a third one is not read before another is gone."""
    monkeypatch.setattr(read_limit, "REPLIES_MAX", 2)
    monkeypatch.setattr(send_rate, "SEND_S", 600.0)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        for _ in range(60):
            async with system.es.session("acme", "en", ["es"]):
                pass
        host = system.url.partition("://")[2]
        asked = f"GET /v1/history HTTP/1.1\r\nHost: {host}\r\n"
        asked += f"Authorization: Bearer {system.token('viewer', 'acme')}\r\n\r\n"
        replies = system.gateway.reads.replies
        with ExitStack() as stack:
            peers: list[socket.socket] = []
            for number in range(1, 4):
                peer = stack.enter_context(small_peer(system))
                peers.append(peer)
                peer.settimeout(30)
                peer.sendall(asked.encode())

                def has_asked(count: int = number) -> bool:
                    return replies.count("acme") >= count

                await until("the request is counted", has_asked)
            for peer in peers[:2]:
                assert await anyio.to_thread.run_sync(peer.recv, 12) == b"HTTP/1.1 200"
            peers[2].setblocking(False)
            for _ in range(5):  # the gateway serves others meanwhile
                reply = await system.get("/v1/history", system.token("viewer", "other"))
                assert reply.status_code == 200
            with pytest.raises(BlockingIOError):
                peers[2].recv(12)
            peers[0].close()
            peers[2].settimeout(60)
            assert await anyio.to_thread.run_sync(peers[2].recv, 12) == b"HTTP/1.1 200"
        await until("nothing waits", lambda: replies.count("acme") == 0)
