"""The gateway's side of the connections of one client.

Owns: the listening socket, the checks of a handshake, the connections in their order, the frames of
one connection.
Never does: judge beyond the handshake and the form of a frame. Read next: producer_peer.py,
node_peer.py, gateway/frames.py.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from time import monotonic
from typing import Any, Generic, TypeVar

import anyio
import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from eventsched.conformance.rules import Violation, check
from eventsched.errors import InvalidMessage
from eventsched.gateway.authentication import SUBPROTOCOL
from eventsched.gateway.frames import Close, Error, FrameDecoder, Reply

WITHIN_S = 20.0
"""How long a client may take for what is due, if a scenario names no other time."""
START_S = 60.0
"""How long a program may take from its start to its first connection."""
PAUSE_S = 0.1
"""The least pause between two tries of a client to connect."""
BASE_PATH = "/speech"
FRAME_BYTES_MAX = 1_048_576
FrameT = TypeVar("FrameT")
_ENCODER = msgspec.json.Encoder()


class Broken(Exception):
    """Raised when the client has closed a connection, or it broke."""


class PeerSocket(Generic[FrameT]):
    """One connection of the client.

    Args:
        connection: The connection after its upgrade.
        decoder: Decodes the client's text frames.
        within_s: How long the client may take for a frame that is due.
    """

    def __init__(
        self, connection: ServerConnection, decoder: FrameDecoder[FrameT], within_s: float
    ) -> None:
        self.connection = connection
        self._decoder = decoder
        self._within_s = within_s

    async def receive(self) -> FrameT | bytes:
        """Return the next frame.

        Raises:
            Violation: The frame is malformed, or none came in time.
            Broken: The connection has ended.
        """
        frame = await self.receive_soon(self._within_s)
        if frame is None:
            raise Violation("PACE", f"no frame within {self._within_s:.0f} s")
        return frame

    async def receive_soon(self, quiet_s: float) -> FrameT | bytes | None:
        """Return the next frame; None if none comes for so long. Raises as `receive`."""
        try:
            with anyio.fail_after(quiet_s):
                received = await self.connection.recv()
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            raise Broken(str(error)) from None
        if isinstance(received, bytes):
            return received
        try:
            return self._decoder.decode(received)
        except InvalidMessage as error:
            raise Violation("FRAMES", f"{error}: {received:.200}") from None

    async def send(self, frame: Reply) -> None:
        """Send a text frame. Raises Broken."""
        await self.send_text(_ENCODER.encode(frame).decode())

    async def send_text(self, text: str) -> None:
        """Send any text. Raises Broken."""
        try:
            await self.connection.send(text)
        except ConnectionClosed as error:
            raise Broken(str(error)) from None

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary frame. Raises Broken."""
        try:
            await self.connection.send(data)
        except ConnectionClosed as error:
            raise Broken(str(error)) from None

    async def end(self, code: Close, error: Error | None = None) -> None:
        """Close the connection as a gateway does."""
        with suppress(Broken):
            if error is not None:
                await self.send(error)
        await self.connection.close(int(code), code.name)

    def cut(self) -> None:
        """Break the connection without a close frame."""
        self.connection.transport.abort()


class Listener:
    """Accepts the connections of one client. `listening` makes it."""

    def __init__(self, path: str, token: str, within_s: float) -> None:
        self.within_s = within_s
        self._path = BASE_PATH + path
        self._token = token
        self._sender, self._connections = anyio.create_memory_object_stream[
            ServerConnection | Violation
        ](math.inf)
        self._refusals = 0
        self._tried_at = 0.0
        self._is_first = True
        self.url = ""
        self.tries = 0
        """How often the client has tried to connect."""

    def refuse(self, count: int) -> None:
        """Refuse the next handshakes with 503."""
        self._refusals = count

    async def on_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Check a handshake; a violation becomes the result of `accept`."""
        now, self.tries = monotonic(), self.tries + 1
        try:
            self._check(request)
            is_early = self.tries > 1 and now - self._tried_at < PAUSE_S
            check(not is_early, "PAUSE", f"two tries within {PAUSE_S * 1_000:.0f} ms")
        except Violation as violation:
            self._sender.send_nowait(violation)
            return connection.respond(HTTPStatus.BAD_REQUEST, f"{violation}\n")
        self._tried_at = now
        if self._refusals:
            self._refusals -= 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no more sockets\n")
        return None

    def _check(self, request: Request) -> None:
        path, _, query = request.path.partition("?")
        check(self._token not in request.path and not query, "TOKEN", f"the URL has {request.path}")
        check(path == self._path, "PATH", f"{request.path} instead of {self._path}")
        offered = [
            name.strip()
            for value in request.headers.get_all("Sec-WebSocket-Protocol")
            for name in value.split(",")
        ]
        check(SUBPROTOCOL in offered, "SUBPROTOCOL", f"offered: {', '.join(offered) or 'none'}")
        shown = request.headers.get("Authorization", "")
        has_token = shown == f"Bearer {self._token}" or f"bearer.{self._token}" in offered
        check(has_token, "TOKEN", "the token is in no place for it")

    async def on_connection(self, connection: ServerConnection) -> None:
        """Hand a connection to `accept`, and hold it until it ends."""
        self._sender.send_nowait(connection)
        await connection.wait_closed()

    async def accept(self, rule: str = "RECONNECT") -> ServerConnection:
        """Return the next connection. Raises Violation: `rule` if none comes."""
        limit_s = START_S if self._is_first else self.within_s
        try:
            with anyio.fail_after(limit_s):
                arrived = await self._connections.receive()
        except TimeoutError:
            raise Violation(rule, f"no connection within {limit_s:.0f} s") from None
        self._is_first = False
        if isinstance(arrived, Violation):
            raise arrived
        return arrived

    def close(self) -> None:
        self._sender.close()
        self._connections.close()


@asynccontextmanager
async def listening(path: str, token: str, within_s: float) -> AsyncIterator[Listener]:
    """Listen on a free port of loopback while the block lasts."""
    listener = Listener(path, token, within_s)
    options: dict[str, Any] = {
        "subprotocols": [SUBPROTOCOL],
        "process_request": listener.on_request,
        "max_size": FRAME_BYTES_MAX,
        "compression": None,
        "close_timeout": 1,
    }
    async with serve(listener.on_connection, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        listener.url = f"http://127.0.0.1:{port}{BASE_PATH}"
        try:
            yield listener
        finally:
            for connection in list(server.connections):
                connection.transport.abort()
            listener.close()
