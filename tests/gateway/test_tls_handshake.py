"""TLS handshakes are served, counted and bounded on both event loops.

The command runs on uvloop, other tests on the loop of asyncio. So each test has a loop of its own
in a thread.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import BaseTransport, Transport
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from eventsched.gateway import connections, send_rate
from eventsched.gateway import server as gateway_server
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.connection_limits import ConnectionLimits
from eventsched.gateway.parse_turns import ParseTurns
from eventsched.gateway.service import Gateway
from eventsched.gateway.tls_handshake import TlsHandshake
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.keys import add_public_key
from tests.gateway.certificates import write_certificate
from tests.gateway.gateways import running_gateway
from tests.gateway.test_unfinished_requests import ask_by_tls, peers_of, read_to_end
from tests.server_kinds import Server
from tests.systems import until

COUNT = 50
LIMIT = 20
KEY = TokenKey.generate()
PART_OF_HELLO = b"\x16\x03\x01"
embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def portal(request: pytest.FixtureRequest) -> Iterator[BlockingPortal]:
    """An event loop in a thread."""
    options = {"use_uvloop": request.param}
    with start_blocking_portal("asyncio", backend_options=options) as portal:
        module = portal.call(loop_module)
        assert (module == "uvloop") == request.param
        yield portal


async def loop_module() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate, and the context of a client that trusts it."""

    path: Path
    key: Path

    def of_client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.path))

    def of_server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path, self.key)
        return context


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(*write_certificate(tmp_path_factory.mktemp("certificate")))


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def connection_made(self, transport: BaseTransport) -> None:
        self.transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoServer:
    """Handshakes, and Echo behind them. Clients may connect before it starts."""

    def __init__(self, context: ssl.SSLContext, seconds: float, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.active: set[TlsHandshake] = set()
        turns = ParseTurns(limits.owner_of)
        self._make = lambda: TlsHandshake(
            context, seconds, lambda _: Echo(), turns, limits, self.active
        )
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=2 * COUNT)
        self.port: int = self.listening.getsockname()[1]

    async def start(self) -> None:
        self.server = await asyncio.get_running_loop().create_server(
            self._make, sock=self.listening
        )

    async def stop(self) -> None:
        self.server.close()
        for handshake in list(self.active):
            handshake.abort()

    async def counts(self) -> tuple[int, int]:
        return self.limits.count, len(self.active)


class TlsClient:
    """A client that decides what it sends together."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self._received, self._unsent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._unsent, server_hostname="localhost")
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)

    def close(self) -> None:
        self._socket.close()

    def hello(self) -> None:
        """Send the first message of the handshake."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._socket.sendall(self._unsent.read())

    def finish_with(self, data: bytes) -> None:
        """Send the last message of the handshake, and data with it."""
        self._receive_until(self._tls.do_handshake)
        self._tls.write(data)
        self._socket.sendall(self._unsent.read())

    def send_records(self, data: bytes, count: int) -> bool:
        """Send records of the same content; return whether the server ends the connection."""
        for _ in range(count):
            self._tls.write(data)
        with suppress(ConnectionError):
            self._socket.sendall(self._unsent.read())
            self._socket.settimeout(1)
            try:
                while self._socket.recv(65_536):
                    pass
            except TimeoutError:
                return False
        return True

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self._receive_until(lambda: self._tls.read(count))
        return data

    def _receive_until(self, call: Any) -> Any:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                part = self._socket.recv(65_536)
                assert part, "the server has ended the connection"
                self._received.write(part)


def test_bytes_before_and_with_the_end_of_the_handshake_are_not_lost(
    portal: BlockingPortal, certificate: Certificate
) -> None:
    """The first message is there before the connection is accepted, data with the last one."""
    limits = ConnectionLimits(1_000, owned_max=500)
    server = EchoServer(certificate.of_server(), 10.0, limits)
    context = certificate.of_client()
    with ExitStack() as stack:
        stack.enter_context(closing(server.listening))
        clients = [
            stack.enter_context(closing(TlsClient(context, server.port))) for _ in range(COUNT)
        ]
        for client in clients:
            client.hello()
        portal.call(server.start)
        stack.callback(portal.call, server.stop)
        for number, client in enumerate(clients):
            client.finish_with(b"%d" % number * 10_000)
        for number, client in enumerate(clients):
            expected = b"%d" % number * 10_000
            assert client.read(len(expected)) == expected
        assert portal.call(server.counts) == (0, 0)


@embedded
def test_a_connection_whose_records_have_little_content_ends(
    portal: BlockingPortal, server: Server, cell: str, certificate: Certificate, tmp_path: Path
) -> None:
    """Its small records are given to TLS in slices, and others are served."""
    with gateway_by_tls(portal, server, cell, certificate, tmp_path) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        with closing(TlsClient(certificate.of_client(), port)) as client:
            client.hello()
            client.finish_with(b"GET /healthz HTTP/1.1\r\nHost: x\r\na: ")
            assert client.send_records(b"a", 4_000)
        assert ask_by_tls(gateway.url, certificate.of_client()).startswith(b"HTTP/1.1 200 ")


async def test_handshakes_that_do_not_arrive_in_time_end_and_are_no_longer_counted(
    portal: BlockingPortal, certificate: Certificate
) -> None:
    """Also those that are dropped at the limit, and whose clients leave."""
    server = EchoServer(certificate.of_server(), 0.4, ConnectionLimits(LIMIT, owned_max=1))
    portal.call(server.start)
    with peers_of(f"tls://127.0.0.1:{server.port}", [b"", PART_OF_HELLO] * LIMIT) as peers:
        peers[-1].close()
        for peer in peers[:-1]:
            assert read_to_end(peer) == b""
    await until("no handshake is counted", lambda: portal.call(server.counts) == (0, 0))
    portal.call(server.stop)


@contextmanager
def gateway_by_tls(
    portal: BlockingPortal, server: Server, cell: str, certificate: Certificate, folder: Path
) -> Iterator[Gateway]:
    """A gateway that runs in the loop of the portal."""
    keys = folder / "keys.json"
    add_public_key(keys, KEY)
    running = running_gateway(
        server.url, cell, keys=keys, tls_cert=certificate.path, tls_key=certificate.key
    )
    with portal.wrap_async_context_manager(running) as gateway:
        yield gateway


@embedded
def test_connections_one_after_the_other_and_at_once_are_served(
    server: Server, cell: str, portal: BlockingPortal, certificate: Certificate, tmp_path: Path
) -> None:
    context = certificate.of_client()
    with (
        gateway_by_tls(portal, server, cell, certificate, tmp_path) as gateway,
        ThreadPoolExecutor(COUNT) as pool,
    ):
        replies = [ask_by_tls(gateway.url, context) for _ in range(COUNT)]
        replies += pool.map(lambda _: ask_by_tls(gateway.url, context), range(COUNT))
    assert [reply[:13] for reply in replies] == [b"HTTP/1.1 200 "] * 2 * COUNT


@embedded
def test_handshakes_that_do_not_end_leave_a_gateway_usable(
    server: Server,
    cell: str,
    portal: BlockingPortal,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_server, "REQUEST_S", 600.0)
    monkeypatch.setattr(gateway_server, "connections_max", lambda _: LIMIT)
    context = certificate.of_client()
    with (
        gateway_by_tls(portal, server, cell, certificate, tmp_path) as gateway,
        peers_of(gateway.url, [PART_OF_HELLO] * 3 * LIMIT) as peers,
    ):
        for peer in peers[: 2 * LIMIT]:
            assert read_to_end(peer) == b""
        for _ in range(LIMIT):
            assert ask_by_tls(gateway.url, context).startswith(b"HTTP/1.1 200 ")


@embedded
async def test_a_socket_whose_peer_does_not_read_is_dropped(
    server: Server,
    cell: str,
    portal: BlockingPortal,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for it is visible above TLS."""
    listen = gateway_server._listen

    def listen_small(config: GatewayConfig) -> socket.socket:
        listening = listen(config)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        return listening

    monkeypatch.setattr(gateway_server, "_listen", listen_small)
    monkeypatch.setattr(send_rate, "SEND_S", 0.3)
    monkeypatch.setattr(connections, "UNSENT_BYTES", 2**30)  # only the rate ends it
    token = issue(KEY, role="producer", tenant="acme", subject="test")
    lines = (
        "GET /v1/sessions HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol: eventsched.v1", f"Authorization: Bearer {token}",
    )  # fmt: skip
    refused = b"\x81\xc0" + bytes(4) + b"x" * 64  # each gets an error, which the peer does not read
    with (
        gateway_by_tls(portal, server, cell, certificate, tmp_path) as gateway,
        ExitStack() as stack,
    ):
        peer = stack.enter_context(socket.socket())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
        peer.settimeout(30)
        context = certificate.of_client()
        secured = stack.enter_context(context.wrap_socket(peer, server_hostname="localhost"))
        secured.sendall("\r\n".join([*lines, "", ""]).encode())
        await until("the socket is counted", lambda: gateway.sockets == 1)
        secured.setblocking(False)

        def is_dropped() -> bool:
            try:
                for _ in range(200):
                    secured.send(refused)
            except (ssl.SSLWantWriteError, OSError):
                pass
            return gateway.sockets == 0

        await until("the connection is dropped", is_dropped, within_s=30)
