"""Parses what connections send in slices, so that no read holds the event loop.

Owns: the size of a slice, when a transport is read.
Never does: parse. Read next: parse_turns.py (the order of connections whose bytes wait),
connections.py (whose protocols parse), send_queue.py (the other direction), tls_slices.py (the
same below TLS), docs/adr/0049-slices-of-reads.md.

One read may give 256 KiB. Its parsing takes 0.2 s if these are 40,000 chunks or frames, and during
that time a gateway serves nobody. So a protocol gets at most SLICE_BYTES at once. The rest waits,
the transport is not read meanwhile, and the owners of connections with bytes that wait share a part
of each turn of the event loop. A connection that sends little is served at once, unless that part
is used up. A small read of a socket is always parsed at once, because its token is verified.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, BaseProtocol, BaseTransport, Transport
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from eventsched.gateway.parse_turns import ParseTurns
from eventsched.gateway.send_queue import SendQueue

SLICE_BYTES = 4_096
"""The most bytes that a protocol gets at once."""


class BelowTls(Protocol):
    """What is below the TLS of a connection, and takes the turns for it."""

    def pause_reading(self) -> None:
        """Give TLS no bytes."""

    def resume_reading(self) -> None:
        """Give TLS bytes again."""

    def get_write_buffer_size(self) -> int:
        """Return how many bytes TLS has passed on that are not sent."""

    def count_content(self, size: int) -> None:
        """TLS has given so many bytes of content."""


class SlicedConnection(asyncio.Transport, asyncio.Protocol):
    """One connection between its transport and the protocol that parses.

    What arrives before the connection is closed is parsed in order, also by the protocol that
    `set_protocol` puts in the place of the first one. The end of a connection reaches the protocol
    at once, and what waits is dropped: nothing could be answered. The end of the peer's bytes is
    reported only when none wait, because the transport is not read before.

    Writing is paused while anything waits for the peer, and the number of its bytes is known with
    and without TLS.

    Args:
        protocol: Parses.
        turns: The other connections of the gateway.
        loop: The event loop.
        below_tls: What is below TLS, and takes the turns; none without TLS.
    """

    def __init__(
        self,
        protocol: asyncio.Protocol,
        turns: ParseTurns,
        loop: AbstractEventLoop,
        below_tls: BelowTls | None = None,
    ) -> None:
        super().__init__()
        self._protocol = protocol
        self._turns = turns
        self._loop = loop
        self._below_tls = below_tls
        self._transport: Transport
        self._reading: Transport | BelowTls
        """What is paused and resumed."""
        self._unsent: SendQueue
        self._buffer = bytearray()
        """What the protocol has not got."""
        self._in_turn: Callable[[], None] | None = None
        """What the protocol does in the next turn, before it gets bytes."""
        self._is_paused = False
        """Whether the protocol wants no bytes."""
        self._is_prompt = below_tls is not None
        """Whether a small read needs no turn."""
        self._is_socket = False
        """Whether the protocol is the second one, which a token permits."""
        self._is_queued = False
        self._is_writing_paused = False
        """Whether the protocol knows that something waits for the peer."""
        self._is_closed = False
        self._is_lost = False

    # The side of the transport

    def connection_made(self, transport: BaseTransport) -> None:
        """The connection exists."""
        self._transport = cast("Transport", transport)
        self._reading = self._transport if self._below_tls is None else self._below_tls
        self._unsent = SendQueue(self._transport, self._below_tls)
        self._protocol.connection_made(self)
        # Writing is paused by everything that is not sent. With 0, TLS would pause it for ever. The
        # protocol is there before: TLS may have a part of the handshake, and pause at once.
        self._transport.set_write_buffer_limits(high=1)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._is_lost = True
        self._drop()
        self._unsent.end()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived: parse them if they are few and none wait."""
        if self._is_closed:
            return
        if self._below_tls is not None:
            self._below_tls.count_content(len(data))
        if (
            len(data) <= SLICE_BYTES
            and not self._buffer
            and not self._is_paused
            and self._in_turn is None
            and (self._is_prompt or self._turns.take(self._loop))
        ):
            self._protocol.data_received(data)
            return
        self._buffer += data
        self._wait()

    def eof_received(self) -> bool | None:
        """The peer sends no more."""
        keeps_open = self._protocol.eof_received()
        if not keeps_open:
            self._unsent.flush()  # the transport ends the connection when it has sent what it has
        return keeps_open

    def pause_writing(self) -> None:
        """The transport wants no further piece."""
        self._unsent.is_blocked = True
        self._update_writing()

    def resume_writing(self) -> None:
        """The transport wants pieces again."""
        self._unsent.unblock()
        if self._is_closed and self._unsent.is_empty:
            self._close_transport()
        self._update_writing()

    def _update_writing(self) -> None:
        """Let the protocol know whether something waits for the peer."""
        if self._is_writing_paused == self._unsent.is_blocked:
            return
        self._is_writing_paused = self._unsent.is_blocked
        if self._is_writing_paused:
            self._protocol.pause_writing()
        else:
            self._protocol.resume_writing()

    def parse_slice(self) -> bool:
        """Give the protocol one slice; return whether it may get another one."""
        if not self._has_slice():
            self._is_queued = False
            return False
        try:
            if in_turn := self._in_turn:
                self._in_turn = None
                in_turn()
            else:
                data = bytes(self._buffer[:SLICE_BYTES])
                del self._buffer[:SLICE_BYTES]
                self._protocol.data_received(data)
        except Exception as error:  # noqa: BLE001 - as a transport does with an unforeseen one
            context = {"message": "bytes of a client cannot be parsed", "exception": error}
            self._loop.call_exception_handler(context)
            self.abort()
        self._is_queued = self._has_slice()
        if not self._is_queued and self.is_reading() and not self._buffer:
            self._reading.resume_reading()
        return self._is_queued

    @property
    def peer(self) -> SlicedConnection:
        """The connection whose owner has the turn."""
        return self

    @property
    def is_socket(self) -> bool:
        """Whether the connection is a socket, whose slices begin no request."""
        return self._is_socket

    def call_in_turn(self, call: Callable[[], None]) -> None:
        """Call in the next turn of this connection, and give the protocol no bytes before."""
        if not self._is_closed:
            self._in_turn = call
            self._wait()

    def _has_slice(self) -> bool:
        return self._in_turn is not None or (bool(self._buffer) and not self._is_paused)

    def _wait(self) -> None:
        """Read nothing more until the buffer is parsed."""
        if not self.is_closing():
            self._reading.pause_reading()
        if self._has_slice() and not self._is_queued:
            self._is_queued = True
            self._turns.add(self, self._loop)

    def _drop(self) -> None:
        self._is_closed = True
        self._buffer.clear()
        self._in_turn = None

    # The side of the protocol

    def put_back(self, data: bytes) -> None:
        """Give bytes that one protocol has not used to the next one, before all others."""
        if data and not self._is_closed:
            self._buffer[:0] = data
            self._wait()

    def pause_reading(self) -> None:
        """Give the protocol no bytes."""
        self._is_paused = True
        if not self.is_closing():
            self._reading.pause_reading()

    def resume_reading(self) -> None:
        """Give the protocol bytes again: first those that wait."""
        self._is_paused = False
        if self._buffer:
            self._wait()
        elif not self.is_closing():
            self._reading.resume_reading()

    def is_reading(self) -> bool:
        """Return whether the protocol gets bytes."""
        return not self._is_paused and not self.is_closing()

    def abort(self) -> None:
        """End the connection at once, and drop what waits on both sides."""
        self._drop()
        self._unsent.end()
        if not self._is_lost:  # a transport that has ended may fail to abort
            self._transport.abort()

    def close(self) -> None:
        """End the connection when everything written is sent; parse nothing more."""
        if self._is_closed:  # a transport of TLS that is closed again cannot be aborted
            return
        self._drop()
        if self._unsent.is_empty:
            self._close_transport()
        elif not self._transport.is_closing():
            self._reading.pause_reading()

    def _close_transport(self) -> None:
        self._transport.close()
        if self._below_tls is not None:  # TLS waits for the end that the peer sends
            self._below_tls.resume_reading()

    def is_closing(self) -> bool:
        """Return whether the connection ends."""
        return self._is_closed or self._transport.is_closing()

    def set_protocol(self, protocol: BaseProtocol) -> None:
        """Let another protocol parse what comes, each small read at once."""
        self._is_prompt = self._is_socket = True
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> BaseProtocol:
        """Return the protocol that parses."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection, such as `peername`."""
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, unless the connection ends."""
        if not self._is_closed:
            self._unsent.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Send bytes, unless the connection ends."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the peer, also those that TLS has."""
        return self._unsent.size

    def can_write_eof(self) -> bool:
        """Return that only the end of the connection ends what is sent."""
        return False
