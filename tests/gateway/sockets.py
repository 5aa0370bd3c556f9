"""WebSocket clients for tests: they send and expect frames, on real connections.

async with producer(system, token) as socket:
    opened = await socket.open(source="en", targets=["es"])
    await socket.chunk(0, SECOND)
    ack = await socket.expect("ack")
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.gateway.gateways import GatewaySystem, bearer

WITHIN_S = 60.0
TENTH = bytes(3_200)
"""A tenth of a second of silence at 16 kHz."""


class Socket:
    """One connection. Frames of other kinds than the expected one are in `skipped`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.skipped: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send(msgspec.json.encode({"type": kind} | fields).decode())

    async def receive(self) -> dict[str, Any]:
        """The next text frame."""
        with anyio.fail_after(WITHIN_S):
            received = await self.connection.recv()
        frame: dict[str, Any] = msgspec.json.decode(received)
        return frame

    async def expect(self, *kinds: str, **fields: Any) -> dict[str, Any]:
        """The next frame of one of these kinds, with these fields."""
        while True:
            frame = await self.receive()
            if frame["type"] in kinds:
                assert {name: frame.get(name) for name in fields} == fields, frame
                return frame
            self.skipped.append(frame)

    async def error(self, code: str, **fields: Any) -> dict[str, Any]:
        return await self.expect("error", code=code, **fields)

    async def closed(self) -> int:
        """Read until the gateway closes the connection; its close code."""
        with anyio.fail_after(WITHIN_S):
            try:
                while True:
                    self.skipped.append(msgspec.json.decode(await self.connection.recv()))
            except ConnectionClosed as error:
                assert error.rcvd is not None, "the connection ended without a close frame"
                return error.rcvd.code

    # --- producers --------------------------------------------------------------------------

    async def open(self, **fields: Any) -> dict[str, Any]:
        await self.send("open", **{"source": "en", "targets": ["es"]} | fields)
        return await self.expect("opened")

    async def resume(self, opened: dict[str, Any], **fields: Any) -> dict[str, Any]:
        session, token = opened["session"], opened["resume_token"]
        await self.send("resume", session=session, resume_token=token, **fields)
        return await self.expect("opened")

    async def chunk(self, number: int, audio: bytes = TENTH) -> None:
        await self.connection.send(struct.pack(">I", number) + audio)

    async def stored(self, next_seq: int) -> None:
        """Wait until every chunk below `next_seq` is acknowledged."""
        while (await self.expect("ack"))["next_seq"] < next_seq:
            pass


@asynccontextmanager
async def socket_of(
    system: GatewaySystem, path: str, token: str, url: str = "", **options: Any
) -> AsyncIterator[Socket]:
    options = {"subprotocols": ["eventsched.v1"], "additional_headers": bearer(token)} | options
    base = (url or system.url).replace("http", "ws", 1)
    async with connect(f"{base}{path}", proxy=None, **options) as connection:
        yield Socket(connection)


@asynccontextmanager
async def producer(
    system: GatewaySystem, token: str = "", url: str = "", **options: Any
) -> AsyncIterator[Socket]:
    shown = token or system.token("producer", "acme")
    async with socket_of(system, "/v1/sessions", shown, url, **options) as socket:
        yield socket


class NodeSocket(Socket):
    """A connection of a node. `audio` has the binary frames, by the reference of the job."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__(connection)
        self.audio: dict[int, bytes] = {}
        self.whole: set[int] = set()

    async def receive(self) -> dict[str, Any]:
        while True:
            with anyio.fail_after(WITHIN_S):
                received = await self.connection.recv()
            if isinstance(received, str):
                frame: dict[str, Any] = msgspec.json.decode(received)
                return frame
            ref, number = struct.unpack_from(">II", received)
            assert ref not in self.whole
            assert (number & 0x7FFFFFFF) == len(self.audio.get(ref, b"")) // 65_536
            self.audio[ref] = self.audio.get(ref, b"") + received[8:]
            if number >> 31:
                self.whole.add(ref)

    async def register(self, name: str = "n1", **fields: Any) -> dict[str, Any]:
        declared = {
            "name": name, "sources": ["en"], "targets": ["es"], "slots": 4,
            "registration_token": f"token-of-the-node-{name}",
        }  # fmt: skip
        await self.send("register", **declared | fields)
        return await self.expect("registered")

    async def audio_of(self, job: dict[str, Any]) -> bytes:
        """The audio of a job, once it has arrived whole. Other frames are in `skipped`."""
        while job["ref"] not in self.whole:
            await self.send("heartbeat", held=[held(job)])
            await self.expect("heartbeat")
        return self.audio[job["ref"]]


def held(job: dict[str, Any]) -> dict[str, Any]:
    return {"job": job["job"], "attempt": job["attempt"]}


@asynccontextmanager
async def node_socket(
    system: GatewaySystem, token: str = "", url: str = "", **options: Any
) -> AsyncIterator[NodeSocket]:
    shown = token or system.token("node")
    async with socket_of(system, "/v1/nodes", shown, url, **options) as socket:
        yield NodeSocket(socket.connection)
