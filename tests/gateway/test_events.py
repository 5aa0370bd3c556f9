"""The stream of events: what a viewer sees, and how it goes on after a broken connection."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from eventsched.gateway import send_rate
from eventsched.gateway import server as gateway_server
from eventsched.gateway.config import GatewayConfig
from tests.gateway.gateways import GatewaySystem, bearer, gateway_system
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import SECOND, serving, until

WITHIN_S = 60.0
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


class Stream:
    """The blocks of one stream."""

    def __init__(self, reply: httpx.Response) -> None:
        self._lines = reply.aiter_lines()
        self.last_id = ""

    async def block(self) -> dict[str, str]:
        """The next block with a field; comments are passed over."""
        block: dict[str, str] = {}
        with anyio.fail_after(WITHIN_S):
            while True:
                line = await anext(self._lines)
                if line:
                    name, _, value = line.partition(": ")
                    block |= {name: value} if name else {}
                elif block:
                    self.last_id = block.get("id", self.last_id)
                    return block

    async def event(self) -> dict[str, Any]:
        """The next event."""
        while True:
            block = await self.block()
            if "data" in block:
                return {
                    "event": block.get("event", "message"),
                    **msgspec.json.decode(block["data"]),
                }

    async def until_type(self, kind: str) -> dict[str, Any]:
        while (event := await self.event()).get("type") != kind:
            pass
        return event


@asynccontextmanager
async def stream_of(
    system: GatewaySystem, token: str, after: str = "", **query: Any
) -> AsyncIterator[Stream]:
    headers = bearer(token) | ({"last-event-id": after} if after else {})
    url = f"{system.url}/v1/events"
    async with system.http.stream("GET", url, headers=headers, params=query) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield Stream(reply)


async def speak(system: GatewaySystem, tenant: str = "acme") -> str:
    async with system.es.session(tenant, "en", ["es"]) as session:
        await session.append(SECOND, end_of_utterance=True)
    return session.id


async def test_a_stream_goes_on_after_its_last_id_without_gap_or_repeat(
    server: Server, cells: Any
) -> None:
    names = cells(), cells()
    async with gateway_system(server.url, *names) as system:
        nodes = [echo(f"{name}.n1") for name in names]
        token = system.token("viewer")
        async with serving(system.es, *nodes):
            seen: list[tuple[str, str]] = []
            async with stream_of(system, token) as stream:
                sessions = [await speak(system) for _ in range(4)]
                while len(seen) < 5:
                    seen.append(place_of(await stream.event()))
            sessions += [await speak(system) for _ in range(4)]
            async with stream_of(system, token, stream.last_id) as again:
                sessions += [await speak(system) for _ in range(2)]
                closed: set[str] = set()
                while closed < set(sessions):
                    event = await again.event()
                    seen.append(place_of(event))
                    if event["type"] == "SessionClosed":
                        closed.add(event["session"])
        everything = await system.json("/v1/history", token)
        places = [place_of(event) for event in everything["events"]]
        expected = [each for each in places if each in set(seen)]
        assert sorted(seen) == sorted(expected)
        assert len(set(seen)) == len(seen)
        first = min(map(places.index, seen))
        assert len(seen) >= len(places[first:]) - 20  # registrations and ends of nodes come later


def place_of(event: dict[str, Any]) -> tuple[str, str]:
    """Id and session: two cells may have entries of the same id."""
    return event["id"], event.get("session", "")


async def test_a_viewer_of_one_tenant_sees_its_events_and_moves_on(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        stream_of(system, system.token("viewer", "acme", texts=False)) as stream,
    ):
        await until("the stream has joined", lambda: system.gateway.feeds[cell].reads > 0)
        await speak(system, "other")
        block = await stream.block()
        assert block.keys() == {"id"}  # nothing to see, but the position moves
        session = await speak(system)
        assert (await stream.event())["session"] == session
        recorded = await stream.until_type("ResultRecorded")
        assert "text" not in recorded
        assert "body" not in recorded


async def test_many_streams_share_one_reader(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        token = system.token("viewer")
        async with anyio.create_task_group() as tasks:
            seen = []

            async def watch() -> None:
                async with stream_of(system, token, cells=cell) as stream:
                    seen.append((await stream.until_type("SessionClosing"))["session"])

            for _ in range(20):
                tasks.start_soon(watch)
            feed = system.gateway.feeds[cell]
            await until("all have joined", lambda: system.gateway.views.streams == 20)
            before = feed.reads
            async with system.es.session("acme", "en", ["es"]) as session:
                await session.append(SECOND)
        assert seen == [session.id] * 20
        assert feed.reads - before < 20
        await until("all have left", lambda: not system.gateway.views.streams)
        assert system.gateway.sockets == 0


async def test_a_stream_from_before_the_log_names_the_first_event_that_exists(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        store = system.es.stores[cell]
        for _ in range(3):
            async with system.es.session("acme", "en", ["es"]) as session:
                session.detach()
        entries = await store.read_range(store.keys.log, "-", "+", 100)
        await store.transport.command(
            "XTRIM", store.keys.log, "MINID", entries[2][0], key=store.keys.log
        )
        async with stream_of(system, system.token("viewer"), f"{cell}={entries[0][0]}") as stream:
            truncated = await stream.event()
            assert truncated == {"event": "truncated", "cell": cell, "first": entries[2][0]}
            assert (await stream.event())["id"] == entries[2][0]


async def test_a_client_that_reads_nothing_is_dropped(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_rate, "SEND_S", 0.5)
    listen = gateway_server._listen

    def with_small_buffers(config: GatewayConfig) -> socket.socket:
        listening = listen(config)  # accepted connections have its buffers
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        return listening

    monkeypatch.setattr(gateway_server, "_listen", with_small_buffers)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        host, _, port = system.url.partition("://")[2].partition(":")
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            peer.connect((host, int(port)))
            lines = ("GET /v1/events HTTP/1.1", f"Host: {host}:{port}")
            named = f"Authorization: Bearer {system.token('viewer')}"
            peer.sendall("\r\n".join([*lines, named, "", ""]).encode())
            await until("the stream has joined", lambda: system.gateway.views.streams == 1)

            async def is_dropped() -> bool:
                for _ in range(20):
                    async with system.es.session(
                        "acme", "en", ["es"], traceparent=TRACE
                    ) as session:
                        session.detach()
                return system.gateway.sockets == 0

            await until("the stream has ended", is_dropped, within_s=120)
            assert not system.gateway.views.streams
