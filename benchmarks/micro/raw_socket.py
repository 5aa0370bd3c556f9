"""A WebSocket client that costs little: it builds frames itself, with a mask of zeros.

Owns: the upgrade, the frames in both directions, the answer to a ping.
Never does: measure. Read next: gateway.py.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.micro.figures import BenchFailed

TEXT, BINARY, PONG = 1, 2, 10


class RawSocket:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, path: str, token: str = "") -> RawSocket:
        """Open a connection. Raises BenchFailed if the upgrade is refused."""
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        lines = [
            f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade",
            "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Protocol: eventsched.v1", f"Authorization: Bearer {token}",
        ]  # fmt: skip
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise BenchFailed(f"the upgrade of {path} was refused: {head[:200]!r}")
        return cls(reader, writer)

    async def send(self, frames: bytes) -> None:
        """Send frames that `frame` made."""
        self._writer.write(frames)
        await self._writer.drain()

    async def send_text(self, **fields: Any) -> None:
        """Send a text frame."""
        await self.send(frame(TEXT, msgspec.json.encode(fields)))

    async def receive(self) -> bytes:
        """Return the next text or binary frame. Raises BenchFailed at the end."""
        while True:
            first, size = await self._reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack(">H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", await self._reader.readexactly(8))
            data = await self._reader.readexactly(size)
            match first & 0x0F:
                case 8:
                    raise BenchFailed(f"the server has closed the connection: {data!r:.200}")
                case 9:
                    await self.send(frame(PONG, data))
                case 1 | 2:
                    return data

    def close(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()


def frame(kind: int, data: bytes) -> bytes:
    """Return a whole frame of at most 65,535 bytes, masked with zeros."""
    if len(data) < 126:
        return bytes([0x80 | kind, 0x80 | len(data)]) + bytes(4) + data
    return struct.pack(">BBH", 0x80 | kind, 0x80 | 126, len(data)) + bytes(4) + data
