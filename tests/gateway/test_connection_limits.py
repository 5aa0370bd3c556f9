"""No tenant, address or peer without a token takes the connections of a gateway from others."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from websockets.exceptions import ConnectionClosed

from eventsched.gateway import connections
from eventsched.gateway import server as gateway_server
from eventsched.gateway.connection_limits import (
    ADDRESS_UNOWNED_MAX,
    UNOWNED_MAX,
    ConnectionLimits,
    TooManyConnections,
    TooManySockets,
)
from tests.gateway.certificates import write_certificate
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sockets import Socket, producer, socket_of
from tests.gateway.test_unfinished_requests import HEAD, ask_by_tls, read_to_end
from tests.server_kinds import Server

LIMIT = 20
embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


class Transport:
    """A transport of an address."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.is_open = True

    def abort(self) -> None:
        self.is_open = False

    def get_extra_info(self, name: str) -> object:
        assert name == "peername"
        return self.host, 1


def opened(limits: ConnectionLimits, owner: str) -> int:
    """How many connections the owner gets."""
    for count in range(limits.most + 1):
        peer = Transport("192.0.2.1")
        limits.add(peer)
        try:
            limits.own(peer, owner)
        except (TooManyConnections, TooManySockets):
            limits.remove(peer)
            return count
    raise AssertionError("no limit")


def test_each_tenant_leaves_as_many_connections_free_as_it_has() -> None:
    limits = ConnectionLimits(2_000, owned_max=1_200)
    assert [opened(limits, name) for name in "abcd"] == [600, 300, 150, 75]
    assert opened(limits, "a") == 0
    assert limits.count == 600 + 300 + 150 + 75
    configured = ConnectionLimits(2_000, owned_max=1_200, tenant_max=1_000)
    assert [opened(configured, name) for name in "ab"] == [1_000, 200]
    moved = Transport("192.0.2.1")
    configured.add(moved)
    with pytest.raises(TooManySockets):
        configured.own(moved, "c")


def test_connections_without_an_owner_have_a_limit_by_address_and_in_all() -> None:
    limits = ConnectionLimits(50_000, owned_max=20_000, proxies=["198.51.100.0/24", "name"])
    quiet, own = Transport("203.0.113.9"), Transport("203.0.113.7")
    limits.add(quiet)
    limits.add(own)
    limits.own(own, "acme")
    loud = [Transport("203.0.113.7") for _ in range(ADDRESS_UNOWNED_MAX + 5)]
    dropped = [limits.add(each) for each in loud]
    assert dropped.count(True) == 5
    assert [each.is_open for each in loud[:6]] == [False] * 5 + [True]
    network = [Transport(f"2001:db8::{each:x}") for each in range(ADDRESS_UNOWNED_MAX + 1)]
    for each in network:
        limits.add(each)
    assert [each.is_open for each in network[:2]] == [False, True]  # 64 bits are one host
    for _ in range(UNOWNED_MAX):
        limits.add(Transport("198.51.100.4"))
    assert limits.count == UNOWNED_MAX + 1
    assert quiet.is_open and own.is_open
    assert loud[-1].is_open  # the address with most loses its oldest


async def fill(system: GatewaySystem, stack: AsyncExitStack, token: str) -> int:
    """Open sockets until the gateway refuses one; how many it served."""
    for count in range(LIMIT):
        peer: Socket = await stack.enter_async_context(producer(system, token))
        with suppress(ConnectionClosed):  # the gateway closes a refused socket at once
            await peer.send("open", source="en", targets=["es"])
        frame = await peer.expect("opened", "error")
        if frame["type"] == "error":
            assert (frame["code"], frame["fatal"]) == ("TOO_MANY_CONNECTIONS", True)
            assert frame["retry_after_ms"] > 0
            assert "acme" not in frame["message"]
            assert await peer.closed() == 4503
            return count
    raise AssertionError("no limit")


@embedded
async def test_one_tenant_leaves_sockets_for_others(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",), sockets_max=12) as system:
        async with AsyncExitStack() as stack:
            assert await fill(system, stack, system.token("producer", "acme")) == 6
            refused = await system.get("/v1/who", system.token("viewer", "acme"))
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert refused.json()["error"]["code"] == "TOO_MANY_CONNECTIONS"
            assert await fill(system, stack, system.token("producer", "other")) == 3
            who = await system.get("/v1/who", system.token("operator"))
            assert who.status_code == 200
        async with producer(system) as again:
            await again.open()


@embedded
async def test_subjects_with_a_token_for_all_tenants_share_like_tenants(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",), sockets_max=8) as system,
        AsyncExitStack() as stack,
    ):
        token = system.token("node")
        for _ in range(4):
            await stack.enter_async_context(socket_of(system, "/v1/nodes", token))
        refused = await stack.enter_async_context(socket_of(system, "/v1/nodes", token))
        await refused.error("TOO_MANY_CONNECTIONS")
        async with producer(system) as speaker:
            await speaker.open()


@contextmanager
def peers_from(address: str, url: str, requests: list[bytes]) -> Iterator[list[socket.socket]]:
    """Connections of an address of this machine that have sent these bytes."""
    host, _, port = url.partition("://")[2].partition(":")
    with ExitStack() as stack:
        peers = []
        for request in requests:
            peer = socket.create_connection((host, int(port)), 60, source_address=(address, 0))
            peers.append(stack.enter_context(peer))
            peer.sendall(request)
        yield peers


@embedded
async def test_an_address_does_not_take_the_connections_of_another_one(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 600.0)
    monkeypatch.setattr(gateway_server, "connections_max", lambda _: LIMIT)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        with (
            peers_from("127.0.0.2", system.url, [HEAD]) as (slow,),
            peers_from("127.0.0.3", system.url, [HEAD] * (3 * LIMIT)) as peers,
        ):
            assert await anyio.to_thread.run_sync(read_to_end, peers[0]) == b""
            slow.sendall(b"Connection: close\r\n\r\n")
            reply = await anyio.to_thread.run_sync(read_to_end, slow)
            assert reply.startswith(b"HTTP/1.1 200 ")


@embedded
async def test_a_reply_without_a_token_does_not_hold_a_connection_at_the_limit(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers that have sent whole requests and do not read are dropped like those that wait."""
    monkeypatch.setattr(gateway_server, "connections_max", lambda _: LIMIT)
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        whole = (HEAD + b"\r\n") * 500
        with peers_from("127.0.0.3", system.url, [whole] * LIMIT):
            for _ in range(3):
                assert (await system.get("/v1/who", system.token("operator"))).status_code == 200


@embedded
async def test_tls_handshakes_that_do_not_end_are_counted(
    server: Server, cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_server, "REQUEST_S", 600.0)
    monkeypatch.setattr(gateway_server, "connections_max", lambda _: LIMIT)
    certificate, key = write_certificate(tmp_path)
    async with gateway_system(
        server.url, cell, roles=("dispatcher",), tls_cert=certificate, tls_key=key
    ) as system:
        context = ssl.create_default_context(cafile=str(certificate))
        with peers_from("127.0.0.3", system.url, [b"\x16\x03\x01"] * (3 * LIMIT)) as peers:
            for peer in peers[: 2 * LIMIT]:
                assert await anyio.to_thread.run_sync(read_to_end, peer) == b""
            for _ in range(3):
                reply = await anyio.to_thread.run_sync(ask_by_tls, system.url, context)
                assert reply.startswith(b"HTTP/1.1 200 ")


@embedded
async def test_a_socket_over_tls_opens_a_session_and_is_counted(
    server: Server, cell: str, tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path)
    async with gateway_system(
        server.url, cell, roles=("dispatcher",), tls_cert=certificate, tls_key=key, sockets_max=2
    ) as system:
        context = ssl.create_default_context(cafile=str(certificate))
        options: dict[str, Any] = {"ssl": context, "server_hostname": "localhost"}
        async with producer(system, **options) as speaker:
            await speaker.open()
            for number in range(30):  # 96 kB: many records
                await speaker.chunk(number)
            await speaker.stored(30)
            async with producer(system, **options) as refused:
                await refused.error("TOO_MANY_CONNECTIONS")
        async with producer(system, **options) as again:
            await again.open()
