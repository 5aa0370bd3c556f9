"""Peers cannot fill the log of a gateway: lines are bounded in number and in size."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

import anyio
import pytest
from structlog.testing import capture_logs
from uvicorn.protocols.utils import ClientDisconnected

from eventsched.gateway import peer_log as module
from eventsched.gateway.peer_log import PeerLog
from tests.gateway.gateways import gateway_system
from tests.gateway.test_floods import HEALTH, client, handshake, read_to_end
from tests.server_kinds import Server
from tests.systems import until

embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)
COUNT = 12
LINES_MAX = 3
UPGRADE = b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
BAD = {
    "no request": b"\x00\xff" * 3_000 + b"\r\n\r\n",
    "another upgrade": UPGRADE + b"h2c\r\nConnection: close\r\n\r\n",
    "no key": UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "bad key": UPGRADE + b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n\r\n",
    "long target": b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "body": b"POST /v1/logout HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
}


@pytest.fixture(autouse=True)
def few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINES_MAX", LINES_MAX)
    module.peer_log.summarize()


@embedded
@pytest.mark.parametrize("resets", [False, True], ids=["reads", "resets"])
async def test_peers_without_a_token_write_few_and_short_lines(
    server: Server, cell: str, caplog: pytest.LogCaptureFixture, resets: bool
) -> None:
    with capture_logs() as own:
        async with gateway_system(server.url, cell, roles=()) as system:

            async def send(request: bytes) -> None:
                async with client(system) as (reader, writer):
                    writer.write(request)
                    if resets:
                        reset(writer)
                    else:
                        await read_to_end(reader)

            for request in BAD.values():
                await asyncio.gather(*(send(request) for _ in range(COUNT)))
            async with client(system) as (reader, writer):
                writer.write(HEALTH)
                assert (await read_to_end(reader)).endswith(b'{"ok":true}')
    libraries = [each for each in caplog.records if each.name in ("uvicorn.error", "asyncio")]
    by_text: dict[str, int] = {}
    for record in libraries:
        assert record.levelno >= logging.WARNING
        assert not record.exc_info and not record.exc_text, record.exc_text
        assert len(record.getMessage()) <= module.TEXT_MAX
        by_text[record.getMessage()] = by_text.get(record.getMessage(), 0) + 1
    assert len(by_text) <= len(BAD) and max(by_text.values()) <= LINES_MAX, by_text
    left_out = [line["lines"] for line in own if line["event"] == "similar lines left out"]
    assert resets or max(left_out) >= COUNT - LINES_MAX
    assert not [line for line in own if line["log_level"] == "error"]


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@embedded
async def test_sockets_whose_peers_leave_at_once_write_no_line(
    server: Server, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as own:
        async with gateway_system(server.url, cell, roles=()) as system:
            for token in (system.token("producer", "acme"), "none"):
                request = handshake(system, token)
                for _ in range(COUNT):
                    async with client(system) as (_, writer):
                        writer.write(request)
                        await asyncio.sleep(0)  # sleeps: a turn, in which the gateway may read
                        reset(writer)
            await until("no socket is left", lambda: system.gateway.sockets == 0)
    assert [each for each in caplog.records if each.name in ("uvicorn.error", "asyncio")] == []
    assert [line for line in own if line["log_level"] in ("warning", "error")] == []


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record_of(
    error: BaseException | None = None, text: str = "a %s", *args: str
) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("uvicorn.error", logging.ERROR, __file__, 1, text, args, info)


def test_each_cause_has_its_lines_in_a_minute_and_a_summary() -> None:
    clock = Clock()
    log = PeerLog(clock)
    with capture_logs() as lines:
        for number in range(LINES_MAX + 2):
            log.warning("one", number=number)
            assert log.filter(record_of(None, "a %s", str(number))) == (number < LINES_MAX)
        log.warning("two")
        assert [line["event"] for line in lines] == ["one"] * LINES_MAX + ["two"]
        lines.clear()
        log.summarize()
        assert {(line["cause"], line["lines"]) for line in lines} == {
            ("one", 2),
            ("uvicorn.error: a %s", 2),
        }
        lines.clear()
        log.warning("one")
        log.summarize()
        assert [line["event"] for line in lines] == ["one"]
        clock.now_s = 3 * module.MINUTE_S
        assert log.filter(record_of(None, "b"))


def test_causes_share_a_count_when_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAUSES_MAX", 2)
    log = PeerLog(Clock())
    with capture_logs() as lines:
        for number in range(10):
            log.warning(str(number))
    assert len(lines) == 2 + LINES_MAX


def test_a_line_and_a_traceback_have_a_greatest_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRACEBACK_MAX", 100)
    log = PeerLog(Clock())
    error = ValueError("x" * 10_000 + " end")
    long = record_of(error, "y" * 10_000)
    assert log.filter(long)
    assert long.getMessage() == "y" * module.TEXT_MAX
    assert long.exc_info is None and len(long.exc_text or "") < 200
    assert (long.exc_text or "").endswith(" end\n")
    with capture_logs() as lines:
        log.failure("failed", error)
    assert len(lines[0]["exception"]) < 200 and len(lines[0]["error"]) == 500
    assert not log.filter(record_of(ClientDisconnected(), "Exception in ASGI application"))


async def test_a_summary_is_written_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MINUTE_S", 0.05)
    log = PeerLog(Clock())
    with capture_logs() as lines:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log.run)
            for _ in range(LINES_MAX + 1):
                log.warning("one")
            await until("the summary is written", lambda: len(lines) == LINES_MAX + 1)
            tasks.cancel_scope.cancel()
    assert lines[-1]["event"] == "similar lines left out"
