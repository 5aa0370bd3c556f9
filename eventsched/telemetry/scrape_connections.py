"""The open connections of the server of `--metrics-listen`.

Owns: how many there are, which one ends for a new one, when their time is over.
Never does: accept, read or write. Read next: exposition.py.

A peer that connects again and again replaces its own connections, the oldest first, and none of a
peer that has fewer. The oldest connection of a scraper is gone after some milliseconds, that of a
peer which sends nothing is not.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import socket


class ScrapeConnections:
    """The open connections, oldest first; a lock guards them, as each has a thread.

    Args:
        most: Greatest number of connections.
        within_s: Time of a connection.
    """

    def __init__(self, most: int, within_s: float) -> None:
        self._most = most
        self._within_s = within_s
        self._lock = threading.Lock()
        self._open: dict[socket, tuple[str, float]] = {}
        """Connection -> address of its peer, end of its time."""

    def add(self, connection: socket, address: str, now_s: float) -> None:
        """Add a connection; at the limit, end the oldest one of the peer that has most."""
        with self._lock:
            if len(self._open) >= self._most:
                self._end(self._replaced_by(address))
            self._open[connection] = address, now_s + self._within_s

    def remove(self, connection: socket) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._open.pop(connection, None)

    def end_overdue(self, now_s: float) -> None:
        """End the connections whose time is over."""
        with self._lock:
            overdue = [each for each, (_, end_s) in self._open.items() if now_s >= end_s]
            for connection in overdue:
                self._end(connection)

    def _replaced_by(self, address: str) -> socket:
        """Return the connection that a new one of the address replaces."""
        counts = Counter(peer for peer, _ in self._open.values())
        if address in counts:
            counts[address] += 1
        most = max(counts, key=lambda peer: counts[peer])
        return next(each for each, (peer, _) in self._open.items() if peer == most)

    def _end(self, connection: socket) -> None:
        """End a connection. Its thread closes it, and may have done so."""
        del self._open[connection]
        with suppress(OSError):
            connection.shutdown(SHUT_RDWR)
