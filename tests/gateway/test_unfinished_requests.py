"""Connections that send no whole request end, and leave a gateway usable by others."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio.to_thread
import pytest

from eventsched.gateway import connections
from eventsched.gateway import server as gateway_server
from tests.gateway.certificates import write_certificate
from tests.gateway.gateways import gateway_system
from tests.gateway.sockets import producer
from tests.server_kinds import Server

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
UNFINISHED = (
    b"",
    b"G",
    HEAD + b"A: ",
    b"POST /v1/logout HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    b"POST /v1/dead-letters/c/1-1/retry HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    HEAD + b"\r\n" + HEAD,  # the second request of a connection
)
LIMIT = 20
embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@contextmanager
def peers_of(url: str, requests: list[bytes]) -> Iterator[list[socket.socket]]:
    """Connections that have sent these bytes, and do not send more."""
    host, _, port = url.partition("://")[2].partition(":")
    with ExitStack() as stack:
        peers = []
        for request in requests:
            peer = stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            peer.sendall(request)
            peers.append(peer)
        yield peers


def read_to_end(peer: socket.socket) -> bytes:
    """What the gateway sends until it ends the connection."""
    received = b""
    try:
        while part := peer.recv(4_096):
            received += part
    except ConnectionError:
        pass
    return received


@embedded
async def test_a_request_that_does_not_arrive_in_time_ends_its_connection(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.5)
    async with gateway_system(server.url, cell) as system, producer(system) as speaker:
        await speaker.open()
        with peers_of(system.url, list(UNFINISHED)) as peers:
            ends = [await anyio.to_thread.run_sync(read_to_end, peer) for peer in peers]
        assert ends[:3] == [b"", b"", b""]
        assert ends[-1].startswith(b"HTTP/1.1 200 ")
        await speaker.chunk(0)  # a socket is no request: it has no such limit
        await speaker.stored(1)


@embedded
async def test_at_the_limit_the_oldest_connection_without_a_request_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 600.0)
    monkeypatch.setattr(gateway_server, "connections_max", lambda _: LIMIT)
    async with gateway_system(server.url, cell) as system, producer(system) as speaker:
        await speaker.open()
        with peers_of(system.url, [HEAD + b"A: "] * (3 * LIMIT)) as peers:
            for _ in range(3):
                system.http.cookies.clear()
                reply = await system.get("/v1/who", system.token("operator"))
                assert reply.status_code == 200
            await speaker.chunk(0)
            await speaker.stored(1)
            peers[0].settimeout(60)
            assert await anyio.to_thread.run_sync(read_to_end, peers[0]) == b""
            peers[-1].sendall(b"\r\n\r\n")  # the newest one is served when its request is whole
            peers[-1].shutdown(socket.SHUT_WR)
            reply_of_last = await anyio.to_thread.run_sync(peers[-1].recv, 4_096)
            assert reply_of_last.startswith(b"HTTP/1.1 200 ")


@embedded
async def test_a_tls_handshake_that_does_not_arrive_in_time_ends_its_connection(
    server: Server, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "REQUEST_S", 0.5)
    certificate, key = write_certificate(tmp_path)
    async with gateway_system(server.url, cell, tls_cert=certificate, tls_key=key) as system:
        assert system.url.startswith("https://")
        with peers_of(system.url, [b"", b"\x16\x03\x01"]) as peers:
            for peer in peers:
                assert await anyio.to_thread.run_sync(read_to_end, peer) == b""
        context = ssl.create_default_context(cafile=str(certificate))
        reply = await anyio.to_thread.run_sync(ask_by_tls, system.url, context)
        assert reply.startswith(b"HTTP/1.1 200 ")


def ask_by_tls(url: str, context: ssl.SSLContext) -> bytes:
    with (
        peers_of(url, [b""]) as (peer,),
        context.wrap_socket(peer, server_hostname="localhost") as secured,
    ):
        secured.sendall(HEAD + b"Connection: close\r\n\r\n")
        return read_to_end(secured)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("ulimit -n 256", "224 256"),  # a part is left for the server and files
        ("ulimit -Sn 256; ulimit -Hn 1024", "896 1024"),
        ("ulimit -Sn 256; ulimit -Hn 4000", "1100 1258"),
    ],
)
def test_a_gateway_leaves_file_descriptors_for_its_server(limits: str, expected: str) -> None:
    code = (
        "import resource; from eventsched.gateway.connections import connections_max; "
        "print(connections_max(100), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    ended = subprocess.run(
        ["bash", "-c", f'{limits}; exec "$@"', "bash", sys.executable, "-c", code],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert ended.stdout.splitlines()[-1] == expected
