"""Decides whose bytes are parsed, and whose requests begin, in a turn of the event loop.

Owns: how much one turn of the event loop does, the order of connections that wait.
Never does: parse. Read next: read_slices.py and tls_slices.py (what takes turns),
docs/adr/0049-slices-of-reads.md.

One turn of an event loop calls everything that is ready. If 1,000 connections have sent a request,
that takes a second, during which a gateway serves nobody. So a turn begins TAKEN_AT_ONCE requests,
and the others wait. Owners with a verified token and peers without one take turns, whatever the
number of the latter.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

TURN_S = 0.002
"""How long slices of all connections are parsed in one turn of the event loop."""
TAKEN_AT_ONCE = 4
"""Reads outside of sockets in one turn of the event loop; each begins at most one request."""


class Sliced(Protocol):
    """What has bytes that wait."""

    @property
    def peer(self) -> Any:
        """The connection whose owner has the turn."""

    @property
    def is_socket(self) -> bool:
        """Whether the connection is a socket, whose slices begin no request."""

    def parse_slice(self) -> bool:
        """Parse one slice; return whether another one waits."""


class ParseTurns:
    """The connections of a gateway whose bytes wait, by owner.

    Owners take turns, whatever the number of their connections; so do the connections of an owner.

    Args:
        owner_of: Whose a connection is; connections without an owner are of their address.
        is_owned: Whether the owner is known by a token. Such owners have every second turn.
    """

    def __init__(
        self,
        owner_of: Callable[[Any], str],
        is_owned: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        self._owner_of = owner_of
        self._is_owned = is_owned
        self._owned: dict[str, deque[Sliced]] = {}
        """Owner -> connections; the next owner is the first."""
        self._unowned: dict[str, deque[Sliced]] = {}
        """The same by address."""
        self._is_owned_next = True
        self._taken = 0
        """Reads and slices of the present turn of the event loop that may have begun a request."""
        self._is_scheduled = False

    def take(self, loop: AbstractEventLoop) -> bool:
        """Take one turn now; return False if the connection has to wait for it."""
        if self._taken >= TAKEN_AT_ONCE or self._owned or self._unowned:
            return False
        self._taken += 1
        self._schedule(loop)
        return True

    def add(self, connection: Sliced, loop: AbstractEventLoop) -> None:
        """Let a connection parse a slice after those that wait already."""
        self._append(connection)
        self._schedule(loop)

    def _schedule(self, loop: AbstractEventLoop) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._run, loop)

    def _append(self, connection: Sliced) -> None:
        peer = connection.peer
        waiting = self._owned if self._is_owned(peer) else self._unowned
        waiting.setdefault(self._owner_of(peer), deque()).append(connection)

    def _next(self) -> Sliced:
        """Take the next connection of the next owner, who then waits for all other owners."""
        waiting = self._owned if self._is_owned_next else self._unowned
        if not waiting:
            waiting = self._owned or self._unowned
        self._is_owned_next = waiting is self._unowned
        owner = next(iter(waiting))
        connections = waiting.pop(owner)
        connection = connections.popleft()
        if connections:
            waiting[owner] = connections
        return connection

    def _run(self, loop: AbstractEventLoop) -> None:
        self._taken = 0
        end_s = perf_counter() + TURN_S
        while self._owned or self._unowned:
            connection = self._next()
            self._taken += not connection.is_socket
            if connection.parse_slice():
                self._append(connection)
            if self._taken >= TAKEN_AT_ONCE or perf_counter() >= end_s:
                break
        self._is_scheduled = bool(self._taken or self._owned or self._unowned)
        if self._is_scheduled:  # the next turn of the event loop begins with none taken
            loop.call_soon(self._run, loop)
