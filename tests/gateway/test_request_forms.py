"""Requests whose end two servers may find at different places are refused with 400."""

from __future__ import annotations

import asyncio

import h11
import pytest

from eventsched.gateway.request_parser import RequestParser
from tests.gateway.gateways import gateway_system
from tests.gateway.test_floods import HEALTH, client, read_to_end
from tests.server_kinds import Server

POST = b"POST /v1/rebuild HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
REFUSED = {
    "length and encoding": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding and length": POST
    + b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
    "encoding in HTTP/1.0": POST.replace(b"1.1", b"1.0")
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another encoding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an encoding twice": POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "a signed length": POST + b"Content-Length: +0\r\n\r\n",
    "LF after the first line": b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n",
    "LF after a header": b"GET /healthz HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "LF at the end of the head": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\n",
    "LF twice": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "CR in a value": b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
    "space before a colon": POST + b"Content-Length : 0\r\n\r\n",
    "LF after a size": CHUNKED + b"0\n\r\n",
    "LF after the last chunk": CHUNKED + b"0\r\n\n",
    "LF in a trailer": CHUNKED + b"0\r\nA: b\n\r\n",
}
"""Form -> a request without a reply of its own; what follows it must not be served."""

HANDSHAKE = (
    b"Host: x",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_request_that_other_servers_may_read_differently_is_refused(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=()) as system:

        async def reply_to(request: bytes) -> bytes:
            async with client(system) as (reader, writer):
                writer.write(request + HEALTH)
                return await read_to_end(reader)

        replies = dict(
            zip(REFUSED, await asyncio.gather(*map(reply_to, REFUSED.values())), strict=True)
        )
        served = {form for form, reply in replies.items() if b'{"ok":true}' in reply}
        assert not served
        # a reply that has begun before the end of a body is not followed by another one
        begun = {form for form, reply in replies.items() if reply[:12] != b"HTTP/1.1 400"}
        assert begun <= {"LF after a size", "LF after the last chunk", "LF in a trailer"}
        assert (await reply_to(CHUNKED + b"0\r\nA: b\r\n\r\n")).endswith(b'{"ok":true}')


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_long_path_is_refused_and_long_cookies_are_not_parsed(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any token; Python's parser of cookies takes seconds for a quoted value of 60 KiB."""

    def parse(_: str) -> dict[str, str]:
        raise AssertionError("cookies are parsed")

    monkeypatch.setattr("starlette.requests.cookie_parser", parse)
    async with gateway_system(server.url, cell, roles=()) as system:

        async def status_of(path: bytes, *headers: bytes) -> bytes:
            async with client(system) as (reader, writer):
                lines = [b"GET %s HTTP/1.1" % path, b"Host: x", b"Connection: close", *headers]
                writer.write(b"\r\n".join([*lines, b"", b""]))
                return (await read_to_end(reader)).split()[1]

        quoted = b'Cookie: eventsched_80="' + b"\\" * 60_000 + b'"'
        assert await status_of(b"/v1/who", quoted) == b"401"
        assert await status_of(b"/v1/who", b"Cookie: " + b";" * 60_000) == b"401"
        assert await status_of(b"/healthz?" + b"a" * 8_000) == b"200"
        assert await status_of(b"/healthz?" + b"a" * 8_200) == b"400"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_handshake_that_the_parser_of_websockets_refuses_gets_a_reply_and_ends(
    server: Server, cell: str
) -> None:
    """Before any token; uvicorn would leave the connection open without a reply."""
    async with gateway_system(server.url, cell, roles=()) as system:

        async def status_of(path: bytes, *headers: bytes) -> bytes:
            async with client(system) as (reader, writer):
                lines = [b"GET %s HTTP/1.1" % path, *HANDSHAKE, *headers]
                writer.write(b"\r\n".join([*lines, b"", b""]))
                return (await read_to_end(reader)).split()[1]

        socket = b"/v1/sessions"
        long = b"a" * 60_000
        assert await status_of(socket, b"Origin: http://" + long) == b"431"
        assert await status_of(socket, b"Sec-WebSocket-Protocol: " + long) == b"431"
        assert await status_of(socket + b"?" + b"a" * (8_192 - len(socket) - 1)) == b"414"
        assert await status_of(socket, b"Content-Length: 5") == b"400"
        assert await status_of(socket, b"Transfer-Encoding: chunked") == b"400"
        assert await status_of(socket, b"Origin: http://" + b"a" * 8_000) == b"403"


def read_all(parser: RequestParser, data: bytes, size: int) -> None:
    """Give the parser pieces of a size, and read all events."""
    for start in range(0, len(data), size):
        parser.receive_data(data[start : start + size])
        while parser.next_event() not in (h11.NEED_DATA, h11.PAUSED):
            pass


@pytest.mark.parametrize("end", [b"0\r\n\n", b"0\r\nA: b\n\r\n", b"0\n\r\n"])
def test_a_chunked_body_ends_with_crlf_however_its_bytes_arrive(end: bytes) -> None:
    for size in range(1, len(end) + 1):
        parser = RequestParser()
        read_all(parser, CHUNKED, size)
        with pytest.raises(h11.RemoteProtocolError):
            read_all(parser, end, size)
    parser = RequestParser()
    read_all(parser, CHUNKED + b"0\r\nA: b\r\n\r\n", 1)
    assert parser.their_state is h11.DONE
