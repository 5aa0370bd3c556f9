"""How fast a peer must take what is sent to it.

Owns: the least rate, the check of one transport. Never does: send.
Read next: connections.py (the caller).

A peer that takes a byte now and then makes progress, and would hold its buffers, its connection and
its handler for ever. So within each SEND_S it must take what waited at the start of that time, or
the bytes of SEND_S at the least rate.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle, Transport

from eventsched.gateway.peer_log import peer_log

SEND_S = 10.0
"""How often the rate of a peer is checked while something waits for it."""
BYTES_S_MIN = 4_096
"""Bytes a second that a peer takes at least."""


class SendRate:
    """The rate at which one peer takes what waits for it; a peer that is too slow is dropped."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._timer: TimerHandle | None = None
        self._at_start = 0
        """Bytes that waited when the present check began."""
        self._added = 0
        """Bytes that were added since."""

    def start(self) -> None:
        """Something waits for the peer."""
        if self._timer is None:
            self._begin()

    def add(self, count: int) -> None:
        """Further bytes wait."""
        self._added += count

    def stop(self) -> None:
        """Nothing waits, or the connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._at_start, self._added = self._transport.get_write_buffer_size(), 0
        self._timer = self._loop.call_later(SEND_S, self._check)

    def _check(self) -> None:
        left = self._transport.get_write_buffer_size()
        taken = self._at_start + self._added - left
        if not left:
            self.stop()
        elif taken < min(self._at_start, SEND_S * BYTES_S_MIN):
            self.stop()
            peer_log.warning("peer takes too little of what waits for it: dropped", bytes=left)
            self._transport.abort()
        else:
            self._begin()
