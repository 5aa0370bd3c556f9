"""Moves the slot of a cell key by key, in the order of `redis-cli --cluster reshard`.

Owns: the steps of the move. Must not: choose the servers, or wait for clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from eventsched.server.testing import LocalServer

BATCH_KEYS = 10
"""Keys of one MIGRATE, as `redis-cli --cluster reshard` sends them."""
MIGRATE_MS = 20_000
Send: TypeAlias = Callable[..., Any]
"""Sends a command to a server: the server, then the words."""


class KeyMove:
    """A move of one slot.

    Args:
        slot: The slot.
        source: The primary that serves the slot.
        target: The primary that shall serve it.
        primaries: All primaries, which learn of the new one.
        read: Sends a command that changes nothing.
        change: Sends any other command; it may send the command again.
    """

    def __init__(
        self,
        slot: int,
        source: LocalServer,
        target: LocalServer,
        primaries: Sequence[LocalServer],
        *,
        read: Send = LocalServer.call,
        change: Send = LocalServer.call,
    ) -> None:
        self.slot, self.source, self.target = slot, source, target
        self._primaries = primaries
        self._read, self._change = read, change

    def begin(self) -> None:
        """Open the slot on both servers; no key moves yet."""
        self._change(
            self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._id_of(self.source)
        )
        self._change(
            self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._id_of(self.target)
        )

    def move_keys(self, count: int) -> int:
        """Move up to `count` keys; return how many there were."""
        keys = self._read(self.source, "CLUSTER", "GETKEYSINSLOT", self.slot, count)
        if keys:
            port = self.target.options["port"]
            # REPLACE: a repeated MIGRATE finds keys that a failed one has moved. A key that has
            # expired is not there any more, which MIGRATE accepts.
            words = ("MIGRATE", "127.0.0.1", port, "", 0, MIGRATE_MS, "REPLACE", "KEYS", *keys)
            self._change(self.source, *words)
        return len(keys)

    def key_count(self) -> int:
        """Keys of the slot that the source still has."""
        return int(self._read(self.source, "CLUSTER", "COUNTKEYSINSLOT", self.slot))

    def end(self) -> None:
        """Move the rest of the keys and give the slot to the target: there first."""
        while self.move_keys(BATCH_KEYS):
            pass
        others = [each for each in self._primaries if each not in (self.source, self.target)]
        for server in (self.target, self.source, *others):
            self._change(server, "CLUSTER", "SETSLOT", self.slot, "NODE", self._id_of(self.target))

    def _id_of(self, server: LocalServer) -> str:
        """The id of a server in its cluster."""
        return str(self._read(server, "CLUSTER", "MYID"))
