"""The streams of one tenant cost other tenants little: shared blocks, bounded number and bytes."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager

import anyio.to_thread
import pytest

from eventsched.gateway import event_feed, event_stream, event_view
from eventsched.gateway import server as gateway_server
from eventsched.gateway.config import GatewayConfig
from eventsched.schema.codec import decode
from eventsched.schema.ids import parse_id
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.test_events import TRACE, stream_of
from tests.gateway.test_unfinished_requests import read_to_end
from tests.server_kinds import Server
from tests.systems import until

STREAMS = 20
WAITING_BYTES = 20_000
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


async def speak(system: GatewaySystem, count: int) -> None:
    """Open sessions, each with an event."""
    for _ in range(count):
        async with system.es.session("acme", "en", ["es"], traceparent=TRACE) as session:
            session.detach()


async def test_a_block_is_made_once_for_all_streams_of_a_view(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = event_view.event_block

    def counted(positions: Mapping[str, str], data: bytes) -> bytes:
        made.append(positions[cell])
        return make(positions, data)

    monkeypatch.setattr(event_view, "event_block", counted)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        views, token = system.gateway.views, system.token("viewer", "acme")
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(stream_of(system, token)) for _ in range(STREAMS)
            ]
            await until("all have joined", lambda: views.streams == STREAMS)
            await speak(system, 5)
            seen = [[(await each.event())["id"] for _ in range(5)] for each in streams]
            assert seen == [made[:5]] * STREAMS
            assert len(made) == len(set(made))
            await until("all have sent", lambda: not views.bytes_of("acme"), within_s=10)
        await until("all have left", lambda: not views.streams)


async def test_a_tenant_may_have_as_many_streams_as_are_free(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",), streams_max=4) as system,
        AsyncExitStack() as stack,
    ):
        own, other = system.token("viewer", "acme"), system.token("viewer", "other")
        for token in (own, own, other):
            await stack.enter_async_context(stream_of(system, token))
        for token in (own, other):
            refused = await system.get("/v1/events", token)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            error = refused.json()["error"]
            assert error["code"] == "TOO_MANY_STREAMS"
            assert "another gateway" in error["message"]
        await stack.aclose()
        await until("all have ended", lambda: not system.gateway.streams.count)
        async with stream_of(system, own) as stream:
            await until("it has joined", lambda: system.gateway.views.streams == 1)
            await speak(system, 1)
            assert (await stream.event())["type"] == "SessionOpened"


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    listen = gateway_server._listen

    def with_small_buffers(config: GatewayConfig) -> socket.socket:
        listening = listen(config)  # accepted connections have its buffers
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        return listening

    monkeypatch.setattr(gateway_server, "_listen", with_small_buffers)


@contextmanager
def slow_stream(system: GatewaySystem, after: str = "") -> Iterator[socket.socket]:
    """A stream whose client has not begun to read."""
    host, _, port = system.url.partition("://")[2].partition(":")
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.settimeout(60)
        peer.connect((host, int(port)))
        lines = (
            f"GET /v1/events?after={after} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Authorization: Bearer {system.token('viewer', 'acme')}",
            "Connection: close",
        )
        peer.sendall("\r\n".join([*lines, "", ""]).encode())
        yield peer


async def rest_of(peer: socket.socket) -> list[str]:
    """The positions of the blocks that a stream sends until it ends in good order."""
    reply = await anyio.to_thread.run_sync(read_to_end, peer)
    assert reply.endswith(b"0\r\n\r\n"), reply[-100:]
    body = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", reply.partition(b"\r\n\r\n")[2])
    assert body.count(b"id: ") == body.count(b"\n\n") - 1  # whole blocks, after a comment
    return [each.decode() for each in re.findall(rb"id: (\S+)", body)]


async def test_a_slow_stream_ends_with_its_position_and_bounded_bytes(
    server: Server, cell: str, small_buffers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_view, "WAITING_BYTES_MAX", WAITING_BYTES)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        views = system.gateway.views
        with slow_stream(system) as peer:
            await until("the stream has joined", lambda: views.streams == 1)
            (view,) = views._views.values()
            (reader,) = view.readers

            async def is_slow() -> bool:
                await speak(system, 20)
                assert views.bytes_of("acme") <= WAITING_BYTES
                return reader.is_slow

            await until("its blocks are deleted", is_slow)
            positions = await rest_of(peer)
        assert not views.streams
        assert views.bytes_of("acme") == 0
        await check_continues(system, cell, positions)


async def test_a_stream_that_catches_up_too_slowly_ends_with_its_position(
    server: Server, cell: str, small_buffers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "CATCH_UP_S", 1.0)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        await speak(system, 200)
        turns = system.gateway.catch_ups
        with slow_stream(system, f"{cell}=0-1") as peer:
            await until("it catches up", lambda: turns.count("acme") == 1)
            await until("its time is over", lambda: turns.count("acme") == 0)
            positions = await rest_of(peer)
        await check_continues(system, cell, positions)


async def test_a_position_that_the_reader_has_not_reached_repeats_nothing(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "READ_COUNT", 1)
    monkeypatch.setattr(event_feed, "REST_S", 0.2)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        token, store = system.token("viewer", "acme"), system.es.stores[cell]
        views = system.gateway.views
        async with stream_of(system, token):
            await until("the reader runs", lambda: views.streams == 1)
            await speak(system, 4)
            last = await store.last_id(store.keys.log)
            async with stream_of(system, token, f"{cell}={last}") as stream:
                await until("it has joined", lambda: views.streams == 2)
                await speak(system, 1)
                assert parse_id((await stream.event())["id"]) > parse_id(last)


async def check_continues(system: GatewaySystem, cell: str, positions: list[str]) -> None:
    """The positions are those of the events without a hole, and a stream goes on after them."""
    store = system.es.stores[cell]
    async with stream_of(system, system.token("viewer", "acme"), positions[-1]) as stream:
        following = (await stream.event())["id"]
    first = positions[0].partition("=")[2]
    entries = await store.read_range(store.keys.log, first, following, 10_000)
    of_sessions = [entry[0] for entry in entries if decode(*entry).session]
    assert [each.partition("=")[2] for each in positions] + [following] == of_sessions
