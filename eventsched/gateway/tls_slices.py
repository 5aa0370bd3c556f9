"""Gives TLS what a connection sends in slices, so that no read holds the event loop.

Owns: the bytes that TLS has not got, how many of them may have no content.
Never does: encrypt. Read next: tls_handshake.py (which puts this between a transport and its TLS),
read_slices.py (the same above TLS), parse_turns.py.

TLS handles all that it gets in one piece: of one read 10,000 records that are empty or change keys,
which cost 10 us each. So TLS gets at most SLICE_BYTES at once, in the turns of the gateway, and
nothing while the protocol above it wants no bytes. A connection whose records have little content
ends.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, BufferedProtocol, Transport
from typing import Any

from eventsched.gateway.parse_turns import ParseTurns
from eventsched.gateway.read_slices import SLICE_BYTES

EMPTY_BYTES_MAX = 32_768
"""Bytes that TLS may get beyond CONTENT_PART times those of the content; more end a connection."""
CONTENT_PART = 8
"""One byte in so many has to be content. A record has 22 bytes beside it."""


class TlsSlices(asyncio.Protocol):
    """One connection between its transport and its TLS.

    Args:
        tls: The protocol of TLS.
        raw: The transport.
        turns: The other connections of the gateway.
        loop: The event loop.
    """

    def __init__(
        self, tls: BufferedProtocol, raw: Transport, turns: ParseTurns, loop: AbstractEventLoop
    ) -> None:
        self._tls = tls
        self._raw = raw
        self._turns = turns
        self._loop = loop
        self.peer: Any = raw
        """The connection whose owner has the turns."""
        self._buffer = bytearray()
        """What TLS has not got."""
        self._empty = 0
        """Bytes that TLS has got beyond the content."""
        self._is_paused = False
        self._is_queued = False

    # The side of the transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._buffer.clear()
        self._tls.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: give TLS few at once, and others in turns."""
        if (
            len(data) <= SLICE_BYTES
            and not self._buffer
            and not self._is_paused
            and (self.is_socket or self._turns.take(self._loop))
        ):
            self._give(data)
            return
        self._buffer += data
        self._wait()

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        return self._tls.eof_received()

    def pause_writing(self) -> None:
        """The transport wants no further bytes."""
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        """The transport wants bytes again."""
        self._tls.resume_writing()

    @property
    def is_socket(self) -> bool:
        """Whether the connection is a socket, whose token is verified."""
        return bool(getattr(self.peer, "is_socket", False))

    def parse_slice(self) -> bool:
        """Give TLS one slice; return whether it may get another one."""
        if self._has_slice():
            data = bytes(self._buffer[:SLICE_BYTES])
            del self._buffer[:SLICE_BYTES]
            self._give(data)
        self._is_queued = self._has_slice()
        if not (self._is_queued or self._is_paused or self._raw.is_closing()):
            self._raw.resume_reading()
        return self._is_queued

    # The side of TLS and what is above it

    def pause_reading(self) -> None:
        """Give TLS no bytes."""
        self._is_paused = True
        if not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Give TLS bytes again: first those that wait."""
        self._is_paused = False
        if self._buffer:
            self._wait()
        elif not self._raw.is_closing():
            self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes TLS has passed on that are not sent."""
        return self._raw.get_write_buffer_size()

    def count_content(self, size: int) -> None:
        """TLS has given so many bytes of content."""
        self._empty = max(0, self._empty - CONTENT_PART * size)

    def _has_slice(self) -> bool:
        return bool(self._buffer) and not self._is_paused

    def _wait(self) -> None:
        """Read nothing more until TLS has got the buffer."""
        if not self._raw.is_closing():
            self._raw.pause_reading()
        if self._has_slice() and not self._is_queued:
            self._is_queued = True
            self._turns.add(self, self._loop)

    def _give(self, data: bytes) -> None:
        self._empty += len(data)
        try:
            while data:
                buffer = memoryview(self._tls.get_buffer(len(data)))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                self._tls.buffer_updated(count)
                data = data[count:]
        except Exception as error:  # noqa: BLE001 - as a transport does with an unforeseen one
            context = {"message": "TLS cannot take bytes of a client", "exception": error}
            self._loop.call_exception_handler(context)
            self._empty = EMPTY_BYTES_MAX + 1
        if self._empty > EMPTY_BYTES_MAX:
            self._buffer.clear()
            self._raw.abort()
