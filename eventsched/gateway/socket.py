"""One WebSocket of a gateway: frames in and out, its limits and its end.

Owns: the limits of frames, the end at the token's expiry.
Never does: interpret frames, drop a peer that takes nothing (send_rate.py).
Read next: producer_socket.py, node_socket.py, connections.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from uvicorn.protocols.utils import ClientDisconnected

from eventsched.gateway.authentication import SUBPROTOCOL
from eventsched.gateway.connections import pass_chunks
from eventsched.gateway.frames import Close, Error, Reply, error_frame

_ENCODER = msgspec.json.Encoder()
_LIMIT = "INVALID_MESSAGE"


class Disconnected(Exception):
    """Raised when the peer is gone."""


class Ended(Exception):
    """Raised to end a connection with a close code, after the frame that says why.

    Args:
        code: The close code.
        error: The last frame; none if the code says it all.
    """

    def __init__(self, code: Close, error: Error | None = None) -> None:
        self.code = code
        self.error = error
        super().__init__(code.name)


class FrameSocket:
    """One connection after its upgrade.

    Args:
        socket: The connection.
        text_max: Bytes of a text frame.
        binary_max: Bytes of a binary frame.
    """

    def __init__(self, socket: WebSocket, *, text_max: int, binary_max: int) -> None:
        self._socket = socket
        self._text_max = text_max
        self._binary_max = binary_max

    async def accept(self) -> None:
        """Complete the upgrade. Raises ClientDisconnected."""
        await self._socket.accept(SUBPROTOCOL)

    async def receive(self) -> str | bytes:
        """Return the next frame.

        Raises:
            Disconnected: The peer is gone.
            Ended: The frame is too large.
        """
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise Disconnected
        text = message.get("text")
        if text is not None:
            if len(text) > self._text_max or len(text.encode()) > self._text_max:
                raise self._too_large("text", self._text_max)
            return str(text)
        data: bytes = message["bytes"]
        if len(data) > self._binary_max:
            raise self._too_large("binary", self._binary_max)
        return data

    def pass_chunks(self, accept: Callable[[bytes], bool]) -> None:
        """Pass binary frames to `accept` from now on; `receive` returns those that it refuses.

        It must not raise, and must not accept a frame that is too large.
        """
        pass_chunks(self._socket.scope, accept)

    def _too_large(self, kind: str, most: int) -> Ended:
        limit = f"at most {most:,} bytes in a {kind} frame"
        error = Error(
            code=_LIMIT,
            message=f"{_LIMIT} frame: {limit}",
            field="frame",
            limit=limit,
            remedy="send smaller frames",
            fatal=True,
        )
        return Ended(Close.TOO_LARGE, error)

    async def send(self, frame: Reply) -> None:
        """Send a text frame. Raises Disconnected."""
        text = _ENCODER.encode(frame).decode()
        await self._send({"type": "websocket.send", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary frame. Raises Disconnected."""
        await self._send({"type": "websocket.send", "bytes": data})

    async def _send(self, message: dict[str, object]) -> None:
        try:
            await self._socket.send(message)
        except (WebSocketDisconnect, ClientDisconnected, RuntimeError, OSError):
            raise Disconnected from None

    async def end(self, ended: Ended) -> None:
        """Send the last frame and close the connection."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            if ended.error is not None:
                await self.send(ended.error)
            await self._send(
                {"type": "websocket.close", "code": int(ended.code), "reason": ended.code.name}
            )
        except Disconnected:
            return


async def serve_until(
    expiry_s: float, frames: FrameSocket, serve: Callable[[], Awaitable[None]]
) -> None:
    """Accept the connection and serve it until it ends, at the latest when its token expires.

    Args:
        expiry_s: Unix time at which the token expires.
        frames: The connection.
        serve: Serves the connection; each exception that it raises ends the connection, an
            unforeseen one with `RESTART`.
    """
    await frames.accept()
    try:
        with anyio.move_on_after(max(0.0, expiry_s - time.time())):
            await serve()
            return
        raise Ended(Close.TOKEN_EXPIRED)
    except Exception as error:  # noqa: BLE001 - each ends the connection in its own way
        end = _first_ended(error)
        if isinstance(end, Disconnected):
            return
        await frames.end(end if isinstance(end, Ended) else _ended_of(end))


def _first_ended(error: BaseException) -> Ended | Disconnected | Exception:
    """Return the exception that decides how a connection ends, of a group of several."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, Exception) else RuntimeError(repr(error))
    ends = [_first_ended(each) for each in error.exceptions]
    order = {Ended: 0, Disconnected: 1}
    return min(ends, key=lambda each: order.get(type(each), 2))


def _ended_of(error: Exception) -> Ended:
    """Return how a connection ends by an unforeseen exception, which is logged."""
    return Ended(Close.RESTART, error_frame(error, fatal=True))
