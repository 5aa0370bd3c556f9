"""Bad input on the producer socket: an error names the field, and the connection goes on."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from eventsched.gateway import node_socket, producer_socket
from tests.gateway.gateways import GatewaySystem, gateway_on, gateway_system
from tests.gateway.jwt_times import expiring
from tests.gateway.sockets import TENTH, Socket, producer, socket_of
from tests.server_kinds import Server

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)

BAD_OPENS: list[tuple[dict[str, Any], str]] = [
    ({"source": "english"}, "source"),
    ({"source": 1}, "source"),
    ({"targets": ["auto"]}, "targets"),
    ({"targets": "es"}, "targets"),
    ({"targets": ["es"] * 9}, "targets"),
    ({"features": ["a b"]}, "features"),
    ({"room": "a/b"}, "room"),
    ({"listen_language": "es"}, "listen_language"),
    ({"encoding": "mp3"}, "encoding"),
    ({"sample_rate": 7_999}, "sample_rate"),
    ({"sample_rate": 16_000.5}, "sample_rate"),
    ({"priority": 3}, "priority"),
    ({"traceparent": "x"}, "traceparent"),
    ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01\n"}, "traceparent"),
    ({"tenant": "other"}, "tenant"),
    ({"unknown": 1}, "unknown"),
]
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BAD_TEXTS = ["", "x", "[]", "1", "{}", '{"type": "nothing"}', "[" * 5_000, '{"type": "\\ud800"}']


async def check_bad_opens(system: GatewaySystem) -> None:
    async with producer(system) as socket:
        for fields, field in BAD_OPENS:
            await socket.send("open", **{"source": "en", "targets": ["es"]} | fields)
            error = await socket.error("INVALID_MESSAGE")
            assert error["field"].startswith(field), (fields, error)
            assert error["limit"] and error["remedy"] and "fatal" not in error
        await socket.send("open", targets=["es"])
        await socket.error("INVALID_MESSAGE", field="source")
        await socket.chunk(0)
        await socket.error("INVALID_MESSAGE", field="type")
        await socket.send("finalize")
        await socket.error("INVALID_MESSAGE", field="type")
        assert (await socket.open())["next_seq"] == 0  # the same connection, after all that


async def check_bad_frames(system: GatewaySystem) -> None:
    async with producer(system) as socket:
        await socket.open()
        for text in BAD_TEXTS:
            await socket.connection.send(text)
            await socket.error("INVALID_MESSAGE")
        await socket.send("open", source="en")
        await socket.error("INVALID_MESSAGE", field="type")
        await socket.send("confirm", id="x")
        await socket.error("INVALID_MESSAGE")
        await socket.send("confirm", id="1700000000000-0")  # never received
        await socket.error("INVALID_MESSAGE")
        for audio in (b"", TENTH[:-1], bytes(64_002)):  # none, half a sample, more than a second
            await socket.chunk(0, audio)
            assert (await socket.error("INVALID_MESSAGE"))["limit"]
        for traceparent in ("x", TRACEPARENT + "\n"):
            await socket.send("finalize", traceparent=traceparent)
            await socket.error("INVALID_MESSAGE", field="traceparent")
        await socket.connection.send(b"\x00")
        await socket.error("INVALID_MESSAGE", field="chunk")
        await socket.chunk(0, TENTH[:200])
        await socket.chunk(1)  # after a chunk of 6 ms only an end may follow
        await socket.error("INVALID_MESSAGE", field="chunk")
        await socket.send("finalize")
        await socket.chunk(1)
        await socket.stored(2)


async def check_oversized_frames(system: GatewaySystem) -> None:
    for frame, kind in (("x" * 65_537, "text"), ("é" * 32_769, "text"), (bytes(65_541), "binary")):
        async with producer(system) as socket:
            await socket.open()
            await socket.connection.send(frame)
            assert await socket.closed() == 1009
            assert kind in socket.skipped[-1]["limit"]
    async with producer(system) as socket:
        await socket.open()
        await socket.connection.send(bytes(512_005))  # larger than any frame: not even read
        assert await socket.closed() == 1009


async def check_tokens(system: GatewaySystem) -> None:
    for token, status in (
        ("", 401),
        ("x", 401),
        (expiring(system, -1), 401),
        (system.token("viewer", "acme"), 403),
        (system.token("node", "acme"), 403),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with socket_of(system, "/v1/sessions", token):
                pass
        assert refused.value.response.status_code == status
    offered = ["eventsched.v1", f"bearer.{system.token('producer', 'acme')}"]
    async with socket_of(system, "/v1/sessions", "", subprotocols=offered) as socket:
        assert socket.connection.subprotocol == "eventsched.v1"
        await socket.open()


async def check_expiry(system: GatewaySystem) -> None:
    async with producer(system, expiring(system, 3)) as socket:
        opened = await socket.open()
        assert await socket.closed() == 4401
    async with producer(system) as socket:
        await socket.resume(opened)


async def check_origins(system: GatewaySystem) -> None:
    token = system.token("producer", "acme")
    host = system.url.partition("://")[2]
    for origin in (f"http://{host}", "https://app.example"):
        async with producer(system, token, origin=origin) as socket:
            await socket.open()
    others = ("https://evil.example", "null", f"ftp://{host}", "https://app.example.evil")
    for origin in (*others, f"https://{host}", "http://[", ""):  # also of this host over TLS
        with pytest.raises(InvalidStatus) as refused:
            async with producer(system, token, origin=origin):
                pass
        assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        async with producer(system, token, subprotocols=["chat"]):
            pass
    assert refused.value.response.status_code == 400


async def test_bad_input_is_named_and_ends_nothing(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, origins=("https://app.example",)) as system:
        for holds in (
            check_bad_opens,
            check_bad_frames,
            check_oversized_frames,
            check_tokens,
            check_expiry,
            check_origins,
        ):
            await holds(system)


async def test_a_gateway_that_ends_tells_its_sockets_to_come_again(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell) as system:
        async with gateway_on(server.url, cell, keys=system.keys) as other:
            socket: Socket
            context = producer(system, url=other)
            socket = await context.__aenter__()
            opened = await socket.open()
            await socket.chunk(0)
            await socket.stored(1)
        assert await socket.closed() == 1012
        await context.__aexit__(None, None, None)
        async with producer(system) as again:
            assert (await again.resume(opened))["next_seq"] == 1


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/nodes"])
async def test_a_connection_without_a_first_frame_is_told_to_come_again(
    server: Server, cell: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (producer_socket, node_socket):
        monkeypatch.setattr(module, "FIRST_FRAME_S", 0.3)
    async with gateway_system(server.url, cell) as system:
        token = system.token("node" if path == "/v1/nodes" else "producer")
        async with socket_of(system, path, token) as socket:
            assert await socket.closed() == 4408
            assert socket.skipped[-1]["remedy"] == "send it"


async def test_a_gateway_has_a_limit_of_sockets(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, sockets_max=2, tenant_connections_max=2) as system,
        producer(system),
        producer(system),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with producer(system):
                pass
        assert refused.value.response.status_code == 503
        assert (await system.get("/healthz")).json() == {"ok": True}
