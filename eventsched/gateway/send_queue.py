"""What waits to be sent to one peer, so that its size is true with and without TLS.

Owns: the bytes that a transport has not got, the size of a piece, the number of bytes that wait.
Never does: decide when a peer is too slow. Read next: send_rate.py (which decides that),
read_slices.py (the connection that owns a queue).

The TLS layers of asyncio and uvloop encrypt everything that is written at once and give it to the
transport below. What waits there is in no size that TLS reports, and pauses no writer. So TLS gets
a piece at a time, and the next one when it has passed the last one on. What waits is here, and is
no copy: connections that send one file share its bytes.
"""

from __future__ import annotations

from asyncio import Transport
from collections import deque
from typing import Protocol

PIECE_BYTES = 16_384
"""The most bytes that a transport gets at once; also the largest record of TLS."""


class Below(Protocol):
    """What is below TLS."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes TLS has passed on that are not sent."""


class SendQueue:
    """The bytes that wait for one peer, in order.

    Args:
        transport: Sends; it must pause writing as soon as it has one byte to send.
        below: What is below TLS; none without TLS. It may have a piece that `transport`
            reports as sent.
    """

    def __init__(self, transport: Transport, below: Below | None = None) -> None:
        self._transport = transport
        self._below = below
        self._parts: deque[memoryview] = deque()
        self._bytes = 0
        self._is_ended = False
        self.is_blocked = False
        """Whether the transport wants no piece now. Without it, nothing waits here."""

    @property
    def is_empty(self) -> bool:
        """Whether the transport has got everything."""
        return not self._parts

    @property
    def size(self) -> int:
        """Number of bytes that the peer's connection has not taken."""
        if self._is_ended:
            return 0
        below = 0 if self._below is None else self._below.get_write_buffer_size()
        return self._bytes + self._transport.get_write_buffer_size() + below

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes after those that wait."""
        if self._is_ended or not data:
            return
        if len(data) <= PIECE_BYTES and not self.is_blocked:
            self._transport.write(data)
            return
        self._parts.append(memoryview(data if isinstance(data, bytes) else bytes(data)))
        self._bytes += len(data)
        self._send()

    def unblock(self) -> None:
        """The transport wants pieces again."""
        self.is_blocked = False
        self._send()

    def flush(self) -> None:
        """Give the transport everything: it ends when it has sent what it has."""
        while self._parts:
            self._transport.write(self._take())

    def end(self) -> None:
        """Drop everything: the connection has ended."""
        self._is_ended = True
        self._parts.clear()
        self._bytes = 0

    def _send(self) -> None:
        while self._parts and not self.is_blocked:
            self._transport.write(self._take())

    def _take(self) -> bytes | memoryview:
        """Take the next piece; small parts are joined."""
        pieces, left = [], PIECE_BYTES
        while self._parts and left:
            part = self._parts.popleft()
            if len(part) > left:
                self._parts.appendleft(part[left:])
                part = part[:left]
            pieces.append(part)
            left -= len(part)
        self._bytes -= PIECE_BYTES - left
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
