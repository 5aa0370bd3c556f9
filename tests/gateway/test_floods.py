"""What one client sends in one read delays no other one, and is bounded in number."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventsched.gateway import connections, request_parser
from eventsched.gateway.app import PARAMETERS_MAX
from eventsched.gateway.parse_turns import TAKEN_AT_ONCE, ParseTurns
from eventsched.gateway.read_slices import SLICE_BYTES, SlicedConnection
from eventsched.projection.fold import decode_event
from eventsched.schema.events import Event, UtteranceFinalized
from tests.gateway.certificates import write_certificate
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sockets import TENTH, producer
from tests.server_kinds import Server

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /v1/%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"1\r\na\r\n" * 40_000
OPEN = b'{"type": "open", "source": "en", "targets": ["es"]}'
TEXT, BINARY, PING, PONG, CONTINUED = 0x81, 0x82, 0x89, 0x8A, 0x00


def frame(first: int, data: bytes = b"") -> bytes:
    """A frame, masked with zeros."""
    is_long = len(data) > 125
    size = b"\xfe" + len(data).to_bytes(2, "big") if is_long else bytes([0x80 | len(data)])
    return bytes([first]) + size + bytes(4) + data


def handshake(system: GatewaySystem, token: str = "") -> bytes:
    host = system.url.partition("://")[2]
    key = base64.b64encode(os.urandom(16)).decode()
    token = token or system.token("producer", "acme")
    lines = (
        "GET /v1/sessions HTTP/1.1", f"Host: {host}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Protocol: eventsched.v1", f"Authorization: Bearer {token}", "", "",
    )  # fmt: skip
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def client(
    system: GatewaySystem, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = system.url.partition("://")[2].partition(":")
    name = "localhost" if context else None
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname=name
    )
    with anyio.fail_after(60):
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    received = b""
    try:
        while part := await reader.read(4_096):
            received += part
    except ConnectionError:
        pass
    return received


class Records(asyncio.Protocol):
    """A protocol that records in which order connections get how many bytes."""

    def __init__(self, name: str, size: int, log: list[tuple[str, int]]) -> None:
        self.name = name
        self.size = size
        self.log = log
        self.received = bytearray()
        self.has_begun, self.is_whole = asyncio.Event(), asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.log.append((self.name, len(data)))
        self.received += data
        self.has_begun.set()
        if len(self.received) == self.size:
            self.is_whole.set()


class Ended(asyncio.Transport):
    """A transport without a peer."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


async def test_an_owner_gets_one_turn_whatever_the_number_of_its_connections() -> None:
    log: list[tuple[str, int]] = []
    owners: dict[SlicedConnection, str] = {}
    loop, turns = asyncio.get_running_loop(), ParseTurns(lambda each: owners[each])
    size = 8 * SLICE_BYTES
    small = Records("other", size, log)
    protocols = [*(Records("flood", size, log) for _ in range(50)), small]
    for protocol in protocols:
        connection = SlicedConnection(protocol, turns, loop)
        owners[connection] = protocol.name
        connection.connection_made(Ended())
        connection.data_received(bytes(size))
    with anyio.fail_after(60):
        await small.is_whole.wait()
    assert sum(name == "flood" for name, _ in log[: log.index(("other", SLICE_BYTES)) + 16]) <= 9


class Turns(asyncio.Protocol):
    """Counts in which turn of the event loop each connection is parsed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.parsed: list[int] = []
        self.turn = 0
        self.is_whole = asyncio.Event()

    def count_turns(self) -> None:
        self.turn += 1
        if not self.is_whole.is_set():
            asyncio.get_running_loop().call_soon(self.count_turns)

    def data_received(self, data: bytes) -> None:
        self.parsed.append(self.turn)
        if len(self.parsed) == self.count:
            self.is_whole.set()


async def test_a_turn_of_the_event_loop_begins_few_of_the_requests_that_have_arrived() -> None:
    loop, turns, counted = asyncio.get_running_loop(), ParseTurns(lambda _: ""), Turns(40)
    server = await loop.create_server(lambda: SlicedConnection(counted, turns, loop), "127.0.0.1")
    async with server:
        address = server.sockets[0].getsockname()
        writers = [(await asyncio.open_connection(*address))[1] for _ in range(40)]
        for writer in writers:
            writer.write(b"x")  # at once, before the event loop reads
        counted.count_turns()
        with anyio.fail_after(60):
            await counted.is_whole.wait()
        assert max(map(counted.parsed.count, counted.parsed)) <= 2 * TAKEN_AT_ONCE
        for writer in writers:
            writer.transport.abort()


async def test_what_has_a_token_waits_for_one_of_many_addresses() -> None:
    log: list[tuple[str, int]] = []
    owners: dict[SlicedConnection, str] = {}
    loop = asyncio.get_running_loop()
    turns = ParseTurns(lambda each: owners[each], lambda each: owners[each] == "tenant")
    tenant = Records("tenant", SLICE_BYTES + 1, log)
    strangers = [Records(f"at {number}", SLICE_BYTES + 1, log) for number in range(50)]
    for protocol in [*strangers, tenant]:
        connection = SlicedConnection(protocol, turns, loop)
        owners[connection] = protocol.name
        connection.connection_made(Ended())
        connection.data_received(bytes(protocol.size))
    with anyio.fail_after(60):
        await tenant.is_whole.wait()
    assert log.index(("tenant", 1)) <= 3


@embedded
async def test_a_query_of_many_parameters_is_refused(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        for count, status in ((PARAMETERS_MAX, 401), (PARAMETERS_MAX + 1, 400)):
            reply = await system.get("/v1/login", **{f"a{number}": "" for number in range(count)})
            assert reply.status_code == status
            assert ("32 parameters" in reply.text) == (status == 400)


@embedded
async def test_a_head_of_many_lines_is_refused(server: Server, cell: str) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    async with gateway_system(server.url, cell) as system:
        for lines, status in ((90, b"200"), (request_parser.HEAD_LINES_MAX, b"400")):
            async with client(system) as (reader, writer):
                writer.write(head + b"a: b\r\n" * lines + b"Connection: close\r\n\r\n")
                assert (await read_to_end(reader)).split(b" ", 2)[1] == status


async def test_a_small_request_is_parsed_before_what_another_connection_has_sent() -> None:
    log: list[tuple[str, int]] = []
    loop, turns = asyncio.get_running_loop(), ParseTurns(lambda _: "")
    sent = os.urandom(4_000_000)
    flood, small = Records("flood", len(sent), log), Records("small", 1, log)
    made = iter((flood, small))
    server = await loop.create_server(
        lambda: SlicedConnection(next(made), turns, loop), "127.0.0.1", 0
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, first = await asyncio.open_connection("127.0.0.1", port)
        _, second = await asyncio.open_connection("127.0.0.1", port)
        first.write(sent)
        with anyio.fail_after(60):
            await flood.has_begun.wait()
            second.write(b"x")
            await flood.is_whole.wait()
        assert flood.received == sent
        assert max(size for _, size in log) == SLICE_BYTES
        position = log.index(("small", 1))
        assert sum(size for _, size in log[:position]) < len(sent)
        for writer in (first, second):
            writer.transport.abort()


@embedded
async def test_requests_with_floods_of_chunks_end_and_others_are_served(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        async with client(system) as (reader, writer):  # the route takes no body
            writer.write(CHUNKED % b"logout" + CHUNKS)
            reply = await read_to_end(reader)
            assert reply == b"" or reply.startswith(b"HTTP/1.1 400 ")
        async with client(system) as (reader, writer):
            writer.write(CHUNKED % b"logout" + b"1\r\na\r\n0\r\n\r\n" + HEALTH)
            head, _, body = (await read_to_end(reader)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert b"connection: close" in head.lower()
            assert b"send no body" in body and b"HTTP/1.1" not in body
        for chunks in (request_parser.BODY_CHUNKS_MAX, request_parser.BODY_CHUNKS_MAX + 1):
            async with client(system) as (reader, writer):
                writer.write(CHUNKED % b"rebuild" + b"1\r\na\r\n" * chunks + b"0\r\n\r\n" + HEALTH)
                received = await read_to_end(reader)
                is_served = received.endswith(b'{"ok":true}')
                assert is_served == (chunks <= request_parser.BODY_CHUNKS_MAX), received
        assert (await system.get("/healthz")).status_code == 200


@embedded
@pytest.mark.parametrize(
    "flood",
    [
        frame(PING) * 200,
        frame(PONG) * 200,
        frame(0x01) + frame(CONTINUED) * 200,
        frame(0x01) + frame(CONTINUED, b"a") * 200,
        frame(0x02, bytes(128)) + frame(CONTINUED, bytes(128)) * connections.FRAGMENTS_MAX,
    ],
    ids=["ping", "pong", "empty", "tiny", "fragments"],
)
async def test_a_flood_of_frames_ends_its_socket_with_1008(
    server: Server, cell: str, flood: bytes
) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",)) as system,
        client(system) as (reader, writer),
        producer(system) as other,
    ):
        writer.write(handshake(system))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(flood)
        received = await read_to_end(reader)
        assert b"\x03\xf0TOO_MANY_FRAMES" in received  # 1008
        await other.open()


@embedded
@pytest.mark.parametrize("is_secured", [False, True], ids=["plain", "tls"])
async def test_frames_that_come_with_the_handshake_are_served_in_order(
    server: Server, cell: str, tmp_path: Path, is_secured: bool
) -> None:
    """Some come in the slice of the request, others in later ones; then 30 chunks of audio."""
    certificate, key = write_certificate(tmp_path)
    options: dict[str, Any] = {"tls_cert": certificate, "tls_key": key} if is_secured else {}
    context = ssl.create_default_context(cafile=str(certificate)) if is_secured else None
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",), **options) as system,
        client(system, context) as (reader, writer),
    ):
        audio = [frame(BINARY, number.to_bytes(4, "big") + TENTH) for number in range(30)]
        writer.write(handshake(system) + frame(TEXT, OPEN) + b"".join(audio))
        received = await reader.readuntil(b'"next_seq":30')
        assert b" 101 " in received.partition(b"\r\n")[0]
        assert b'"type":"error"' not in received


@embedded
async def test_frames_of_one_write_take_effect_in_order(server: Server, cell: str) -> None:
    """A chunk passes the queue of frames by, unless a frame before it waits there."""
    audio = [frame(BINARY, number.to_bytes(4, "big") + TENTH) for number in range(9)]
    odd = frame(BINARY, (8).to_bytes(4, "big") + b"odd")
    finalize = frame(TEXT, b'{"type": "finalize"}')
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",)) as system,
        client(system) as (reader, writer),
    ):
        writer.write(handshake(system) + frame(TEXT, OPEN))
        await reader.readuntil(b'"type":"opened"')
        writer.write(finalize.join(audio[:8]) + finalize + odd + audio[8] + audio[7])
        received = await reader.readuntil(b'"next_seq":9')
        assert received.count(b'"type":"error"') == received.count(b'"limit":"whole 16') == 1
        store = system.es.stores[cell]
        log = await store.read_range(store.keys.log, "-", "+", 1_000)
        data = [event.data for event in map(decode_event, log) if isinstance(event, Event)]
        assert [each.count for each in data if isinstance(each, UtteranceFinalized)] == [1] * 8


@embedded
async def test_bytes_before_the_end_of_the_peer_are_served(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        async with client(system) as (reader, writer):
            whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 500
            writer.write(whole)
            await reader.readuntil(b'{"ok":true}')
            for _ in range(499):
                await reader.readuntil(b'{"ok":true}')
        async with client(system) as (reader, writer):
            writer.write(HEALTH + b"x" * 8_000)  # nothing after the last request is parsed
            assert (await read_to_end(reader)).startswith(b"HTTP/1.1 200 ")
