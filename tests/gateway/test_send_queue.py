"""What waits for a peer is known with and without TLS, and arrives in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
from asyncio import BaseTransport, Transport
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from eventsched.gateway import send_rate
from eventsched.gateway.connection_limits import ConnectionLimits
from eventsched.gateway.parse_turns import ParseTurns
from eventsched.gateway.read_slices import SlicedConnection
from eventsched.gateway.send_queue import PIECE_BYTES, SendQueue
from eventsched.gateway.send_rate import SendRate
from eventsched.gateway.tls_handshake import TlsHandshake
from eventsched.gateway.tls_slices import TlsSlices
from tests.gateway.certificates import write_certificate
from tests.systems import until

DATA = b"".join(number.to_bytes(4, "big") for number in range(500_000))
LAYERS_BYTES = 4 * PIECE_BYTES
"""What the transports of a connection may have, beside its queue."""


class Answer(asyncio.Protocol):
    """Sends DATA in two parts when asked, and closes the connection unless asked to stay."""

    transport: SlicedConnection
    pauses = 0

    def connection_made(self, transport: BaseTransport) -> None:
        self.transport = cast("SlicedConnection", transport)
        self.rate = SendRate(self.transport, asyncio.get_running_loop())
        self.is_lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.rate.stop()
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        self.transport.write(DATA[:10])
        self.transport.write(DATA[10:])
        if data == b"close":
            self.transport.close()

    def pause_writing(self) -> None:
        self.pauses += 1
        self.rate.start()

    def resume_writing(self) -> None:
        self.pauses -= 1
        self.rate.stop()


class AnswerServer:
    """A server of Answer whose kernel buffers little."""

    def __init__(self, certificate: tuple[Path, Path] | None) -> None:
        self.answers: list[Answer] = []
        self.raw: list[TlsSlices] = []
        self._limits = ConnectionLimits(100, owned_max=50)
        self._active: set[TlsHandshake] = set()
        self._certificate = certificate
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        turns = ParseTurns(self._limits.owner_of)

        def make(below: TlsSlices | None = None) -> SlicedConnection:
            self.answers.append(Answer())
            self.raw += [below] if below is not None else []
            return SlicedConnection(self.answers[-1], turns, loop, below)

        def make_by_tls() -> TlsHandshake:
            assert self._certificate is not None
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*self._certificate)
            return TlsHandshake(context, 10.0, make, turns, self._limits, self._active)

        made: Callable[[], asyncio.Protocol] = make_by_tls if self._certificate else make
        self._server = await loop.create_server(made, sock=self.listening)

    async def stop(self) -> None:
        self._server.close()
        for answer in self.answers:
            answer.transport.abort()

    async def unsent(self) -> tuple[int, int]:
        """Bytes that wait for the first peer by its connection, and those below TLS."""
        below = self.raw[0].get_write_buffer_size() if self.raw else 0
        return self.answers[0].transport.get_write_buffer_size(), below

    async def is_lost(self) -> bool:
        return self.answers[0].is_lost

    async def is_waiting(self) -> bool:
        """Whether the first connection knows that something waits for its peer."""
        return bool(self.answers) and self.answers[0].pauses == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def portal(request: pytest.FixtureRequest) -> Iterator[BlockingPortal]:
    """An event loop in a thread."""
    options = {"use_uvloop": request.param}
    with start_blocking_portal("asyncio", backend_options=options) as portal:
        yield portal


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> tuple[Path, Path] | None:
    return certificate if request.param else None


@contextmanager
def answer_server(
    portal: BlockingPortal, tls: tuple[Path, Path] | None
) -> Iterator[tuple[AnswerServer, socket.socket]]:
    """A server, and a connected client that receives few bytes before its peer must wait."""
    server = AnswerServer(tls)
    portal.call(server.start)
    try:
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            peer.settimeout(30)
            peer.connect(server.listening.getsockname())
            if tls is None:
                yield server, peer
            else:
                context = ssl.create_default_context(cafile=str(tls[0]))
                with context.wrap_socket(peer, server_hostname="localhost") as secured:
                    yield server, secured
    finally:
        portal.call(server.stop)


async def test_what_a_peer_does_not_take_is_counted_and_ends_its_connection(
    portal: BlockingPortal, tls: tuple[Path, Path] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_rate, "SEND_S", 0.3)
    with answer_server(portal, tls) as (server, peer):
        peer.sendall(b"stay")
        await until("the answer waits", lambda: portal.call(server.is_waiting))
        unsent, below = portal.call(server.unsent)
        kernel = 200_000
        assert len(DATA) - kernel < unsent <= len(DATA) + LAYERS_BYTES
        assert below < LAYERS_BYTES
        await until("the connection is dropped", lambda: portal.call(server.is_lost), within_s=10)
        assert portal.call(server.unsent)[0] == 0


@pytest.mark.parametrize("asked", [b"stay", b"close"])
async def test_a_slow_peer_gets_everything_in_order(
    portal: BlockingPortal, tls: tuple[Path, Path] | None, asked: bytes
) -> None:
    with answer_server(portal, tls) as (server, peer):
        peer.sendall(asked)
        received = b""
        while len(received) < len(DATA):
            received += peer.recv(100_000)
        assert received == DATA
        if asked == b"close":
            assert peer.recv(1) == b""
        else:
            await until("nothing waits", lambda: not portal.call(server.is_waiting))
            assert portal.call(server.unsent) == (0, 0)


def test_a_peer_that_ends_its_side_gets_everything(portal: BlockingPortal) -> None:
    with answer_server(portal, None) as (_, peer):
        peer.sendall(b"stay")
        peer.shutdown(socket.SHUT_WR)
        received = b""
        while part := peer.recv(100_000):
            received += part
        assert received == DATA


class Sink(Transport):
    """A transport that counts what it gets, and blocks after each write."""

    queue: SendQueue

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self.queue.is_blocked = True

    def get_write_buffer_size(self) -> int:
        return 0


def test_small_parts_are_joined_and_large_ones_cut() -> None:
    sink = Sink()
    sink.queue = queue = SendQueue(sink)
    queue.write(b"")
    queue.write(b"a")
    for part in (b"b", b"c" * PIECE_BYTES, bytearray(b"d")):
        queue.write(part)
    assert (sink.written, queue.size) == ([b"a"], PIECE_BYTES + 2)
    queue.unblock()
    assert sink.written[1] == b"b" + b"c" * (PIECE_BYTES - 1)
    queue.unblock()
    assert (sink.written[2], queue.size) == (b"cd", 0)
